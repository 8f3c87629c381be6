"""How the row of a file becomes a question."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from socialr1_jax.config.sections import scalar_text
from socialr1_jax.data.examples import FIELDS, LETTERS, META_FIELDS, READ_AS_TEXT, Example
from socialr1_jax.data.layouts import lettered_columns, recognise
from socialr1_jax.data.options import OPTION_NUMBER, cell_text, gold_letter, option_texts, own_labels, readable_options
from socialr1_jax.data.tables import DataError, listed, nearest, scalar_parts, spread_objects
from socialr1_jax.data.turns import Turns, ground_truth, parse_turns, turns_column
from socialr1_jax.runtime.terminal import counted, printable, shown

_REQUIRED = ("story", "question", "answer")
_CHAT_ANSWERS = ("answer", "solution", "ground_truth", "label", "reward_model")  # columns, beside turns
_MOST_PLACES = 1000  # sets of columns of one source that are remembered
_PARTS_SHOWN = 30  # values inside objects, in a line on what was read


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
        """Return which `columns` of a file an example's fields come from, or lead through.

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
        """Return the question of row ``number``. Raises ValueError saying why there is none."""
        values = spread_objects(values, self._paths)
        key = tuple(values)
        if (places := self._places.get(key)) is None:
            self._met |= dict.fromkeys(key)
            try:
                places = _find(key, self._columns)
            except ValueError as error:
                inner = spread_objects(values, (f"{name}." for name in key)).keys() - set(key)
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
        texts = {name: cell_text(cell, places.texts.get(name, name)) for name, cell in cells.items()}
        choices: Any = [values.get(column) for column in places.options]
        if len(choices) == 1:
            choices = choices[0]
        choices = readable_options(choices, places.options[0] if len(places.options) == 1 else "options")
        options = option_texts(choices)
        if options:
            self.some_options = True
        elif choices == [] and places.options and self._options:
            if self.some_options:
                raise ValueError(self.no_options)
            self.empty.add(number)
        if not texts["answer"]:
            raise ValueError(f"no gold answer in {shown(places.texts['answer'])}")
        answer = self._golds.get(texts["answer"], texts["answer"])
        labels = own_labels(choices)
        if answer in labels[: len(LETTERS)]:
            answer = LETTERS[labels.index(answer)]
        elif labels:
            answer = gold_letter(answer, options)
        elif options:
            if (label := OPTION_NUMBER.fullmatch(answer)) and not any(map(OPTION_NUMBER.fullmatch, options)):
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
    """Columns that fields are in, those of the options, those that become meta, and those of `META_FIELDS`.

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
