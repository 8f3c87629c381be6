"""Runs benchmarks: prompts out, replies in and kept, figures and samples written."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from socialr1_jax.chat.answers import Reply
from socialr1_jax.config.evaluation import EvaluateConfig, samples_name
from socialr1_jax.evaluation.card import card_example
from socialr1_jax.evaluation.embeddings import installed, load_embedder
from socialr1_jax.evaluation.metrics import Grade, Metric
from socialr1_jax.evaluation.reply_file import ReplyFile
from socialr1_jax.evaluation.request import ProtocolName, Request
from socialr1_jax.evaluation.respondents import Asked, Endpoint, Respondent, decoding_of
from socialr1_jax.evaluation.scoring import (
    FAILED,
    ScoredReply,
    baselines,
    figures,
    said_in,
    sample_row,
    score,
    status_rates,
)
from socialr1_jax.evaluation.task import Baseline, BenchmarkError, Data, Decoding, Embedder, Hub, Remark, Task
from socialr1_jax.evaluation.wording import FILE, OWN_WORDING, note_on, with_wording, wording_of
from socialr1_jax.runtime.files import finite, write_whole
from socialr1_jax.weights.hub import find_data


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """Result of a task. metrics: by "<protocol>/<figure>", the headlines first in each; baselines: by the same names.
    failure: why there is no reply at all, "" when there is one.
    """

    task: str
    metrics: dict[str, Metric]
    status: dict[str, dict[str, float]]  # protocol -> share of replies of every status
    replies: int
    complete: bool = True  # everything was asked and scored
    whole: bool = False  # the questions are all that were published
    shares: bool = False  # every figure with an interval is a share from 0 to 1
    baselines: dict[str, Baseline] = field(default_factory=dict)
    wording: str = ""  # of the official prompts: "own wording" or the SHA-256 of the authors' texts; "" = has no texts
    failure: str = ""
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def load_data(task: Task, data_dir: Path, *, download: bool = True) -> Data:
    """Return the benchmark's data, with the authors' wording where it is there.

    They are in its folder below `data_dir`; if there is nothing but the wording, in a data set of the hub, which is
    downloaded unless it is in the cache. Raises BenchmarkError saying where to get what is missing.
    """
    own = data_dir / task.name
    try:
        data = task.load(folder_of(task.name, task.source, data_dir))
    except NoFolder as error:
        if task.hub is None:
            raise
        data = _of_hub(task, task.hub, download, str(error))
    return with_wording(task.name, own, data)


class NoFolder(BenchmarkError):
    """A benchmark's folder is missing, or has nothing but the wording of its prompts."""


def folder_of(name: str, source: str, data_dir: Path) -> Path:
    """Return the folder of a benchmark. Raises NoFolder saying where to get the data."""
    folder = data_dir / name
    if not folder.is_dir():
        raise NoFolder(f"{name}: there is no folder {folder}; get the data from {source}")
    if [file.name for file in folder.iterdir()] == [FILE]:
        raise NoFolder(f"{name}: there are no data in {folder}; get them from {source}")
    return folder


def _of_hub(task: Task, hub: Hub, download: bool, missing: str) -> Data:
    try:
        folder = find_data(hub.id, hub.files, revision=hub.revision, local_files_only=not download)
    except FileNotFoundError as error:
        raise NoFolder(f"{missing} (hub data set {hub.id}: {error})") from None
    data = task.load(folder)
    # The pinned revision is the published one, whatever copy our sums are of.
    kept = [remark for remark in data.remarks if folder.name != hub.revision or remark.kind != "other"]
    origin = Remark(f"questions from the hub data set {hub.id} @ {folder.name[:12]}", "hub")
    return replace(data, remarks=(origin, *kept))


def embedder(task: Task, protocol: ProtocolName) -> Embedder | None:
    """Return what compares texts, if the task's protocol needs that and sentence-transformers is installed."""
    needed = task.embedding_model and protocol != "social_r1" and installed()
    return load_embedder(task.embedding_model) if needed else None


def not_had(config: EvaluateConfig, had: Collection[ProtocolName]) -> list[ProtocolName]:
    """Return the protocols that were named on the command line or in a file and are none of these."""
    named = config.protocol_names if "protocols" in config.model_fields_set else ()
    return [name for name in named if name not in had]


