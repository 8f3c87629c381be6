"""Responses as they come, and their rewards when all are there: the judge works while others are still sampled."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.config.sections import scalar_text
from socialr1_jax.data.examples import READ_AS_TEXT, Example
from socialr1_jax.data.tables import scalar_parts
from socialr1_jax.rewards.extra import ExtraRewardError, extra_rewards, load_extras
from socialr1_jax.rewards.judges import make_judge
from socialr1_jax.rewards.parsing import FormatMode, ParsedResponse, given_answer, parse_response
from socialr1_jax.rewards.total import RewardTerms, social_r1_reward
from socialr1_jax.rewards.verdict import Judge, JudgeRefused, Verdict
from socialr1_jax.runtime.interrupt import NEVER, Stop

# (story, question, thoughts) of some responses -> the content reward model's scalars, NaN where there is none.
ContentScores = Callable[[Sequence[tuple[str, str, str]]], Iterable[float]]


def _alone(function: Callable[[Any], dict[str, Any]], items: Sequence[Any]) -> list[dict[str, Any]]:
    return [function(item) for item in items]


@dataclass
class _Waiting:
    """A response that was handed in."""

    place: int
    text: str
    example: Example
    parsed: ParsedResponse
    scalar: float | None  # of the content model, where it is known beforehand
    verdict: Future[Verdict] | None  # None: no judge was asked, here


@dataclass
class Scorer:
    """Scores the responses of a batch: `submit` each as it is finished, then `results`.

    A judge that costs time is asked about a response only if its score can count: the preset has structure and the
    format is right. Make one for a run, `close` it at the end.
    """

    config: RewardConfig
    content: ContentScores | None = None
    process: tuple[int, int] = (0, 1)  # which of how many processes: each asks the judge about its share
    divide: Callable[[Callable[[Any], dict[str, Any]], Sequence[Any]], list[dict[str, Any]]] = _alone
    stop: Stop = NEVER  # asked while the judge is waited for: `results` raises Interrupted

    def __post_init__(self) -> None:
        self.judge: Judge | None = make_judge(self.config.structure)
        self._extra = load_extras(self.config)
        self._waiting: list[_Waiting] = []
        self._judge_waited = 0.0
        self._causes: Counter[str] = Counter()

    def submit(self, place: int, text: str, example: Example, scalar: float | None = None) -> None:
        """Takes a response; its judge, if it needs one, begins. `scalar` is a known score of the content model.

        `place` numbers the responses of a batch, which may come in any order.
        """
        parsed = parse_response(text, self.config.format_mode)
        index, count = self.process
        mine = self.judge is not None and (self.judge.everywhere or place % count == index)
        needed = self.config.structure.judge == "rules" or (self.config.uses.structure and parsed.well_formed)
        verdict = None
        if self.judge and mine and needed:
            verdict = self.judge.submit(example.story, example.question, parsed.thoughts)
        self._waiting.append(_Waiting(place, text, example, parsed, scalar, verdict))

    def results(self, step: int) -> list[RewardTerms]:
        """Return the rewards of everything submitted since the last call, by place, with the weights of step `step`.

        Raises Interrupted when `stop` was asked, JudgeRefused if the judge rejects every request, and ExtraRewardError
        if a function of the user's fails.
        """
        waiting, self._waiting = sorted(self._waiting, key=lambda one: one.place), []
        self._score_content(waiting)
        extras = self._extras(waiting, step)
        started = time.perf_counter()
        if self.judge:
            self.judge.finish(self.stop)
        verdicts = self.divide(_verdict, waiting)  # of all processes
        self.stop.check()
        self._judge_waited += time.perf_counter() - started
        if refused := next((verdict["refused"] for verdict in verdicts if "refused" in verdict), None):
            raise JudgeRefused(refused)
        return [
            self._terms(one, verdict["score"], verdict["cause"], extra, step)
            for one, verdict, extra in zip(waiting, verdicts, extras, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Since the last call: seconds that `results` waited for the judge, the judge's own numbers, causes of NaN."""
        numbers = {"judge/waited_seconds": self._judge_waited} if self.judge else {}
        numbers |= {f"judge/{name}": value for name, value in self._counters().items()}
        numbers |= {f"unscorable/{cause}": float(count) for cause, count in sorted(self._causes.items())}
        self._judge_waited, self._causes = 0.0, Counter()
        return numbers

    def _counters(self) -> dict[str, float]:
        """The judge's numbers, of all processes that ask it."""
        judge = self.judge
        if judge is None:
            return {}
        if judge.everywhere:
            return judge.counters()
        shares = self.divide(lambda _: judge.counters(), range(self.process[1]))
        names = {name: None for share in shares for name in share}  # in their order
        summed = {name: sum(share.get(name, 0.0) for share in shares) for name in names}
        if "latency" in summed:  # a mean
            summed["latency"] /= sum("latency" in share for share in shares)
        return summed

    def close(self) -> None:
        """Closes the judge."""
        if self.judge:
            self.judge.close()

    def _score_content(self, waiting: list[_Waiting]) -> None:
        open_ones = [one for one in waiting if one.scalar is None and one.parsed.well_formed]
        if self.content is None or not self.config.uses.content or not open_ones:
            return
        texts = [(one.example.story, one.example.question, one.parsed.thoughts) for one in open_ones]
        for one, scalar in zip(open_ones, self.content(texts), strict=True):
            one.scalar = float(scalar)

    def _extras(self, waiting: list[_Waiting], step: int) -> list[dict[str, float]]:
        """Return what the user's functions gave for each response, by name."""
        if not self._extra:
            return [{} for _ in waiting]

        def call(_: int) -> dict[str, Any]:
            rewards = {}
            for name, function in self._extra.items():  # each gets records of its own, which it may change
                records = [_record(one, step, self.config.format_mode) for one in waiting]
                found = extra_rewards(name, function, records)
                if "error" in found:
                    return found
                rewards[name] = found["rewards"]
            return {"rewards": rewards}

        (found,) = self.divide(call, [0])  # by the first process, for all
        if "error" in found:
            raise ExtraRewardError(found["error"])
        return [{name: numbers[i] for name, numbers in found["rewards"].items()} for i in range(len(waiting))]

    def _terms(self, one: _Waiting, structure: float, judged: str, extra: dict[str, float], step: int) -> RewardTerms:
        terms = social_r1_reward(
            one.text, one.example.answer, structure, one.scalar, step, config=self.config, extra=extra
        )
        if not math.isnan(terms.total):
            return terms
        # Without the right format neither judge nor content model is asked.
        if terms.format and self.config.uses.structure and math.isnan(terms.structure):
            cause = f"judge_{judged}"
        elif terms.format and self.config.uses.content and math.isnan(terms.content):
            cause = "content"
        else:
            cause = "extra_" + next(name for name, value in extra.items() if terms.weights[name] and math.isnan(value))
        self._causes[cause] += 1
        return replace(terms, cause=cause)


def _verdict(one: _Waiting) -> dict[str, Any]:
    """Return the judge's verdict, as JSON."""
    if one.verdict is None:
        return {"score": math.nan, "cause": "not_asked"}
    try:
        verdict = one.verdict.result()
    except JudgeRefused as error:
        return {"refused": str(error)}
    return {"score": verdict.score, "cause": verdict.cause}


def _record(one: _Waiting, step: int, mode: FormatMode) -> dict[str, Any]:
    """Return the record that a user-defined reward function gets."""
    example = one.example
    return {
        "id": example.id,
        "story": example.story,
        "question": example.question,
        "options": list(example.options),
        "answer": example.answer,
        "meta": {
            name: scalar_text(value) if name in READ_AS_TEXT else value
            for name, value in scalar_parts(example.meta).items()
        },
        "response": one.text,
        "thoughts": one.parsed.thoughts,
        "given_answer": given_answer(one.text, mode),
        "well_formed": one.parsed.well_formed,
        "step": step,
    }
