"""Fields of a benchmark's rows, checked as they are read, so that a file of another shape is told by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from socialr1_jax.data.tables import listed
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.runtime.terminal import shown


def field(row: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """`row[key]`, one of `kinds`. Raises BenchmarkError that begins with `where` (the file and row)."""
    if not isinstance(row, Mapping):
        raise BenchmarkError(f"{where}: {type(row).__name__} instead of an object")
    if key not in row:
        raise BenchmarkError(f"{where}: no field {key!r} (it has {listed(row)})")
    if not isinstance(row[key], kinds):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise BenchmarkError(f"{where}: {key!r} is {type(row[key]).__name__} instead of {names}")
    return row[key]


def text(row: Any, key: str, where: str) -> str:
    """A text that is not empty. Raises BenchmarkError."""
    found = field(row, key, str, where)
    if not found.strip():
        raise BenchmarkError(f"{where}: {key!r} is empty")
    return found


def texts(row: Any, key: str, where: str) -> list[str]:
    """A list of texts, perhaps an empty one. Raises BenchmarkError."""
    found = field(row, key, list, where)
    if not all(isinstance(one, str) for one in found):
        raise BenchmarkError(f"{where}: {key!r} holds more than texts")
    return found


def letter_of(label: str, options: list[str], where: str) -> str:
    """The letter of the option that reads like `label`. Raises BenchmarkError unless there is exactly one."""
    if options.count(label) != 1:
        raise BenchmarkError(
            f"{where}: the label {shown(label)} is {options.count(label)} of the options {shown(options)}"
        )
    return chr(ord("A") + options.index(label))