def skipped_notes(name: str, config: EvaluateConfig, had: Collection[ProtocolName]) -> list[str]:
    """Return a remark on the protocols that were named and that a task has no prompts of, if there are such."""
    missing = ", ".join(not_had(config, had))
    return [f"left out, since {name} has no such prompts: {missing}"] if missing else []


def requests_of(task: Task, data: Data, config: EvaluateConfig) -> dict[ProtocolName, list[Request]]:
    """Return the first `config.limit` prompts of each protocol that is asked for and that the task has."""
    names = [name for name in config.protocol_names if name in task.protocols]
    each = {name: task.requests(data, name, config.seed)[: config.limit or None] for name in names}
    found = {name: requests for name, requests in each.items() if requests}
    if config.answer_mode == "reference" and "social_r1" in found:  # the mode stays with the samples for score.py
        found["social_r1"] = [replace(one, meta={**one.meta, "answer_mode": "reference"}) for one in found["social_r1"]]
    return found


def run_task(
    task: Task,
    data: Data,
    asked: Mapping[ProtocolName, Sequence[Request]],
    config: EvaluateConfig,
    respondent: Respondent,
    replies: ReplyFile,
    said: Callable[[str], None],
) -> TaskResult:
    """Ask, grade and write `samples_<task>.jsonl`; every reply is kept as it comes.

    `said` is called with a text for each reply. Raises BenchmarkError.
    """
    started = time.perf_counter()
    name = task.name
    metrics: dict[str, Metric] = {}
    status: dict[str, dict[str, float]] = {}
    decoding: dict[str, dict[str, float]] = {}
    scored: list[tuple[ProtocolName, ScoredReply]] = []
    for protocol, answers in ask(task, asked, config, respondent, replies, said).items():
        limit = max(_limit(config, one) for one in asked[protocol])
        decoding[protocol] = drawn_with(config, task, protocol)._asdict() | {"max_new_tokens": limit}
        if config.predict_only:
            scored += [(protocol, ScoredReply(*answer, "", Grade("", math.nan))) for answer in answers]
            continue
        found = [score(task, protocol, *answer) for answer in answers]
        metrics |= {
            f"{protocol}/{key}": one for key, one in figures(task, protocol, found, embedder(task, protocol)).items()
        }
        status[protocol] = status_rates(found)
        scored += [(protocol, one) for one in found]
    if config.log_samples or config.predict_only:
        rows = (json.dumps(finite(sample_row(name, protocol, one)), ensure_ascii=True) for protocol, one in scored)
        write_whole(Path(config.output) / samples_name(name), "".join(f"{row}\n" for row in rows))
    beside = _baselines(task, data, asked, config) if metrics else {}
    shown = {name: one for name in metrics if (one := beside.get(_plain(name)))}
    lost = [one.reply for _, one in scored if one.reply.finish_reason in FAILED]
    official = [protocol for protocol in asked if protocol.startswith("official")]
    wording = wording_of(name, data) if official else ""
    notes, why = [*data.notes, *([note_on(name, data, official)] if wording else [])], ""
    if "paper" in asked:
        wording = wording or OWN_WORDING
        notes.append(f"paper: {OWN_WORDING}")
    notes += skipped_notes(name, config, asked)
    for which, rates in status.items():
        if rates["truncated"] > 0.5:
            notes.append(f"{which}: {rates['truncated']:.0%} of the replies were cut: give a larger max_new_tokens")
    if lost:
        reason = next((reply.reason for reply in lost if reply.reason), "")
        counts = Counter(reply.cause or reply.finish_reason for reply in lost)
        why = ", ".join(f"{cause} {count}" for cause, count in counts.most_common()) + (reason and f": {reason}")
        notes.append(
            f"{len(lost)} of {len(scored)} replies failed ({why}); their items are left out of the figures; run "
            "the same command to ask again"
        )
    return TaskResult(
        task=name,
        metrics=metrics,
        status=status,
        replies=len(scored),
        complete=not lost,
        whole=data.whole,
        shares=True,
        baselines=shown,
        wording=wording,
        failure=why if len(lost) == len(scored) else "",
        files=dict(data.files),
        notes=notes,
        details={"decoding": decoding}
        | ({"baselines": {key: one._asdict() for key, one in shown.items()}} if shown else {}),
        seconds=time.perf_counter() - started,
    )


