"""Interface between benchmarks and the runner: prompts, a grade for every reply, and figures from the grades.

Each benchmark's file defines a `Task`. This module is independent of models and does not import JAX.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.examples import Example
from socialr1_jax.evaluation.metrics import Grade, Graded, Metric
from socialr1_jax.evaluation.request import Request, Wording

Embedder = Callable[[Sequence[str]], Any]  # n texts -> float [n, width]


class BenchmarkError(ValueError):
    """A benchmark cannot be read or run; the message names the file, the reason and where to get the data."""


class Decoding(NamedTuple):
    """Sampling settings of a protocol. The defaults are greedy."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # see `SamplingParams`


GREEDY = Decoding()


def ways(*official: ProtocolName, drawn: Decoding = GREEDY) -> dict[ProtocolName, Decoding]:
    """Return a benchmark's protocols: the authors' with decoding `drawn`, and `social_r1` with greedy decoding."""
    return dict.fromkeys(official, drawn) | {"social_r1": GREEDY}


class Hub(NamedTuple):
    """A Hugging Face hub data set with the benchmark's files, which are glob patterns.

    revision: commit of the published files, "main" if unknown.
    """

    id: str
    files: tuple[str, ...]
    revision: str = "main"


class Baseline(NamedTuple):
    """Chance, and the best rule without theory of mind (`questions/audit.py`) with its accuracy, for one figure."""

    chance: float
    rule: str
    accuracy: float


class Remark(NamedTuple):
    """A remark on a benchmark's data for the results.

    kind: "part": number of available questions; "lacks": name of a missing file; "other": a file that differs from the
    published one; "hub": data set that the files are from.
    """

    text: str
    kind: Literal["", "part", "lacks", "other", "hub"] = ""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A benchmark's items, its files with their SHA-256, and remarks for the results.

    `whole`: no published question is missing, so published figures cover the same questions. `wording`: the authors'
    prompt texts; if None, the official protocol uses our own.
    """

    items: Sequence[Any]
    files: Mapping[str, str]
    remarks: tuple[Remark, ...] = ()
    whole: bool = True
    wording: Wording | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(remark.text for remark in self.remarks)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A benchmark.

    protocols: protocol -> decoding settings of its authors.
    load: folder of the benchmark -> Data; raises BenchmarkError.
    requests: (data, protocol, seed) -> prompts; deterministic.
    grade: (request, protocol, reply without its thoughts) -> Grade. Not called for replies that were truncated in their
        thoughts, which are wrong.
    metrics: (graded requests of one sample, protocol) -> figures by name; the first one is the headline.
    follow_up: (request with `follow_up`, protocol, reply without its thoughts) -> prompt with the same id, whose reply
        is graded instead.
    embedded: (graded requests of an official protocol, embedder of `embedding_model`) -> (graded requests with the
        grades that need embeddings, further figures); called before `metrics` if sentence-transformers is installed.
    examples: (requests of `social_r1`) -> their questions, for tasks whose prompts cannot be parsed back.
    kinder: like `grade`, for `official` and `official_cot` of a benchmark whose official parser misses clearly stated
        answers; its figures are added as `ours/reader/<figure>`.
    """

    name: str
    title: str
    source: str  # origin of the data: repository @ commit, or hub id
    licence: str
    load: Callable[[Path], Data]
    requests: Callable[[Data, ProtocolName, int], list[Request]]
    grade: Callable[[Request, ProtocolName, str], Grade]
    metrics: Callable[[Sequence[Graded], ProtocolName], dict[str, Metric]]
    protocols: Mapping[ProtocolName, Decoding] = field(default_factory=lambda: ways("official"))
    follow_up: Callable[[Request, ProtocolName, str], Request] | None = None
    kind: str = ""  # field of `meta` with the question type
    headline: Mapping[str, str] = field(default_factory=dict)  # filter of the headline: field of `meta` -> value
    embedding_model: str = ""
    embedded: Callable[[Sequence[Graded], Embedder], tuple[list[Graded], dict[str, Metric]]] | None = None
    examples: Callable[[Sequence[Request]], list[Example]] | None = None
    hub: Hub | None = None  # the authors' copy of the files, if any
    published: tuple[int, str] = (0, "items")  # number of published items, and their noun
    kinder: Callable[[Request, ProtocolName, str], Grade] | None = None

    def in_headline(self, meta: Mapping[str, Any]) -> bool:
        """Return whether the headline includes prompts with this `meta` (English, FANToM's short contexts)."""
        return all(str(meta[name]) == value for name, value in self.headline.items())
