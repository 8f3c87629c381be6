"""Read the questions of files and hub datasets; one question of a file, or typed on a command line."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from socialr1_jax.data.bad_rows import report, summary
from socialr1_jax.data.examples import Example
from socialr1_jax.data.layouts import labels_beside
from socialr1_jax.data.options import parse_options
from socialr1_jax.data.row_parser import RowParser
from socialr1_jax.data.tables import BadRow, Conditions, DataError, file_rows, source_files
from socialr1_jax.runtime.terminal import counted, shown

log = logging.getLogger(__name__)


def read_examples(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    first_label: int = 0,
    allow_bad_rows: bool = False,
) -> list[Example]:
    """Return the questions of a file (.jsonl, .json, .csv, .parquet), or of a hub dataset ``owner/name[:split]``.

    Columns are found by their own name in any case (``story``, ``STORY``), ``options`` also as ``choices`` or as
    ``OPTION-A``, ``OPTION-B``, ...; files of a known layout (``layouts.py``) need no mapping. Options may be a list, a
    mapping of labels to texts, a mapping of two lists ``{text, label}``, one text "A. x, B. y", or several columns; a
    row that lacks their columns is as one with null there. The gold answer may be the letter in either case, the
    option's text, or the option's number. Other columns become ``meta``.

    Where the first row has no ``story`` or no ``question``, ``messages`` or ``prompt`` may hold the turns that ask the
    question (``parse_turns``). A last turn of the assistant's is left out; ``question`` is then the user's last turn
    and ``story`` what was said before it, and the answer may also be called ``solution``, ``ground_truth``, ``label``
    or ``reward_model.ground_truth``.

    Args:
        source: file or hub id.
        columns: our field name -> the file's column, where they differ ({"options": "choices", "id": "sample_id"});
            options spread over columns are listed: {"options": "OPTION-A, OPTION-B, OPTION-C, OPTION-D"}. A dotted
            name that is no column leads into objects ("item.question"). They go before those of a known layout, field
            by field. A field with "" is as if it were not given.
        where: keep only rows whose column has this value ({"prompting_type": "CoTP"}); the log counts the kept ones.
        first_label: the number of the first option, 0 or 1, where gold answers are numbers.
        allow_bad_rows: leave out rows that cannot be used, unless none can be, and log how many had which fault.

    Raises:
        DataError: unreadable or empty file, or rows that cannot be used: a missing column (with the nearest), a gold
            answer that is not among the options, two rows with one id. The message names file, rows and reasons.
    """
    found = parse_files(str(source), source_files(source), columns or {}, where or {}, first_label=first_label)
    if found.bad and not (allow_bad_rows and found.examples):
        fix = "Fix the file, or how it is read: columns, where, first_label"
        fix += "; or leave such rows out: allow_bad_rows=true." * bool(found.examples)
        raise DataError(report(found.bad, found.total, fix))
    if found.bad:
        dropped, total = len(found.bad), found.total
        log.warning("%s: dropped %d of %d rows that cannot be used: %s", source, dropped, total, summary(found.bad))
    return found.examples


class Parsed(NamedTuple):
    """Rows of a source that hold the conditions, in their order, the number of all rows, and the columns read."""

    rows: list[Example | BadRow]
    total: int
    reading: str

    @property
    def examples(self) -> list[Example]:
        """Return the questions."""
        return [row for row in self.rows if isinstance(row, Example)]

    @property
    def bad(self) -> list[BadRow]:
        """Return the rows that are no questions."""
        return [row for row in self.rows if isinstance(row, BadRow)]


def parse_files(
    source: str,
    files: Sequence[Path],
    columns: Mapping[str, str],
    where: Mapping[str, str],
    origin: str = "",
    first_label: int = 0,
    paths: Sequence[str] = (),
) -> Parsed:
    """Reads all rows of a source, the bad ones too, as ``read_examples`` says; ``origin`` is the `meta["source"]` of
    rows that have none of their own, ``paths`` are names for `meta` that may be dotted.

    Raises DataError for a source without rows, or one that cannot be read on, and as ``RowParser.refuse_missing`` and
    ``RowParser.refuse_first_label``.
    """
    rows: list[Example | BadRow] = []
    seen: dict[str, str] = {}
    parser: RowParser | None = None
    empty: dict[int, BadRow] = {}
    total = 0
    for file in files:
        labels: list[str] | None = None
        first, before = True, total
        for row in file_rows(file):
            total += 1
            if isinstance(row, BadRow):
                rows.append(row)
                continue
            if parser is None:
                parser = RowParser(row.values, columns, where, Path(source).stem, origin, first_label, paths)
                conditions = Conditions(parser.where)
            values = row.values
            if first and parser.labels and parser.labels not in values:
                labels = labels_beside(file)
            first = False
            if labels is not None and total - before <= len(labels):
                values = {**values, parser.labels: labels[total - before - 1]}
            if not conditions.hold(values):
                continue
            try:
                example = parser.example(values, before + row.number)
                if example.id in seen:
                    raise ValueError(
                        f"the id {shown(example.id)} is already that of {seen[example.id]}; ids are unique"
                    )
            except ValueError as error:
                rows.append(BadRow(row.file, row.number, str(error)))
                continue
            seen[example.id] = row.where
            if before + row.number in parser.empty:
                empty[len(rows)] = BadRow(row.file, row.number, parser.no_options)
            rows.append(example)
        if labels is not None and len(labels) != total - before:
            raise DataError(f"{file}: {total - before} rows, but {len(labels)} labels in the file beside it")
    if not total:
        raise DataError(f"{source}: the file holds no rows")
    if parser is not None:
        conditions.close(source)
        parser.refuse_missing(source)
        parser.refuse_first_label(source)
        if parser.some_options:
            rows = [empty.get(place, row) for place, row in enumerate(rows)]
    return Parsed(rows, total, parser.reading if parser else "")


def typed_question(question: str, story: str = "", options: str = "") -> Example:
    """Return a question without a gold answer; `options` is one text such as "A. drawer, B. shelf", or "".

    The record's `answer` is a filler that no prompt shows. Raises ValueError for an empty question and for options
    that cannot be told apart.
    """
    texts = parse_options(options)
    return Example(id="typed", story=story.strip(), question=question.strip(), options=texts, answer="A")


def picked_question(
    file: str | Path,
    row: int,
    *,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    first_label: int = 0,
) -> Example:
    """Return the question of row `row`, from 1, of a file; the other arguments are those of `read_examples`.

    Rows that `where` leaves out do not count, and neither do blank lines. Other rows may be no questions. Raises
    DataError.
    """
    rows = parse_files(str(file), source_files(file), columns or {}, where or {}, first_label=first_label).rows
    if row > len(rows):
        raise DataError(f"{file}: there is no row {row}; the file has {counted(len(rows), 'row')}")
    picked = rows[row - 1]
    if isinstance(picked, BadRow):
        raise DataError(f"{picked}. Correct the row, or how the file is read: columns, where, first_label")
    return picked
