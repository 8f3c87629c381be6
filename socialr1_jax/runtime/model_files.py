"""Find the files of a model folder and list what is wrong with them. Nothing outside the folder is read.

A model folder may come from anywhere: its index, its manifest and its links name what its author wants, and what is
read here can end up in an export that is published.
"""

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from socialr1_jax.runtime.terminal import printable, shown

_MOST_CHARACTERS = 300  # of a problem


def file_of(folder: Path, name: str) -> Path | None:
    """Return the file `name`, a path relative to the folder; None if there is no such file.

    A link is followed within the folder, and from a snapshot of the hub's cache into the `blobs` beside it.

    Raises:
        ValueError: the name or the link leads out of the folder, or there is something other than a file, such as a
            pipe, which would be waited for without end.
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
    """Return where the links of models--OWNER--NAME/snapshots/REVISION lead."""
    caches = [place.parent for place in (folder, *folder.parents) if place.name == "snapshots"]
    return [cache / "blobs" for cache in caches if cache.name.startswith("models--")]


def first_few(problems: Sequence[str], separator: str = "; ", most: int = 20) -> str:
    """Return the first problems, each cut and without control characters, and how many more there are."""
    more = len(problems) - most
    shortened = [printable(problem, _MOST_CHARACTERS) for problem in problems[:most]]
    return separator.join(shortened + ([f"and {more} more"] if more > 0 else []))
