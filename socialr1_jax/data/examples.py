"""The question record that the whole project passes around, and how rows of a file become records."""

import ast
import json
import logging
import re
import string
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.config.sections import scalar_text
from socialr1_jax.data.bad_rows import report, summary
from socialr1_jax.data.layouts import labels_beside, lettered_columns, recognise
from socialr1_jax.data.tables import (
    LABEL_NAMES,
    BadRow,
    Conditions,
    DataError,
    file_rows,
    kind_of,
    listed,
    nearest,
    objects,
    refuse_half_characters,
    scalar_parts,
    source_files,
    spread,
    texts_of,
)
from socialr1_jax.data.turns import Turns, ground_truth, parse_turns, turns_column
from socialr1_jax.runtime.terminal import counted, printable, shown

LETTERS = string.ascii_uppercase
FIELDS = ("id", "story", "question", "options", "answer", "thoughts", "messages")
META_FIELDS = ("type", "source", "twin_id")  # of `meta`, which `columns` may name, too
_REQUIRED = ("story", "question", "answer")
_CHAT_ANSWERS = ("answer", "solution", "ground_truth", "label", "reward_model")  # columns, beside turns
_LABEL = r"\(?{letter}[.):]"
_LABELS = [re.compile(_LABEL.format(letter=letter) + r"\s*(?=\S)") for letter in LETTERS]
_NEXT_LABELS = {letter: re.compile(rf"[,;\s]{_LABEL.format(letter=letter)}\s+") for letter in LETTERS}
_EDGES = ",;" + "".join(filter(str.isspace, map(chr, range(0x3001))))  # of an option in a text of several
_ASCII_PUNCTUATION = frozenset(string.punctuation)  # with $ + < = > ^ ` | ~, which Unicode calls symbols
_ABSENT_TEXTS = ("", "NaN", "nan")
_MOST_LITERAL = 20_000  # characters of a Python list
READ_AS_TEXT = frozenset(("source", "type", "twin_id", "twin_of", "story_id", "plot", "script"))  # of `meta`
_FROM_0 = tuple(map(str, range(len(LETTERS) + 1)))
_MOST_PLACES = 1000  # sets of columns of one source that are remembered
_PARTS_SHOWN = 30  # values inside objects, in a line on what was read
_NUMBER = re.compile(r"(\d{1,2})(?:\.0)?")  # an option's; a table with gaps holds 1.0


log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question with its gold answer.

    ``options`` are the option texts in letter order (the first is A); without options the answer is free text.
    ``answer`` is the gold letter when there are options, else the free-text answer.
    ``thoughts`` is the reference reasoning that SFT puts inside ``<think>``; "" when there is none.
    ``meta`` holds whatever else is known, with its JSON types: columns with one value, the values inside a column's
    objects by dotted names (`scalar_parts`), and all of a column ``meta``.
    What the package itself reads of it (`READ_AS_TEXT`) are texts.
    ``messages`` are the turns (role, content) that ask the question; () is the card's prompt of the fields above.

    Raises ValueError for an answer that is no letter of the options, for one option or more than 26, for an empty
    question, option or answer, for free text without a letter or digit, for half a character anywhere.
    """

    id: str
    story: str
    question: str
    options: tuple[str, ...] = ()
    answer: str
    thoughts: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] = ()

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
        if self.options and (len(self.answer) != 1 or self.answer not in LETTERS[: len(self.options)]):
            last = LETTERS[len(self.options) - 1]
            raise ValueError(f"the gold answer {shown(self.answer)} is not one of the option letters A to {last}")
        if not self.options and not (any(map(str.isalnum, self.answer)) or normalized(self.answer)):
            raise ValueError(
                f"the gold answer {shown(self.answer)} holds no letter or digit; give an option letter or a text"
            )
        texts = (self.id, self.story, self.question, *self.options, self.answer, self.thoughts)
        texts += tuple(turn["content"] for turn in self.messages)
        refuse_half_characters((*texts, *self.meta, *(value for value in self.meta.values() if isinstance(value, str))))


def normalized(text: str) -> str:
    """Return free text made comparable: case-folded, without ASCII and Unicode punctuation, white space folded."""
    kept = (c for c in text.casefold() if c not in _ASCII_PUNCTUATION and not unicodedata.category(c).startswith("P"))
    return " ".join("".join(kept).split())


def read_examples(
    source: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    where: Mapping[str, str] | None = None,
    first_label: int = 0,
    allow_bad_rows: bool = False,
) -> list[Example]:
    """Questions of a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file, or of a hub dataset ``owner/name[:split]``.

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
    """The rows of a source that hold the conditions, in their order, the number of all rows, and the columns read."""

    rows: list[Example | BadRow]
    total: int
    reading: str

    @property
    def examples(self) -> list[Example]:
        """The questions."""
        return [row for row in self.rows if isinstance(row, Example)]

    @property
    def bad(self) -> list[BadRow]:
        """The rows that are no questions."""
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


