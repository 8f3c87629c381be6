"""What scripts/evaluate.py does: every task in turn, then the tables."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from socialr1_jax.evaluation.registry import get_task
from socialr1_jax.evaluation.reply_file import ReplyFile
from socialr1_jax.evaluation.respondents import make_respondent
from socialr1_jax.evaluation.results import headline_table, write_results
from socialr1_jax.evaluation.runner import TaskResult, load_data, requests_of, run_task
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation_config import TASKS, EvaluateConfig
from socialr1_jax.training.console import Bar, console, shown_log, working
from socialr1_jax.training.provenance import commit, versions


def evaluate(config: EvaluateConfig) -> Path:
    """Runs every task that is asked for; returns results.json.

    Raises BenchmarkError for data that are missing, before anything is asked, or an endpoint that refuses.
    """
    tasks = [get_task(name) for name in config.task_names]
    loaded = [(task, load_data(task, Path(config.data_dir))) for task in tasks]
    results: list[TaskResult] = []
    made_by = versions(), commit()
    with shown_log():
        with working(f"loading {config.model}"):
            respondent = make_respondent(config)
        identity = respondent.identity()
        known = Path(config.cache) if config.cache else Path(config.output) / "replies.jsonl"
        try:
            with ReplyFile(known, identity) as replies:
                for task, data in loaded:
                    asked = requests_of(task, data, config)
                    with Bar(task.name, sum(map(len, asked.values())) * config.num_samples) as bar:
                        results.append(run_task(task, data, asked, config, respondent, replies, bar.advance))
                    written = write_results(config, results, identity, *made_by)
        finally:
            respondent.close()
    head, rows = headline_table(results)
    table = Table(title="NOT REPORTABLE: --limit" if config.limit else None)
    for title in head:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    return written


def listing(data_dir: Path) -> str:
    """Tasks, sources and licences, and the files that are there with their SHA-256."""
    lines = []
    for name in TASKS:
        if name == "sotopia":
            continue
        task = get_task(name)
        lines.append(f"{name}: {task.title}. {task.source}. {task.licence}")
        try:
            files = load_data(task, data_dir).files
            lines += [f"    {digest[:16]}  {file}" for file, digest in files.items()]
        except BenchmarkError as error:
            lines.append(f"    {error}")
    return "\n".join(lines)
