"""Append-only files of JSON lines, one per finished result, that survive a kill."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.runtime.ownership import begins_as, open_own, refuse_foreign_file

log = logging.getLogger(__name__)
JsonRow = Mapping[str, Any]


class RowFile:
    """The rows of a file in order (`known`), open for appending. Use as a context manager.

    A truncated last line is removed. Other lines that are not rows of this kind stay in the file and are ignored.
    Raises ForeignFile if the file holds text but no such row.
    """

    def __init__(self, path: Path, is_row: Callable[[Any], bool]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.known, whole = _read(path, is_row)
        refuse_foreign_file(path, lambda file: bool(self.known) or _is_torn(file), "a file of rows")
        self._file = open_own(Path(os.path.realpath(path)), "a", encoding="utf-8")
        self._file.truncate(whole)

    def __enter__(self) -> RowFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, row: JsonRow) -> None:
        """Append a row and flush it to the operating system."""
        self.known.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def _is_torn(file: Path) -> bool:
    """Return whether a file holds nothing but a truncated first row."""
    if not begins_as(file, b'{"key": '):
        return False
    try:
        json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return True
    return False  # a complete object is not a truncated row


def read_rows(path: Path, is_row: Callable[[Any], bool]) -> list[JsonRow]:
    """Return the rows of a file without changing it; [] if it does not exist."""
    return _read(path, is_row)[0]


def _read(path: Path, is_row: Callable[[Any], bool]) -> tuple[list[JsonRow], int]:
    """Return the rows and the number of bytes up to the end of the last complete line."""
    rows: list[JsonRow] = []
    whole = 0
    if not path.exists():
        return rows, whole
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if is_row(row):
                rows.append(row)
            else:
                log.warning("%s line %d is invalid and is ignored", path, number)
    return rows, whole