class RowParser:
    """Makes examples of rows; where their fields are is worked out once for all rows with the same columns.

    Args:
        first: a row of the source; its columns tell the layout.
        columns, where: as of ``read_examples``.
        ids: rows without an id get this and their number.
        origin: ``meta["source"]`` of rows that have none of their own; "" adds none.
        first_label: as of ``read_examples``.
        paths: dotted names that ``meta`` has, too.

    Raises DataError for a key of ``columns`` that is no field of a question.
    """

    def __init__(
        self,
        first: Collection[str],
        columns: Mapping[str, str],
        where: Mapping[str, str],
        ids: str,
        origin: str,
        first_label: int,
        paths: Sequence[str] = (),
    ) -> None:
        fields = (*FIELDS, *META_FIELDS)
        for name in columns:
            if name not in fields:
                raise DataError(f"columns: {name!r} is not a field of a question; the fields are {', '.join(fields)}")
        layout = recognise(first)
        columns = {name: column for name, column in columns.items() if column}
        own_answer = "answer" in columns
        self.where = {**layout.where, **where}
        self.labels = "" if own_answer else layout.labels
        self._golds = {} if own_answer else layout.golds
        self._columns = {**layout.columns, **columns}
        if "messages" not in columns and (column := turns_column(first, self._columns)):
            self._columns["messages"] = column
        names = (*paths, *columns.values(), *_parts(columns.get("options", "")))
        self._paths = [name for name in dict.fromkeys(names) if "." in name]
        self._ids, self._origin, self._first_label = ids, origin, first_label
        self._numbers: dict[tuple[int, int], int] = {}  # (gold answer, count of options) -> the first such row
        self._places: dict[tuple[str, ...], _Places | ValueError] = {}
        self._met: dict[str, None] = {}  # columns
        self._meta: dict[str, None] = {}  # those that gave a value
        self._cut = 0  # rows whose last turn was the assistant's
        self._options = columns.get("options", "")  # as the user names them
        self.some_options = False  # whether a row had some
        self.empty: set[int] = set()  # rows before that whose list of options, in a column that is named, is empty
        self.no_options = f"no options, though columns names {shown(self._options)} and other rows have some there"

    def used(self, columns: Sequence[str]) -> set[str]:
        """The columns that an example's fields come from, or lead through, of a file that has `columns` in each row.

        Raises ValueError as ``example``, and for a column that is not there.
        """
        inner = (path for path in self._paths if path not in columns and path.partition(".")[0] in columns)
        places = _find(known := (*columns, *inner), self._columns)
        if missing := _missing([places], known):
            raise ValueError(missing)
        names = (*places.texts.values(), *places.options, *places.named.values())
        return {name if name in columns else name.partition(".")[0] for name in names}

    @property
    def reading(self) -> str:
        """Describe which column each field was read from, which are in `meta` alone, and which were not read."""
        found = [places for places in self._places.values() if isinstance(places, _Places)]
        columns: dict[str, tuple[str, ...]] = {}
        for places in found:
            texts = {**places.texts, **places.named}
            columns = {name: (column,) for name, column in texts.items()} | {"options": places.options} | columns
        fields = [
            name if columns[name] == (name,) else f"{name} from {' + '.join(map(printable, columns[name]))}"
            for name in (*FIELDS, *META_FIELDS)
            if columns.get(name)
        ]
        rest = dict.fromkeys(column for places in found for column in places.meta)
        meta = [printable(column) for column in rest if column in self._meta]
        parts = [printable(name) for name in self._meta if name not in rest]
        meta += [*parts[:_PARTS_SHOWN], f"and {len(parts) - _PARTS_SHOWN} more"][: len(parts)]
        read = [f"{column}." for one in columns.values() for column in one]  # what is inside them, and what they are in
        read += [f"{name}." for name in self._meta if name not in rest]
        unread = [
            printable(column)
            for column in rest
            if column not in self._meta
            and not any(name.startswith(f"{column}.") or column.startswith(name) for name in read)
        ]
        also = f"; in meta, not in the card's prompt: {', '.join(meta)}" if meta else ""
        also += f"; not read: {', '.join(unread)}" if unread else ""
        without = "" if columns.get("options") else "; no options"
        cut = f"; left out: the assistant's turn at the end of {counted(self._cut, 'row')}" if self._cut else ""
        return f"read: {', '.join(fields)}{without}{cut}{also}"

    def refuse_missing(self, source: str) -> None:
        """Raise DataError for a column of options or of `META_FIELDS` that some rows may lack, if all rows do."""
        if missing := _missing([one for one in self._places.values() if isinstance(one, _Places)], self._met):
            raise DataError(f"{source}: {missing}")

    def refuse_first_label(self, source: str) -> None:
        """Raise DataError if numbers among the gold answers were read as options, but count from the other label.

        With ``first_label`` 0 they do if none is 0 and one is as high as its options are many; with 1 if one is 0 and
        none is as high. Answers to questions with an option that is a number are left out: they may be texts.
        """
        first, numbers = self._first_label, self._numbers
        zeros = [(label, options) for label, options in numbers if label == 0]
        counts = [(label, options) for label, options in numbers if label == options]
        fitting, others = (counts, zeros) if first else (zeros, counts)
        if fitting or not others or not any(0 <= label - first < options for label, options in numbers):
            return
        label, options = others[0]
        raise DataError(
            f"{source}: the gold answers are numbers from {min(numbers)[0]} to {max(numbers)[0]}, and row "
            f"{numbers[others[0]]} has {label} for {counted(options, 'option')}: they count from {1 - first}, not from "
            f"{first}; set first_label to {1 - first} (of a run: data.first_label={1 - first})"
        )

    def example(self, values: Mapping[str, Any], number: int) -> Example:
        """The question of row ``number``. Raises ValueError saying why there is none."""
        values = spread(values, self._paths)
        key = tuple(values)
        if (places := self._places.get(key)) is None:
            self._met |= dict.fromkeys(key)
            try:
                places = _find(key, self._columns)
            except ValueError as error:
                inner = spread(values, (f"{name}." for name in key)).keys() - set(key)
                hint = f"; objects within hold {listed(sorted(inner))}" if inner else ""
                places = ValueError(f"{error}{hint}")
            if len(self._places) < _MOST_PLACES:
                self._places[key] = places
        if isinstance(places, ValueError):
            raise ValueError(*places.args)
        cells = {name: values[column] for name, column in places.texts.items()}
        turns: Turns = ()
        if (column := places.texts.get("messages")) is not None:
            turns = parse_turns(cells.pop("messages"), column)
            if turns[-1]["role"] == "assistant":
                self._cut += 1
                turns = turns[:-1]
            if not turns or turns[-1]["role"] != "user":
                raise ValueError(f"{shown(column)} does not end with a user's turn, or with one that is then answered")
            said = [turn["content"].strip() for turn in turns if turn["role"] != "system"]
            cells = {"story": "\n\n".join(said[:-1]), "question": said[-1]} | cells
        if (column := places.texts["answer"]).lower() == "reward_model":
            cells["answer"] = ground_truth(cells["answer"], column)
        texts = {name: _text(cell, places.texts.get(name, name)) for name, cell in cells.items()}
        choices: Any = [values.get(column) for column in places.options]
        if len(choices) == 1:
            choices = choices[0]
        choices = _plain(choices, places.options[0] if len(places.options) == 1 else "options")
        options = _option_texts(choices)
        if options:
            self.some_options = True
        elif choices == [] and places.options and self._options:
            if self.some_options:
                raise ValueError(self.no_options)
            self.empty.add(number)
        if not texts["answer"]:
            raise ValueError(f"no gold answer in {shown(places.texts['answer'])}")
        answer = self._golds.get(texts["answer"], texts["answer"])
        labels = _own_labels(choices)
        if answer in labels[: len(LETTERS)]:
            answer = LETTERS[labels.index(answer)]
        elif labels:
            answer = gold_letter(answer, options)
        elif options:
            if (label := _NUMBER.fullmatch(answer)) and not any(map(_NUMBER.fullmatch, options)):
                self._numbers.setdefault((int(label[1]), len(options)), number)
            answer = gold_letter(answer, options, self._first_label)
        meta = scalar_parts({name: values[name] for name in places.meta}, places.used)
        self._meta |= dict.fromkeys(meta)
        if isinstance(own := values.get("meta"), Mapping):
            meta |= own
        meta |= {name: values.get(column) for name, column in places.named.items()}
        kept = {
            name: scalar_text(value) if name in READ_AS_TEXT else value
            for name, value in meta.items()
            if name not in READ_AS_TEXT or isinstance(value, str | int | float)
        }
        if self._origin:
            kept["source"] = kept.get("source") or self._origin
        return Example(
            id=texts.get("id") or f"{self._ids}-{number}",
            story=texts["story"],
            question=texts["question"],
            options=options,
            answer=answer,
            thoughts=texts.get("thoughts", ""),
            meta=kept,
            messages=turns,
        )


