"""Benchmarks as the runner uses them: prompts, a grade for every reply, and figures made of the grades.

A benchmark's file has a `Task`. Nothing here knows of models, and nothing imports JAX.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from socialr1_jax.data.examples import Example
from socialr1_jax.evaluation.metrics import Grade, Graded, Metric
from socialr1_jax.evaluation.request import ProtocolName, Request, Wording

Embedder = Callable[[Sequence[str]], Any]  # n texts -> float [n, width]


class BenchmarkError(ValueError):
    """A benchmark cannot be read or run; the message names the file, the reason and where to get it."""


class Decoding(NamedTuple):
    """A way of drawing replies. The defaults take the likeliest token each time."""

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # as `SamplingParams` has it


GREEDY = Decoding()


def ways(*official: ProtocolName, drawn: Decoding = GREEDY) -> dict[ProtocolName, Decoding]:
    """Return the protocols of a benchmark: those of its authors, who draw as `drawn`, and the cards'."""
    return dict.fromkeys(official, drawn) | {"social_r1": GREEDY}


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


class Remark(NamedTuple):
    """A remark on a benchmark's data for the results.

    kind: "part": counts the questions that are there; "lacks": names a file that is missing; "other": a file is not the
    published one; "hub": the data set that the files are from.
    """

    text: str
    kind: Literal["", "part", "lacks", "other", "hub"] = ""


@dataclass(frozen=True, kw_only=True)
class Data:
    """A benchmark's items as its file has them, the files with their SHA-256, and remarks for the results.

    `whole`: no published question is missing, so that published figures are over the same ones. `wording`: of the
    authors' prompts; without it the prompts of the official protocol are in our own words.
    """

    items: Sequence[Any]
    files: Mapping[str, str]
    remarks: tuple[Remark, ...] = ()
    whole: bool = True
    wording: Wording | None = None

    @property
    def notes(self) -> tuple[str, ...]:
        """Return the texts of the remarks."""
        return tuple(remark.text for remark in self.remarks)


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
    protocols: Mapping[ProtocolName, Decoding] = field(default_factory=lambda: ways("official"))
    follow_up: Callable[[Request, ProtocolName, str], Request] | None = None
    kind: str = ""  # field of `meta` that names the kind of a question
    headline: Mapping[str, str] = field(default_factory=dict)  # the values of `meta` that it is over, of one field
    embedding_model: str = ""
    embedded: Callable[[Sequence[Graded], Embedder], tuple[list[Graded], dict[str, Metric]]] | None = None
    examples: Callable[[Sequence[Request]], list[Example]] | None = None
    hub: Hub | None = None  # where its authors publish the files there
    published: tuple[int, str] = (0, "items")  # how many items were published, and what they are
    kinder: Callable[[Request, ProtocolName, str], Grade] | None = None

    def in_headline(self, meta: Mapping[str, Any]) -> bool:
        """Return whether the headline is over prompts with this `meta`: English, FANToM's short contexts."""
        return all(str(meta[name]) == value for name, value in self.headline.items())
