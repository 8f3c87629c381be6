"""Provenance of a run: versions of the packages, and the commit of this one."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from socialr1_jax.config.sections import Section
from socialr1_jax.models.qwen3_config import Qwen3Config

NOT_INSTALLED = "not installed"
_PACKAGES = (
    "socialr1_jax",
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "numpy",
)


def about_run(config: Section, model: Qwen3Config, source: str | None) -> dict[str, Any]:
    """Return what every checkpoint says of its run, as JSON: configuration, versions, commit, model and its folder."""
    return {
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "commit": commit(),
        "source": source,
        "model": model.to_hf("float32"),
    }


def versions(*further: str) -> dict[str, str]:
    """Python's version and those of the packages that a run's numbers depend on, and of further ones."""
    found = {"python": platform.python_version()}
    for name in (*_PACKAGES, *further):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = NOT_INSTALLED
    return found


def commit() -> str:
    """The git commit of the package's checkout, with "+" when files were changed since; "" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed package may lie in another's checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