class _Places(NamedTuple):
    """The columns that fields are in, those of the options, those that become meta, and those of `META_FIELDS`.

    The options' and the last ones are those of the source: a row may lack them.
    """

    texts: dict[str, str]
    options: tuple[str, ...]
    meta: tuple[str, ...]
    named: dict[str, str]
    used: frozenset[str]  # columns of the fields


def _missing(found: Iterable[_Places], known: Collection[str]) -> str:
    """Return a message on the first column that a row may lack and that is not known at all; "" for none."""
    wanted = (column for places in found for column in (*places.options, *places.named.values()))
    column = next((column for column in wanted if column not in known), "")
    fix = "correct it in columns (they are the same for all files), or rename this file's column"
    return f"no column {shown(column)}{nearest(column, known)}; {fix}" if column else ""


def _parts(column: str) -> tuple[str, ...]:
    """Return the columns that a name with commas lists."""
    return tuple(part.strip() for part in column.split(","))


def _find(known: Sequence[str], columns: Mapping[str, str]) -> _Places:
    """Return where the fields are in rows with the columns ``known``. Raises ValueError for a missing one."""
    by_name = {column.lower(): column for column in reversed(known)}  # of two that differ in case, the first
    texts, options = dict[str, str](), tuple[str, ...]()
    chosen: tuple[str, ...]
    chat = "messages" in columns
    also = {"options": ("options", "choices")} | ({"answer": _CHAT_ANSWERS} if chat else {})
    for name in FIELDS if chat else FIELDS[:-1]:
        if (column := columns.get(name)) is not None:
            chosen = (column,)
            if name == "options":
                holder, _, last = column.rpartition(".")  # choices.text beside choices.label is read as choices
                labelled = last == "text" and holder in known and f"{holder}.label" in known
                chosen = (holder,) if labelled else chosen if column in known else _parts(column)
            elif column not in known:
                raise ValueError(f"no column {shown(column)}{nearest(column, known)}; correct it in columns")
        elif found := next((by_name[one] for one in also.get(name, (name,)) if one in by_name), ""):
            chosen = (found,)
        elif name == "options":
            chosen = lettered_columns(known)
        elif name in (_REQUIRED[2:] if chat else _REQUIRED):
            raise ValueError(f"no column {name!r}{nearest(name, known)}; name it in columns")
        else:
            continue
        if name == "options":
            options = chosen
        else:
            texts[name] = chosen[0]
    used = {*texts.values(), *options, "meta"}
    named = {name: columns[name] for name in META_FIELDS if name in columns}
    return _Places(texts, options, tuple(column for column in known if column not in used), named, frozenset(used))


