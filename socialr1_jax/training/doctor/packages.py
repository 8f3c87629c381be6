"""Checks of Python, the packages that the project needs, JAX's plugins, and the extras that the run needs.

Only metadata is read, so a package that cannot be imported is reported too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import metadata
from typing import TYPE_CHECKING

from socialr1_jax.training.doctor.line import DoctorConfig, Line, good_or

if TYPE_CHECKING:
    from packaging.specifiers import SpecifierSet

PLUGINS = ("jax-cuda12-plugin", "jax-cuda13-plugin")


def check_packages(config: DoctorConfig) -> Iterator[Line]:
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python = ".".join(map(str, sys.version_info[:3]))
    wanted = metadata.metadata("socialr1_jax")["Requires-Python"] or ""
    fix = f"make a virtual environment with Python {wanted}, and there: pip install -e ."
    fits = SpecifierSet(wanted).contains(python)
    yield good_or("problem", "python", fits, f"Python {python}, {wanted} is needed", fix)
    needed = [Requirement(text) for text in metadata.requires("socialr1_jax") or ()]
    good = []
    for one in needed:
        if one.marker is None:  # else of an extra
            fits, found = _found(one.name, one.specifier)
            if fits:
                good.append(found)
            else:
                yield Line("packages", "problem", found, f"pip install -U '{one}'")
    jax, jaxlib = installed("jax"), installed("jaxlib")
    yield Line("packages", "ok", ", ".join([*good, f"jaxlib {jaxlib}"]))
    for name in PLUGINS:  # JAX silently ignores a plugin whose version does not match
        if version := installed(name):
            fix = f"pip install -U 'jax[{name.split('-')[1]}]=={jax}'"
            yield good_or("problem", "jaxlib", version == jaxlib, f"{name} {version} with jaxlib {jaxlib}", fix)
    for extra, name, reason in _extras(config):
        fits, found = _found(name, next((one.specifier for one in needed if one.name == name), SpecifierSet()))
        yield good_or("problem", "extras", fits, f"{found}, for {reason}", f"pip install -U -e '.[{extra}]'")


def installed(name: str) -> str | None:
    """Return the version of a package, None if it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _found(name: str, wanted: SpecifierSet) -> tuple[bool, str]:
    """Return whether the package is installed as wanted, and what is installed."""
    version = installed(name)
    if version is None:
        return False, f"{name} is missing"
    fits = wanted.contains(version, prereleases=True)
    return fits, f"{name} {version}" + ("" if fits else f", but {wanted} is needed")


def _extras(config: DoctorConfig) -> Iterator[tuple[str, str, str]]:
    """Yield (extra, package, what the configuration needs it for)."""
    if config.tracking.wandb:
        yield "wandb", "wandb", "tracking.wandb"
    structure = config.rewards.structure
    if config.rewards.uses.structure and structure.judge == "endpoint" and not structure.offline:
        yield "judge", "openai", "rewards.structure.judge endpoint"
    tables = [path for path in (*config.data.train, *config.data.eval) if path.lower().endswith(".parquet")]
    if tables:
        yield "parquet", "pyarrow", " and ".join(tables)
