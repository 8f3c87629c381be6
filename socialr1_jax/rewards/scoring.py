"""Responses of a JSONL file scored offline: what ``scripts/score_responses.py`` does."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from socialr1_jax.config import RewardConfig
from socialr1_jax.data.examples import Example
from socialr1_jax.files import write_whole
from socialr1_jax.rewards.total import RewardTerms, score_response


class ScoreConfig(RewardConfig):
    """Which file to score, and with which reward."""

    input: str = Field(min_length=1, description="JSONL with story, question, options, answer, response (and content)")
    output: str = Field(min_length=1, description="the same rows with reward and terms added; null = unscorable")
    step: int = Field(0, ge=0, description="global step that the curriculum's weights are taken from")


@dataclass(frozen=True)
class ScoreSummary:
    """Counts and means over a file. ``mean_reward`` is over the scorable responses, NaN when there is none."""

    responses: int
    unscorable: int
    mean_reward: float
    format_rate: float
    accuracy: float


def score_file(config: ScoreConfig) -> ScoreSummary:
    """Score every row of ``config.input`` and write ``config.output``, whole or not at all.

    A row is a JSON object with ``question``, ``answer`` (gold letter, or text when there are no options),
    ``response``, and optionally ``story``, ``options`` (list of texts) and ``content`` (the reward model's scalar;
    without it, presets that use content are unscorable). ``reward`` and ``terms`` are added; blank lines are left out.

    Raises ValueError naming file, line, reason and mend for a row that cannot be used, OSError for a file that cannot
    be read or written.
    """
    source, target = Path(config.input), Path(config.output)
    scored: list[RewardTerms] = []
    lines: list[str] = []
    with source.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = _read_row(line)
                terms = _score_row(row, config)
                row["reward"] = _or_null(terms.total)
                row["terms"] = {name: _or_null(value) for name, value in terms.raw().items()}
                lines.append(json.dumps(row, allow_nan=False))
            except ValueError as error:
                raise ValueError(f"{source}: line {number}: {error}") from None
            scored.append(terms)
    if not scored:
        raise ValueError(f"{source}: the file holds no rows; give one JSON object a line")
    write_whole(target, "\n".join(lines) + "\n")
    rewards = [terms.total for terms in scored if not math.isnan(terms.total)]
    return ScoreSummary(
        responses=len(scored),
        unscorable=len(scored) - len(rewards),
        mean_reward=sum(rewards) / len(rewards) if rewards else math.nan,
        format_rate=sum(terms.format for terms in scored) / len(scored),
        accuracy=sum(terms.outcome for terms in scored) / len(scored),
    )


def _read_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_constant)
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start}); write the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno}); write one object a line") from None
    if not isinstance(row, dict):
        raise ValueError(f"a row is a JSON object, not {type(row).__name__}")
    return row


def _constant(name: str) -> None:
    if name != "NaN":  # NaN is how Python writes an unscorable number
        raise ValueError(f"{name} is not a number; write null for a score that could not be had")


def _score_row(row: dict[str, Any], config: ScoreConfig) -> RewardTerms:
    for name in ("question", "answer", "response"):
        if name not in row:
            raise ValueError(f"no {name!r}; a row needs question, answer and response")
    for name in ("story", "question", "answer", "response"):
        if not isinstance(row.get(name, ""), str):
            raise ValueError(f"{name!r} is {row[name]!r}, not a text")
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"'options' is {options!r}, not a list of texts")
    content = row.get("content")
    if isinstance(content, bool) or not isinstance(content, int | float | None):
        raise ValueError(f"'content' is {content!r}, not a number or null")
    example = Example(  # checks the question and the gold answer
        id="", story=row.get("story", ""), question=row["question"], options=tuple(options), answer=row["answer"]
    )
    return score_response(row["response"], example.answer, step=config.step, config=config, content=content)


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