def _text(value: Any, column: str = "") -> str:
    if isinstance(value, str):
        text = value.strip()
        return "" if text in _ABSENT_TEXTS else text
    if isinstance(value, Mapping | list | bytes):
        inner = [f"{column}.{key}" if column else key for key in value] if isinstance(value, Mapping) else []
        fix = "name a part of it in columns" if column else "write a text instead of the object with"
        hint = f"; {fix}: {listed(inner)}" if inner else ""
        raise ValueError(f"{shown(column or 'options')} holds {kind_of(value)}, not a text{hint}")
    return "" if _absent(value) else scalar_text(value)


def _absent(value: Any) -> bool:
    """Empty in any of the ways files have: null, the number NaN, an empty text, the text NaN of a stringified table."""
    return value is None or value != value or (isinstance(value, str) and value.strip() in _ABSENT_TEXTS)


def parse_options(value: Any) -> tuple[str, ...]:
    """Option texts in letter order, without their labels.

    Takes a list of texts, {"A": text, "B": text}, {"text": [...], "label": [...]}, a list of objects with `text` (and a
    label, see `texts_of`), or one text: "A. x, B. y", or a list as JSON or Python writes it. The keys of {"A": text}
    are letters, or numbers from 0 or 1. Empty options at the end are dropped (tables pad short questions); () when
    there are none. Raises ValueError.
    """
    return _option_texts(_plain(value, "options"))


