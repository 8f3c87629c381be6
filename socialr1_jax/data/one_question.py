"""One question for a model, typed on a command line or picked from a question file."""

from collections.abc import Mapping
from pathlib import Path

from socialr1_jax.data.examples import Example, parse_files, parse_options
from socialr1_jax.data.tables import BadRow, DataError, source_files
from socialr1_jax.runtime.terminal import counted


def typed_question(question: str, story: str = "", options: str = "") -> Example:
    """A question without a gold answer; `options` is one text such as "A. drawer, B. shelf", or "".

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
