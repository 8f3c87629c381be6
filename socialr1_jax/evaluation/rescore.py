"""Samples of evaluate.py scored once more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.evaluation.registry import get_task
from socialr1_jax.evaluation.runner import PROTOCOLS, embedder
from socialr1_jax.evaluation.scoring import Scored, figures, rescored, status_rates
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation_config import TASKS, is_question_source
from socialr1_jax.files import finite, read_json
from socialr1_jax.ownership import refuse_foreign_file
from socialr1_jax.terminal import printable

_ASKED_ALIKE = ("tombench_hard",)  # in both protocols


def refuse_foreign_figures(file: Path) -> None:
    """Raise ForeignFile if there is a file that does not hold what `rescore` returns."""

    def is_own(file: Path) -> bool:
        written = read_json(file)
        tasks = written["results"].keys() | written["status"].keys()
        return written.keys() == {"results", "status"} and bool(tasks) and all(map(_is_task, tasks))

    refuse_foreign_file(file, is_own, "a file of figures")


def _is_task(name: str) -> bool:
    return name in TASKS or is_question_source(name)


def _check(row: Mapping[str, Any]) -> None:
    """Raise ValueError for a row whose task or protocol is none that is scored here, or whose prompt is of another."""
    task, protocol = row["task"], row["protocol"]
    if not _is_task(task):
        raise ValueError(f"the task {task!r} is neither a benchmark nor a question file")
    if task == "sotopia":
        raise ValueError("SOTOPIA's episodes are scored by its judge alone")
    if protocol not in PROTOCOLS:
        raise ValueError(f"the protocol {protocol!r} is none of {', '.join(PROTOCOLS)}")
    is_cards = "<Answer>" in json.dumps(row["messages"][-1:])  # a question file may have a prompt of its own
    if task in TASKS and task not in _ASKED_ALIKE and is_cards != (protocol == "social_r1"):
        raise ValueError(f"its prompt is none of the protocol {protocol}")


def rescore(samples: Path) -> dict[str, Any]:
    """Grade a file of samples again; return {"results": {task: {figure: {value, stderr, n}}}, "status": ...}.

    A value that does not exist is None.

    Raises BenchmarkError naming the file and line of a row that is no sample.
    """
    groups: dict[tuple[str, Any], list[Scored]] = {}
    with samples.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                _check(row)
                groups.setdefault((row["task"], row["protocol"]), []).append(rescored(get_task(row["task"]), row))
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
                reason = printable(repr(error), 200)
                raise BenchmarkError(f"{samples} line {number}: not a sample of evaluate.py ({reason})") from error
    results: dict[str, dict[str, Any]] = {}
    status: dict[str, dict[str, Any]] = {}
    for (task, protocol), scored in groups.items():
        try:
            found = figures(get_task(task), protocol, scored, embedder(get_task(task), protocol))
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            reason = printable(repr(error), 200)
            raise BenchmarkError(f"{samples}: the rows of {task} do not fit together ({reason})") from error
        results.setdefault(task, {}).update({f"{protocol}/{name}": one._asdict() for name, one in found.items()})
        status.setdefault(task, {})[protocol] = status_rates(scored)
    return finite({"results": results, "status": status})