def _option_texts(value: Any) -> tuple[str, ...]:
    """Return option texts as `parse_options` does, of what `_plain` gives."""
    if isinstance(value, Mapping):
        texts = list(map(_text, _by_label(value).values()))
    elif isinstance(value, str) and not _absent(value):
        texts = _split_options(value)
    elif _absent(value):
        texts = []
    elif isinstance(value, Iterable):
        texts = [_text(item) for item in value]
    else:
        raise ValueError(f"cannot read the options {shown(value)}")
    while texts and not texts[-1]:
        texts.pop()
    labels = [pattern.match(text) for pattern, text in zip(_LABELS, texts, strict=False)]
    if texts and all(labels) and len(labels) == len(texts):  # only when every text repeats its letter
        texts = [text[match.end() :] for text, match in zip(texts, labels, strict=True) if match]
    return tuple(texts)


def _plain(options: Any, column: str) -> Any:
    """Return options, read if they are a text that holds a list; a list of objects as `texts_of`. Raises ValueError."""
    if isinstance(options, str) and (items := _written_list(options)) is not None:
        options = items
    if not objects(options):
        return options
    names = dict.fromkeys(key for one in options for key in one)
    if "text" not in names:
        texts = [name for name in names if name not in LABEL_NAMES] or list(names)
        fix = f", as in columns.options={printable(f'{column}.{texts[0]}')}" if texts else ""
        raise ValueError(
            f"the options in {shown(column)} are objects with {listed(names) or 'nothing inside'}, not with 'text'; "
            f"name the one that holds the text{fix}, or write plain texts"
        )
    return texts_of(options, "text")


