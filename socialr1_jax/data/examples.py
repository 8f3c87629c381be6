"""The question record that the whole project passes around, and how rows of a file become records."""

from __future__ import annotations

import difflib
import logging
import re
import string
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from socialr1_jax.command_line import scalar_text
from socialr1_jax.data.tables import DataError, Row, read_rows

LETTERS = string.ascii_uppercase
FIELDS = ("id", "story", "question", "options", "answer", "thoughts")
_REQUIRED = ("story", "question", "answer")
_LABEL = r"\(?{letter}[.):]"
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question with its gold answer.

    ``options`` are the option texts in letter order (the first is A); without options the answer is free text.
    ``answer`` is the gold letter when there are options, else the free-text answer.
    ``thoughts`` is the reference reasoning that SFT puts inside ``<think>``; "" when there is none.
    ``meta`` holds whatever else is known, as strings (``source``, ``type``, ``twin_of``, ...).

    Raises ValueError for an answer that is no letter of the options, for one option or more than 26, for an empty
    question, option or answer.
    """

    id: str
    story: str
    question: str
    options: tuple[str, ...] = ()
    answer: str
    thoughts: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty")
        if not self.answer.strip():
            raise ValueError("the gold answer is empty")
        if len(self.options) == 1 or len(self.options) > len(LETTERS):
            raise ValueError(f"{len(self.options)} options; a question has none (free text) or 2 to {len(LETTERS)}")
        for letter, option in zip(LETTERS, self.options, strict=False):
            if not option.strip():
                raise ValueError(f"option {letter} is empty")
        if self.options and self.answer not in list(LETTERS[: len(self.options)]):
            last = LETTERS[len(self.options) - 1]
            raise ValueError(f"the gold answer {self.answer!r} is not one of the option letters A to {last}")


def read_examples(
    source: str | Path, *, columns: Mapping[str, str] | None = None, where: Mapping[str, str] | None = None
) -> list[Example]:
    """Questions of a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, or of a hub dataset ``owner/name[:split]``.

    Columns are found by their own name in any case (``story``, ``STORY``), ``options`` also as ``choices``. Options may
    be a list, a mapping of letters to texts, a mapping of two lists ``{text, label}``, one text "A. x, B. y", or
    several columns. The gold answer may be the letter or the option's text. Other columns become ``meta``.

    Args:
        source: file or hub id.
        columns: our field name -> the file's column, where they differ ({"options": "choices", "id": "sample_id"});
            options spread over columns are listed: {"options": "OPTION-A, OPTION-B, OPTION-C, OPTION-D"}.
        where: keep only rows whose column has this value ({"prompting_type": "CoTP"}); the log counts the kept ones.

    Raises:
        DataError: unreadable or empty file, missing column (with the nearest), a gold answer that is not among the
            options, two rows with one id; the message names file, row and reason.
    """
    columns, where = dict(columns or {}), dict(where or {})
    for name in columns:
        if name not in FIELDS:
            raise DataError(f"columns: {name!r} is not a field of a question; the fields are {', '.join(FIELDS)}")
    rows = _filtered(read_rows(source), where, str(source))
    examples, seen = [], dict[str, str]()
    for number, row in enumerate(rows, 1):
        try:
            example = _example(row, columns, default_id=f"{Path(source).stem}-{number}")
        except DataError:
            raise
        except ValueError as error:
            raise DataError(f"{row.where}: {error}") from None
        if example.id in seen:
            raise DataError(f"{row.where}: the id {example.id!r} is already that of {seen[example.id]}; ids are unique")
        seen[example.id] = row.where
        examples.append(example)
    return examples


def _filtered(rows: list[Row], where: Mapping[str, str], source: str) -> list[Row]:
    if not where:
        return rows
    for column in where:
        if not any(column in row.values for row in rows):
            raise DataError(f"{source}: where: no column {column!r}{_nearest(column, rows[0].values)}")
    kept = [row for row in rows if all(scalar_text(row.values.get(key)) == value for key, value in where.items())]
    condition = ", ".join(f"{key} = {value}" for key, value in where.items())
    if not kept:
        seen = {key: sorted({scalar_text(row.values.get(key)) for row in rows})[:5] for key in where}
        found = "; ".join(f"{key} is one of {', '.join(values)}" for key, values in seen.items())
        raise DataError(f"{source}: none of {len(rows)} rows has {condition} ({found})")
    log.info("%s: kept %d of %d rows with %s", source, len(kept), len(rows), condition)
    return kept


def _example(row: Row, columns: Mapping[str, str], default_id: str) -> Example:
    found = {name: _column(row, name, columns) for name in FIELDS}
    texts = {name: _text(row.values[column]) for name, column in found.items() if column and column in row.values}
    for name in _REQUIRED:
        if name not in texts:
            raise DataError(f"{row.where}: no column {name!r}{_nearest(name, row.values)}; name it in columns")
    used = {column for column in found.values() if column}
    if (listed := found["options"]) is None:
        options: tuple[str, ...] = ()
    elif listed in row.values:
        options = parse_options(row.values[listed])
    else:  # several columns
        parts = [part.strip() for part in listed.split(",")]
        for part in parts:
            if part not in row.values:
                raise DataError(f"{row.where}: no column {part!r}{_nearest(part, row.values)}; mend it in columns")
        used.update(parts)
        options = parse_options([row.values[part] for part in parts])
    meta = {key: value for key, value in row.values.items() if key not in used and key != "meta"}
    if isinstance(row.values.get("meta"), Mapping):
        meta |= row.values["meta"]
    return Example(
        id=texts.get("id") or default_id,
        story=texts["story"],
        question=texts["question"],
        options=options,
        answer=gold_letter(texts["answer"], options) if options else texts["answer"],
        thoughts=texts.get("thoughts", ""),
        meta={key: scalar_text(value) for key, value in meta.items() if isinstance(value, str | int | float)},
    )


def _column(row: Row, name: str, columns: Mapping[str, str]) -> str | None:
    """The row's column for a field; None when it has none (an error only for a required field)."""
    if name in columns:
        column = columns[name]
        if column not in row.values and not (name == "options" and "," in column):
            raise DataError(f"{row.where}: no column {column!r}{_nearest(column, row.values)}; mend it in columns")
        return column
    for alias in (name, "choices") if name == "options" else (name,):
        for column in row.values:
            if column.lower() == alias:
                return column
    return None


