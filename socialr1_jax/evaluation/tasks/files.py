"""Files of benchmarks: found under their own name or as a subset of it, and compared with what was published."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.data.tables import refuse_half_characters
from socialr1_jax.evaluation.task import BenchmarkError

NOT_PUBLISHED = "is not the published file"


def find_file(folder: Path, *names: str) -> Path:
    """The first of these files that is there, or a subset of it ("dev.first600.jsonl" for "dev.jsonl").

    Raises BenchmarkError naming what is missing.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
        stem, dot, suffix = name.rpartition(".")
        pattern = re.compile(rf"{re.escape(stem)}\.first\d+{re.escape(dot + suffix)}")
        subsets = sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name))
        if subsets:
            return subsets[-1]
    missing = " or ".join(names)
    raise BenchmarkError(f"{folder}: there is no {missing}; socialr1 evaluate --list says where it is from")


def read_json(path: Path) -> Any:
    """The content of a JSON file, bare NaN as None. Raises BenchmarkError."""
    try:
        return _parsed(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path}: cannot be read as JSON ({error}); download the file again") from None


def read_jsonl(path: Path) -> list[Any]:
    """The values of a file with one JSON value a line, bare NaN as None. Raises BenchmarkError naming the line."""
    values = []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            values.append(_parsed(line))
        except (ValueError, RecursionError) as error:
            raise BenchmarkError(f"{path} line {number}: not JSON ({error}); download the file again") from None
    return values


def _parsed(text: str) -> Any:
    value = json.loads(text, parse_constant=lambda _: None)
    if "\\ud" in text.lower():  # the escape of half a character; two of them are a whole one
        refuse_half_characters([json.dumps(value, ensure_ascii=False)])
    return value


def check_sums(found: Mapping[str, str], known: Mapping[str, str]) -> tuple[str, ...]:
    """Remarks on files that are not those that were published: subsets, and other contents. `known` is by name."""
    notes = []
    for name, digest in found.items():
        if name in known and known[name] != digest:
            notes.append(f"{name} {NOT_PUBLISHED} (SHA-256 {digest[:12]}...): figures may not compare")
        elif re.search(r"\.first\d+\.", name):
            notes.append(f"{name} is a part of the published file: figures do not compare with published ones")
    return tuple(notes)
