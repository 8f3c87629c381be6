"""Score a policy's thoughts with a judge, whole and by stage; each text is judged once and its verdict cached.

Whole thoughts are judged unchanged. A segment's score is the judge's score of that stage if the judge returns stage
scores, as the rubric of the endpoint and local judges does. The rules judge scores whole thoughts only and would see
three skipped stages in a lone segment. It scores a segment in a frame instead: the question's best thoughts with that
stage replaced by the segment. All segments of a stage share one frame, so their scores differ only by the segment's own
faults: thin, copied, without a link to the rest, options too early, loops.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socialr1_jax.config.pairs import PairsConfig
from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.data.examples import Example
from socialr1_jax.data.pairs import ScoredText
from socialr1_jax.rewards.parsing import parse_response
from socialr1_jax.rewards.stages import STAGES, find_stages
from socialr1_jax.rewards.verdict import Judge, JudgeRefused, Verdict
from socialr1_jax.run.console import Bar
from socialr1_jax.training.pair_work_file import WorkFile, hash_of

_BATCHES = 4  # requests submitted before their verdicts are saved, in multiples of `concurrency`


@dataclass(frozen=True, kw_only=True)
class Thoughts:
    """The thoughts of one response, whole and by stage."""

    sample: int
    text: str
    segments: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class ThoughtQuestion:
    """A question with the thoughts of its responses."""

    id: str
    story: str
    question: str
    thoughts: tuple[Thoughts, ...]


def thoughts_about(example: Example, responses: Iterable[str | None]) -> ThoughtQuestion:
    """Return the question with the thoughts of its responses; responses without thoughts are left out."""
    texts = [(sample, parse_response(response or "").thoughts) for sample, response in enumerate(responses)]
    thoughts = tuple(Thoughts(sample=sample, text=text, segments=segments(text)) for sample, text in texts if text)
    return ThoughtQuestion(id=example.id, story=example.story, question=example.question, thoughts=thoughts)


def segments(thoughts: str) -> dict[str, str]:
    """Return the text of each stage that occurs, without headings; several spans of a stage are joined."""
    parts: dict[str, list[str]] = {}
    for span in find_stages(thoughts):
        if words := thoughts[span.body : span.end].strip():
            parts.setdefault(span.stage, []).append(words)
    return {stage: "\n".join(parts[stage]) for stage in STAGES if stage in parts}


def score_texts(
    config: PairsConfig, asked: Sequence[ThoughtQuestion], work: WorkFile
) -> tuple[list[list[ScoredText]], Mapping[str, int]]:
    """Return the scored texts of each question, and the number of unscorable texts by cause."""
    from socialr1_jax.rewards.judges import make_judge

    unit = config.matching.unit
    unscorable: Counter[str] = Counter()
    judge = make_judge(config.structure.patient())
    assert judge is not None  # PairsConfig rejects `none`
    desk = _Desk(judge, config.structure, work, unscorable)
    try:
        desk.judge([(q, thoughts.text) for q in asked for thoughts in q.thoughts])
        scored = [[*_whole(q, desk)] for q in asked] if unit != "stage" else [[] for _ in asked]
        if unit != "whole":
            desk.judge([(q, text) for q in asked for _, _, text in _framed(q, desk)])
            for question, texts in zip(asked, scored, strict=True):
                texts.extend(_staged(question, desk))
    finally:
        judge.close()
    return scored, dict(sorted(unscorable.items()))


class _Desk:
    """Submit texts to the judge and cache its verdicts in the work file."""

    def __init__(self, judge: Judge, config: StructureConfig, work: WorkFile, unscorable: Counter[str]) -> None:
        self._judge, self._work, self._unscorable = judge, work, unscorable
        self._identity = judge_identity(config)
        self._batch = _BATCHES * config.concurrency

    def verdict(self, question: ThoughtQuestion, text: str) -> Verdict | None:
        """Return the verdict on the text, None if it is unscorable."""
        return self._work.verdicts.get(self._key(question, text))

    def judge(self, texts: Iterable[tuple[ThoughtQuestion, str]]) -> None:
        """Judge each text that has no verdict yet, once. Raises JudgeRefused if the judge rejects every request."""
        unique = {self._key(question, text): (question, text) for question, text in texts}
        todo = [(key, *item) for key, item in unique.items() if key not in self._work.verdicts]
        if not todo:
            return
        with Bar("judge", len(todo)) as bar:
            for start in range(0, len(todo), self._batch):
                batch = todo[start : start + self._batch]
                futures = [(key, self._judge.submit(q.story, q.question, text)) for key, q, text in batch]
                self._judge.finish()
                refused: JudgeRefused | None = None
                for key, future in futures:
                    try:
                        verdict = future.result()
                    except JudgeRefused as error:
                        refused = error
                        continue
                    if math.isnan(verdict.score):
                        self._unscorable[verdict.cause] += 1
                    else:
                        self._work.add_verdict(key, verdict)
                    bar.advance(f"unscorable {self._unscorable.total()}")
                if refused:
                    raise refused

    def _key(self, question: ThoughtQuestion, text: str) -> str:
        return hash_of(self._identity, question.story, question.question, text)


def judge_identity(config: StructureConfig) -> dict[str, Any]:
    """Return the settings of the judge that determine a verdict, given the texts."""
    if config.judge == "rules":
        return {"judge": "rules"}
    from socialr1_jax.rewards.rubric import read_rubric

    fields = {"judge", "model", "base_url", "temperature", "max_tokens", "options"}
    return config.model_dump(include=fields) | {"rubric": read_rubric(config.rubric).version}


def _whole(question: ThoughtQuestion, desk: _Desk) -> Iterator[ScoredText]:
    for thoughts in question.thoughts:
        if verdict := desk.verdict(question, thoughts.text):
            yield ScoredText(sample=thoughts.sample, stage="", text=thoughts.text, score=verdict.score, scored="whole")


def _with_stages(question: ThoughtQuestion, desk: _Desk) -> list[tuple[Thoughts, Verdict]]:
    """Return the thoughts with stage scores and their verdicts; thoughts without are not comparable with them."""
    judged = [(thoughts, desk.verdict(question, thoughts.text)) for thoughts in question.thoughts]
    return [(thoughts, verdict) for thoughts, verdict in judged if verdict is not None and verdict.stages]


def _framed(question: ThoughtQuestion, desk: _Desk) -> Iterator[tuple[Thoughts, str, str]]:
    """Yield (thoughts, stage, framed text) of each segment, for a question without stage scores."""
    judged = [(t, v) for t in question.thoughts if (v := desk.verdict(question, t.text)) is not None and t.segments]
    if not judged or _with_stages(question, desk):
        return
    best, _ = max(judged, key=lambda pair: (len(pair[0].segments), pair[1].score, -pair[0].sample))
    for thoughts, _ in judged:
        for stage, words in thoughts.segments.items():
            frame = {**best.segments, stage: words}
            lines = [f"{name.capitalize()}: {frame[name]}" for name in STAGES if name in frame]
            yield thoughts, stage, "\n".join(lines)


def _staged(question: ThoughtQuestion, desk: _Desk) -> Iterator[ScoredText]:
    for thoughts, verdict in _with_stages(question, desk):
        for stage, words in thoughts.segments.items():
            if stage in verdict.stages:
                yield ScoredText(
                    sample=thoughts.sample, stage=stage, text=words, score=verdict.stages[stage], scored="stage"
                )
    for thoughts, stage, text in _framed(question, desk):
        if framed := desk.verdict(question, text):
            words = thoughts.segments[stage]
            yield ScoredText(sample=thoughts.sample, stage=stage, text=words, score=framed.score, scored="frame")