def _baselines(
    task: Task, data: Data, asked: Mapping[ProtocolName, Sequence[Request]], config: EvaluateConfig
) -> dict[str, Baseline]:
    """Return the baselines of a task by the plain names of its figures: those of `social_r1`, which has the options."""
    requests = asked.get("social_r1") or task.requests(data, "social_r1", config.seed)[: config.limit or None]
    examples = task.examples(requests) if task.examples else list(map(card_example, requests))
    return {_plain(f"social_r1/{name}"): one for name, one in baselines(task, requests, examples).items()}


def _plain(figure: str) -> str:
    """Return the name of a figure without its protocol and `ours/`."""
    return figure.partition("/")[2].replace("ours/", "")


def ask(
    task: Task,
    asked: Mapping[ProtocolName, Sequence[Request]],
    config: EvaluateConfig,
    respondent: Respondent,
    replies: ReplyFile,
    said: Callable[[str], None],
) -> dict[ProtocolName, list[tuple[Request, int, Reply]]]:
    """Return (request, sample, reply) of every prompt and sample of each protocol, in order.

    All protocols are asked together, so that one batch and few programs serve them; known replies are not asked again.
    A follow-up and its reply stand in the place of the prompt that they follow, unless that had no reply.
    """

    def prompt(protocol: ProtocolName, one: Request, key: str, samples: Sequence[int]) -> Asked:
        drawn = drawn_with(config, task, protocol)
        return Asked(
            f"{task.name}/{protocol}/{key}",
            one.messages,
            _limit(config, one),
            tuple(samples),
            None if drawn == decoding_of(config) else drawn,
            one.continuations,
        )

    requests = [(protocol, one) for protocol, each in asked.items() for one in each]
    first = [prompt(protocol, one, one.id, range(config.num_samples)) for protocol, one in requests]
    answers = [(*requests[i], sample, reply) for i, sample, reply in _replies(first, respondent, replies, said)]
    following: dict[int, Request] = {}  # by the place in `answers`
    for place, (protocol, one, _, reply) in enumerate(answers):
        if not one.follow_up:
            continue
        text = None if reply.finish_reason in FAILED else said_in(reply)
        if text is None:
            said(reply.finish_reason)
        else:
            assert task.follow_up
            following[place] = task.follow_up(one, protocol, text)
    second = []
    for place, one in following.items():
        protocol, _, sample, _ = answers[place]
        second.append(prompt(protocol, one, f"{one.id}/{sample}", (0,)))
    found = _replies(second, respondent, replies, said) if second else []
    for (place, one), (_, _, reply) in zip(following.items(), found, strict=True):
        protocol, _, sample, _ = answers[place]
        answers[place] = (protocol, one, sample, reply)
    by_protocol: dict[ProtocolName, list[tuple[Request, int, Reply]]] = {protocol: [] for protocol in asked}
    for protocol, request, sample, reply in answers:
        by_protocol[protocol].append((request, sample, reply))
    return by_protocol


def _replies(
    asked: Sequence[Asked], respondent: Respondent, replies: ReplyFile, said: Callable[[str], None]
) -> list[tuple[int, int, Reply]]:
    """Return (index, sample, reply) of everything that is asked, in order."""
    found = {(i, s): reply for i, one in enumerate(asked) for s in one.samples if (reply := replies.get(one, s))}
    missing: list[tuple[int, Asked]] = []
    for i, one in enumerate(asked):
        if left := tuple(s for s in one.samples if (i, s) not in found):
            missing.append((i, replace(one, samples=left)))
    for _ in found:
        said("known")
    if found and isinstance(respondent, Endpoint):  # what is left may be nothing but refused prompts
        respondent.answered_before()
    for at, sample, reply in respondent.replies([one for _, one in missing]):
        i = missing[at][0]
        replies.add(asked[i], sample, reply)
        found[i, sample] = reply
        said(f"{reply.tokens} tokens")
    return [(i, s, found[i, s]) for i, one in enumerate(asked) for s in one.samples]


def drawn_with(config: EvaluateConfig, task: Task, protocol: ProtocolName) -> Decoding:
    """Return how the replies of a protocol are drawn: what the configuration was given, else the authors' way."""
    given = {name: getattr(config, name) for name in Decoding._fields if name in config.model_fields_set}
    return task.protocols[protocol]._replace(**given)


def _limit(config: EvaluateConfig, request: Request) -> int:
    if config.max_new_tokens:
        return config.max_new_tokens
    return request.max_new_tokens + (config.thinking_tokens if config.thinking != "off" else 0)
