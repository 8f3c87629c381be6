"""Layouts of benchmark files, recognised by their columns, so that no mapping is needed."""

import re
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from socialr1_jax.data.tables import DataError

_LETTERED = re.compile(r"option[ _-]?([a-z])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The columns of a question's fields in files that have the columns `needs`.

    `where` are conditions on rows, as in `read_examples`; `golds` translates gold answers to letters. If the questions
    lack the column `labels`, it is filled from a file next to the questions.
    """

    name: str
    needs: frozenset[str]
    columns: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    golds: Mapping[str, str] = field(default_factory=dict)
    labels: str = ""


PLAIN = Layout(name="plain", needs=frozenset())
LAYOUTS = (
    Layout(  # English; data.columns can select the Chinese question, which every row has, too
        name="ToMBench",
        needs=frozenset({"STORY", "QUESTION", "OPTION-A", "答案\nANSWER"}),
        columns={"answer": "答案\nANSWER"},
    ),
    Layout(  # the gold answers of the other prompting type, VP, are partly wrong
        name="Hi-ToM",
        needs=frozenset({"prompting_type", "sample_id", "story", "question", "choices", "answer"}),
        columns={"id": "sample_id"},
        where={"prompting_type": "CoTP"},
    ),
    Layout(
        name="SimpleToM",
        needs=frozenset({"story", "question", "choices", "answerKey"}),
        columns={"answer": "answerKey"},
    ),
    Layout(
        name="SocialIQA",
        needs=frozenset({"context", "question", "answerA", "answerB", "answerC"}),
        columns={"story": "context", "options": "answerA, answerB, answerC", "answer": "label"},
        golds={"1": "A", "2": "B", "3": "C"},
        labels="label",
    ),
)


def recognise(columns: Collection[str]) -> Layout:
    """Return the layout of a file with these columns; `PLAIN`, which is empty, if it is unknown."""
    return next((layout for layout in LAYOUTS if layout.needs <= set(columns)), PLAIN)


def lettered_columns(columns: Collection[str]) -> tuple[str, ...]:
    """Return the columns of single options (OPTION-A, option_b, ...), from A without a gap; () for fewer than two."""
    by_letter = {match[1].upper(): column for column in columns if (match := _LETTERED.fullmatch(column))}
    listed = [by_letter[letter] for letter in takewhile(by_letter.__contains__, string.ascii_uppercase)]
    return tuple(listed) if len(listed) > 1 else ()


def labels_beside(questions: Path) -> list[str]:
    """Return the lines of a question file's label file: dev-labels.lst for dev.jsonl. Raises DataError."""
    stem, _, rest = questions.name.partition(".")
    file = questions.with_name(f"{stem}-labels.{rest}").with_suffix(".lst")
    try:
        return file.read_text(encoding="utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise DataError(
            f"{questions}: its rows have no column 'label', and the labels beside it, {file.name}, cannot be read "
            f"({reason}); put that file there, or name the answers' column in columns"
        ) from None
