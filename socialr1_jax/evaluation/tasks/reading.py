"""Reader of a benchmark's files: finds them, checks fields, and compares them with the published versions."""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.data.tables import listed, refuse_half_characters
from socialr1_jax.evaluation.task import BenchmarkError, Data, Remark
from socialr1_jax.runtime.files import sha256
from socialr1_jax.runtime.terminal import shown

SUMS = {  # SHA-256 of published files (others are in `data/evaluation_sets.py`) and of subsets
    "EU.jsonl": "60140a7617779bdb496cd50dcebaf33037c39c65821ae300a6a24a72fd7c7037",
    "EA.jsonl": "344c84913ed4adc9f26261a03cc4ddbecceeef4fcb8f77ab0405f8a63e8a4628",
    "Hi-ToM_data.json": "1c4077bbcdf815b91dbb791b60dbce3920a98bd63317954ebf94a532d43cd573",
    "Amazon_questions.json": "6f988bef7e8cf5d6102988cd5f710d21ee579902e0897baecd62a51360d4d2a3",
    "Blog_questions.json": "7068fa7626001a0f4de1b22b699bf78f4e70e1f4c243d708c615f0ed58ce7e31",
    "Persona_questions.json": "7601ae6fd1c39cc04d5eab77f954a6a61e1157c5a227ce96454a42c039d28c60",
    "Blog_questions.first25.json": "6e704e24c8ee79c73478b6ea4931a2c64de76f2d4e694700d1e52b1d162d82e5",
    "Persona_questions.first25.json": "baf516c51a88691a0984c487e409f156bfca013ac9d530c3583c47d59fae91a4",
    # SimpleToM as recovered from joined prompts; the hub's own files may differ in bytes
    "mental-state-qa/test.jsonl": "48912777c9ebe8c86d491dbc801ab49b223c422c7faa5bdce37ab7cd981cfadf",
    "behavior-qa/test.jsonl": "4658aadaaabe8d8120802757b4f54d846837e434501d3eab7f9d8a8b4724ac37",
    "judgment-qa/test.jsonl": "31b5c9f94cba14f084d14dac118e0f70fc03d4d634a4e484b1ffe5c4adc5a6d4",
    "dev.jsonl": "d8128dfe60783a9971b954ca82dd57b87b05d5d40468876d51a8e1ad2c557465",
    "dev-labels.lst": "2d882ff71969d3980d37dd07aecdf9093c6e63e27c670f3a203bcf3b9b74bc05",
    "dev.first600.jsonl": "2fdfd10a2a70d1879b4257135cd7d37ddacf80b8e1d791bbbcda6c0339d1df13",
    "dev-labels.first600.lst": "df9b302300c5fd6b5f008f30484d013515ccf72b2b3394a440bca53840c92f50",
    "environment_profiles.jsonl": "b75de0c5b1b951ebeb66eb223ab3eec996caa890263a0bcd48ce2d9f4ce3e109",
    "agent_profiles.jsonl": "1f2f74c07fd9105242c7f2a951d5378f52cd03a6df113f6020edb90d31202f1b",
    "relationship_profiles.jsonl": "33cd50cc1fbe93b8b7010ce5047e767e3a1ead421e791fee2bb1b9b2073327a2",
    "env_agent_combo_storages.jsonl": "46d5858322e8c8266c4aabc45e3ca5a6d8f91df0fc6f167b10adb5b1477a4815",
    "used_env.json": "593d5fc1dae6826030d88ce0734e17cf87c39e1efc37e253e9658f390e6fe826",
}


class Reading:
    """Reader of a benchmark's folder that records the files' SHA-256 and missing parts. Raises BenchmarkError."""

    def __init__(self, folder: Path, sums: Mapping[str, str] = SUMS) -> None:
        self.files: dict[str, str] = {}
        self._folder, self._sums = folder, sums
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
        remarks = (*self._remarks, *map(Remark, further), *file_remarks(self.files, self._sums))
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


def file_remarks(found: Mapping[str, str], known: Mapping[str, str] = SUMS) -> Iterator[Remark]:
    """Yield remarks on files that differ from the published ones or are subsets of them.

    Args:
        found: SHA-256 by name.
        known: SHA-256 of the published files by name.
    """
    for name, digest in found.items():
        if known.get(name, digest) != digest:
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
    if options.count(label) != 1:
        raise BenchmarkError(
            f"{where}: the label {shown(label)} is {options.count(label)} of the options {shown(options)}"
        )
    return chr(ord("A") + options.index(label))
