"""Convert rows of a file to questions."""

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
_CHAT_ANSWERS = ("answer", "solution", "ground_truth", "label", "reward_model")  # columns in the chat format
_MOST_PLACES = 1000  # bounds the cache of sets of columns
_PARTS_SHOWN = 30  # values inside objects that `reading` lists


class RowParser:
    """Convert rows to examples; fields are located once for each set of columns.

    Args:
        first: columns of the first row, which determine the layout.
        columns, where: as in `read_examples`.
        ids: prefix of the ids of rows without one, followed by the row's number.
        origin: `meta["source"]` of rows that have none; "" adds none.
        first_label: as in `read_examples`.
        paths: dotted names to add to `meta`.

    Raises DataError for a key of `columns` that is not a field of a question.
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
        self._numbers: dict[tuple[int, int], int] = {}  # (gold answer, number of options) -> first such row
        self._places: dict[tuple[str, ...], _Places | ValueError] = {}
        self._met: dict[str, None] = {}  # columns seen
        self._meta: dict[str, None] = {}  # names in `meta` that had a value
        self._cut = 0  # rows whose last turn was the assistant's
        self._options = columns.get("options", "")
        self.some_options = False  # whether any row had options
        self.empty: set[int] = set()  # earlier rows with an empty list of options in the named column
        self.no_options = f"no options, though columns names {shown(self._options)} and other rows have some there"

    def used(self, columns: Sequence[str]) -> set[str]:
        """Return the `columns` of a file that an example's fields are read from.

        Raises ValueError as `example` does, and for a missing column.
        """
        inner = (path for path in self._paths if path not in columns and path.partition(".")[0] in columns)
        places = _find(known := (*columns, *inner), self._columns)
        if missing := _missing([places], known):
            raise ValueError(missing)
        names = (*places.texts.values(), *places.options, *places.named.values())
        return {name if name in columns else name.partition(".")[0] for name in names}

    @property
    def reading(self) -> str:
        """A description of the columns read into fields, those only in `meta`, and those not read."""
        every = [places for places in self._places.values() if isinstance(places, _Places)]
        columns: dict[str, tuple[str, ...]] = {}
        for places in every:
            texts = {**places.texts, **places.named}
            columns = {name: (column,) for name, column in texts.items()} | {"options": places.options} | columns
        fields = [
            name if columns[name] == (name,) else f"{name} from {' + '.join(map(printable, columns[name]))}"
            for name in (*FIELDS, *META_FIELDS)
            if columns.get(name)
        ]
        rest = dict.fromkeys(column for places in every for column in places.meta)
        meta = [printable(column) for column in rest if column in self._meta]
        parts = [printable(name) for name in self._meta if name not in rest]
        meta += [*parts[:_PARTS_SHOWN], f"and {len(parts) - _PARTS_SHOWN} more"][: len(parts)]
        read = [f"{column}." for group in columns.values() for column in group]  # prefixes of nested names
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
        """Raise DataError if no row has a named column of the options or of `META_FIELDS`; some rows may lack them."""
        if missing := _missing([places for places in self._places.values() if isinstance(places, _Places)], self._met):
            raise DataError(f"{source}: {missing}")

    def refuse_first_label(self, source: str) -> None:
        """Raise DataError if numeric gold answers evidently count from the other first label.

        With `first_label` 0 that is the case if none is 0 and one equals the number of its options; with 1, if one is 0
        and none equals it. Questions with a numeric option are ignored, since their answers may be texts.
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
        """Return the question in row `number`. Raises ValueError with the reason if the row is invalid."""
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
            contents = [turn["content"].strip() for turn in turns if turn["role"] != "system"]
            cells = {"story": "\n\n".join(contents[:-1]), "question": contents[-1]} | cells
        if (column := places.texts["answer"]).lower() == "reward_model":
            cells["answer"] = ground_truth(cells["answer"], column)
        texts = {name: cell_text(cell, places.texts.get(name, name)) for name, cell in cells.items()}
        if len(places.options) == 1:
            choices = readable_options(values.get(places.options[0]), places.options[0])
        else:
            choices = readable_options([values.get(column) for column in places.options], "options")
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
    """The columns of the fields, of the options, of `meta` and of `META_FIELDS`.

    Rows may lack the columns of the options and of `META_FIELDS`.
    """

    texts: dict[str, str]
    options: tuple[str, ...]
    meta: tuple[str, ...]
    named: dict[str, str]
    used: frozenset[str]  # columns of the fields


def _missing(found: Iterable[_Places], known: Collection[str]) -> str:
    """Return a message about the first optional column that no row has, or ""."""
    wanted = (column for places in found for column in (*places.options, *places.named.values()))
    column = next((column for column in wanted if column not in known), "")
    fix = "correct it in columns (they are the same for all files), or rename this file's column"
    return f"no column {shown(column)}{nearest(column, known)}; {fix}" if column else ""


def _parts(column: str) -> tuple[str, ...]:
    """Return the columns in a list separated by commas."""
    return tuple(part.strip() for part in column.split(","))


def _find(known: Sequence[str], columns: Mapping[str, str]) -> _Places:
    """Locate the fields in rows with the columns `known`. Raises ValueError for a missing one."""
    by_name = {column.lower(): column for column in reversed(known)}  # the first of two that differ in case
    chat = "messages" in columns
    also = {"options": ("options", "choices"), "answer": _CHAT_ANSWERS if chat else ("answer",)}
    found = dict[str, str]()
    for name in FIELDS if chat else FIELDS[:-1]:
        aliases = (by_name[alias] for alias in also.get(name, (name,)) if alias in by_name)
        column = columns.get(name) or next(aliases, "")
        if name in columns and column not in known and name != "options":
            raise ValueError(f"no column {shown(column)}{nearest(column, known)}; correct it in columns")
        if not column and name in (_REQUIRED[2:] if chat else _REQUIRED):
            raise ValueError(f"no column {name!r}{nearest(name, known)}; name it in columns")
        found[name] = column
    column = found.pop("options")
    texts = {name: column for name, column in found.items() if column}
    holder, _, last = column.rpartition(".")
    if last == "text" and holder in known and f"{holder}.label" in known:
        options: tuple[str, ...] = (holder,)  # choices.text and choices.label are read as choices
    elif column:
        options = (column,) if column in known else _parts(column)
    else:
        options = lettered_columns(known)
    used = {*texts.values(), *options, "meta"}
    named = {name: columns[name] for name in META_FIELDS if name in columns}
    return _Places(texts, options, tuple(column for column in known if column not in used), named, frozenset(used))
