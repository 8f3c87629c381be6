"""Samples of evaluate.py scored once more."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from socialr1_jax.evaluation.registry import get_task
from socialr1_jax.evaluation.runner import embedder
from socialr1_jax.evaluation.scoring import Scored, figures, rescored, status_rates
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.files import read_json
from socialr1_jax.ownership import refuse_foreign_file


def refuse_foreign_figures(file: Path) -> None:
    """Raise ForeignFile if there is a file that does not hold what `rescore` returns."""
    refuse_foreign_file(file, lambda file: read_json(file).keys() == {"results", "status"}, "a file of figures")


def rescore(samples: Path) -> dict[str, Any]:
    """{"results": {task: {figure: {value, stderr, n}}}, "status": ...} of a file of samples, graded anew.

    Raises BenchmarkError naming the file and line of a row that is no sample.
    """
    groups: dict[tuple[str, Any], list[Scored]] = {}
    with samples.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                groups.setdefault((row["task"], row["protocol"]), []).append(rescored(get_task(row["task"]), row))
            except (ValueError, KeyError, TypeError, ImportError) as error:
                raise BenchmarkError(f"{samples} line {number}: not a sample of evaluate.py ({error!r})") from error
    results: dict[str, dict[str, Any]] = {}
    status: dict[str, dict[str, Any]] = {}
    for (task, protocol), scored in groups.items():
        found = figures(get_task(task), protocol, scored, embedder(get_task(task), protocol))
        results.setdefault(task, {}).update({f"{protocol}/{name}": one._asdict() for name, one in found.items()})
        status.setdefault(task, {})[protocol] = status_rates(scored)
    return {"results": results, "status": status}
