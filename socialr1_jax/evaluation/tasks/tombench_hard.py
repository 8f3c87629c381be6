"""ToMBench-Hard: 100 held-out questions of six kinds, written to resist shortcuts.

The set was not available when this was written, so its column names are unknown: they are guessed, or given in a file
`columns.json` beside the data. Both protocols send the prompt of the model cards; only the parser of replies differs.
With 100 questions the 95 % interval at an accuracy of 0.6 is +-9.6 points; several samples reduce only the noise within
a question.
"""

import ast
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from string import ascii_lowercase
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.config.sections import scalar_text
from socialr1_jax.data.options import gold_letter, parse_options
from socialr1_jax.data.tables import BadRow, DataError, file_rows, listed, nearest, refuse_half_characters
from socialr1_jax.evaluation.card import card_request, graded_by, published_grade
from socialr1_jax.evaluation.metrics import Graded, Metric, accuracies, accuracy
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.task import BenchmarkError, Data, Hub, Remark, Task
from socialr1_jax.evaluation.tasks.reading import find_file, read_json
from socialr1_jax.runtime.files import ROW_SUFFIXES, sha256
from socialr1_jax.runtime.terminal import shown

_SOURCE = "hub dataset Jincenzi/ToMBench_Hard, or SocialR1/dataset in microsoft/AnthropomorphicIntelligence"
_STEMS = ("ToMBench_Hard_val", "ToMBench_Hard_test", "val", "test")
_COLUMNS_FILE = "columns.json"
_QUESTION_COUNT = 100
_LIKELY_COLUMNS = {  # field -> lower-case names, likeliest first
    "story": ("story", "context", "scenario", "passage", "background"),
    "question": ("question", "query"),
    "options": ("options", "choices", "candidates", "candidateanswers"),
    "answer": ("answer", "gold", "answerkey", "correctanswer", "goldanswer", "groundtruth", "label", "correct"),
    "dimension": ("dimension", "tomdimension", "atoms", "atomsdimension", "ability", "category", "mentalstate", "type"),
}
_MAY_LACK = ("story",)  # some tables include the story in the question
_LETTERED = re.compile(r"(?:options?|choice)?([a-z])")


def load(folder: Path) -> Data:
    """Load the questions, each with `story`, `question`, `options`, `gold` and `dimension`.

    columns.json maps fields to columns, the options also to a list of columns, and a missing dimension to "". Raises
    BenchmarkError naming the file and the fix.
    """
    path, configured = _data_file(folder), _read_columns_file(folder)
    places: dict[str, tuple[str, ...]] = {}
    items = []
    try:
        for row in file_rows(path):
            if isinstance(row, BadRow):
                raise BenchmarkError(f"{row}; download the file again")
            places = places or _columns_of_fields(tuple(map(str, row.values)), configured, path)
            items.append(_item(row.values, places, f"{path}, row {row.number}"))
    except DataError as error:
        raise BenchmarkError(str(error)) from None
    if not items:
        raise BenchmarkError(f"{path}: the file holds no rows")
    notes = [f"columns read from {path.name}: " + "; ".join(f"{k} = {', '.join(v)}" for k, v in places.items())]
    if not (whole := len(items) == _QUESTION_COUNT):
        notes.append(
            f"{len(items)} questions, not the {_QUESTION_COUNT} of the held-out set: figures are not comparable"
        )
    return Data(items=items, files={path.name: sha256(path)}, remarks=tuple(map(Remark, notes)), whole=whole)


def _data_file(folder: Path) -> Path:
    try:
        return find_file(folder, *(f"{stem}{suffix}" for stem in _STEMS for suffix in ROW_SUFFIXES))
    except BenchmarkError:
        raise BenchmarkError(
            f"{folder}: there is no {_STEMS[0]}.csv (or {', '.join(_STEMS[1:])}; or {', '.join(ROW_SUFFIXES)}); get it "
            f"from {_SOURCE}"
        ) from None


def _read_columns_file(folder: Path) -> Mapping[str, Any]:
    if not (path := folder / _COLUMNS_FILE).is_file():
        return {}
    configured = read_json(path)
    if not isinstance(configured, Mapping):
        raise BenchmarkError(f"{path}: {type(configured).__name__} instead of an object of fields and their columns")
    return configured