def _nearest(name: str, known: Iterable[str]) -> str:
    known = list(known)
    close = difflib.get_close_matches(name.lower(), [column.lower() for column in known], n=1, cutoff=0.6)
    if close:
        return f" (did you mean {next(column for column in known if column.lower() == close[0])!r}?)"
    return f" (the columns are {', '.join(repr(column) for column in known)})"


def _text(value: Any) -> str:
    return "" if _absent(value) else scalar_text(value).strip()


def _absent(value: Any) -> bool:
    """Empty in any of the ways files have: null, the number NaN, an empty text, the text NaN of a stringified table."""
    return value is None or value != value or (isinstance(value, str) and value.strip() in ("", "NaN", "nan"))


def parse_options(value: Any) -> tuple[str, ...]:
    """Option texts in letter order, without their labels.

    Takes a list of texts, {"A": text, "B": text}, {"text": [...], "label": [...]}, or one text "A. x, B. y". Empty
    options at the end are dropped (tables pad short questions); () when there are none. Raises ValueError.
    """
    if isinstance(value, Mapping) and set(value) >= {"text", "label"}:
        value = dict(zip(value["label"], value["text"], strict=True))
    if isinstance(value, Mapping):
        labels = [label for label in value if not _absent(value[label])]
        if labels != list(LETTERS[: len(labels)]):
            raise ValueError(f"the options are labelled {', '.join(map(str, labels))}; expected A, B, ... in order")
        texts = [_text(value[label]) for label in labels]
    elif isinstance(value, str) and not _absent(value):
        texts = _split_options(value)
    elif _absent(value):
        texts = []
    elif isinstance(value, Iterable):
        texts = [_text(item) for item in value]
    else:
        raise ValueError(f"cannot read the options {value!r}")
    while texts and not texts[-1]:
        texts.pop()
    labelled = [
        re.match(_LABEL.format(letter=letter) + r"\s*(?=\S)", text)
        for letter, text in zip(LETTERS, texts, strict=False)
    ]
    if texts and all(labelled) and len(labelled) == len(texts):  # only when every text repeats its letter
        texts = [text[match.end() :] for text, match in zip(texts, labelled, strict=True) if match]
    return tuple(texts)


def _split_options(text: str) -> list[str]:
    """ "A. x, B. y, C. z" -> ["x", "y", "z"]: each label is looked for after the one before."""
    label = re.match(r"\s*" + _LABEL.format(letter="A") + r"\s*", text)
    if label is None:
        raise ValueError(f"cannot find the options A, B, ... in {text[:60]!r}")
    start, parts = label.end(), []
    for letter in LETTERS[1:]:
        label = re.compile(r"\s*[,;\s]\s*" + _LABEL.format(letter=letter) + r"\s+").search(text, start)
        if label is None:
            break
        parts.append(text[start : label.start()].strip(" ,;\n"))
        start = label.end()
    return [*parts, text[start:].strip(" ,;\n")]


def gold_letter(answer: str, options: tuple[str, ...]) -> str:
    """The letter of a gold answer given as a letter ("B", "B.", "(B)"), as an option's text, or as both ("B. text").

    Raises ValueError when it is none of the options, or more than one.
    """
    answer = answer.strip()
    letters = {letter for letter, option in zip(LETTERS, options, strict=False) if option == answer}
    if match := re.fullmatch(r"\(?([A-Z])[.):]*\s*(.*)", answer, re.DOTALL):
        letter, rest = match.groups()
        position = LETTERS.index(letter)
        bare = not rest and position < len(options)
        if bare or (rest and position < len(options) and options[position] == rest.strip()):
            letters.add(letter)
    if len(letters) > 1:
        raise ValueError(f"the gold answer {answer!r} is more than one option ({', '.join(sorted(letters))})")
    if not letters:
        raise ValueError(
            f"the gold answer {answer!r} is not among the {len(options)} options ({'; '.join(options)[:200]})"
        )
    return letters.pop()
