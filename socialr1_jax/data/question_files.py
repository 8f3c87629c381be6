"""Read questions from files, hub datasets and the command line."""

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
    """Read the questions of a file (.jsonl, .json, .csv, .parquet) or of a hub dataset `owner/name[:split]`.

    Columns are matched by name in any case (`story`, `STORY`), `options` also as `choices` or `OPTION-A`,
    `OPTION-B`, ...; files of a known layout (`layouts.py`) need no mapping. Options may be a list, a mapping of labels
    to texts, a mapping of two lists `{text, label}`, one text "A. x, B. y", or several columns, of which a row may lack
    some. The gold answer may be the letter in either case, the option's text, or the option's number. Other columns
    become `meta`.

    If the first row has no `story` or no `question`, `messages` or `prompt` may hold the turns that ask the question
    (`parse_turns`). A final assistant turn is left out, `question` is the last user turn, and `story` is the text
    before it. The answer may then also be called `solution`, `ground_truth`, `label` or `reward_model.ground_truth`.

    Args:
        source: file or hub id.
        columns: our field name -> the file's column, if they differ ({"options": "choices", "id": "sample_id"});
            several columns are listed: {"options": "OPTION-A, OPTION-B, OPTION-C, OPTION-D"}. A dotted name that is not
            a column leads into objects ("item.question"). Each entry overrides that of a known layout; "" is ignored.
        where: keep only rows whose column has this value ({"prompting_type": "CoTP"}); their number is logged.
        first_label: the number of the first option, 0 or 1, if gold answers are numbers.
        allow_bad_rows: drop invalid rows, unless all are invalid, and log the number of each fault.

    Raises DataError naming file, rows and reasons: an unreadable or empty file, or invalid rows, such as a missing
    column, a gold answer that is not among the options, or a repeated id.
    """
    parsed = parse_files(str(source), source_files(source), columns or {}, where or {}, first_label=first_label)
    parsed.refuse_bad(allow_bad_rows)
    if parsed.bad:
        dropped, total = len(parsed.bad), parsed.total
        log.warning("%s: dropped %d of %d rows that cannot be used: %s", source, dropped, total, summary(parsed.bad))
    return parsed.examples


class Parsed(NamedTuple):
    """The rows of a source that meet the conditions, in order; the number of all rows; and the columns read."""

    rows: list[Example | BadRow]
    total: int
    reading: str

    @property
    def examples(self) -> list[Example]:
        """The valid questions."""
        return [row for row in self.rows if isinstance(row, Example)]

    @property
    def bad(self) -> list[BadRow]:
        """The invalid rows."""
        return [row for row in self.rows if isinstance(row, BadRow)]

    def refuse_bad(self, allowed: bool) -> None:
        """Raise DataError that reports the invalid rows, unless they are allowed and there are valid ones."""
        if self.bad and not (allowed and self.examples):
            fix = "Fix the file, or how it is read: columns, where, first_label"
            fix += "; or leave such rows out: allow_bad_rows=true." * bool(self.examples)
            raise DataError(report(self.bad, self.total, fix))


def parse_files(
    source: str,
    files: Sequence[Path],
    columns: Mapping[str, str],
    where: Mapping[str, str],
    origin: str = "",
    first_label: int = 0,
    paths: Sequence[str] = (),
) -> Parsed:
    """Read all rows of a source, valid or not; see `read_examples`, and `RowParser` for `origin` and `paths`.

    Raises DataError for a source without rows, for a read error, and as `RowParser.refuse_missing` and
    `RowParser.refuse_first_label`.
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
                if earlier := seen.get(example.id):
                    raise ValueError(f"the id {shown(example.id)} is already that of {earlier}; ids are unique")
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
    """Build a question without a gold answer; `options` is a string such as "A. drawer, B. shelf", or "".

    The record's `answer` is a placeholder that no prompt shows. Raises ValueError for an empty question or options that
    cannot be parsed.
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
    """Read row `row` (from 1) of a question file; the other arguments are those of `read_examples`.

    Rows excluded by `where` and blank lines do not count. Other rows may be invalid. Raises DataError.
    """
    rows = parse_files(str(file), source_files(file), columns or {}, where or {}, first_label=first_label).rows
    if row > len(rows):
        raise DataError(f"{file}: there is no row {row}; the file has {counted(len(rows), 'row')}")
    picked = rows[row - 1]
    if isinstance(picked, BadRow):
        raise DataError(f"{picked}. Correct the row, or how the file is read: columns, where, first_label")
    return picked
