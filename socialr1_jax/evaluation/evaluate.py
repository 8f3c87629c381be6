"""Evaluation of a model: runs the tasks one after another and prints the tables."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from textwrap import wrap

from rich.table import Table

from socialr1_jax.config.evaluation import PROTOCOLS, TASKS, EvaluateConfig, is_question_source, task_name
from socialr1_jax.evaluation.question_file import open_questions_task
from socialr1_jax.evaluation.respondents import make_respondent
from socialr1_jax.evaluation.results import N_NOTE, checkpoint_text, figure_table, headline_table, write_results
from socialr1_jax.evaluation.results import Table as Rows
from socialr1_jax.evaluation.rows import ReplyFile
from socialr1_jax.evaluation.runner import (
    NoFolder,
    TaskResult,
    load_data,
    not_had,
    requests_of,
    run_task,
    skipped_notes,
)
from socialr1_jax.evaluation.sotopia import run as sotopia
from socialr1_jax.evaluation.task import BenchmarkError, Task
from socialr1_jax.evaluation.tasks import get_task
from socialr1_jax.evaluation.wording import FILE, shown_wording
from socialr1_jax.evaluation.wording_sources import SOURCES
from socialr1_jax.run.console import Bar, console, shown_log, working
from socialr1_jax.run.folder import own_folder
from socialr1_jax.run.provenance import commit, versions
from socialr1_jax.runtime.files import read_json
from socialr1_jax.runtime.terminal import counted, print_error, print_line, remark

_SHOWN = 5  # at most this many file names per benchmark in the listing
_MOST_ROWS = 40  # figures of a question file printed on the console


def evaluate(config: EvaluateConfig) -> Path:
    """Run the tasks on `config.model`, print their headlines and return the path of results.json.

    Raises BenchmarkError if data are missing (before the first prompt) or the endpoint rejects every request, and
    ConfigError if the output folder holds foreign results or another program writes to it.
    """
    with own_folder(Path(config.output), "evaluation"):
        return _evaluate(config)


def _evaluate(config: EvaluateConfig) -> Path:
    names = config.task_names
    own = {task_name(name) for name in names if is_question_source(name)}
    loaded = []
    for name in names:
        if is_question_source(name):
            loaded.append(open_questions_task(name, config))
        elif name != sotopia.NAME:
            loaded.append((task := get_task(name), load_data(task, Path(config.data_dir))))
    _refuse_protocols(config, [task for task, _ in loaded])
    episodes = sotopia.load_benchmark(Path(config.data_dir), config.sotopia_rules) if config.plays else None
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
                prompts = requests_of(task, data, config)
                calls = sum(1 + request.follow_up for requests in prompts.values() for request in requests)
                with Bar(task.name, calls * config.num_samples) as bar:
                    results.append(run_task(task, data, prompts, config, respondent, replies, bar.advance))
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
    for result in results:
        if result.task in own and len(result.metrics) > 1:
            head, rows = figure_table(result)
            left = len(rows) - _MOST_ROWS
            caption = f"... and {counted(left, 'further figure')} in results.md" if left > 0 else None
            _print_table((head, rows[:_MOST_ROWS]), result.task, caption)
    for result in results:
        if not result.complete:
            console.print(f"NOT REPORTABLE: {result.task}: {result.notes[-1]}")
    return written


def run_evaluation(config: EvaluateConfig) -> int:
    """Evaluate, or list the benchmarks, and return the exit status: 1 if a task got no reply at all."""
    if config.list:
        print_line(listing(Path(config.data_dir)))
        return 0
    try:
        written = evaluate(config)
    except KeyboardInterrupt:
        print_error(f"interrupted; {config.output} has the replies so far. Run the same command to resume")
        raise
    print_line(f"results: {written}")
    failed = read_json(written)["failed"]
    for task, reason in failed.items():
        remark(f"error: {task}: no reply at all ({reason})")
    return 1 if failed else 0


def _refuse_protocols(config: EvaluateConfig, tasks: Sequence[Task]) -> None:
    """Raise BenchmarkError if a requested protocol is not supported by any task."""
    there = {name for task in tasks for name in task.protocols}
    there |= set(sotopia.PROTOCOLS) if sotopia.NAME in config.task_names else set()
    if missing := not_had(config, there):
        named = ", ".join(name for name in PROTOCOLS if name in there)
        raise BenchmarkError(f"protocols: no task has {', '.join(missing)}; available: {named}")


def _print_table(rows: Rows, title: str | None, caption: str | None) -> None:
    table = Table(title=title, caption=caption, caption_justify="left")
    for name in rows[0]:
        table.add_column(name, overflow="fold")
    for row in rows[1]:
        table.add_row(*row)
    if rows[1]:
        console.print(table)


def listing(data_dir: Path) -> str:
    """Return a block of text for each benchmark: available data, wording, source and licence. Downloads nothing."""
    blocks = [f"benchmarks in {data_dir}"]
    for name in TASKS:
        about = sotopia.ABOUT if name == sotopia.NAME else get_task(name)
        rows = [*_what_is_here(name, about.published, data_dir), ("from", about.source), ("licence", about.licence)]
        blocks.append("\n".join([f"{name}: {about.title}", *(line for row in rows for line in _listed_row(*row))]))
    blocks.append(
        "Put a benchmark's files in the folder of its name. To use its authors' prompts,\n"
        "with CHECKOUT a copy of their repository at that version:\n"
        "  socialr1 prompts --benchmark NAME --source CHECKOUT \\\n"
        f"    --output {data_dir / 'NAME' / FILE}"
    )
    return "\n\n".join(blocks)


def _what_is_here(name: str, published: tuple[int, str], data_dir: Path) -> Iterator[tuple[str, str]]:
    """Yield (label, text) for a benchmark's lines about data and wording."""
    plays = name == sotopia.NAME
    try:
        data = sotopia.load_benchmark(data_dir) if plays else load_data(get_task(name), data_dir, download=False)
    except NoFolder:
        hub = None if plays else get_task(name).hub
        yield "data", f"none; an evaluation downloads them from the hub data set {hub.id}" if hub else "none"
        return
    except BenchmarkError as error:
        yield "data", f"cannot be used: {error}"
        return
    files = [file for file in data.files if file != FILE]
    where = f"in {counted(len(files), 'file')}" if len(files) > _SHOWN else f"in {', '.join(files)}"
    count, items = published
    if data.whole:
        yield "data", f"all {count:,} {items}, {where}"
    else:
        parts = [remark.text for remark in data.remarks if remark.kind == "part"]
        parts = parts or [f"{len(data.items):,} of {count:,} {items}"]
        yield "data", f"in part: {'; '.join(parts)}, {where}"
    yield from (("", remark.text) for remark in data.remarks if remark.kind in ("lacks", "other", "hub"))
    if name in SOURCES:
        versions = " or ".join(source.version for source in SOURCES[name].versions)
        if wording := data.wording:
            digest = shown_wording(wording.sha256, "official")
            yield "wording", f"{wording.about.removeprefix('the wording ')} (SHA-256 {digest}...)"
        else:
            yield "wording", f"own, not that of {versions}"


def _listed_row(label: str, text: str) -> list[str]:
    """Wrap a row to 80 columns without breaking long names."""
    width = 12
    lines = wrap(text, 80 - width, break_long_words=False, break_on_hyphens=False)
    return [f"  {label if number == 0 else '':<{width - 2}}{line}" for number, line in enumerate(lines)]
