"""Rows of a question file: JSONL, JSON, CSV, Parquet, or a dataset of the Hugging Face hub."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?::(?P<split>[\w.-]+))?")
# Files of a dataset repository that describe the data and hold none.
_DESCRIPTIONS = {"dataset_infos.json", "dataset_dict.json", "dataset_info.json", "state.json", "metadata.json"}


class DataError(ValueError):
    """Questions that cannot be read; the message names the file, the row, the reason and the mend."""


class Row(NamedTuple):
    """One row and where it stands ("questions.jsonl row 3")."""

    where: str
    values: Mapping[str, Any]


def read_rows(source: str | Path) -> list[Row]:
    """All rows of a file, or of a hub dataset "owner/name" or "owner/name:split".

    A ``.json`` file holds a list of objects, or one object with one list of objects in it ({"data": [...]}).
    Rows are counted from 1; in ``.jsonl`` the row is the line. Raises DataError.
    """
    path = Path(source)
    if path.exists() or path.suffix.lower() in SUFFIXES:
        files = [path]
    elif match := _HUB_ID.fullmatch(str(source)):
        files = _hub_files(match["repo"], match["split"])
    else:
        raise DataError(f"{source}: no such file, and not a hub dataset id such as owner/name:train")
    rows = [row for file in files for row in _file_rows(file)]
    if not rows:
        raise DataError(f"{source}: the file holds no rows")
    return rows


def _file_rows(path: Path) -> Iterator[Row]:
    suffix = path.suffix.lower()
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if suffix not in readers:
        raise DataError(f"{path}: unknown kind of file; questions come as {', '.join(SUFFIXES)}")
    try:
        for number, values in readers[suffix](path):
            if not isinstance(values, dict):
                raise DataError(f"{path} row {number}: expected an object with named fields, found {_kind(values)}")
            yield Row(f"{path} row {number}", values)
    except OSError as error:
        raise DataError(f"{path}: cannot read the file ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path} row {number}: not JSON ({error.msg}, column {error.colno})") from None


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {error.lineno}: not JSON ({error.msg}); one object a line is .jsonl") from None
    if isinstance(content, dict):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        if len(lists) != 1:
            raise DataError(f"{path}: expected one list of questions in the object, found {len(lists)} {sorted(lists)}")
        content = next(iter(lists.values()))
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of questions, found {_kind(content)}")
    yield from enumerate(content, 1)


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        number = 0
        try:
            for number, values in enumerate(reader, 1):
                if None in values or None in values.values():
                    raise DataError(
                        f"{path} row {number}: not as many cells as the header has ({len(reader.fieldnames or ())})"
                    )
                yield number, values
        except csv.Error as error:
            raise DataError(f"{path} row {number + 1}: not CSV ({error})") from None


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow") from None
    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a whole Parquet file ({error})") from None
    yield from enumerate(rows, 1)


def _hub_files(repo: str, split: str | None) -> list[Path]:
    """The data files of one split, from the cache when offline (HF_HUB_OFFLINE=1)."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        folder = Path(
            huggingface_hub.snapshot_download(repo, repo_type="dataset", allow_patterns=[f"*{end}" for end in SUFFIXES])
        )
    except (OSError, ValueError, HfHubHTTPError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"{repo}: no such file here, and the hub dataset could not be had ({reason}); give a path that exists, "
            "check the id and the network, or set HF_TOKEN for a gated dataset"
        ) from None
    found = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.name not in _DESCRIPTIONS)
    if not found:
        raise DataError(f"{repo}: the hub dataset has no {', '.join(SUFFIXES)} file")
    if split is None and len(found) == 1:
        return found
    wanted = split or "train"
    pattern = re.compile(rf"(?:^|[/_.-]){re.escape(wanted)}(?:[/_.-]|$)")
    chosen = [path for path in found if pattern.search(path.relative_to(folder).as_posix())]
    if not chosen:
        names = ", ".join(path.relative_to(folder).as_posix() for path in found[:10])
        raise DataError(f"{repo}: no file of the split {wanted!r} among {names}; name one as {repo}:split")
    return chosen


def _kind(value: Any) -> str:
    names = {list: "a list", dict: "an object", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
