"""Files and folders that appear whole or not at all, and JSON objects in them."""

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any


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
def whole_folder(directory: str | os.PathLike[str], marker: str) -> Iterator[Path]:
    """A temporary folder beside `directory` that takes its place when the block ends without an error.

    A folder that stands there is replaced when it holds the file `marker`; any other non-empty one raises
    FileExistsError before anything is written.
    """
    target = Path(directory).absolute()
    if target.exists() and any(target.iterdir()) and not (target / marker).exists():
        raise FileExistsError(f"{directory} is not empty and has no {marker}: choose another folder or empty it")
    partial, old = (target.with_name(f".{target.name}.{kind}-{os.getpid()}") for kind in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        if target.exists():
            target.rename(old)
        partial.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
