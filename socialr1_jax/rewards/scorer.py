"""Score responses as they are submitted, so that the judge works while others are still being sampled."""

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

# [(story, question, thoughts)] -> the content reward model's scalars, NaN if unscorable.
ContentScores = Callable[[Sequence[tuple[str, str, str]]], Iterable[float]]


def _alone(function: Callable[[Any], dict[str, Any]], items: Sequence[Any]) -> list[dict[str, Any]]:
    return [function(item) for item in items]


@dataclass
class _Waiting:
    """A submitted response."""

    place: int
    text: str
    example: Example
    parsed: ParsedResponse
    scalar: float | None  # score of the content model, None if not known yet
    verdict: Future[Verdict] | None  # None if this process did not ask a judge


@dataclass
class Scorer:
    """Scorer of batches of responses: `submit` each response as it is finished, then call `results`.

    A slow judge is asked only if its score can count: the preset includes structure and the response is well-formed.
    Create one per run and `close` it at the end.
    """

    config: RewardConfig
    content: ContentScores | None = None
    process: tuple[int, int] = (0, 1)  # (index, count): each process asks the judge about its share
    divide: Callable[[Callable[[Any], dict[str, Any]], Sequence[Any]], list[dict[str, Any]]] = _alone
    stop: Stop = NEVER  # checked while waiting for the judge; `results` then raises Interrupted

    def __post_init__(self) -> None:
        self.judge: Judge | None = make_judge(self.config.structure)
        self._extra = load_extras(self.config)
        self._waiting: list[_Waiting] = []
        self._judge_waited = 0.0
        self._causes: Counter[str] = Counter()

    def submit(self, place: int, text: str, example: Example, scalar: float | None = None) -> None:
        """Add a response and start its judge if needed. `scalar` is its content score, if known.

        `place` numbers the responses of a batch, which may be submitted in any order.
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

        Raises Interrupted if the run is stopping, JudgeRefused if the judge rejects every request, and ExtraRewardError
        if a user-defined function fails.
        """
        waiting, self._waiting = sorted(self._waiting, key=lambda response: response.place), []
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
            self._terms(response, verdict["score"], verdict["cause"], extra, step)
            for response, verdict, extra in zip(waiting, verdicts, extras, strict=True)
        ]

    def metrics(self) -> dict[str, float]:
        """Return metrics since the last call: seconds waited for the judge, the judge's counters, causes of NaN."""
        numbers = {"judge/waited_seconds": self._judge_waited} if self.judge else {}
        numbers |= {f"judge/{name}": value for name, value in self._counters().items()}
        numbers |= {f"unscorable/{cause}": float(count) for cause, count in sorted(self._causes.items())}
        self._judge_waited, self._causes = 0.0, Counter()
        return numbers

    def _counters(self) -> dict[str, float]:
        """Return the judge's counters, summed over the processes that ask it."""
        judge = self.judge
        if judge is None:
            return {}
        if judge.everywhere:
            return judge.counters()
        shares = self.divide(lambda _: judge.counters(), range(self.process[1]))
        names = {name: None for share in shares for name in share}  # a dict keeps their order
        summed = {name: sum(share.get(name, 0.0) for share in shares) for name in names}
        if "latency" in summed:  # a mean
            summed["latency"] /= sum("latency" in share for share in shares)
        return summed

    def close(self) -> None:
        if self.judge:
            self.judge.close()

    def _score_content(self, waiting: list[_Waiting]) -> None:
        unscored = [response for response in waiting if response.scalar is None and response.parsed.well_formed]
        if self.content is None or not self.config.uses.content or not unscored:
            return
        texts = [(response.example.story, response.example.question, response.parsed.thoughts) for response in unscored]
        for response, scalar in zip(unscored, self.content(texts), strict=True):
            response.scalar = float(scalar)

    def _extras(self, waiting: list[_Waiting], step: int) -> list[dict[str, float]]:
        """Return the rewards of the user-defined functions for each response, by name."""
        if not self._extra:
            return [{} for _ in waiting]

        def call(_: int) -> dict[str, Any]:
            rewards = {}
            for name, function in self._extra.items():  # each gets its own copy of the records, which it may change
                records = [_record(response, step, self.config.format_mode) for response in waiting]
                result = extra_rewards(name, function, records)
                if "error" in result:
                    return result
                rewards[name] = result["rewards"]
            return {"rewards": rewards}

        (result,) = self.divide(call, [0])  # process 0 runs the functions for all
        if "error" in result:
            raise ExtraRewardError(result["error"])
        return [{name: numbers[i] for name, numbers in result["rewards"].items()} for i in range(len(waiting))]

    def _terms(
        self, response: _Waiting, structure: float, judged: str, extra: dict[str, float], step: int
    ) -> RewardTerms:
        gold, scalar = response.example.answer, response.scalar
        terms = social_r1_reward(response.text, gold, structure, scalar, step, config=self.config, extra=extra)
        if not math.isnan(terms.total):
            return terms
        # A malformed response is sent neither to the judge nor to the content model.
        if terms.format and self.config.uses.structure and math.isnan(terms.structure):
            cause = f"judge_{judged}"
        elif terms.format and self.config.uses.content and math.isnan(terms.content):
            cause = "content"
        else:
            cause = "extra_" + next(name for name, value in extra.items() if terms.weights[name] and math.isnan(value))
        self._causes[cause] += 1
        return replace(terms, cause=cause)


def _verdict(response: _Waiting) -> dict[str, Any]:
    if response.verdict is None:
        return {"score": math.nan, "cause": "not_asked"}
    try:
        verdict = response.verdict.result()
    except JudgeRefused as error:
        return {"refused": str(error)}
    return {"score": verdict.score, "cause": verdict.cause}


def _record(response: _Waiting, step: int, mode: FormatMode) -> dict[str, Any]:
    example = response.example
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
        "response": response.text,
        "thoughts": response.parsed.thoughts,
        "given_answer": given_answer(response.text, mode),
        "well_formed": response.parsed.well_formed,
        "step": step,
    }
