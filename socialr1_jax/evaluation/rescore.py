"""Rescoring of samples written by evaluate.py."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.config.commands import RescoreConfig
from socialr1_jax.config.evaluation import TASKS, ProtocolName, is_question_source
from socialr1_jax.evaluation.runner import embedder
from socialr1_jax.evaluation.scoring import ScoredReply, figures, rescored, status_rates
from socialr1_jax.evaluation.task import BenchmarkError, Task
from socialr1_jax.evaluation.tasks import get_task
from socialr1_jax.runtime.files import finite, read_json, write_json
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import print_result, printable

_ASKED_ALIKE = ("tombench_hard",)  # same prompt in both protocols


def _is_figures(file: Path) -> bool:
    written = read_json(file)
    tasks = written["results"].keys() | written["status"].keys()
    return written.keys() == {"results", "status"} and bool(tasks) and all(map(_is_task, tasks))


def refuse_lost_figures(file: Path, found: Mapping[str, Any]) -> None:
    """Raise BenchmarkError if the file has figures of a task and protocol that are missing in `found`."""
    if not file.exists():
        return
    before, after = (
        {(task, protocol) for task, of_task in figures["status"].items() for protocol in of_task}
        for figures in (read_json(file), found)
    )
    if lost := sorted(before - after):
        named = ", ".join(f"{protocol} of {task}" for task, protocol in lost)
        raise BenchmarkError(f"{file}: holds figures of {named}, which these samples do not have; name another output")


def _is_task(name: str) -> bool:
    return name in TASKS or is_question_source(name)


def _task_of(row: Mapping[str, Any]) -> Task:
    """Return the task of a row. Raises ValueError if its task, protocol or prompt cannot be scored here."""
    name, protocol = row["task"], row["protocol"]
    if not _is_task(name):
        raise ValueError(f"the task {name!r} is neither a benchmark nor a question file")
    if name == "sotopia":
        raise ValueError("SOTOPIA's episodes are scored by its judge alone")
    task = get_task(name)
    if protocol not in task.protocols:
        raise ValueError(f"{name} has the protocols {', '.join(task.protocols)}, not {protocol!r}")
    is_cards = "<Answer>" in json.dumps(row["messages"][-1:])  # question files may use a custom prompt
    if name in TASKS and name not in _ASKED_ALIKE and is_cards != (protocol == "social_r1"):
        raise ValueError(f"its prompt is not one of the protocol {protocol}")
    return task


def print_rescored(config: RescoreConfig) -> None:
    """Rescore a file of samples, write the figures to `config.output` if set, and print them.

    Raises BenchmarkError if there are no samples or earlier figures would be lost, and ForeignFile.
    """
    samples, output = Path(config.samples), Path(config.output)
    if config.output:
        refuse_foreign_file(output, _is_figures, "a file of figures")
    if not samples.is_file():
        others = ", ".join(file.name for file in sorted(samples.parent.glob("samples_*.jsonl")))
        raise BenchmarkError(f"there is no file {samples}" + (f"; beside it: {others}" if others else ""))
    results = rescore(samples)
    if config.output:
        refuse_lost_figures(output, results)
        write_json(output, results)
    print_result(json.dumps(results, indent=2))


def rescore(samples: Path) -> dict[str, Any]:
    """Grade a file of samples again; return {"results": {task: {figure: {value, stderr, n}}}, "status": ...}.

    Values that are not finite become None. Raises BenchmarkError naming the file and line of an invalid row.
    """
    groups: dict[tuple[str, ProtocolName], list[ScoredReply]] = {}
    with samples.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                row = json.loads(line)
                task = _task_of(row)
                groups.setdefault((task.name, row["protocol"]), []).append(rescored(task, row))
            except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
                reason = printable(repr(error), 200)
                raise BenchmarkError(f"{samples} line {number}: not a sample of evaluate.py ({reason})") from error
    results: dict[str, dict[str, Any]] = {}
    status: dict[str, dict[str, Any]] = {}
    for (name, protocol), scored in groups.items():
        task = get_task(name)
        try:
            metrics = figures(task, protocol, scored, embedder(task, protocol))
        except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
            reason = printable(repr(error), 200)
            raise BenchmarkError(f"{samples}: the rows of {name} do not fit together ({reason})") from error
        results.setdefault(name, {}).update({f"{protocol}/{key}": metric._asdict() for key, metric in metrics.items()})
        status.setdefault(name, {})[protocol] = status_rates(scored)
    return finite({"results": results, "status": status})
