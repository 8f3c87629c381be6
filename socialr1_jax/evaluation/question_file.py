"""Questions of the user's own as a task: the prompt of training, accuracy, of twins and by column, beside baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from socialr1_jax.config.evaluation import EvaluateConfig, task_name
from socialr1_jax.config.sections import scalar_text
from socialr1_jax.data.bad_rows import report, summary
from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import PromptWriter
from socialr1_jax.data.question_files import parse_files
from socialr1_jax.data.tables import DataError, nearest, source_files
from socialr1_jax.data.twins import cluster_name, twin_name
from socialr1_jax.evaluation.card import card_grade, card_request
from socialr1_jax.evaluation.metrics import Graded, Metric, accuracy, mean_metric
from socialr1_jax.evaluation.request import ProtocolName, Request
from socialr1_jax.evaluation.task import GREEDY, BenchmarkError, Data, Remark, Task
from socialr1_jax.questions.audit import question_type
from socialr1_jax.questions.sources import open_questions
from socialr1_jax.runtime.files import sha256
from socialr1_jax.runtime.terminal import counted, printable

_TYPE = "type"
_MOST_VALUES = 100  # of a column; one with more tells questions apart and groups nothing


def open_questions_task(source: str, config: EvaluateConfig) -> tuple[Task, Data]:
    """Read a question file, or generated stories, as a task with its data.

    Args:
        source: a file, or `stories:[heldout:]COUNT[:SEED]`.
        config: `columns`, `where` and `first_label` are those of `read_examples`, `allow_bad_rows` leaves out rows
            that cannot be used and counts them in a remark of the data; `prompt` and `system` those of
            `PromptWriter`; `by` names the columns to give the accuracy by, none takes `type` where there is one.

    Raises:
        DataError: a file that cannot be read, or rows that cannot be used.
        BenchmarkError: a column of `by` that is not there, or has more than 100 values.
        ValueError: a prompt template that cannot be read or fails.
    """
    generated, notes = source.startswith("stories:"), tuple[str, ...]()
    if generated:
        examples = list(open_questions([source]))
    else:
        examples, notes = _read(source, config)
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
    items = [{"example": one, "by": group} for one, group in zip(examples, groups, strict=True)]
    files = {} if generated else {Path(source).name: sha256(Path(source))}
    task = questions_task(task_name(source), {one.id: one for one in examples})
    return task, Data(items=items, files=files, remarks=tuple(map(Remark, notes)))


def _read(source: str, config: EvaluateConfig) -> tuple[list[Example], tuple[str, ...]]:
    """Return the questions of a file, and a remark on the rows that were left out."""
    files = source_files(source)
    found = parse_files(
        source, files, config.columns, config.where, first_label=config.first_label, paths=config.by_columns
    )
    bad = found.bad
    if bad and not (config.allow_bad_rows and found.examples):
        fix = "Correct the file, or how it is read: columns, where, first_label"
        raise DataError(
            report(bad, found.total, fix + "; or leave such rows out: allow_bad_rows=true." * bool(found.examples))
        )
    if not bad:
        return found.examples, ()
    return found.examples, (
        f"left out {len(bad):,} of {counted(found.total, 'row')} that cannot be used: {summary(bad)}",
    )


def questions_task(name: str, examples: Mapping[str, Example] | None = None) -> Task:
    """Return the task of a question file; without its questions, by id, it can score samples again."""

    def asked(requests: Sequence[Request]) -> list[Example]:
        return [examples[one.id] for one in requests] if examples else []

    return Task(
        name=name,
        title=name,
        source="questions of your own",
        licence="yours",
        protocols={"social_r1": GREEDY},
        load=_is_opened,
        requests=_requests,
        grade=lambda request, protocol, reply: card_grade(request, reply),
        metrics=_metrics,
        examples=asked,
    )


def _is_opened(folder: Path) -> Data:
    raise BenchmarkError("a question file is opened by its path, not below data_dir")


def _groups(example: Example, by: Sequence[str]) -> dict[str, str]:
    """Return the value of each column that the question has; the column `type` also where a layout tells the type."""
    found = {name: question_type(example) if name == _TYPE else scalar_text(example.meta.get(name)) for name in by}
    return {name: printable(value, 100) for name, value in found.items() if value}


def _requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    return [_request(item["example"], item["by"]) for item in data.items]


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
    """Accuracy; of groups of twins, all of a group right; by each value of each column."""
    found = {"accuracy": accuracy(graded)}
    twins: dict[str, list[float]] = {}
    groups: dict[tuple[str, str], list[Graded]] = {}
    for one in graded:
        if name := one.request.meta["twin_id"]:
            twins.setdefault(name, []).append(one.grade.value)
        for group in one.request.meta["by"].items():
            groups.setdefault(group, []).append(one)
    if whole := [float(np.prod(values)) for values in twins.values() if len(values) > 1]:
        found["pair_accuracy"] = mean_metric(whole)
    columns = list(dict.fromkeys(column for column, _ in groups))
    ordered = sorted(groups, key=lambda group: (columns.index(group[0]), group[1]))
    return found | {f"accuracy/{column}={value}": accuracy(groups[column, value]) for column, value in ordered}
