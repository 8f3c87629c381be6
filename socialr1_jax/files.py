"""Files and folders that appear whole or not at all, and JSON objects in them."""

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    directory: str | os.PathLike[str], marker: str, source: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """A temporary folder beside `directory` that takes its place when the block ends without an error.

    A folder that stands there is replaced when it holds the file `marker`; any other non-empty one raises
    FileExistsError before anything is written. What a killed process left beside it is cleared away first.

    With `source`, which says what is written from what, the work can go on after a kill or Ctrl-C: the next call with
    an equal one gets the temporary folder as it was left. The block must then leave alone what it finds finished.
    """
    target = Path(directory).absolute()
    if target.exists() and any(target.iterdir()) and not (target / marker).exists():
        raise FileExistsError(f"{directory} is not empty and has no {marker}: choose another folder or empty it")
    _clear_left_over(target)
    partial, old = (target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in ("partial", "old"))
    if source is not None:
        partial = target.with_name(f".{target.name}.partial")
        label = partial / _SOURCE
        if not label.exists() or read_json(label) != source:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            write_json(label, source)
    else:
        partial.mkdir(parents=True)
    try:
        yield partial
        (partial / _SOURCE).unlink(missing_ok=True)
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except Exception:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except BaseException:  # Ctrl-C
        if source is None:
            shutil.rmtree(partial, ignore_errors=True)
        raise


def _clear_left_over(target: Path) -> None:
    """Removes what processes that are no more left beside `target`; one killed between two renames left it aside."""
    for path in sorted(target.parent.glob(f".{target.name}.*-*")):
        kind, _, process = path.name.rpartition(".")[2].partition("-")
        if kind not in ("partial", "old") or not process.isdigit() or _another_runs(int(process)):
            continue
        if kind == "old" and not target.exists():
            path.rename(target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _another_runs(process: int) -> bool:
    """Whether another process of this number is there; in a container one that is gone may have had ours."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sha256(file: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def append(file: Path, lines: Iterable[str]) -> None:
    """Adds lines to a file. An OSError names the file, also when it is the disk that has no room."""
    try:
        with file.open("a", encoding="utf-8") as opened:
            opened.writelines(lines)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error


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
