"""Preference pairs, what a content reward model learns from: their files, and how scored texts are paired."""

from __future__ import annotations

import difflib
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
from socialr1_jax.data.tables import DataError, read_rows, refuse_half_characters
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.terminal import printable, shown

PAIR_FILES = (".jsonl", ".parquet")
STAGES = ("encode", "interpret", "goal", "respond")  # as in rewards/stages.py, which stands a floor above
_ROUNDING = 1e-9  # 0.7 - 0.5 is a gap of 0.2
_TEXTS = ("id", "story", "question", "chosen", "rejected")


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Two texts of thoughts about one question, the better one first.

    ``chosen`` and ``rejected`` are whole thoughts, or, with ``stage``, the words of that one stage without its heading.
    ``margin`` is by how much the chosen one is better, 0 if it was not measured. ``meta`` says where the pair is
    from, as texts.

    Raises ValueError for an empty text, half a character, texts that are equal but for white space, a negative or
    non-finite margin, an unknown stage.
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
    """Return whether two texts are equal but for white space."""
    return one.split() == other.split()


def read_pairs(path: str | Path) -> list[Pair]:
    """All pairs of a ``.jsonl`` or ``.parquet`` file, or of a hub dataset id; ``margin``, ``stage``, ``meta`` may lack.

    Raises DataError naming file, row, reason and fix: a file that cannot be read, a missing, unknown or mistyped
    column, what `Pair` refuses, an id that comes twice.
    """
    pairs, seen = [], dict[str, str]()
    for row in read_rows(path):
        try:
            pair = Pair(**_values(row.values))
        except ValueError as error:
            raise DataError(f"{row.where}: {error}") from None
        if pair.id in seen:
            raise DataError(
                f"{row.where}: the id {shown(pair.id)} is already that of {seen[pair.id]}; give each its own"
            )
        seen[pair.id] = row.where
        pairs.append(pair)
    return pairs


def write_pairs(path: str | Path, pairs: Iterable[Pair]) -> None:
    """Writes pairs as JSONL or Parquet, by the file's ending; the file appears whole or not at all.

    Raises DataError for another ending, no pairs, an id that comes twice, Parquet without pyarrow.
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
    write_whole(path, _jsonl(rows) if path.suffix.lower() == ".jsonl" else _parquet(rows, path))


def _jsonl(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _parquet(rows: list[dict[str, Any]], path: Path) -> bytes:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path}: writing Parquet needs pyarrow; pip install pyarrow, or write .jsonl") from None
    if not any(row["meta"] for row in rows):  # Parquet has no column of objects without a field
        for row in rows:
            del row["meta"]
    buffer = BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a Pair from a file's row. Raises ValueError."""
    for name in row:
        if name not in _COLUMNS:
            close = difflib.get_close_matches(name, _COLUMNS, n=1, cutoff=0.6)
            hint = f"did you mean {close[0]!r}?" if close else "put it into meta"
            raise ValueError(f"unknown column {shown(name)}; {hint} (the columns are {', '.join(_COLUMNS)})")
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
    meta = {key: text for key, text in meta.items() if text is not None}  # Parquet fills up what other rows have
    for key, text in meta.items():
        if not isinstance(text, str):
            raise ValueError(f"meta.{printable(key, 100)} is {shown(text)}, not a text; put it in quotes")
    try:
        return values | {"margin": float(margin), "meta": meta}
    except OverflowError:
        raise ValueError(f"margin is {shown(margin)}, too large for a number") from None


# ------------------------------------------------------------------------------------------------ pairs of scored texts


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A text with its score. `scored`: whole, stage (the judge's score of the stage) or frame."""

    sample: int
    stage: str
    text: str
    score: float
    scored: str


def match_pairs(
    texts: Sequence[Scored],
    matching: MatchingConfig,
    id: str,
    story: str,
    question: str,
    seed: int,
    provenance: Mapping[str, str],
) -> list[Pair]:
    """At most `per_question` pairs of one question, drawn at random among those that fit.

    Two texts fit when both are whole or of one stage, their scores are `min_gap` apart, their lengths within
    `max_length_ratio`, and they are not the same text. Those with the rejected text longer and shorter take turns as
    long as there are both, so that the length says little.
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
    drawn: list[tuple[Scored, Scored]] = []
    seen: set[tuple[str, str, str]] = set()
    lean = 0  # rejected texts that are longer, less those that are shorter
    while fitting and len(drawn) < matching.per_question:
        better, worse = min(fitting, key=lambda pair: _longer(pair[1], pair[0]) * lean)
        fitting.remove((better, worse))
        named = (better.stage, " ".join(better.text.split()), " ".join(worse.text.split()))
        if named not in seen:  # two samples may have said the same
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


def _longer(one: Scored, other: Scored) -> int:
    """1, 0 or -1."""
    return (len(one.text) > len(other.text)) - (len(one.text) < len(other.text))
