"""Runner of benchmarks: asks the prompts, caches and grades the replies, computes figures and writes samples."""

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from socialr1_jax.chat.answers import Reply
from socialr1_jax.config.evaluation import EvaluateConfig, ProtocolName, samples_name
from socialr1_jax.evaluation.card import card_example
from socialr1_jax.evaluation.embeddings import installed, load_embedder
from socialr1_jax.evaluation.metrics import Grade, Metric, prefixed
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.respondents import Asked, Endpoint, Respondent, decoding_of
from socialr1_jax.evaluation.rows import ReplyFile
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
    """Result of a task. `metrics` and `baselines` are keyed "<protocol>/<figure>", each protocol's headline first.

    `failure` says why there is no reply at all; "" if there is one.
    """

    task: str
    metrics: dict[str, Metric]
    status: dict[str, dict[str, float]]  # protocol -> status -> share of replies
    replies: int
    complete: bool = True  # all prompts have a scored reply
    whole: bool = False  # no published question is missing
    shares: bool = False  # all figures with intervals are shares from 0 to 1
    baselines: dict[str, Baseline] = field(default_factory=dict)
    wording: str = ""  # of the official prompts: "own wording", SHA-256 of the authors' texts, or "" if there are none
    failure: str = ""
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def load_data(task: Task, data_dir: Path, *, download: bool = True) -> Data:
    """Return the benchmark's data, with the authors' wording if available.

    Reads the benchmark's folder in `data_dir`. If it is missing or holds only the wording, the data come from the hub
    cache or are downloaded. Raises BenchmarkError saying where to get missing data.
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
    """A benchmark's folder is missing, or holds only the wording of its prompts."""


def folder_of(name: str, source: str, data_dir: Path) -> Path:
    """Return the folder of a benchmark. Raises NoFolder, saying where to get the data."""
    folder = data_dir / name
    if not folder.is_dir():
        raise NoFolder(f"{name}: there is no folder {folder}; get the data from {source}")
    if [file.name for file in folder.iterdir()] == [FILE]:
        raise NoFolder(f"{name}: no data in {folder}; get them from {source}")
    return folder


def _of_hub(task: Task, hub: Hub, download: bool, missing: str) -> Data:
    try:
        folder = find_data(hub.id, hub.files, revision=hub.revision, local_files_only=not download)
    except FileNotFoundError as error:
        raise NoFolder(f"{missing} (hub data set {hub.id}: {error})") from None
    data = task.load(folder)
    # The pinned revision is the published one, even if our checksums are of another copy.
    remarks = [remark for remark in data.remarks if folder.name != hub.revision or remark.kind != "other"]
    origin = Remark(f"questions from the hub data set {hub.id} @ {folder.name[:12]}", "hub")
    return replace(data, remarks=(origin, *remarks))


def embedder(task: Task, protocol: ProtocolName) -> Embedder | None:
    """Load the embedder if the task's protocol needs one and sentence-transformers is installed."""
    needed = task.embedding_model and protocol != "social_r1" and installed()
    return load_embedder(task.embedding_model) if needed else None


def not_had(config: EvaluateConfig, had: Collection[ProtocolName]) -> list[ProtocolName]:
    """Return the explicitly configured protocols that are not in `had`."""
    named = config.protocol_names if "protocols" in config.model_fields_set else ()
    return [name for name in named if name not in had]


def skipped_notes(name: str, config: EvaluateConfig, had: Collection[ProtocolName]) -> list[str]:
    """Return a remark on explicitly configured protocols that the task does not have, if any."""
    missing = ", ".join(not_had(config, had))
    return [f"left out, since {name} has no such prompts: {missing}"] if missing else []


def requests_of(task: Task, data: Data, config: EvaluateConfig) -> dict[ProtocolName, list[Request]]:
    """Return the first `config.limit` prompts of each configured protocol that the task has."""
    names = [name for name in config.protocol_names if name in task.protocols]
    each = {name: task.requests(data, name, config.seed)[: config.limit or None] for name in names}
    by_protocol = {name: requests for name, requests in each.items() if requests}
    if config.answer_mode == "reference" and "social_r1" in by_protocol:  # stored with the samples, for score.py
        by_protocol["social_r1"] = [
            replace(one, meta={**one.meta, "answer_mode": "reference"}) for one in by_protocol["social_r1"]
        ]
    return by_protocol


