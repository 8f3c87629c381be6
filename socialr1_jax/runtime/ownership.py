"""Decide what this program may overwrite, replace or delete: only what it wrote itself.

A folder is its own if it has the marker file of its kind and only entries with names that the program writes there. A
file is its own if its content has the right form. Anything else is refused with a one-line error before writing. Files
in folders where others may plant links are opened with `open_own`.
"""

import json
import os
import stat
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
)
SOURCE = ".source.json"  # in an unfinished folder that can be resumed: the description of its input
_UNFINISHED = (SOURCE, ".mode", "*.safetensors.unfinished")
# Marker file of a kind of folder -> names allowed in such a folder; `*` also matches `/`.
_NAMES = {
    "config.json": (
        "config.json",
        "model.safetensors",
        "model-*-of-*.safetensors",
        "model.safetensors.index.json",
        *TOKENIZER_FILES,
    ),
    "manifest.json": (
        "manifest.json",
        "config.json",
        "params/model.*",
        "params/lm_head.*",
        "params/score.*",
        *TOKENIZER_FILES,
    ),
    "tokenizer.json": TOKENIZER_FILES,
    "profile.json": ("profile.json", "profile.html", "memory.pprof", "trace/plugins/profile/*", "hlo/*.txt"),
}
# Required keys of each marker file, and a key that only files of other programs have.
_FOREIGN_KEY = "transformers_version"
_KEYS = {
    "config.json": {"model_type"},
    "manifest.json": {"version", "dtype", "files"},
    "tokenizer.json": {"model"},
    "profile.json": {"measured", "steps"},
}


class ForeignFile(FileExistsError, ValueError):
    """Raised for a file or folder that would be overwritten but was not written by this program."""


def refuse_foreign_folder(folder: Path, marker: str) -> None:
    """Raise ForeignFile unless `folder` may be replaced: it is absent, empty, or purely of the kind of `marker`."""
    if not folder.exists() or not any(folder.iterdir()):
        return
    if not (folder / marker).exists():
        raise ForeignFile(f"{folder} is not empty and has no {marker}: choose another folder or empty it")
    if not _is_marked(folder, marker):
        raise ForeignFile(f"{folder / marker} is not one that this program writes: choose another folder or empty it")
    if foreign := _foreign_name(folder, marker):
        raise ForeignFile(
            f"{folder} holds {foreign}, which this program did not write, so it is not replaced: choose another "
            "folder, or move that away"
        )


def _foreign_name(folder: Path, marker: str) -> str:
    """Return an entry below `folder` that this program does not write in folders of this kind; "" for none."""
    names = (*_NAMES[marker], *_UNFINISHED)

    def is_ours(entry: os.DirEntry[str], name: str) -> bool:
        if entry.is_dir(follow_symlinks=False):
            return any(fnmatchcase(name, pattern) or pattern.startswith(f"{name}/") for pattern in names)
        return entry.is_file(follow_symlinks=False) and any(fnmatchcase(name, pattern) for pattern in names)

    return next((name for entry, name in _entries(folder, "") if not is_ours(entry, name)), "")


def is_own_folder(folder: Path, marker: str, *, finished: bool) -> bool:
    """Return whether this program made a folder: no entry is foreign and, if finished, the marker file is ours."""
    return folder.is_dir() and not _foreign_name(folder, marker) and (not finished or _is_marked(folder, marker))


def _is_marked(folder: Path, marker: str) -> bool:
    file = folder / marker
    try:
        value = json.loads(file.read_bytes()) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return False
    if not isinstance(value, dict) or not _KEYS[marker] <= value.keys() or _FOREIGN_KEY in value:
        return False
    return value.get("model_type", "qwen3") == "qwen3"


def _entries(folder: str | Path, prefix: str) -> Iterator[tuple[os.DirEntry[str], str]]:
    """Yield every entry below a folder with its relative name; links are not followed."""
    with os.scandir(folder) as entries:
        for entry in entries:
            yield entry, prefix + entry.name
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(entry.path, f"{prefix}{entry.name}/")


def refuse_foreign_file(path: Path, is_own: Callable[[Path], bool], kind: str) -> None:
    """Raise ForeignFile unless `path` may be replaced: it is absent, empty, or accepted by `is_own`.

    Args:
        path: the file to write.
        is_own: reads the file; may raise OSError, ValueError, TypeError or LookupError for a foreign one.
        kind: description of such a file, for the message.
    """
    if not path.exists() or (path.is_file() and not path.stat().st_size):
        return
    try:
        own = path.is_file() and is_own(path)
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        own = False
    if not own:
        raise ForeignFile(f"{path} is there and is not {kind} of this program: give another file, or move it away")


def begins_as(file: Path, begin: bytes) -> bool:
    """Return whether a file begins with `begin`, or is a prefix of it left by an interrupted write."""
    with file.open("rb") as opened:
        return begin.startswith(opened.read(len(begin)))


def open_own(path: Path, mode: str, **options: Any) -> IO[Any]:
    """Open a file for writing like `open`, but do not follow links. Raises OSError naming the file."""

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "not an ordinary file", name)
        return descriptor

    return open(path, mode, opener=opener, **options)
