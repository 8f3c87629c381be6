"""User question files as a task: training's prompt, accuracy overall, of twins and by column, with baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from socialr1_jax.config.evaluation import EvaluateConfig, ProtocolName, task_name
from socialr1_jax.config.sections import scalar_text
from socialr1_jax.data.bad_rows import summary
from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import PromptWriter
from socialr1_jax.data.question_files import parse_files
from socialr1_jax.data.tables import nearest, source_files
from socialr1_jax.data.twins import cluster_name, twin_name
from socialr1_jax.evaluation.card import card_grade, card_request
from socialr1_jax.evaluation.metrics import Graded, Metric, accuracy, all_right, grouped
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.task import GREEDY, BenchmarkError, Data, Remark, Task
from socialr1_jax.questions.audit import question_type
from socialr1_jax.questions.sources import open_questions
from socialr1_jax.runtime.files import sha256
from socialr1_jax.runtime.terminal import counted, printable

_TYPE = "type"
_MOST_VALUES = 100  # per column; one with more values is an identifier, not a group


def open_questions_task(source: str, config: EvaluateConfig) -> tuple[Task, Data]:
    """Read a question file, or generated stories, as a task with its data.

    The source is a file, or `stories:[heldout:]COUNT[:SEED]`. `config.allow_bad_rows` drops unusable rows and counts
    them in a remark of the data; `by` names the columns to group accuracy by (default: `type`, if present).

    Raises DataError for a file that cannot be read or has unusable rows, BenchmarkError for a column of `by` that is
    missing or has more than 100 values, and ValueError for a bad prompt template.
    """
    files, notes = dict[str, str](), list[str]()
    if source.startswith("stories:"):
        examples = list(open_questions([source]))
    else:
        table = source_files(source), config.columns, config.where
        parsed = parse_files(source, *table, first_label=config.first_label, paths=config.by_columns)
        parsed.refuse_bad(config.allow_bad_rows)
        examples, files = parsed.examples, {Path(source).name: sha256(Path(source))}
        if bad := parsed.bad:
            rows = counted(parsed.total, "row")
            notes.append(f"left out {len(bad):,} of {rows} that cannot be used: {summary(bad)}")
    if config.prompt or config.system:
        examples = list(map(PromptWriter(config.prompt, config.system), examples))
    by = config.by_columns
    groups = [_groups(example, by or (_TYPE,)) for example in examples]
    for column in by:
        values = {group[column] for group in groups if column in group}
        if not values:
            known = dict.fromkeys(name for example in examples for name in example.meta)
            raise BenchmarkError(f"by: {source} has no column {column!r}{nearest(column, known)}")
        if len(values) > _MOST_VALUES:
            raise BenchmarkError(
                f"by: column {column!r} of {source} has {len(values)} values, more than {_MOST_VALUES}; choose another"
            )
    items = [{"example": example, "by": group} for example, group in zip(examples, groups, strict=True)]
    task = questions_task(task_name(source), {example.id: example for example in examples})
    return task, Data(items=items, files=files, remarks=tuple(map(Remark, notes)))


def questions_task(name: str, examples: Mapping[str, Example] = {}) -> Task:
    """Return the task of a question file; `examples` by id are needed for baselines, not for rescoring samples."""
    return Task(
        name=name,
        title=name,
        source="questions of your own",
        licence="yours",
        protocols={"social_r1": GREEDY},
        load=_is_opened,
        requests=lambda data, protocol, seed: [_request(item["example"], item["by"]) for item in data.items],
        grade=lambda request, protocol, reply: card_grade(request, reply),
        metrics=_metrics,
        examples=lambda requests: [examples[request.id] for request in requests if examples],
    )


def _is_opened(folder: Path) -> Data:
    raise BenchmarkError("a question file is opened by its path, not below data_dir")


def _groups(example: Example, by: Sequence[str]) -> dict[str, str]:
    """Return the question's value in each column; `type` may also be derived from the file's layout."""
    values = {name: question_type(example) if name == _TYPE else scalar_text(example.meta.get(name)) for name in by}
    return {name: printable(value, 100) for name, value in values.items() if value}


def _request(example: Example, by: Mapping[str, str]) -> Request:
    request = card_request(
        id=example.id,
        item=cluster_name(example),
        story=example.story,
        question=example.question,
        options=example.options,
        gold=example.answer,
        meta={"by": dict(by), "twin_id": twin_name(example)},
    )
    return replace(request, messages=example.messages) if example.messages else request


def _metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return the accuracy over all questions, of groups of twins (all right) and for each value of each column."""
    figures = {"accuracy": accuracy(graded)}
    twins = grouped([row for row in graded if row.request.meta["twin_id"]], lambda row: row.request.meta["twin_id"])
    if whole := [rows for rows in twins.values() if len(rows) > 1]:
        figures["pair_accuracy"] = all_right(whole)
    columns: dict[str, dict[str, list[Graded]]] = {}
    for row in graded:
        for column, value in row.request.meta["by"].items():
            columns.setdefault(column, {}).setdefault(value, []).append(row)
    for column, values in columns.items():
        figures |= {f"accuracy/{column}={value}": accuracy(rows) for value, rows in sorted(values.items())}
    return figures
