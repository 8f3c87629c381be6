"""Known layouts of question files, told by their columns, so that benchmarks are read without a mapping."""

import re
import string
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from socialr1_jax.data.tables import DataError

_LETTERED = re.compile(r"option[ _-]?([a-z])", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Places of a question's fields in files that have the columns `needs`.

    ``where`` are conditions that rows fulfil, as of ``read_examples``; ``golds`` translates gold answers to letters;
    ``labels`` is the column that the lines of a file beside the questions are put in when the questions lack it.
    """

    name: str
    needs: frozenset[str]
    columns: Mapping[str, str] = field(default_factory=dict)
    where: Mapping[str, str] = field(default_factory=dict)
    golds: Mapping[str, str] = field(default_factory=dict)
    labels: str = ""


PLAIN = Layout(name="plain", needs=frozenset())
LAYOUTS = (
    Layout(  # English; every row also holds the Chinese question, for data.columns to choose
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
    """The layout of a file with these columns; PLAIN, which says nothing, when it is none of the known ones."""
    return next((layout for layout in LAYOUTS if layout.needs <= set(columns)), PLAIN)


def lettered_columns(columns: Collection[str]) -> tuple[str, ...]:
    """The columns that hold one option each (OPTION-A, option_b, ...), from A without a gap; () for fewer than two."""
    found = {match[1].upper(): column for column in columns if (match := _LETTERED.fullmatch(column))}
    listed: list[str] = []
    for letter in string.ascii_uppercase:
        if letter not in found:
            break
        listed.append(found[letter])
    return tuple(listed) if len(listed) > 1 else ()


def labels_beside(questions: Path) -> list[str]:
    """The lines of the label file of a question file: dev-labels.lst of dev.jsonl. Raises DataError."""
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
