"""Open the questions of a run: several sources as one sequence with random access, every row checked."""

import bisect
import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, Protocol, overload

import numpy as np

from socialr1_jax.data.bad_rows import report, summary
from socialr1_jax.data.examples import Example
from socialr1_jax.data.parquet_rows import ParquetRows, parquet_shape
from socialr1_jax.data.question_files import parse_files
from socialr1_jax.data.row_parser import RowParser
from socialr1_jax.data.tables import BadRow, Conditions, DataError, source_files
from socialr1_jax.data.twins import twin_groups
from socialr1_jax.runtime.files import ROW_SUFFIXES
from socialr1_jax.stories.stories import generate_stories

MOST_STORIES = 1_000_000  # per source; they are held in memory
_LOOKED_AT = 1000  # rows of a large file that are checked for a wrong `first_label`
LARGE_PARQUET = 200_000  # rows; larger files are not loaded, and their rows are checked when they are read
STORY_TYPES = ("belief", "knowledge", "reality")
_STORIES = re.compile(r"stories:(?:(?P<split>train|heldout):)?(?P<count>\d{1,999})(?::(?P<seed>\d{1,999}))?")
_FIX = "Fix the file, or set data.allow_bad_rows=true to drop such rows and count them."
_NAME_COLUMNS = (
    "Fix the file, or name its columns in data.columns. These are the same for all files of a run: if others are "
    "called otherwise, rename this file's columns."
)
log = logging.getLogger(__name__)


def open_questions(
    sources: Sequence[str | Path],
    *,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    allow_bad_rows: bool = False,
    first_label: int = 0,
) -> "Questions":
    """Open the questions of all sources, concatenated.

    A source is a file or hub dataset as in `read_examples`, or generated stories: `stories:COUNT`,
    `stories:COUNT:SEED`, `stories:heldout:COUNT[:SEED]` (questions on belief, knowledge and reality, otherwise the
    defaults of `generate_stories` with seed 0). `columns`, `where` and `first_label` are those of `read_examples`, and
    apply to every file but not to generated stories.

    Rows without a column `source` get the file's name without its suffix as `meta["source"]` (with folders if two files
    share a name), so that figures can be reported by source.

    Every row is checked before this returns, except in Parquet files of more than 200,000 rows. Their rows are checked
    when they are read (ids are not compared), and they need space in the temporary folder.

    Args:
        allow_bad_rows: drop invalid rows, and log the number of each fault.

    Raises:
        DataError: an unreadable source; even with `allow_bad_rows`, a source without a valid row, or with gold answers
            that do not count from `first_label`; or invalid rows, with their number and the first of them.
    """
    columns, where = columns or {}, where or {}
    if not sources:
        raise DataError("no source of questions is given")
    parts: list[_Part] = []
    bad: list[BadRow] = []
    total = 0
    for source, name in zip(map(str, sources), source_names(sources), strict=True):
        if source.partition(":")[0] == "stories":
            parts.append(stories := _Checked(_stories(source)))
            total += len(stories)
            continue
        files = source_files(source)
        tables = [file for file in files if file.suffix.lower() == ".parquet"]
        if sum(parquet_shape(file)[0] for file in tables) > LARGE_PARQUET:
            parts += (opened := _open_large(source, tables, columns, where, name, first_label))
            total += sum(map(len, opened))
            files = [file for file in files if file not in tables]
        if files:
            parsed = parse_files(source, files, columns, where, name, first_label)
            if parsed.bad and not parsed.examples:
                raise DataError(report(parsed.bad, parsed.total, _NAME_COLUMNS))
            parts.append(_Checked(parsed.examples, f"{source}: {parsed.reading}"))
            bad += parsed.bad
            total += parsed.total
    if bad and not allow_bad_rows:
        raise DataError(report(bad, total, _FIX))
    if bad:
        log.warning("dropped %d of %d rows that cannot be used: %s", len(bad), total, summary(bad))
    return Questions(parts, bad, allow_bad_rows)


