"""Preference pairs for a content reward model: the record, its files, and the pairing of scored texts."""

import json
import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from io import BytesIO
from itertools import permutations
from pathlib import Path
from typing import Any

from socialr1_jax.config.pairs import MatchingConfig
from socialr1_jax.data.tables import DataError, nearest, read_all_rows, refuse_half_characters
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.terminal import printable, shown

PAIR_FILES = (".jsonl", ".parquet")
STAGES = ("encode", "interpret", "goal", "respond")  # as in rewards/stages.py, which may not be imported here
_ROUNDING = 1e-9  # so that 0.7 - 0.5 counts as a gap of 0.2
_TEXTS = ("id", "story", "question", "chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two texts of thoughts about one question, the better one first.

    `chosen` and `rejected` are whole thoughts or, with `stage`, the text of that stage without its heading. `margin` is
    the difference of their scores, 0 if unknown. `meta` is the origin of the pair, as strings.

    Raises ValueError for an empty text, a lone surrogate, texts that are equal except for white space, a negative or
    non-finite margin, or an unknown stage.
    """

    id: str
    story: str
    question: str
    chosen: str
    rejected: str
    margin: float = 0.0
    stage: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _TEXTS:
            if not getattr(self, name).strip():
                raise ValueError(f"{name} is empty; fill it in, or leave the pair out")
        refuse_half_characters((*(getattr(self, name) for name in _TEXTS), *self.meta, *self.meta.values()))
        if same_text(self.chosen, self.rejected):
            raise ValueError("chosen and rejected are the same text; leave the pair out")
        if not (math.isfinite(self.margin) and self.margin >= 0):
            raise ValueError(f"margin is {self.margin}; give a number of at least 0, or leave it out")
        if self.stage and self.stage not in STAGES:
            raise ValueError(f"stage is {shown(self.stage)}; use one of {', '.join(STAGES)}, or '' for whole thoughts")


_COLUMNS = tuple(column.name for column in fields(Pair))


def same_text(one: str, other: str) -> bool:
    """Return whether two texts are equal except for white space."""
    return one.split() == other.split()


def read_pairs(path: str | Path) -> list[Pair]:
    """Read the pairs of a `.jsonl` or `.parquet` file, or of a hub dataset; `margin`, `stage` and `meta` are optional.

    Raises DataError naming file, row, reason and fix: an unreadable file, a missing, unknown or mistyped column, values
    that `Pair` refuses, or a repeated id.
    """
    pairs, seen = [], dict[str, str]()
    for row in read_all_rows(path):
        try:
            pair = Pair(**_values(row.values))
        except ValueError as error:
            raise DataError(f"{row.where}: {error}") from None
        if pair.id in seen:
            raise DataError(f"{row.where}: the id {shown(pair.id)} is already that of {seen[pair.id]}; ids are unique")
        seen[pair.id] = row.where
        pairs.append(pair)
    return pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSONL or Parquet, by the file's suffix, atomically.

    Raises DataError for another suffix, no pairs, a repeated id, or Parquet without pyarrow.
    """
    path, pairs = Path(path), list(pairs)
    if path.suffix.lower() not in PAIR_FILES:
        raise DataError(f"{path}: pairs are written as {' or '.join(PAIR_FILES)}; change the file's ending")
    if not pairs:
        raise DataError(f"{path}: there are no pairs to write")
    seen = dict[str, int]()
    for row, pair in enumerate(pairs, 1):
        if pair.id in seen:
            raise DataError(f"{path} row {row}: the id {shown(pair.id)} is already that of row {seen[pair.id]}")
        seen[pair.id] = row
    rows = [{name: getattr(pair, name) for name in _COLUMNS} | {"meta": dict(pair.meta)} for pair in pairs]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    write_whole(path, lines if path.suffix.lower() == ".jsonl" else _parquet(rows, path))


def _parquet(rows: list[dict[str, Any]], path: Path) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: writing Parquet needs pyarrow; pip install pyarrow, or write .jsonl") from None
    if not any(row["meta"] for row in rows):  # Parquet cannot store objects without fields
        for row in rows:
            del row["meta"]
    buffer = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a `Pair` from a row. Raises ValueError."""
    for name in row:
        if name not in _COLUMNS:
            raise ValueError(f"unknown column {shown(name)}{nearest(name, _COLUMNS)}; rename it, or put it into meta")
    values = {name: value for name, value in row.items() if value is not None}
    for name in _TEXTS:
        if name not in values:
            raise ValueError(f"no {name!r}; a pair needs {', '.join(_TEXTS)}")
    for name in (*_TEXTS, "stage"):
        if not isinstance(values.get(name, ""), str):
            raise ValueError(f"{name} is {shown(values[name])}, not a text; put it in quotes")
    margin = values.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, int | float):
        raise ValueError(f"margin is {shown(margin)}, not a number")
    meta = values.get("meta", {})
    if not isinstance(meta, Mapping):
        raise ValueError(f"meta is {shown(meta)}, not an object of texts")
    meta = {key: text for key, text in meta.items() if text is not None}  # Parquet fills in keys of other rows
    for key, text in meta.items():
        if not isinstance(text, str):
            raise ValueError(f"meta.{printable(key, 100)} is {shown(text)}, not a text; put it in quotes")
    try:
        return values | {"margin": float(margin), "meta": meta}
    except OverflowError:
        raise ValueError(f"margin is {shown(margin)}, too large for a number") from None


@dataclass(frozen=True, kw_only=True)
class ScoredText:
    """A text with its score. `scored` is how: whole, stage (the judge's score of the stage) or frame."""

    sample: int
    stage: str
    text: str
    score: float
    scored: str


def match_pairs(
    texts: Sequence[ScoredText],
    matching: MatchingConfig,
    id: str,
    story: str,
    question: str,
    seed: int,
    provenance: Mapping[str, str],
) -> list[Pair]:
    """Draw at most `per_question` pairs of one question at random.

    Two different texts can be paired if both are whole or of one stage, their scores differ by `min_gap`, and their
    lengths are within `max_length_ratio`. Pairs whose rejected text is longer or shorter are drawn alternately, while
    there are both, so that length does not predict the preference.
    """
    fitting = [
        (better, worse)
        for better, worse in permutations(texts, 2)
        if better.stage == worse.stage
        and better.score - worse.score >= matching.min_gap - _ROUNDING
        and _ratio(better.text, worse.text) <= matching.max_length_ratio
        and not same_text(better.text, worse.text)
    ]
    random.Random(f"socialr1 pairs {seed} {id}").shuffle(fitting)
    drawn: list[tuple[ScoredText, ScoredText]] = []
    seen: set[tuple[str, str, str]] = set()
    lean = 0  # number of longer rejected texts minus that of shorter ones
    while fitting and len(drawn) < matching.per_question:
        better, worse = min(fitting, key=lambda pair: _longer(pair[1], pair[0]) * lean)
        fitting.remove((better, worse))
        named = (better.stage, " ".join(better.text.split()), " ".join(worse.text.split()))
        if named not in seen:  # different samples may have equal texts
            seen.add(named)
            drawn.append((better, worse))
            lean += _longer(worse, better)
    order = ("", *STAGES)
    drawn.sort(key=lambda pair: (order.index(pair[0].stage), pair[0].sample, pair[1].sample))
    return [
        Pair(
            id=f"{id}-{better.stage or 'whole'}-{better.sample}-{worse.sample}",
            story=story,
            question=question,
            chosen=better.text,
            rejected=worse.text,
            margin=round(better.score - worse.score, 6),
            stage=better.stage,
            meta={
                **provenance,
                "question_id": id,
                "scored": better.scored,
                "chosen_sample": str(better.sample),
                "rejected_sample": str(worse.sample),
                "chosen_score": str(round(better.score, 6)),
                "rejected_score": str(round(worse.score, 6)),
            },
        )
        for better, worse in drawn
    ]


def _ratio(one: str, other: str) -> float:
    return max(len(one), len(other)) / min(len(one), len(other))


def _longer(one: ScoredText, other: ScoredText) -> int:
    return (len(one.text) > len(other.text)) - (len(one.text) < len(other.text))
