"""Reader of a benchmark's files: finds them, checks fields, and compares them with the published versions."""

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.data.evaluation_sets import EVALUATION_SETS, read_sums
from socialr1_jax.data.tables import listed, refuse_half_characters
from socialr1_jax.evaluation.task import BenchmarkError, Data, Remark
from socialr1_jax.runtime.files import sha256
from socialr1_jax.runtime.terminal import shown

# SHA-256 by name. SimpleToM's are of files recovered from joined prompts; the hub's own files may differ in bytes.
_PUBLISHED = read_sums(Path(__file__).with_name("published.sha256"))
_SUMS = {name: digest for files in (EVALUATION_SETS | _PUBLISHED).values() for digest, name in files.items()}


class Reading:
    """Reader of a benchmark's folder that records the files' SHA-256 and missing parts. Raises BenchmarkError."""

    def __init__(self, folder: Path) -> None:
        self.files: dict[str, str] = {}
        self._folder = folder
        self._remarks: list[Remark] = []
        self._seen: set[Hashable] = set()

    def find(self, *names: str, under: str = "", prefix: str = "") -> Path:
        """Find a file in the folder `under` and record it; `prefix` is prepended to its name in `files`."""
        path = find_file(self._folder / under, *names)
        self.files[prefix + path.name] = sha256(path)
        return path

    def rows(self, path: Path, noun: str = "row") -> list[tuple[str, Any]]:
        """Return the rows of a JSON list or a file of JSON lines, each with its position for messages."""
        if path.suffix == ".jsonl":
            rows = read_jsonl(path)
        elif not isinstance(rows := read_json(path), list):
            raise BenchmarkError(f"{path}: {type(rows).__name__} instead of a list of {noun}s")
        return [(f"{path}, {noun} {number}", row) for number, row in enumerate(rows, 1)]

    def once(self, key: Hashable, message: str) -> None:
        """Raise BenchmarkError with the message if the key was passed before."""
        if key in self._seen:
            raise BenchmarkError(message)
        self._seen.add(key)

    def count(self, found: int, whole: int, what: str, name: str = "") -> None:
        """Record a remark if items are missing; `name` is the part of the benchmark."""
        if found != whole:
            of = f"{name}: " if name else ""
            self._remarks.append(Remark(f"{of}{found} of {whole} {what}", "part"))

    def lack(self, name: str, what: str) -> None:
        """Record a missing file and what it contains."""
        self._remarks.append(Remark(f"{name}: not here ({what})", "lacks"))

    def data(self, items: Sequence[Any], *further: str) -> Data:
        """Return the items with the recorded remarks, `further` ones, and those on unpublished files."""
        remarks = (*self._remarks, *map(Remark, further), *_file_remarks(self.files))
        return Data(items=items, files=self.files, remarks=remarks, whole=not self._remarks)


def find_file(folder: Path, *names: str) -> Path:
    """Return the first of these files that exists, or a subset of it ("dev.first600.jsonl" for "dev.jsonl").

    Raises BenchmarkError naming the missing files.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
        stem, dot, suffix = name.rpartition(".")
        pattern = re.compile(rf"{re.escape(stem)}\.first\d+{re.escape(dot + suffix)}")
        if subsets := sorted(path for path in folder.glob("*") if pattern.fullmatch(path.name)):
            return subsets[-1]
    missing = " or ".join(names)
    raise BenchmarkError(f"{folder}: there is no {missing}; socialr1 evaluate --list says where to get it")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file, bare NaN as None. Raises BenchmarkError."""
    try:
        return _parsed(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise BenchmarkError(f"{path}: cannot be read as JSON ({error}); download the file again") from None


def read_jsonl(path: Path) -> list[Any]:
    """Return the values of a file of JSON lines, bare NaN as None. Raises BenchmarkError naming the line."""
    values = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            values.append(_parsed(line))
        except (ValueError, RecursionError) as error:
            raise BenchmarkError(f"{path} line {number}: not JSON ({error}); download the file again") from None
    return values


def read_text(path: Path) -> str:
    """Return the text of a file. Raises BenchmarkError."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{path}: cannot be read ({error})") from None


def _parsed(text: str) -> Any:
    value = json.loads(text, parse_constant=lambda _: None)
    if "\\ud" in text.lower():  # escaped surrogate; unpaired ones are rejected
        refuse_half_characters([json.dumps(value, ensure_ascii=False)])
    return value


def _file_remarks(files: Mapping[str, str]) -> Iterator[Remark]:
    """Yield remarks on files (SHA-256 by name) that differ from the published ones or are subsets of them."""
    for name, digest in files.items():
        if _SUMS.get(name, digest) != digest:
            text = f"{name} is not the published file (SHA-256 {digest[:12]}...): figures may not be comparable"
            yield Remark(text, "other")
        elif re.search(r"\.first\d+\.", name):
            yield Remark(f"{name} is a part of the published file: figures are not comparable with published ones")


# --------------------------------------------------------------------------------------------------- fields of a row


def field(row: Any, key: str, kinds: type | tuple[type, ...], where: str) -> Any:
    """Return `row[key]` of one of the types `kinds`. Raises BenchmarkError naming `where` (file and row)."""
    if not isinstance(row, Mapping):
        raise BenchmarkError(f"{where}: {type(row).__name__} instead of an object")
    if key not in row:
        raise BenchmarkError(f"{where}: no field {key!r} (it has {listed(row)})")
    if not isinstance(row[key], kinds):
        names = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise BenchmarkError(f"{where}: {key!r} is {type(row[key]).__name__} instead of {names}")
    return row[key]


def text(row: Any, key: str, where: str) -> str:
    """Return a non-empty string field. Raises BenchmarkError."""
    value = field(row, key, str, where)
    if not value.strip():
        raise BenchmarkError(f"{where}: {key!r} is empty")
    return value


def texts(row: Any, key: str, where: str) -> list[str]:
    """Return a field that is a list of strings, possibly empty. Raises BenchmarkError."""
    values = field(row, key, list, where)
    if not all(isinstance(value, str) for value in values):
        raise BenchmarkError(f"{where}: {key!r} holds values that are not strings")
    return values


def letter_of(label: str, options: list[str], where: str) -> str:
    """Return the letter of the option equal to `label`. Raises BenchmarkError unless there is exactly one."""
    if (count := options.count(label)) != 1:
        raise BenchmarkError(f"{where}: the label {shown(label)} is {count} of the options {shown(options)}")
    return chr(ord("A") + options.index(label))
