"""Read rows of JSONL, JSON, CSV and Parquet files, and of datasets on the Hugging Face hub."""

import csv
import difflib
import json
import logging
import re
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.config.sections import scalar_text
from socialr1_jax.runtime.files import ROW_SUFFIXES
from socialr1_jax.runtime.terminal import counted, first_line, printable, shown

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+?)(?::(?P<split>[\w.-]+))?")
PARQUET_BATCH = 8192  # rows decoded at once
# Files of a dataset repository that hold metadata, not data.
_DESCRIPTIONS = {"dataset_infos.json", "dataset_dict.json", "dataset_info.json", "state.json", "metadata.json"}
_MOST_COLUMNS = 1000  # bounds memory if every JSON row has different columns
_NAMED_COLUMNS = 30  # in a message
_OTHER_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}
LABEL_NAMES = ("label", "value", "key", "id")  # keys for the label of an option that is an object
_SHOWN = 100  # characters of a value in a message
log = logging.getLogger(__name__)


class DataError(ValueError):
    """Raised for invalid data; the message names the file, the row, the reason and the fix."""


class Row(NamedTuple):
    """A row with its file and its number there, from 1."""

    file: str
    number: int
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        """The location for a message, such as "questions.jsonl row 3"."""
        return f"{self.file} row {self.number}"


class BadRow(NamedTuple):
    """An invalid row, and the reason."""

    source: str
    row: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source} row {self.row}: {self.reason}"


def read_all_rows(source: str | Path) -> list[Row]:
    """Read all rows of a file, or of a hub dataset "owner/name" or "owner/name:split".

    A `.json` file holds a list of objects, or an object that contains one such list ({"data": [...]}).
    Rows are numbered from 1; in `.jsonl` the number is that of the line. Raises DataError.
    """
    rows = []
    for file in source_files(source):
        for row in file_rows(file):
            if isinstance(row, BadRow):
                raise DataError(str(row))
            rows.append(row)
    if not rows:
        raise DataError(f"{source}: the file holds no rows")
    return rows


def source_files(source: str | Path) -> list[Path]:
    """Return the file, or download a hub dataset and return its files. Raises DataError."""
    path = Path(source)
    if _is_file(path) or path.suffix.lower() in ROW_SUFFIXES:
        return [path]
    if match := _HUB_ID.fullmatch(str(source)):
        return _hub_files(match["repo"], match["split"])
    raise DataError(f"{source}: no such file, and not a hub dataset id such as owner/name:train")


def _is_file(path: Path) -> bool:
    """Return whether the file exists. Raises DataError if it is not a regular file or cannot be accessed."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:  # no permission, a name that is too long, a null byte
        raise DataError(f"{path}: cannot read the file ({getattr(error, 'strerror', None) or error})") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe or device"  # reading one could block forever
        raise DataError(f"{path}: cannot read the file (it is {kind}); name an ordinary file")
    return True


def file_rows(path: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of one file, and a `BadRow` for each invalid one after which reading can continue.

    Raises DataError if it cannot: no such file, a truncated Parquet file, invalid JSON in a .json file.
    """
    suffix, name = path.suffix.lower(), str(path)
    readers = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if suffix not in readers:
        raise DataError(f"{path}: unknown kind of file; questions come as {', '.join(ROW_SUFFIXES)}")
    _is_file(path)
    try:
        for number, values in readers[suffix](path):
            if isinstance(values, dict):
                yield Row(name, number, values)
            elif isinstance(values, _Unreadable):
                yield BadRow(name, number, values)
            else:
                yield BadRow(name, number, f"expected an object with named fields, found {json_kind(values)}")
    except OSError as error:
        raise DataError(f"{path}: cannot read the file ({error.strerror or error})") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text (byte {error.start}); save the file as UTF-8") from None


class _Unreadable(str):
    """Reason why a row could not be parsed, as a class that no JSON value has."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Build a JSON object, as an `object_pairs_hook`. Raises ValueError for a repeated key."""
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError(f"the key {shown(_repeated(key for key, _ in pairs))} is there twice; keep one of them")
    return values


def _repeated(names: Iterable[str]) -> str | None:
    """Return the first repeated name."""
    return next((name for name, times in Counter(names).items() if times > 1), None)


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    parse = json.JSONDecoder(object_pairs_hook=unique_keys).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                yield number, parse(line.decode("utf-8-sig" if number == 1 else "utf-8"))
            except UnicodeDecodeError as error:
                yield number, _Unreadable(f"not UTF-8 text (byte {error.start} of the line); save the file as UTF-8")
            except json.JSONDecodeError as error:
                yield number, _Unreadable(f"not JSON ({error.msg}, column {error.colno})")
            except (ValueError, RecursionError) as error:  # thousands of digits or brackets
                yield number, _Unreadable(f"not JSON ({error})")


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    if not text.strip():
        return
    try:
        content = json.loads(text, object_pairs_hook=unique_keys)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} line {error.lineno}: not JSON ({error.msg}); one object a line is .jsonl") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error})") from None
    if isinstance(content, dict):
        lists = {key: value for key, value in content.items() if isinstance(value, list)}
        if len(lists) != 1:
            names = shown(sorted(lists))
            raise DataError(f"{path}: expected one list of questions in the object, found {len(lists)} {names}")
        content = next(iter(lists.values()))
    if not isinstance(content, list):
        raise DataError(f"{path}: expected a list of questions, found {json_kind(content)}")
    yield from enumerate(content, 1)


