"""Watch a run in training: responses that cannot be scored, drifting rewards, malformed responses."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from socialr1_jax.config.run import RunConfig
from socialr1_jax.data.chat_template import ChatTemplate
from socialr1_jax.grpo.mismatch import RATIO_ERROR_LIMIT
from socialr1_jax.grpo.rollouts import Rollouts
from socialr1_jax.rewards.shares import ShareWatch
from socialr1_jax.rewards.truth_watch import TruthWatch
from socialr1_jax.training.format_watch import FormatWatch
from socialr1_jax.training.unscorable import UnscorableWindow

_SHOWN = 50  # responses that the format's faults are counted in


class Watches:
    """The watches of a run. template: that responses are written to; None where nothing is sampled."""

    def __init__(self, config: RunConfig, template: ChatTemplate | None) -> None:
        self._unscorable, self._shares = UnscorableWindow(config.rewards), ShareWatch()
        self._truth = TruthWatch(config.rewards.format_mode)
        self._format = FormatWatch(template) if template else None
        self._partings: Sequence[str] = ()
        self.parts: dict[str, Any] = {"unscorable": self._unscorable, "shares": self._shares, "truth": self._truth}

    def truth(self, rollouts: Rollouts) -> dict[str, float]:
        """Return metrics of how true the statements in the thoughts are; {} where there are no texts."""
        if not rollouts.texts:
            return {}
        metrics, self._partings = self._truth(rollouts.examples, rollouts.terms, rollouts.texts)
        return metrics

    def warnings(self, rollouts: Rollouts, metrics: Mapping[str, Any]) -> Iterator[str]:
        """Yield what a user should know of a step with these metrics."""
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
        """Return why the run must stop after these responses, "" when it need not."""
        self._unscorable.add(rollouts.terms)
        return self._unscorable.problem