def _by_label(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return {label: text} of {"A": text}, without empty texts, or {"text": [...], "label": [...]}. Raises ValueError.

    Labels that are letters are made capital ones.
    """
    pairs = [(str(label), text) for label, text in options.items() if not _absent(text)]
    if two_lists := set(options) >= {"text", "label"}:
        try:
            pairs = list(zip(map(scalar_text, options["label"]), options["text"], strict=True))
        except (TypeError, ValueError):
            raise ValueError(f"cannot read the options {shown(options)}; give as many labels as texts") from None
    labels = [label.upper() if len(label) == 1 else label for label, _ in pairs]
    in_order = labels in [list(known[: len(labels)]) for known in (LETTERS, _FROM_0, _FROM_0[1:])]
    own = two_lists and len(set(labels)) == len(labels) and not any(map(tuple(LETTERS).__contains__, labels))
    if not in_order and not own:
        expected = "A, B, ... or 1, 2, ... in order" + ", or numbers or words that differ" * two_lists
        raise ValueError(f"the options are labelled {listed(label for label, _ in pairs)}; expected {expected}")
    return {label: text for label, (_, text) in zip(labels, pairs, strict=True)}


def _own_labels(options: Any) -> list[str]:
    """Return the labels of options that their row labels itself, but not by letters."""
    labels = list(_by_label(options)) if isinstance(options, Mapping) else []
    return labels if labels and labels[0] not in tuple(LETTERS) else []


def _written_list(text: str) -> list[Any] | None:
    """Return the values of a JSON list, or of a Python list of texts and numbers; None for any other text."""
    if not text.lstrip().startswith("["):
        return None
    with suppress(ValueError, RecursionError):
        items = json.loads(text)
        return items if isinstance(items, list) else None
    if len(text) > _MOST_LITERAL:
        return None
    errors = (ValueError, SyntaxError, TypeError, RecursionError, MemoryError)
    with suppress(*errors), warnings.catch_warnings(action="ignore"):
        items = ast.literal_eval(text.strip())
        plain = isinstance(items, list) and all(isinstance(item, str | int | float | None) for item in items)
        # Texts without commas between them, as NumPy prints them, are one text to Python.
        return items if plain and len(items) != 1 else None
    return None


def _split_options(text: str) -> list[str]:
    """ "A. x, B. y, C. z" -> ["x", "y", "z"]: each label is looked for after the one before."""
    label = re.match(r"\s*" + _LABEL.format(letter="A") + r"\s*", text)
    if label is None:
        raise ValueError(
            f'cannot find the options A, B, ... in {shown(text)}; write A. Ann, B. Ben or a list ["Ann", "Ben"]'
        )
    start, parts = label.end(), []
    for letter in LETTERS[1:]:
        label = _NEXT_LABELS[letter].search(text, start)
        if label is None:
            break
        parts.append(text[start : label.start()].strip(_EDGES))
        start = label.end()
    return [*parts, text[start:].strip(_EDGES)]


def gold_letter(answer: str, options: tuple[str, ...], first_label: int | None = None) -> str:
    """The letter of a gold answer: a letter ("B", "b", "B.", "(B)"), an option's text, both ("B. text"), or a number.

    ``first_label`` is the number of the first option, None where numbers are no labels. A text that is an option counts
    as that, and not as a number.
    Raises ValueError when it is none of the options, or more than one.
    """
    answer = answer.strip()
    if len(answer) == 1 and answer in LETTERS[: len(options)] and answer not in options:
        return answer
    letters = {letter for letter, option in zip(LETTERS, options, strict=False) if option == answer}
    if match := re.fullmatch(r"\(?([A-Za-z])[.):]*\s*(.*)", answer, re.DOTALL):
        letter, rest = match[1].upper(), match[2].strip()
        position = LETTERS.index(letter)
        said = not rest and (match[1] == letter or not letters)  # "a" may be the text of an option
        if position < len(options) and (said or (rest and options[position] == rest)):
            letters.add(letter)
    number = _NUMBER.fullmatch(answer)
    if number and first_label is not None and not letters and 0 <= int(number[1]) - first_label < len(options):
        return LETTERS[int(number[1]) - first_label]
    if len(letters) > 1:
        raise ValueError(f"the gold answer {shown(answer)} is more than one option ({', '.join(sorted(letters))})")
    if not letters:
        base = f"; numbers count from {first_label}, see first_label" if number and first_label is not None else ""
        raise ValueError(
            f"the gold answer {shown(answer)} is not among the {counted(len(options), 'option')} "
            f"({printable('; '.join(options), 200)}){base}"
        )
    return letters.pop()