def _csv(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.readline()
        if "," not in first and (signs := [name for sign, name in _OTHER_SEPARATORS.items() if sign in first]):
            separators = " and ".join(signs)
            raise DataError(f"{path}: the first line has {separators} but no comma; save it as comma-separated CSV")
        reader, number = csv.reader(chain([first], file), strict=True), 0
        try:
            header = next(reader, [])
        except csv.Error as error:
            raise DataError(f"{path}: the header is not CSV ({error})") from None
        _refuse_repeated(header, path)
        while True:
            number += 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield number, _Unreadable(f"not CSV ({error}, line {reader.line_num})")
                continue
            if not cells:  # an empty line is no row
                number -= 1
            elif len(cells) == len(header):
                yield number, dict(zip(header, cells, strict=True))
            else:
                counts = f"{len(cells)}, not {len(header)}; line {reader.line_num}"
                yield number, _Unreadable(f"not as many cells as the header has ({counts})")


def _refuse_repeated(columns: Iterable[str], path: Path) -> None:
    if (twice := _repeated(columns)) is not None:
        raise DataError(f"{path}: the header names the column {shown(twice)} twice; give each its own name")


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import_parquet(path)
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            names, before = file.schema_arrow.names, 0
            _refuse_repeated(names, path)
            for batch in file.iter_batches(PARQUET_BATCH):
                cells = zip(*(column.to_pylist() for column in batch.columns), strict=True)
                for number, values in enumerate(cells, before + 1):
                    yield number, dict(zip(names, values, strict=True))
                before += batch.num_rows
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a whole Parquet file ({error})") from None


def import_parquet(path: Path) -> None:
    """Raise DataError with the fix if pyarrow is not installed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError:
        raise DataError(f"{path}: reading Parquet needs pyarrow; pip install pyarrow, or the extra parquet") from None


class Conditions:
    """Filter of rows by the values of columns; it counts rows, and reports them at the end."""

    def __init__(self, wanted: Mapping[str, str]) -> None:
        self._wanted = dict(wanted)
        self._seen: dict[str, set[str]] = {column: set() for column in wanted}
        self._known: dict[str, None] = {}  # columns seen so far
        self._kept = self._total = 0

    @property
    def columns(self) -> set[str]:
        """The columns that the conditions use, including the first parts of dotted names."""
        return {*self._wanted, *(column.partition(".")[0] for column in self._wanted)}

    def know(self, columns: Iterable[str]) -> None:
        """Add columns of the source that `hold` does not see."""
        self._known.update(dict.fromkeys(columns))

    def hold(self, values: Mapping[str, Any]) -> bool:
        """Return whether a row meets all conditions."""
        if not self._wanted:
            return True
        self._total += 1
        values = spread_objects(values, self._wanted)
        if len(self._known) < _MOST_COLUMNS:
            self.know(values)
        meets = True
        for column, wanted in self._wanted.items():
            value = scalar_text(values.get(column))
            if len(self._seen[column]) < 6:
                self._seen[column].add(value)
            meets &= value == wanted
        self._kept += meets
        return meets

    def close(self, source: str) -> None:
        """Log the number of kept rows. Raises DataError if a wanted column does not exist or no row was kept."""
        if not self._wanted or not self._total:
            return
        for column in self._wanted:
            if column not in self._known:
                raise DataError(f"{source}: where: no column {column!r}{nearest(column, self._known)}")
        condition = ", ".join(f"{key} = {value}" for key, value in self._wanted.items())
        if not self._kept:
            examples = "; ".join(
                f"{key} is one of {', '.join(printable(text, _SHOWN) for text in sorted(seen)[:5])}"
                for key, seen in self._seen.items()
            )
            raise DataError(f"{source}: none of {counted(self._total, 'row')} has {condition} ({examples})")
        log.info("%s: kept %d of %d rows with %s", source, self._kept, self._total, condition)


def spread_objects(values: Mapping[str, Any], paths: Iterable[str]) -> Mapping[str, Any]:
    """Return a row with the contents of the objects on the given paths added under dotted names.

    The path `item.question` adds `item.id` and `item.question` to `{"item": {"id": 1, "question": "Who?"}}`. A path
    that is the name of a column adds nothing. Lists of objects are converted by `texts_of`.
    """
    inner: dict[str, Any] = {}
    for path in paths:
        cell: Any = values
        name = ""
        for part in () if path in values else path.split(".")[:-1]:
            cell = cell.get(part)
            if objects(cell):
                keys = dict.fromkeys(key for item in cell for key in item)
                last = path.removeprefix(f"{name}{part}.")
                inner |= {f"{name}{part}.{key}": texts_of(cell, key) for key in ([last] if last in keys else keys)}
            if not isinstance(cell, Mapping):
                break
            name += f"{part}."
            inner |= {f"{name}{key}": value for key, value in cell.items()}
    return {**values, **inner, **values} if inner else values


def objects(value: Any) -> bool:
    """Return whether a value is a non-empty list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, Mapping) for item in value)