def _columns_of_fields(known: Sequence[str], configured: Mapping[str, Any], path: Path) -> dict[str, tuple[str, ...]]:
    """Return the columns of each field. Raises BenchmarkError."""
    if unknown := [name for name in configured if name not in _LIKELY_COLUMNS]:
        raise BenchmarkError(f"{_COLUMNS_FILE}: {unknown[0]!r} is not one of the fields {', '.join(_LIKELY_COLUMNS)}")
    places: dict[str, tuple[str, ...]] = {}
    for name in _LIKELY_COLUMNS:
        if name not in configured:
            chosen = _likely(name, known)
        elif isinstance(configured[name], str):
            chosen = (configured[name],) if configured[name] else ()
        elif isinstance(configured[name], Sequence) and all(isinstance(column, str) for column in configured[name]):
            chosen = tuple(configured[name])
        else:
            raise BenchmarkError(f"{_COLUMNS_FILE}: {name} is {shown(configured[name])}, no column or list of columns")
        if name != "options" and len(chosen) > 1:
            raise BenchmarkError(f"{_COLUMNS_FILE}: {name} takes one column, not {shown(list(chosen))}")
        for column in chosen:
            if column not in known:
                raise BenchmarkError(f"{_COLUMNS_FILE}: {path} has no column {column!r}{nearest(column, known)}")
        if chosen:
            places[name] = chosen
        elif name not in _MAY_LACK and (name != "dimension" or name not in configured):
            raise BenchmarkError(
                f"{path}: no column looks like the {name} (the columns are {listed(known)}); name it in "
                f'{path.parent / _COLUMNS_FILE}, such as {{"{name}": "{known[0]}"}}'
            )
    return places


def _likely(name: str, known: Sequence[str]) -> tuple[str, ...]:
    plain: dict[str, str] = {}
    for column in known:
        last = column.rpartition("\n")[2]  # ToMBench's headers have a Chinese line above the English one
        if last.isascii():
            plain.setdefault(re.sub("[^a-z0-9]", "", last.lower()), column)
    if column := next((plain[likely] for likely in _LIKELY_COLUMNS[name] if likely in plain), ""):
        return (column,)
    lettered = {match[1]: column for key, column in plain.items() if (match := _LETTERED.fullmatch(key))}
    options = tuple(lettered[letter] for letter in takewhile(lettered.__contains__, ascii_lowercase))
    return options if name == "options" and len(options) > 1 else ()


def _item(values: Mapping[str, Any], places: Mapping[str, tuple[str, ...]], where: str) -> dict[str, Any]:
    fields: dict[str, Any] = {"story": "", "dimension": ""}
    for name in ("story", "question", "answer", "dimension"):
        if name in places:
            fields[name] = scalar_text(values.get(places[name][0])).strip()
    if not fields["question"]:
        raise BenchmarkError(f"{where}: {places['question'][0]!r} is empty")
    columns = places["options"]
    try:
        cells = [values.get(column) for column in columns]
        options = parse_options(_parsed_list(cells[0]) if len(cells) == 1 else cells)
        if len(options) < 2 or not all(options):
            raise ValueError(f"the options are {shown(list(options))}; there must be two or more, none empty")
        refuse_half_characters(options)
        gold = gold_letter(fields.pop("answer"), options)
    except ValueError as error:
        raise BenchmarkError(f"{where}: {error}; or name the right columns in {_COLUMNS_FILE}") from None
    dimension = fields["dimension"].partition(":")[0].strip().lower()
    return fields | {"options": list(options), "gold": gold, "dimension": dimension or "none"}


def _parsed_list(cell: Any) -> Any:
    """Parse a list or mapping in a CSV cell; return other cells unchanged."""
    if isinstance(cell, str) and cell.lstrip()[:1] in ("[", "{"):
        with suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
            value = ast.literal_eval(cell.strip())
            return value if isinstance(value, list | tuple | dict) else cell  # a set has no order
    return cell


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Return one prompt per question, in file order, the same for both protocols; the seed is not used."""
    return [
        card_request(
            id=str(number),
            item=str(number),
            story=item["story"],
            question=item["question"],
            options=item["options"],
            gold=item["gold"],
            meta={"dimension": item["dimension"]},
        )
        for number, item in enumerate(data.items, 1)
    ]


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return the accuracy, overall and by dimension."""
    return {"accuracy": accuracy(graded)} | accuracies(graded, "dimension", "dimension/")


TASK = Task(
    name="tombench_hard",
    title="ToMBench-Hard (100 held-out questions)",
    hub=Hub("Jincenzi/ToMBench_Hard", tuple(f"{stem}{suffix}" for stem in _STEMS for suffix in ROW_SUFFIXES)),
    source=_SOURCE,
    licence="not known",
    published=(_QUESTION_COUNT, "questions"),
    load=load,
    requests=requests,
    grade=graded_by(lambda request, protocol, reply: published_grade(request, reply)),
    metrics=metrics,
)
