"""Record the provenance of a run: package versions and the commit of this package."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

from socialr1_jax.config.sections import Section
from socialr1_jax.models.qwen3_config import Qwen3Config

NOT_INSTALLED = "not installed"
_PACKAGES = ("socialr1_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "transformers", "numpy")


def about_run(config: Section, model: Qwen3Config, source: str | None) -> dict[str, Any]:
    """Return the description of a run for its checkpoints, as JSON: configuration, versions, commit, model, folder."""
    return {
        "config": config.model_dump(mode="json"),
        "versions": versions(),
        "commit": commit(),
        "source": source,
        "model": model.to_hf("float32"),
    }


def versions(*further: str) -> dict[str, str]:
    """Return the versions of Python, of the packages that affect a run's results, and of `further` packages."""
    by_name = {"python": platform.python_version()}
    for name in (*_PACKAGES, *further):
        try:
            by_name[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            by_name[name] = NOT_INSTALLED
    return by_name


def commit() -> str:
    """Return the git commit of the package's checkout, with "+" if files have changed since; "" outside a checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # fails if installed inside another checkout
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""