def texts_of(options: list[Mapping[str, Any]], name: str) -> Any:
    """Return the values of one key of options that are objects, as {"text": values, "label": labels}.

    Labels are the values of the first of `LABEL_NAMES` that are distinct strings or numbers. If there is none, return
    the list of values.
    """
    texts = [option.get(name) for option in options]
    for label in LABEL_NAMES:
        labels = [option.get(label) for option in options]
        plain = all(isinstance(value, str | int | float) and not isinstance(value, bool) for value in labels)
        if label != name and plain and len(set(map(scalar_text, labels))) == len(labels):
            return {"text": texts, "label": labels}
    return texts


def scalar_parts(values: Mapping[str, Any], without: Collection[str] = ()) -> dict[str, Any]:
    """Return the strings, numbers and booleans of a row by name; those inside objects by dotted names ("item.level").

    Lists, nulls, and the names in `without` with all they contain are left out. If two values have the same name, the
    outer one is kept.
    """
    scalars: dict[str, Any] = {}
    level = dict(values)
    while level:
        inner: dict[str, Any] = {}
        for name, value in level.items():
            if name in without:
                continue
            if isinstance(value, Mapping):
                inner |= {f"{name}.{key}": part for key, part in value.items()}
            elif isinstance(value, str | int | float):
                scalars.setdefault(name, value)
        level = inner
    return scalars


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about an unknown name: the closest known name, or the first known ones."""
    known = list(islice(known, _MOST_COLUMNS))
    close = difflib.get_close_matches(name.lower(), [column.lower() for column in known], n=1, cutoff=0.6)
    if close:
        return f" (did you mean {shown(next(column for column in known if column.lower() == close[0]))}?)"
    return f" (the columns are {listed(known)})"


def listed(names: Iterable[str]) -> str:
    """Return the first names, separated by commas, for a message."""
    first = list(islice(names, _NAMED_COLUMNS + 1))
    return ", ".join(map(shown, first[:_NAMED_COLUMNS])) + ", ..." * (len(first) > _NAMED_COLUMNS)


def refuse_half_characters(texts: Iterable[str]) -> None:
    """Raise ValueError for a text with a lone surrogate, which neither files nor tokenizers accept."""
    texts = tuple(texts)
    if " ".join(texts).isascii():  # fast path
        return
    for text in texts:
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            around = text[max(0, error.start - 30) : error.start + 30]
            raise ValueError(f"half a character (a lone surrogate) in {shown(around)}; correct the text") from None


def _hub_files(repo: str, split: str | None) -> list[Path]:
    """Return the data files of one split, from the cache if offline (HF_HUB_OFFLINE=1)."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    try:
        patterns = [f"*{end}" for end in ROW_SUFFIXES]
        folder = Path(huggingface_hub.snapshot_download(repo, repo_type="dataset", allow_patterns=patterns))
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise DataError(
            f"{repo}: no such file here, and the hub dataset could not be loaded ({first_line(error)}); give a path "
            "that exists, check the id and the network, or set HF_TOKEN for a gated dataset"
        ) from None
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in ROW_SUFFIXES and p.name not in _DESCRIPTIONS)
    if not files:
        raise DataError(f"{repo}: the hub dataset has no {', '.join(ROW_SUFFIXES)} file")
    if split is None and len(files) == 1:
        return files
    wanted = split or "train"
    pattern = re.compile(rf"(?:^|[/_.-]){re.escape(wanted)}(?:[/_.-]|$)")
    chosen = [path for path in files if pattern.search(path.relative_to(folder).as_posix())]
    if not chosen:
        names = ", ".join(path.relative_to(folder).as_posix() for path in files[:10])
        raise DataError(f"{repo}: no file of the split {wanted!r} among {names}; name one as {repo}:split")
    return chosen


def json_kind(value: Any) -> str:
    """Return the kind of a JSON value, in words."""
    names = {
        list: "a list",
        dict: "an object",
        str: "a text",
        bool: "true or false",
        bytes: "bytes",
        type(None): "null",
    }
    return names.get(type(value), "a number")
