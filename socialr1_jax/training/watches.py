"""Watch a training run for unscorable responses, drifting rewards and malformed responses."""

import math
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import Count
from socialr1_jax.data.chat_template import Thoughts
from socialr1_jax.grpo.mismatch import RATIO_ERROR_LIMIT
from socialr1_jax.grpo.rollouts import Rollouts
from socialr1_jax.rewards import RewardTerms
from socialr1_jax.rewards.parsing import parse_response
from socialr1_jax.rewards.shares import ShareWatch
from socialr1_jax.rewards.truth_watch import TruthWatch
from socialr1_jax.runtime.terminal import counted

_SHOWN = 50  # responses in which format problems are counted
_BAD_STEPS, _LEAST = 3, 0.02  # warn after this many steps in a row with a format rate below this
_STATE = TypeAdapter(list[tuple[Count, dict[str, Count]]])


class Watches:
    """The watches of a run; `thoughts` is what its prompts do with thoughts, None for a replay."""

    def __init__(self, config: RunConfig, thoughts: Thoughts | None) -> None:
        self._unscorable, self._shares = UnscorableWindow(config.rewards), ShareWatch()
        self._truth = TruthWatch(config.rewards.format_mode)
        self._format = FormatWatch(thoughts) if thoughts else None
        self._partings: Sequence[str] = ()
        self.parts: dict[str, Any] = {"unscorable": self._unscorable, "shares": self._shares, "truth": self._truth}

    def truth(self, rollouts: Rollouts) -> dict[str, float]:
        """Return the truth metrics of the statements in the thoughts, {} for rollouts without texts."""
        if not rollouts.texts:
            return {}
        metrics, self._partings = self._truth(rollouts.examples, rollouts.terms, rollouts.texts)
        return metrics

    def warnings(self, rollouts: Rollouts, metrics: Mapping[str, Any]) -> Iterator[str]:
        """Yield the warnings about a step with these metrics."""
        if metrics["mismatch/ratio_error"] > RATIO_ERROR_LIMIT:
            yield (
                f"the sampler's probabilities differ from the trainer's by a factor of "
                f"{metrics['mismatch/ratio_error']:.3f} in the mean (largest difference of log-probs "
                f"{metrics['mismatch/max']:.2f})"
            )
        paid = float((np.nan_to_num(rollouts.rewards_pg) != 0).mean())
        figures = (metrics["format_rate"], metrics["truncated"], paid)
        if self._format and (warning := self._format(*figures, rollouts.texts[:_SHOWN])):
            yield warning
        shares = {name: x for name, x in metrics.items() if name.startswith("variance_share/")}
        yield from (*self._shares(shares), *self._partings)

    def problem(self, rollouts: Rollouts) -> str:
        """Return why the run must stop after these responses, "" if it can continue."""
        self._unscorable.add(rollouts.terms)
        return self._unscorable.problem


class UnscorableWindow:
    """Counts of unscorable responses over the last `rewards.unscorable_window` steps."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        # Per step: the number of responses, and the number of unscorable ones by cause.
        self._steps: deque[tuple[int, dict[str, int]]] = deque(maxlen=config.unscorable_window)

    def add(self, terms: list[RewardTerms]) -> None:
        """Add the responses of one step."""
        causes = Counter(response.cause or "unknown" for response in terms if math.isnan(response.total))
        self._steps.append((len(terms), dict(causes)))

    def get_state(self) -> list[Any]:
        return [[count, causes] for count, causes in self._steps]

    def set_state(self, state: list[Any]) -> None:
        self._steps.extend(_STATE.validate_python(state))

    @property
    def problem(self) -> str:
        """Return why the run must stop, "" while a full window can still stay within the allowed share."""
        causes: Counter[str] = Counter()
        for _, of_step in self._steps:
            causes.update(of_step)
        failed, total = causes.total(), sum(count for count, _ in self._steps)
        window = self._config.unscorable_window
        least = failed / (total / len(self._steps) * window) if total else 0.0
        if least <= self._config.most_unscorable:
            return ""
        listed = ", ".join(f"{name} {count}" for name, count in causes.most_common())
        return (
            f"{failed} of {counted(total, 'response')} of the last {counted(len(self._steps), 'step')} could "
            "not be scored"
            f" ({listed}); rewards.most_unscorable allows {self._config.most_unscorable:.0%} of "
            f"{window} steps"
        )


class FormatWatch:
    """Count consecutive steps with almost no well-formed response and warn with likely causes."""

    def __init__(self, thoughts: Thoughts) -> None:
        self._thoughts = thoughts
        self._bad = self._steps = self._quiet_until = 0

    def __call__(self, format_rate: float, truncated: float, paid: float, texts: Sequence[str]) -> str:
        """Return a warning after 3 bad steps in a row, at most once while the number of steps doubles; else "".

        `format_rate`, `truncated` and `paid` are the shares of the step's responses that are well formed, were cut at
        `sampling.max_new_tokens`, and have a reward other than 0; `texts` are some of the responses.
        """
        self._steps += 1
        self._bad = self._bad + 1 if format_rate < _LEAST else 0
        if self._bad < _BAD_STEPS or self._steps < self._quiet_until:
            return ""
        self._quiet_until = 2 * self._steps
        problems = Counter(problem for text in texts for problem in parse_response(text).problems)
        common = ", ".join(f"{problem} ({count} of {len(texts)})" for problem, count in problems.most_common(3))
        likely = (
            [f"{truncated:.0%} of the responses were cut: raise sampling.max_new_tokens"] if truncated > 0.5 else []
        )
        if self._thoughts == "closes":
            likely.append("the chat template closes empty thoughts in the prompt: take one that leaves thoughts open")
        likely = likely or ["the model does not know the format: take one that follows instructions, or SFT it first"]
        effect = (
            "nearly all rewards are 0 and the run learns nothing"
            if paid < _LEAST
            else f"only terms that do not need the format count ({paid:.0%} of the rewards are not 0)"
        )
        return (
            f"in the last {self._bad} steps {format_rate:.1%} of the responses were well formed, so {effect}. "
            f"Most frequent problems: {common}. Likely causes: {'; '.join(likely)}. "
            "rollouts.jsonl has the responses"
        )
