"""Scoring: a status and a grade for every reply, and figures over one or several samples."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from socialr1_jax.chat.answers import Reply
from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.examples import Example
from socialr1_jax.evaluation.metrics import Grade, Graded, Metric, grouped, majority
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.task import Baseline, Embedder, Task
from socialr1_jax.questions.audit import untrained_rules
from socialr1_jax.rewards.parsing import THINK_END, without_thoughts

FAILED = ("too_long", "refused", "error")  # no reply to grade
STATUSES = ("ok", "truncated", "unparsable", *FAILED)
_FIELDS: dict[str, tuple[type, ...]] = {  # field types of a row of samples
    **dict.fromkeys(("id", "item", "reply", "finish_reason"), (str,)),
    **dict.fromkeys(("sample", "tokens"), (int,)),
    "messages": (list,),
    "meta": (dict,),
    "gold": (str, list, dict),
}
_WRONG, _NO_GRADE = Grade("", 0.0), Grade("", math.nan)


class ScoredReply(NamedTuple):
    """A reply with its grade; `sample` numbers the replies to one prompt."""

    request: Request
    sample: int
    reply: Reply
    status: str
    grade: Grade


def score(task: Task, protocol: ProtocolName, request: Request, sample: int, reply: Reply) -> ScoredReply:
    """Grade a reply. It is wrong if truncated in its thoughts; if truncated after them it is graded as it is.

    A reply without thoughts keeps its outer white space, which some official parsers are sensitive to.
    """
    if reply.finish_reason in FAILED:
        return ScoredReply(request, sample, reply, reply.finish_reason, _NO_GRADE)
    text = said_in(reply)
    if text is None:
        return ScoredReply(request, sample, reply, "truncated", _WRONG)
    grade = task.grade(request, protocol, text)
    answered = text.strip() and grade.answer
    status = "truncated" if reply.finish_reason == "length" else "ok" if answered else "unparsable"
    return ScoredReply(request, sample, reply, status, grade)


def said_in(reply: Reply) -> str | None:
    """Return a reply without its thoughts, or unchanged if it has none; None if its thoughts do not end."""
    text = without_thoughts(reply.text)
    return text if text is None or THINK_END in reply.text else reply.text


def figures(
    task: Task, protocol: ProtocolName, scored: Sequence[ScoredReply], embedder: Embedder | None = None
) -> dict[str, Metric]:
    """Return the task's figures as means over samples; for k > 1 samples also maj@k and pass@k of the headline.

    Items with a failed reply are left out, since a failed call is not a wrong answer. If the task has a more lenient
    parser than its authors' (`Task.kinder`), its main figures follow as `ours/reader/<figure>`.

    The standard error is the mean of the samples' standard errors. It covers the choice of items and is an upper bound
    for the mean over samples.
    """
    kinder: dict[str, Metric] = {}
    if task.kinder and protocol in ("official", "official_cot"):
        ours = replace(task, grade=task.kinder, kinder=None)
        again = [score(ours, protocol, row.request, row.sample, row.reply) for row in scored]
        by_name = {name.removeprefix("ours/"): m for name, m in figures(ours, protocol, again, embedder).items()}
        kinder = {f"ours/reader/{name}": metric for name, metric in by_name.items() if "/" not in name}
    failed = {row.request.item for row in scored if row.status in FAILED}
    scored = [row for row in scored if row.request.item not in failed]
    each = []
    for number in sorted({row.sample for row in scored}):
        of_sample = [Graded(row.request, row.grade) for row in scored if row.sample == number]
        further: dict[str, Metric] = {}
        if embedder and task.embedded:
            of_sample, further = task.embedded(of_sample, embedder)
        each.append(task.metrics(of_sample, protocol) | further)
    if not each:
        return {}
    means = {name: _mean([metrics[name] for metrics in each if name in metrics]) for name in each[0]}
    if (k := len(each)) > 1:
        headline = next(iter(means))
        replies = grouped([Graded(row.request, row.grade) for row in scored], lambda row: row.request.id).values()
        votes = [majority(all_) for all_ in replies]
        best = [max(all_, key=lambda row: row.grade.value) for all_ in replies]
        means[f"maj@{k}/{headline}"] = task.metrics(votes, protocol)[headline]
        means[f"pass@{k}/{headline}"] = task.metrics(best, protocol)[headline]
    return means | kinder


def baselines(task: Task, requests: Sequence[Request], examples: Sequence[Example]) -> dict[str, Baseline]:
    """Return chance and the best rule for each figure of the `social_r1` protocol; {} if a question has no options.

    A rule's grade on a question is its probability of being right, and the task computes figures from these grades as
    from a model's. The rules are the untrained ones of `audit_examples`; `examples` are the requests' questions.
    """
    if not examples or not all(example.options for example in examples):
        return {}

    def graded_alike(credit_q: np.ndarray) -> dict[str, Metric]:
        grades = (Grade(example.answer, float(c)) for example, c in zip(examples, credit_q, strict=True))
        return task.metrics([Graded(*pair) for pair in zip(requests, grades, strict=True)], "social_r1")

    chance = graded_alike(np.array([1 / len(example.options) for example in examples]))
    rules = {name: graded_alike(credit_q) for name, credit_q in untrained_rules(examples).items()}
    by_figure = {}
    for name, guessed in chance.items():
        best = max(rules, key=lambda rule: rules[rule][name].value)
        if guessed.n and guessed.value:  # skips figures that are not accuracies
            by_figure[name] = Baseline(guessed.value, best, rules[best][name].value)
    return by_figure


def status_rates(scored: Sequence[ScoredReply]) -> dict[str, float]:
    counts = Counter(row.status for row in scored)
    return {status: counts[status] / len(scored) if scored else math.nan for status in STATUSES}


def sample_row(task: str, protocol: ProtocolName, scored: ScoredReply) -> dict[str, Any]:
    """Return a row of samples_<task>.jsonl, with all that `rescored` needs."""
    request, reply = scored.request, scored.reply
    failure = {"cause": reply.cause, "reason": reply.reason} if reply.cause else {}
    return failure | {
        "task": task,
        "protocol": protocol,
        "id": request.id,
        "item": request.item,
        "sample": scored.sample,
        "status": scored.status,
        "gold": request.gold,
        "answer": scored.grade.answer,
        "value": None if math.isnan(scored.grade.value) else scored.grade.value,
        "reply": reply.text,
        "finish_reason": reply.finish_reason,
        "tokens": reply.tokens,
        "messages": list(request.messages),
        "meta": dict(request.meta),
    }


def rescored(task: Task, row: Mapping[str, Any]) -> ScoredReply:
    """Grade a row of samples_<task>.jsonl again. Raises TypeError naming a field of the wrong type."""
    for name, kinds in _FIELDS.items():
        if not isinstance(row[name], kinds):
            raise TypeError(f"{name} is not of type {' or '.join(kind.__name__ for kind in kinds)}")
    request = Request(
        id=row["id"], item=row["item"], messages=tuple(row["messages"]), gold=row["gold"], meta=row["meta"]
    )
    reply = Reply(row["reply"], row["finish_reason"], row["tokens"])
    return score(task, row["protocol"], request, row["sample"], reply)


def _mean(metrics: Sequence[Metric]) -> Metric:
    count = len(metrics)
    value, stderr = (math.fsum(column) / count for column in ([m.value for m in metrics], [m.stderr for m in metrics]))
    return Metric(value, stderr, metrics[0].n)
