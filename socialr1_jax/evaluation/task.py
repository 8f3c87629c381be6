"""Benchmarks as the runner uses them: prompts, a grade for every reply, and figures made of the grades.

A benchmark's file has a `Task`. Nothing here knows of models, and nothing imports JAX.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.config.evaluation import ProtocolName as ProtocolName
from socialr1_jax.data.examples import Example

Embedder = Callable[[Sequence[str]], Any]  # n texts -> float [n, width]
Messages = tuple[Mapping[str, str], ...]  # {"role": "system" or "user", "content": ...}
FIELD = re.compile(r"\{\{|\}\}|\{([^\W\d]\w*)\}")  # of a text of `Wording`, or one of its braces


class BenchmarkError(ValueError):
    """A benchmark cannot be read or run; the message names the file, the reason and where to get it."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt of a benchmark.

    `id` is unique in the task and the same in every run; requests of one `item` (a question, a story, a conversation)
    belong together. `gold` and what else grading and figures need (`meta`) are plain JSON, so that samples can be
    scored again from a file. The reply to one with `follow_up` is no answer yet: `Task.follow_up` makes the next prompt
    of it. `continuations`: as of `Asked`.
    """

    id: str
    item: str
    messages: Messages
    gold: Any
    meta: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 512  # of the answer, as the protocol has it; thinking is on top
    follow_up: bool = False
    continuations: tuple[str, ...] = ()


class Grade(NamedTuple):
    """answer: what was read from the reply, in the gold's terms ("" = nothing could be read); value: 0 to 1."""

    answer: str
    value: float


class Graded(NamedTuple):
    """A request with the grade of one reply."""

    request: Request
    grade: Grade


class Metric(NamedTuple):
    """A figure with its standard error and the number of independent units (items, not replies) behind it."""

    value: float
    stderr: float
    n: int


class Decoding(NamedTuple):
    """A way of drawing replies. The defaults take the likeliest token each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # as `SamplingParams` has it


GREEDY = Decoding()


class Hub(NamedTuple):
    """A data set of the Hugging Face hub that has the benchmark's files; those are glob patterns.

    revision: the commit with the published files, "main" where none is known.
    """

    id: str
    files: tuple[str, ...]
    revision: str = "main"


class Baseline(NamedTuple):
    """Chance, and the best rule that reads no minds (`questions/audit.py`) with its accuracy, shown beside a figure."""

    chance: float
    rule: str
    accuracy: float


@dataclass(frozen=True)
class Wording:
    """The texts of the authors' prompts by our names for them, the SHA-256 of all, and what the notes say of them."""

    texts: Mapping[str, str]
    sha256: str
    about: str = ""

    def text(self, name: str, /, **values: str) -> str:
        """Return a text with its fields filled; values are taken as they are."""
        return FIELD.sub(lambda mark: values[mark[1]] if mark[1] else mark[0][0], self.texts[name])


@dataclass(frozen=True, kw_only=True)
class Data:
    """A benchmark's items as its file has them, the files with their SHA-256, and remarks for the results.

    `whole`: no published question is missing, so that published figures are over the same ones. `wording`: of the
    authors' prompts; without it the prompts of the official protocol are in our own words.
    """

    items: Sequence[Mapping[str, Any]]
    files: Mapping[str, str]
    notes: tuple[str, ...] = ()
    whole: bool = True
    wording: Wording | None = None


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark.

    protocols: the ways to ask it, and what its authors draw the replies of each with.
    load: folder of the benchmark -> Data; raises BenchmarkError.
    requests: (data, protocol, seed) -> the prompts; the same for the same arguments.
    grade: (request, protocol, reply without its thoughts) -> Grade. Replies that were cut in their thoughts never come
        here: they are wrong.
    metrics: (all graded requests of one reply each, protocol) -> figures by name; the first one is the headline.
    follow_up: (request with `follow_up`, protocol, reply without its thoughts) -> the prompt whose reply is graded in
        its place, with the same id.
    embedded: (graded requests of an official protocol, embedder of `embedding_model`) -> (the same with the grades
        that only an embedder can give, further figures); called before `metrics` where it is installed.
    examples: (requests of `social_r1`) -> their questions, where the prompt does not tell them.
    kinder: as `grade`, for `official` and `official_cot` of a benchmark whose own reader refuses answers that a reply
        plainly gives; the figures of it stand beside the official ones as `ours/reader/<figure>`.
    """

    name: str
    title: str
    source: str  # where the data come from: repository @ commit, or hub id
    licence: str
    load: Callable[[Path], Data]
    requests: Callable[[Data, ProtocolName, int], list[Request]]
    grade: Callable[[Request, ProtocolName, str], Grade]
    metrics: Callable[[Sequence[Graded], ProtocolName], dict[str, Metric]]
    protocols: Mapping[ProtocolName, Decoding] = field(
        default_factory=lambda: {"official": GREEDY, "social_r1": GREEDY}
    )
    follow_up: Callable[[Request, ProtocolName, str], Request] | None = None
    embedding_model: str = ""
    embedded: Callable[[Sequence[Graded], Embedder], tuple[list[Graded], dict[str, Metric]]] | None = None
    examples: Callable[[Sequence[Request]], list[Example]] | None = None
    hub: Hub | None = None  # where its authors publish the files there
    published: tuple[int, str] = (0, "items")  # how many items were published, and what they are
    kinder: Callable[[Request, ProtocolName, str], Grade] | None = None


def mean_metric(values: Sequence[float], clusters: Sequence[str] | None = None) -> Metric:
    """The mean with its standard error; with `clusters` (the item of each value) over clusters, which may differ in
    size. NaN and n = 0 for no values.
    """
    count = len(values)
    if not count:
        return Metric(math.nan, math.nan, 0)
    mean = math.fsum(values) / count
    sums: dict[Any, list[float]] = {}
    for i, value in enumerate(values):
        sums.setdefault(i if clusters is None else clusters[i], []).append(value - mean)
    n = len(sums)
    if n < 2:
        return Metric(mean, math.nan, n)
    # The variance of a ratio estimate over clusters; with clusters of one it is the usual s / sqrt(n).
    spread = math.fsum(math.fsum(one) ** 2 for one in sums.values())
    return Metric(mean, math.sqrt(spread * n / (n - 1)) / count, n)


def by_group(graded: Sequence[Graded], key: str) -> dict[str, list[Graded]]:
    """The graded requests by `meta[key]`, groups in order of their names."""
    groups: dict[str, list[Graded]] = {}
    for one in graded:
        groups.setdefault(str(one.request.meta[key]), []).append(one)
    return dict(sorted(groups.items()))


def accuracy(graded: Sequence[Graded]) -> Metric:
    """The mean grade, with the standard error over items."""
    return mean_metric([one.grade.value for one in graded], [one.request.item for one in graded])
