"""Reader of graded replies from the files of evaluations, runs and scored responses."""

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.config.evaluation import ASKED
from socialr1_jax.data.examples import Example
from socialr1_jax.data.twins import cluster_name, twin_name
from socialr1_jax.evaluation.card import card_example
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.tasks import get_task
from socialr1_jax.rewards.parsing import final_answer
from socialr1_jax.rewards.terms import is_choice
from socialr1_jax.runtime.terminal import printable

_SAMPLE = dict.fromkeys(("task", "protocol", "id", "item", "answer"), str) | {"meta": dict}


class GradedReply(NamedTuple):
    """A graded reply to an item. `value`: its grade from 0 to 1, NaN if it has none."""

    part: str  # comparison unit: task and protocol, or set of a run's evaluations
    key: str  # unique item key within the part
    sample: int
    value: float
    answer: str
    gold: str
    cluster: str
    twin: str  # name of its group of twins, "" if none
    question: str
    example: Example | None  # None if the options cannot be recovered
    prompt: str = ""  # its SHA-256


def graded_replies(source: str) -> Iterator[GradedReply]:
    """Yield the replies of a run; `RUN@STEP` selects one of its evaluations. Raises ValueError naming the file."""
    path, step = Path(source), None
    if not path.exists() and (parts := source.rpartition("@"))[1] and parts[2].isdecimal():
        path, step = Path(parts[0]), int(parts[2])
    if not path.exists():
        raise ValueError(f"{source}: there is no such file or folder; give a run's folder or an output of evaluate.py")
    if path.is_file():
        files = [path]
    elif files := sorted(set(path.glob("samples_*.jsonl")) - {path / "samples_sotopia.jsonl"}):
        pass
    elif (path / "rollouts.jsonl").is_file():
        files = [path / "rollouts.jsonl"]
    else:
        raise ValueError(
            f"{source} holds no samples_<task>.jsonl and no rollouts.jsonl; give an output folder of evaluate.py "
            "(with log_samples) or the folder of a run"
        )
    for file in files:
        yield from _of_file(file, step)


def _of_file(file: Path, step: int | None) -> Iterator[GradedReply]:
    """Yield the replies of a file; for rollouts.jsonl those of one evaluation, by default the last."""
    evaluations: dict[int, list[GradedReply]] = {}
    trained, scored = False, Counter[str]()
    for number, row in _rows(file):
        try:
            if "task" in row and "protocol" in row:
                if reply := _of_sample(row):
                    yield reply
            elif "phase" not in row:
                reply = _of_response(row)
                yield reply._replace(sample=scored[reply.key])
                scored[reply.key] += 1
            elif row["phase"] != "eval":
                trained = True
            else:
                if step is None and row["step"] not in evaluations:
                    evaluations.clear()  # keep only the last evaluation
                if step in (None, row["step"]):
                    evaluations.setdefault(row["step"], []).append(_of_response(row))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            kinds = "neither a sample of evaluate.py nor a scored response"
            raise ValueError(f"{file} line {number}: {kinds} ({printable(repr(error), 200)})") from None
    if not evaluations and (trained or step is not None):
        which = "no evaluation" if step is None else f"no evaluation at step {step}"
        raise ValueError(f"{file} has {which}: see evaluation.every, or compare two outputs of evaluate.py")
    for replies in evaluations.values():
        yield from replies


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):  # truncated last line of a killed process
                    return
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{file} line {number}: not a JSON object; give a file of evaluate.py or of a run")
            yield number, row


def _of_sample(row: Mapping[str, Any]) -> GradedReply | None:
    """Convert a row of samples_<task>.jsonl; return None if the task's headline excludes it."""
    for name, kind in _SAMPLE.items():
        if not isinstance(row[name], kind):
            raise TypeError(f"{name} is not of type {kind.__name__}")
    if row["task"] in ASKED and not get_task(row["task"]).in_headline(row["meta"]):
        return None
    example = None
    gold = row["gold"]
    if not isinstance(gold, str):  # list of names
        gold = json.dumps(gold, ensure_ascii=False)
    if row["protocol"] == "social_r1" and is_choice(gold):
        request = Request(id=row["id"], item=row["item"], messages=row["messages"], gold=gold, meta=row["meta"])
        with contextlib.suppress(ValueError):  # not the cards' prompt
            example = card_example(request)
    return GradedReply(
        part=f"{row['task']}, {row['protocol']}",
        key=row["id"],
        sample=int(row["sample"]),
        value=_number(row["value"]),
        answer=row["answer"],
        gold=gold,
        cluster=row["item"],
        twin=str(row["meta"].get("twin_id", "")),
        question=example.question if example else "",
        example=example,
        prompt=hashlib.sha256(json.dumps(row.get("messages")).encode()).hexdigest() if row.get("messages") else "",
    )


def _of_response(row: Mapping[str, Any]) -> GradedReply:
    """Convert a row of rollouts.jsonl or of score_responses.py."""
    meta = {**(row.get("meta") or {}), **{name: row[name] for name in ("type", "twin_id") if name in row}}
    example = Example(
        id=str(row.get("id", "")),
        story=row.get("story", ""),
        question=row["question"],
        options=tuple(row.get("options") or ()),
        answer=row["answer"],
        meta={name: value for name, value in meta.items() if isinstance(value, str)},
    )
    return GradedReply(
        part=str(row.get("set", "responses")),
        key=example.id or "\n".join((example.story, example.question, *example.options)),
        sample=int(row.get("sample", 0)),
        value=_number(row["terms"]["outcome"]),
        answer=final_answer(row["response"]),
        gold=example.answer,
        cluster=cluster_name(example),
        twin=twin_name(example),
        question=example.question,
        example=example,
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
