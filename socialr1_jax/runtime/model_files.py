"""Find the files of a model folder without reading outside it, and list their faults.

Model folders are not trusted: their index, manifest and links may name any file, and what is read can end up in a
published export.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from socialr1_jax.runtime.terminal import printable, shown

_MOST_CHARACTERS = 300  # per problem


def file_of(folder: Path, name: str) -> Path | None:
    """Return the file `name`, a path relative to the folder; None if there is no such file.

    Links are followed within the folder, and from a snapshot in the hub's cache into its `blobs`.

    Raises:
        ValueError: the name or the link leads out of the folder, or it is not a regular file. Reading a pipe, for
            example, could block forever.
    """
    if not name.isprintable() or {"", ".", ".."} & set(name.split("/")):
        raise ValueError(f"{shown(name)} is not the name of a file in {folder}")
    file = folder / name
    try:
        mode = file.stat().st_mode
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG):
            return None
        raise
    target, home = Path(os.path.realpath(file)), Path(os.path.realpath(folder))
    if not any(target.is_relative_to(place) for place in (home, *_blobs(home))):
        raise ValueError(f"{file} is a link to {target}, outside the folder: put a copy of the file there")
    if not stat.S_ISREG(mode):
        raise ValueError(f"{file} is not an ordinary file: remove it, or put the file there")
    return file


def _blobs(folder: Path) -> list[Path]:
    """Return the folder with the link targets of models--OWNER--NAME/snapshots/REVISION."""
    caches = [place.parent for place in (folder, *folder.parents) if place.name == "snapshots"]
    return [cache / "blobs" for cache in caches if cache.name.startswith("models--")]


def first_few(problems: Sequence[str], separator: str = "; ", most: int = 20) -> str:
    """Join the first problems, each cut and without control characters, and the number of others."""
    more = len(problems) - most
    shortened = [printable(problem, _MOST_CHARACTERS) for problem in problems[:most]]
    return separator.join(shortened + ([f"and {more} more"] if more > 0 else []))
