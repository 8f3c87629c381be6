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
    """The thoughts of one response to a question, whole and by stage."""

    question: Example
    sample: int
    text: str
    segments: Mapping[str, str]


def thoughts_about(question: Example, responses: Iterable[str | None]) -> list[Thoughts]:
    """Return the thoughts of the responses to a question; responses without thoughts are left out."""
    texts = enumerate(parse_response(response or "").thoughts for response in responses)
    return [Thoughts(question=question, sample=i, text=text, segments=segments(text)) for i, text in texts if text]


def segments(thoughts: str) -> dict[str, str]:
    """Return the text of each stage that occurs, without headings; several spans of a stage are joined."""
    parts: dict[str, list[str]] = {}
    for span in find_stages(thoughts):
        if words := thoughts[span.body : span.end].strip():
            parts.setdefault(span.stage, []).append(words)
    return {stage: "\n".join(parts[stage]) for stage in STAGES if stage in parts}


def score_texts(
    config: PairsConfig, questions: Sequence[Sequence[Thoughts]], work: WorkFile
) -> tuple[list[list[ScoredText]], Mapping[str, int]]:
    """Return the scored texts of each question, and the number of unscorable texts by cause."""
    from socialr1_jax.rewards.judges import make_judge

    unit = config.matching.unit
    judge = make_judge(config.structure.patient())
    assert judge is not None  # PairsConfig rejects `none`
    desk = _Desk(judge, config.structure, work)
    try:
        desk.judge((thoughts.question, thoughts.text) for each in questions for thoughts in each)
        scored = [[*_whole(each, desk)] if unit != "stage" else [] for each in questions]
        if unit != "whole":
            desk.judge((thoughts.question, text) for each in questions for thoughts, _, text in _framed(each, desk))
            for each, texts in zip(questions, scored, strict=True):
                texts += _staged(each, desk)
    finally:
        judge.close()
    return scored, dict(sorted(desk.unscorable.items()))


class _Desk:
    """Submit texts to the judge and cache its verdicts in the work file."""

    def __init__(self, judge: Judge, config: StructureConfig, work: WorkFile) -> None:
        self._judge, self._work = judge, work
        self._identity = judge_identity(config)
        self._batch = _BATCHES * config.concurrency
        self.unscorable: Counter[str] = Counter()  # texts by cause

    def verdict(self, question: Example, text: str) -> Verdict | None:
        """Return the verdict on the text, None if it is unscorable."""
        return self._work.verdicts.get(self._key(question, text))

    def judge(self, texts: Iterable[tuple[Example, str]]) -> None:
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
                        self.unscorable[verdict.cause] += 1
                    else:
                        self._work.add_verdict(key, verdict)
                    bar.advance(f"unscorable {self.unscorable.total()}")
                if refused:
                    raise refused

    def _key(self, question: Example, text: str) -> str:
        return hash_of(self._identity, question.story, question.question, text)


def judge_identity(config: StructureConfig) -> dict[str, Any]:
    """Return the settings of the judge that determine a verdict, given the texts."""
    if config.judge == "rules":
        return {"judge": "rules"}
    from socialr1_jax.rewards.rubric import read_rubric

    fields = {"judge", "model", "base_url", "temperature", "max_tokens", "options"}
    return config.model_dump(include=fields) | {"rubric": read_rubric(config.rubric).version}


def _whole(question: Sequence[Thoughts], desk: _Desk) -> Iterator[ScoredText]:
    for thoughts, verdict in _judged(question, desk):
        yield ScoredText(sample=thoughts.sample, stage="", text=thoughts.text, score=verdict.score, scored="whole")


def _judged(question: Sequence[Thoughts], desk: _Desk) -> list[tuple[Thoughts, Verdict]]:
    verdicts = ((thoughts, desk.verdict(thoughts.question, thoughts.text)) for thoughts in question)
    return [(thoughts, verdict) for thoughts, verdict in verdicts if verdict]


def _framed(question: Sequence[Thoughts], desk: _Desk) -> Iterator[tuple[Thoughts, str, str]]:
    """Yield (thoughts, stage, framed text) of each segment, for a question without stage scores."""
    judged = _judged(question, desk)
    parted = [(thoughts, verdict) for thoughts, verdict in judged if thoughts.segments]
    if not parted or any(verdict.stages for _, verdict in judged):
        return
    best, _ = max(parted, key=lambda pair: (len(pair[0].segments), pair[1].score, -pair[0].sample))
    for thoughts, _ in parted:
        for stage, words in thoughts.segments.items():
            frame = {**best.segments, stage: words}
            lines = [f"{name.capitalize()}: {frame[name]}" for name in STAGES if name in frame]
            yield thoughts, stage, "\n".join(lines)


def _staged(question: Sequence[Thoughts], desk: _Desk) -> Iterator[ScoredText]:
    # If any thoughts have stage scores, those without are not comparable with them.
    scores = [
        (thoughts, stage, verdict.stages[stage], "stage")
        for thoughts, verdict in _judged(question, desk)
        for stage in thoughts.segments
        if stage in verdict.stages
    ]
    for thoughts, stage, text in _framed(question, desk):
        if verdict := desk.verdict(thoughts.question, text):
            scores.append((thoughts, stage, verdict.score, "frame"))
    for thoughts, stage, score, scored in scores:
        words = thoughts.segments[stage]
        yield ScoredText(sample=thoughts.sample, stage=stage, text=words, score=score, scored=scored)