class Questions(Sequence[Example]):
    """Questions by their place; created by `open_questions`.

    `allow_bad_rows` applies to bad rows of large Parquet files, which are found late: iteration and `get` skip them if
    it is set, and raise DataError otherwise. Indexing always raises it.
    """

    def __init__(
        self,
        parts: Sequence["_Part"],
        bad: list[BadRow],
        allow_bad_rows: bool,
        chosen: np.ndarray | None = None,
        writer: Callable[[Example], Example] | None = None,
    ) -> None:
        self.allow_bad_rows = allow_bad_rows
        self._parts = parts
        self._ends = list(itertools.accumulate(map(len, parts)))
        self._bad = bad
        self._chosen = np.arange(self._ends[-1]) if chosen is None else chosen
        self._writer = writer

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Example: ...
    @overload
    def __getitem__(self, index: slice) -> "Questions": ...
    def __getitem__(self, index: int | slice) -> "Example | Questions":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        row = self._found(index)
        if isinstance(row, BadRow):
            raise DataError(f"{row}. {_FIX}")
        return row

    def get(self, index: int) -> Example | None:
        """Return the question; for a bad row, return None if `allow_bad_rows` is set, else raise DataError."""
        row = self._found(index)
        if isinstance(row, Example):
            return row
        if self.allow_bad_rows:
            return None
        raise DataError(f"{row}. {_FIX}")

    def __iter__(self) -> Iterator[Example]:
        for index in range(len(self)):
            if (example := self.get(index)) is not None:
                yield example

    def take(self, indices: Sequence[int]) -> "Questions":
        """Return a view of the questions at these places, in this order; it shares rows and the count of bad ones."""
        chosen = self._chosen[np.asarray(indices, dtype=np.int64)]
        return Questions(self._parts, self._bad, self.allow_bad_rows, chosen, self._writer)

    def asked_by(self, writer: Callable[[Example], Example]) -> "Questions":
        """Return a view of the questions with prompts rewritten by `writer`."""
        return Questions(self._parts, self._bad, self.allow_bad_rows, self._chosen, writer)

    @property
    def readings(self) -> list[str]:
        """A description of the columns used, for each file that was fully read."""
        return [part.reading for part in self._parts if isinstance(part, _Checked) and part.reading]

    def option_counts(self) -> Counter[int]:
        """Count the questions in memory by their number of options; 0 is free text."""
        return Counter(len(example.options) for _, example in self._in_memory())

    def twins(self) -> list[list[int]]:
        """Return the places of each group of twins. Large Parquet files are not searched."""
        return twin_groups(self._in_memory())

    def _in_memory(self) -> Iterator[tuple[int, Example]]:
        """Yield (place, question) of the questions in memory."""
        part_q = np.searchsorted(self._ends, self._chosen, side="right")
        from_end_q = self._chosen - np.array(self._ends)[part_q]
        for place, (at, from_end) in enumerate(zip(part_q.tolist(), from_end_q.tolist(), strict=True)):
            if isinstance(part := self._parts[at], _Checked):
                yield place, part.examples[from_end]

    @property
    def bad_rows(self) -> tuple[BadRow, ...]:
        """The bad rows dropped so far; their number grows only by rows of large Parquet files."""
        return tuple(self._bad)

    def _found(self, index: int) -> Example | BadRow:
        place = int(self._chosen[index])
        at = bisect.bisect_right(self._ends, place)
        row = self._parts[at].found(place - self._ends[at] + len(self._parts[at]), self._bad)
        return self._writer(row) if self._writer and isinstance(row, Example) else row


class _Part(Protocol):
    """A segment of the questions."""

    def __len__(self) -> int: ...

    def found(self, index: int, bad: list[BadRow]) -> Example | BadRow:
        """Return the question or the bad row at this place; add a bad row to `bad` the first time."""


class _Checked:
    """Questions in memory."""

    def __init__(self, examples: list[Example], reading: str = "") -> None:
        self.examples, self.reading = examples, reading

    def __len__(self) -> int:
        return len(self.examples)

    def found(self, index: int, bad: list[BadRow]) -> Example:
        return self.examples[index]


class _Large:
    """Questions of a large Parquet file, checked when they are read."""

    def __init__(self, rows: ParquetRows, parser: RowParser) -> None:
        self._rows, self._parser = rows, parser
        self._met: set[int] = set()  # bad rows

    def __len__(self) -> int:
        return len(self._rows)

    def found(self, index: int, bad: list[BadRow]) -> Example | BadRow:
        row = self._rows[index]
        try:
            return self._parser.example(row.values, row.number)
        except ValueError as error:
            bad_row = BadRow(row.file, row.number, str(error))
        if index not in self._met:
            if not self._met:
                log.warning("%s; further bad rows of this file are counted but not logged", bad_row)
            self._met.add(index)
            bad.append(bad_row)
        return bad_row


def _open_large(
    source: str,
    files: Sequence[Path],
    columns: Mapping[str, str],
    where: Mapping[str, str],
    name: str,
    first_label: int,
) -> list[_Large]:
    parts = []
    conditions: Conditions | None = None
    for file in files:
        known = parquet_shape(file)[1]
        parser = RowParser(known, columns, where, file.stem, name, first_label)
        conditions = conditions or Conditions(parser.where)
        try:
            used = parser.used(known)
        except ValueError as error:
            raise DataError(f"{file}: {error}") from None
        rows = ParquetRows(file, used, conditions)
        for index in range(0, len(rows), max(1, len(rows) // _LOOKED_AT)):
            row = rows[index]
            with suppress(ValueError):
                parser.example(row.values, row.number)
        parser.refuse_first_label(str(file))
        parts.append(_Large(rows, parser))
    if conditions is not None:
        conditions.close(source)
    return parts


def _stories(source: str) -> list[Example]:
    if not (match := _STORIES.fullmatch(source)) or not int(match["count"]):
        raise DataError(
            f"{source}: generated stories are written stories:COUNT, stories:COUNT:SEED or stories:heldout:COUNT"
        )
    if int(match["count"]) > MOST_STORIES:
        raise DataError(f"{source}: {MOST_STORIES:,} stories are the most of one source; lower their number")
    split: Literal["train", "heldout"] = "heldout" if match["split"] == "heldout" else "train"
    return generate_stories(int(match["count"]), seed=int(match["seed"] or 0), split=split, question_types=STORY_TYPES)


def source_names(sources: Sequence[str | Path]) -> list[str]:
    """Return a name for each source: a file's without its suffix, with as many folders as make it unique.

    Hub ids and generated stories are returned unchanged.
    """
    paths = {str(source): Path(source).with_suffix("").parts for source in sources}
    names = []
    for source, parts in paths.items():
        if Path(source).suffix.lower() not in ROW_SUFFIXES:
            names.append(source)
            continue
        others = [other for name, other in paths.items() if name != source]
        depths = range(1, len(parts) + 1)
        unique = (depth for depth in depths if all(other[-depth:] != parts[-depth:] for other in others))
        depth = next(unique, 0)
        names.append("/".join(parts[-depth:]) if depth else source)
    return [dict(zip(paths, names, strict=True))[str(source)] for source in sources]
