"""Files and folders that appear whole or not at all, and JSON objects in them."""

import fcntl
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_PROGRESS, _LOCK = "progress.json", ".lock"

_SOURCE = ".source.json"  # in a temporary folder that can be gone on with: what it is made from


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Writes a file (text as UTF-8) beside its place, waits until it is on the disk, then renames it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


@contextmanager
def whole_folder(
    directory: str | os.PathLike[str], marker: str, key: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """A partial folder beside `directory` that takes its place when the block ends without an error.

    A folder that stands there is replaced when it holds the file `marker`; any other non-empty one raises
    FileExistsError before anything is written, as does a partial folder that another process is writing. An error
    removes the partial folder. One that was left behind (kill, power cut) is emptied first, unless `key` says what the
    work is: then an interruption (Ctrl-C too) leaves it, and the next call with an equal key goes on from what
    `finished` tells.
    """
    target = Path(directory).absolute()
    partial, old = (target.with_name(f".{target.name}.{kind}") for kind in ("partial", "old"))
    if old.exists() and not target.exists():  # killed between the two renames below
        old.rename(target)
    if target.exists() and any(target.iterdir()) and not (target / marker).exists():
        raise FileExistsError(f"{directory} is not empty and has no {marker}: choose another folder or empty it")
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lets go of it when the process dies
        except BlockingIOError:
            raise FileExistsError(f"{directory} is being written by another process: wait for it") from None
        try:
            if key is None or _read_progress(partial).get("key") != json.loads(json.dumps(key)):
                _empty(partial)
            if key is not None and not (partial / _PROGRESS).exists():
                write_json(partial / _PROGRESS, {"key": key, "finished": []})
            yield partial
            (partial / _PROGRESS).unlink(missing_ok=True)
            shutil.rmtree(old, ignore_errors=True)
            if target.exists():
                target.rename(old)
            partial.rename(target)
            (target / _LOCK).unlink()  # last, so that nobody else can take the partial folder for theirs
            shutil.rmtree(old, ignore_errors=True)
        except BaseException as error:
            if key is None or isinstance(error, Exception):
                shutil.rmtree(partial, ignore_errors=True)
            raise


def finished(partial: Path) -> list[str]:
    """The parts of a `whole_folder` with a key that an earlier, interrupted call has finished."""
    return list(_read_progress(partial)["finished"])


def finish(partial: Path, part: str) -> None:
    """Notes that a part of a `whole_folder` with a key is on the disk and need not be written again."""
    progress = _read_progress(partial)
    write_json(partial / _PROGRESS, {**progress, "finished": [*progress["finished"], part]})


def _read_progress(partial: Path) -> dict[str, Any]:
    return read_json(partial / _PROGRESS) if (partial / _PROGRESS).exists() else {}


def _empty(partial: Path) -> None:
    for path in partial.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def sync(file: Path) -> None:
    """Waits until a written file is on the disk."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file; ValueError naming the file when it holds anything else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON, or cut: {error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{file} does not hold a JSON object")
    return value


def write_json(file: Path, value: Mapping[str, Any]) -> None:
    """Writes a JSON object, whole or not at all; NaN and infinities become null, for strict JSON has neither."""
    write_whole(file, json.dumps(finite(value), indent=2) + "\n")


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, in mappings too."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
