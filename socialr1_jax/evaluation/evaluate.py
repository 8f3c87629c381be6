"""What scripts/evaluate.py does: every task in turn, then the tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.table import Table

from socialr1_jax.evaluation.question_file import open_questions_task
from socialr1_jax.evaluation.registry import get_task
from socialr1_jax.evaluation.reply_file import ReplyFile
from socialr1_jax.evaluation.respondents import make_respondent
from socialr1_jax.evaluation.results import (
    N_NOTE,
    checkpoint_text,
    figure_table,
    headline_table,
    write_results,
)
from socialr1_jax.evaluation.results import Table as Rows
from socialr1_jax.evaluation.runner import TaskResult, load_data, not_had, requests_of, run_task, skipped_notes
from socialr1_jax.evaluation.sotopia import run as sotopia
from socialr1_jax.evaluation.task import BenchmarkError, Data, Grade, Graded, Task
from socialr1_jax.evaluation_config import PROTOCOLS, TASKS, EvaluateConfig, is_question_source, task_name
from socialr1_jax.terminal import counted
from socialr1_jax.training.console import Bar, console, shown_log, working
from socialr1_jax.training.provenance import commit, versions
from socialr1_jax.training.run_folder import own_folder

_SHOWN = 6  # figures of a task in the listing
_MOST_ROWS = 40  # figures of a question file on the console


def evaluate(config: EvaluateConfig) -> Path:
    """Asks `config.model` the tasks, prints their headlines and returns the path of results.json.

    Raises BenchmarkError for data that are missing, before anything is asked, or an endpoint that refuses; ConfigError
    for an output folder that holds foreign results or that another program writes to.
    """
    with own_folder(Path(config.output), "evaluation"):
        return _evaluate(config)


def _evaluate(config: EvaluateConfig) -> Path:
    names = config.task_names
    own = {task_name(name) for name in names if is_question_source(name)}
    loaded = [_loaded(name, config) for name in names if name != sotopia.NAME]
    _refuse_protocols(config, [task for task, _ in loaded])
    episodes = sotopia.load_benchmark(Path(config.data_dir)) if config.plays else None
    results: list[TaskResult] = []
    made_by = versions(), commit()
    with shown_log(), ExitStack() as opened:
        with working(f"loading {config.model}"):
            respondent = make_respondent(config)
            opened.callback(respondent.close)
            players = sotopia.make_players(config, respondent) if episodes else None
        identity = respondent.identity()
        if where := checkpoint_text(identity):
            console.print(where)
        known = Path(config.cache) if config.cache else Path(config.output) / "replies.jsonl"
        with ReplyFile(known, identity) as replies:
            for task, data in loaded:
                if task.name in own:
                    for note in data.notes:
                        console.print(f"{task.name}: {note}")
                asked = requests_of(task, data, config)
                calls = sum(1 + one.follow_up for requests in asked.values() for one in requests)
                with Bar(task.name, calls * config.num_samples) as bar:
                    results.append(run_task(task, data, asked, config, respondent, replies, bar.advance))
                written = write_results(config, results, identity, *made_by)
        if episodes and players:
            opened.callback(players.close)
            with Bar(sotopia.NAME, sotopia.work(config, episodes)) as bar:
                results.append(sotopia.run_sotopia(config, episodes, players, bar.advance))
            written = write_results(config, results, identity, *made_by)
        elif sotopia.NAME in names:
            notes = skipped_notes(sotopia.NAME, config, sotopia.PROTOCOLS)
            results.append(TaskResult(task=sotopia.NAME, metrics={}, status={}, replies=0, notes=notes))
            written = write_results(config, results, identity, *made_by)
    _print_table(headline_table(results), "NOT REPORTABLE: --limit" if config.limit else None, N_NOTE)
    for one in results:
        if one.task in own and len(one.metrics) > 1:
            head, rows = figure_table(one)
            _print_table((head, rows[:_MOST_ROWS]), one.task, _further(len(rows) - _MOST_ROWS))
    for one in results:
        if not one.complete:
            console.print(f"NOT REPORTABLE: {one.task}: {one.notes[-1]}")
    return written


def _refuse_protocols(config: EvaluateConfig, tasks: Sequence[Task]) -> None:
    """Raise BenchmarkError for a protocol that no task has."""
    there = {name for task in tasks for name in task.protocols}
    there |= set(sotopia.PROTOCOLS) if sotopia.NAME in config.task_names else set()
    if missing := not_had(config, there):
        named = ", ".join(name for name in PROTOCOLS if name in there)
        raise BenchmarkError(f"protocols: none of the tasks has {', '.join(missing)}; there is {named}")


def _loaded(name: str, config: EvaluateConfig) -> tuple[Task, Data]:
    if is_question_source(name):
        return open_questions_task(name, config)
    task = get_task(name)
    return task, load_data(task, Path(config.data_dir))


def _print_table(rows: Rows, title: str | None, caption: str | None) -> None:
    table = Table(title=title, caption=caption, caption_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows[1]:
        table.add_row(*row)
    if rows[1]:
        console.print(table)


def _further(count: int) -> str | None:
    return f"... and {counted(count, 'further figure')} in results.md" if count > 0 else None


def listing(data_dir: Path) -> str:
    """Tasks, sources and licences, and of those whose data are there the figures and the files with their SHA-256."""
    lines = []
    for name in TASKS:
        about = sotopia.ABOUT if name == sotopia.NAME else get_task(name)
        lines.append(f"{name}: {about.title}. {about.source}. {about.licence}")
        try:
            named, files = _figures_and_files(name, data_dir)
        except BenchmarkError as error:
            lines.append(f"    {error}")
            continue
        for protocol, figures in named.items():
            more = f", and {len(figures) - _SHOWN} more" if len(figures) > _SHOWN else ""
            lines.append(f"    {protocol}: {', '.join(figures[:_SHOWN])}{more}")
        lines += [f"    {digest[:16]}  {file}" for file, digest in files.items()]
    return "\n".join(lines)


def _figures_and_files(name: str, data_dir: Path) -> tuple[dict[str, list[str]], Mapping[str, str]]:
    if name == sotopia.NAME:
        named = {f"official_{name}": sotopia.FIGURES for name in sotopia.SETS}
        return named, sotopia.load_benchmark(data_dir).files
    task = get_task(name)
    data = load_data(task, data_dir)
    named = {}
    for protocol in task.protocols:
        graded = [Graded(request, Grade("", 0.0)) for request in task.requests(data, protocol, 0)]
        named[str(protocol)] = list(task.metrics(graded, protocol)) if graded else []
    return named, data.files