def run_task(
    task: Task,
    data: Data,
    asked: Mapping[ProtocolName, Sequence[Request]],
    config: EvaluateConfig,
    respondent: Respondent,
    replies: ReplyFile,
    said: Callable[[str], None],
) -> TaskResult:
    """Ask a task's prompts, grade the replies and write `samples_<task>.jsonl`; replies are cached as they arrive.

    Calls `said` with a progress text for each reply. Raises BenchmarkError.
    """
    started = time.perf_counter()
    name = task.name
    metrics: dict[str, Metric] = {}
    status: dict[str, dict[str, float]] = {}
    decoding: dict[str, dict[str, float]] = {}
    scored: list[tuple[ProtocolName, ScoredReply]] = []
    for protocol, answers in ask(task, asked, config, respondent, replies, said).items():
        limit = max(_limit(config, request) for request in asked[protocol])
        decoding[protocol] = drawn_with(config, task, protocol)._asdict() | {"max_new_tokens": limit}
        if config.predict_only:
            scored += [(protocol, ScoredReply(*answer, "", Grade("", math.nan))) for answer in answers]
            continue
        graded = [score(task, protocol, *answer) for answer in answers]
        metrics |= prefixed(f"{protocol}/", figures(task, protocol, graded, embedder(task, protocol)))
        status[protocol] = status_rates(graded)
        scored += [(protocol, one) for one in graded]
    if config.log_samples or config.predict_only:
        rows = (json.dumps(finite(sample_row(name, protocol, one)), ensure_ascii=True) for protocol, one in scored)
        write_whole(Path(config.output) / samples_name(name), "".join(f"{row}\n" for row in rows))
    beside = _baselines(task, data, asked, config) if metrics else {}
    shown = {name: one for name in metrics if (one := beside.get(_plain(name)))}
    lost = [one.reply for _, one in scored if one.reply.finish_reason in FAILED]
    official = [protocol for protocol in asked if protocol.startswith("official")]
    wording = wording_of(name, data) if official else ""
    notes, causes = [*data.notes, *([note_on(name, data, official)] if wording else [])], ""
    if "paper" in asked:
        wording = wording or OWN_WORDING
        notes.append(f"paper: {OWN_WORDING}")
    notes += skipped_notes(name, config, asked)
    for which, rates in status.items():
        if rates["truncated"] > 0.5:
            notes.append(f"{which}: {rates['truncated']:.0%} of the replies were truncated: increase max_new_tokens")
    if lost:
        reason = next((reply.reason for reply in lost if reply.reason), "")
        counts = Counter(reply.cause or reply.finish_reason for reply in lost)
        causes = ", ".join(f"{cause} {count}" for cause, count in counts.most_common()) + (reason and f": {reason}")
        notes.append(
            f"{len(lost)} of {len(scored)} replies failed ({causes}); their items are left out of the figures; run "
            "the same command to retry"
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
        failure=causes if len(lost) == len(scored) else "",
        files=dict(data.files),
        notes=notes,
        details={"decoding": decoding}
        | ({"baselines": {key: metric._asdict() for key, metric in shown.items()}} if shown else {}),
        seconds=time.perf_counter() - started,
    )


def _baselines(
    task: Task, data: Data, asked: Mapping[ProtocolName, Sequence[Request]], config: EvaluateConfig
) -> dict[str, Baseline]:
    """Return the baselines by plain figure name, computed from the `social_r1` prompts, which list the options."""
    requests = asked.get("social_r1") or task.requests(data, "social_r1", config.seed)[: config.limit or None]
    examples = task.examples(requests) if task.examples else list(map(card_example, requests))
    return {_plain(f"social_r1/{name}"): baseline for name, baseline in baselines(task, requests, examples).items()}


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
    """Return (request, sample, reply) for every prompt and sample of each protocol, in order.

    All protocols are asked together to share batches and compiled programs; cached replies are not asked again. A
    follow-up and its reply replace the first prompt and reply, unless the first request failed.
    """

    def prompt(protocol: ProtocolName, request: Request, key: str, samples: Sequence[int]) -> Asked:
        drawn = drawn_with(config, task, protocol)
        return Asked(
            f"{task.name}/{protocol}/{key}",
            request.messages,
            _limit(config, request),
            tuple(samples),
            None if drawn == decoding_of(config) else drawn,
            request.continuations,
        )

    requests = [(protocol, request) for protocol, each in asked.items() for request in each]
    first = [prompt(protocol, request, request.id, range(config.num_samples)) for protocol, request in requests]
    answers = [(*requests[i], sample, reply) for i, sample, reply in _replies(first, respondent, replies, said)]
    following: dict[int, tuple[ProtocolName, Request, int]] = {}  # by index in `answers`
    for place, (protocol, request, sample, reply) in enumerate(answers):
        if not request.follow_up:
            continue
        text = None if reply.finish_reason in FAILED else said_in(reply)
        if text is None:
            said(reply.finish_reason)
        else:
            assert task.follow_up
            following[place] = (protocol, task.follow_up(request, protocol, text), sample)
    second = [prompt(name, request, f"{request.id}/{sample}", (0,)) for name, request, sample in following.values()]
    second_replies = _replies(second, respondent, replies, said) if second else []
    for (place, question), (*_, reply) in zip(following.items(), second_replies, strict=True):
        answers[place] = (*question, reply)
    return {
        protocol: [(request, sample, reply) for name, request, sample, reply in answers if name == protocol]
        for protocol in asked
    }


def _replies(
    asked: Sequence[Asked], respondent: Respondent, replies: ReplyFile, said: Callable[[str], None]
) -> list[tuple[int, int, Reply]]:
    """Return (index, sample, reply) for all prompts and samples, in order."""
    by_sample = {(i, s): reply for i, p in enumerate(asked) for s in p.samples if (reply := replies.get(p, s))}
    missing: list[tuple[int, Asked]] = []
    for i, prompt in enumerate(asked):
        if left := tuple(s for s in prompt.samples if (i, s) not in by_sample):
            missing.append((i, replace(prompt, samples=left)))
    for _ in by_sample:
        said("known")
    if by_sample and isinstance(respondent, Endpoint):  # the missing prompts may be exactly those that it rejects
        respondent.answered_before()
    for at, sample, reply in respondent.replies([prompt for _, prompt in missing]):
        i = missing[at][0]
        replies.add(asked[i], sample, reply)
        by_sample[i, sample] = reply
        said(f"{reply.tokens} tokens")
    return [(i, s, by_sample[i, s]) for i, prompt in enumerate(asked) for s in prompt.samples]


def drawn_with(config: EvaluateConfig, task: Task, protocol: ProtocolName) -> Decoding:
    """Return the decoding of a protocol: the authors' settings, overridden by explicitly configured ones."""
    overrides = {name: getattr(config, name) for name in Decoding._fields if name in config.model_fields_set}
    return task.protocols[protocol]._replace(**overrides)


def _limit(config: EvaluateConfig, request: Request) -> int:
    if config.max_new_tokens:
        return config.max_new_tokens
    return request.max_new_tokens + (config.thinking_tokens if config.thinking != "off" else 0)
