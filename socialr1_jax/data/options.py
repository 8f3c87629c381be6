"""Parse the options of a question and its gold answer in the formats that question files use."""

import ast
import json
import re
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from socialr1_jax.config.sections import scalar_text
from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.tables import LABEL_NAMES, json_kind, listed, objects, texts_of
from socialr1_jax.runtime.terminal import counted, printable, shown

_LABEL = r"\(?{letter}[.):]"
_LABELS = [re.compile(_LABEL.format(letter=letter) + r"\s*(?=\S)") for letter in LETTERS]
_NEXT_LABELS = {letter: re.compile(rf"[,;\s]{_LABEL.format(letter=letter)}\s+") for letter in LETTERS}
_EDGES = ",;" + "".join(filter(str.isspace, map(chr, range(0x3001))))  # stripped from options in a text of several
_ABSENT_TEXTS = ("", "NaN", "nan")
_MOST_LITERAL = 20_000  # characters of a Python list
_FROM_0 = tuple(map(str, range(len(LETTERS) + 1)))
OPTION_NUMBER = re.compile(r"(\d{1,2})(?:\.0)?")  # tables with missing values hold 1.0


def cell_text(value: Any, column: str = "") -> str:
    """Return the text of a cell, or "" if it is empty. Raises ValueError for an object or a list."""
    if isinstance(value, str):
        text = value.strip()
        return "" if text in _ABSENT_TEXTS else text
    if isinstance(value, Mapping | list | bytes):
        inner = [f"{column}.{key}" if column else key for key in value] if isinstance(value, Mapping) else []
        fix = "name a part of it in columns" if column else "write a text instead of the object with"
        hint = f"; {fix}: {listed(inner)}" if inner else ""
        raise ValueError(f"{shown(column or 'options')} holds {json_kind(value)}, not a text{hint}")
    return "" if _absent(value) else scalar_text(value)


def _absent(value: Any) -> bool:
    """Return whether a cell is empty: null, NaN, an empty text, or the text NaN of a table converted to strings."""
    return value is None or value != value or (isinstance(value, str) and value.strip() in _ABSENT_TEXTS)


def parse_options(value: Any) -> tuple[str, ...]:
    """Return option texts in letter order, without their labels; () if there are none.

    Accepts a list of texts, {"A": text, "B": text}, {"text": [...], "label": [...]}, a list of objects with `text` (and
    a label, see `texts_of`), or one text: "A. x, B. y", or a list in JSON or Python syntax. The keys of {"A": text} are
    letters, or numbers from 0 or 1. Empty options at the end, as in tables, are dropped. Raises ValueError.
    """
    return option_texts(readable_options(value, "options"))


def option_texts(value: Any) -> tuple[str, ...]:
    """Return option texts as `parse_options` does, from the result of `readable_options`."""
    if isinstance(value, Mapping):
        texts = list(map(cell_text, _by_label(value).values()))
    elif isinstance(value, str) and not _absent(value):
        texts = _split_options(value)
    elif _absent(value):
        texts = []
    elif isinstance(value, Iterable):
        texts = [cell_text(item) for item in value]
    else:
        raise ValueError(f"cannot read the options {shown(value)}")
    while texts and not texts[-1]:
        texts.pop()
    labels = [pattern.match(text) for pattern, text in zip(_LABELS, texts, strict=False)]
    if texts and all(labels) and len(labels) == len(texts):  # only if every text begins with its letter
        texts = [text[match.end() :] for text, match in zip(texts, labels, strict=True) if match]
    return tuple(texts)


def readable_options(options: Any, column: str) -> Any:
    """Parse a list written as text, and convert a list of objects by `texts_of`. Raises ValueError."""
    if isinstance(options, str) and (items := _written_list(options)) is not None:
        options = items
    if not objects(options):
        return options
    names = dict.fromkeys(key for option in options for key in option)
    if "text" not in names:
        texts = [name for name in names if name not in LABEL_NAMES] or list(names)
        fix = f", as in columns.options={printable(f'{column}.{texts[0]}')}" if texts else ""
        raise ValueError(
            f"the options in {shown(column)} are objects with {listed(names) or 'nothing inside'}, not with 'text'; "
            f"name the one that holds the text{fix}, or write plain texts"
        )
    return texts_of(options, "text")


def _by_label(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return {label: text} from {"A": text}, without empty texts, or {"text": [...], "label": [...]}.

    Letters are capitalised. Raises ValueError for other labels.
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


def own_labels(options: Any) -> list[str]:
    """Return the labels of options that have labels other than letters; else []."""
    labels = list(_by_label(options)) if isinstance(options, Mapping) else []
    return labels if labels and labels[0] not in tuple(LETTERS) else []


def _written_list(text: str) -> list[Any] | None:
    """Parse a JSON list, or a Python list of strings and numbers; return None for any other text."""
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
        # Python joins strings without commas between them, as NumPy prints them, into one.
        return items if plain and len(items) != 1 else None
    return None


def _split_options(text: str) -> list[str]:
    """Split "A. x, B. y, C. z" into ["x", "y", "z"]; each label is searched for after the previous one."""
    label = re.match(r"\s*" + _LABEL.format(letter="A") + r"\s*", text)
    if label is None:
        raise ValueError(f'cannot find the options A, B, ... in {shown(text)}; write A. Ann, B. Ben or ["Ann", "Ben"]')
    start, parts = label.end(), []
    for letter in LETTERS[1:]:
        label = _NEXT_LABELS[letter].search(text, start)
        if label is None:
            break
        parts.append(text[start : label.start()].strip(_EDGES))
        start = label.end()
    return [*parts, text[start:].strip(_EDGES)]


def gold_letter(answer: str, options: tuple[str, ...], first_label: int | None = None) -> str:
    """Return the letter of a gold answer: a letter ("b", "(B)"), an option's text, both ("B. text"), or a number.

    `first_label` is the number of the first option, None if numbers are not labels. The text of an option has
    precedence over a number. Raises ValueError if the answer matches none of the options, or several.
    """
    answer = answer.strip()
    if len(answer) == 1 and answer in LETTERS[: len(options)] and answer not in options:
        return answer
    letters = {letter for letter, option in zip(LETTERS, options, strict=False) if option == answer}
    if match := re.fullmatch(r"\(?([A-Za-z])[.):]*\s*(.*)", answer, re.DOTALL):
        letter, rest = match[1].upper(), match[2].strip()
        position = LETTERS.index(letter)
        alone = not rest and (match[1] == letter or not letters)  # "a" may be the text of an option
        if position < len(options) and (alone or (rest and options[position] == rest)):
            letters.add(letter)
    number = OPTION_NUMBER.fullmatch(answer)
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
