"""How many responses of the last steps could not be scored, and when that is too many."""

from __future__ import annotations

import math
from collections import Counter, deque

from socialr1_jax.config import RewardConfig
from socialr1_jax.rewards import RewardTerms


class UnscorableWindow:
    """Counts over `rewards.unscorable_window` steps."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        self._steps: deque[list[RewardTerms]] = deque(maxlen=config.unscorable_window)

    def add(self, terms: list[RewardTerms]) -> None:
        """The responses of one step."""
        self._steps.append(terms)

    @property
    def problem(self) -> str:
        """What is wrong, "" as long as the share allowed can still be kept in a whole window."""
        terms = [one for step in self._steps for one in step]
        causes = Counter(one.cause or "unknown" for one in terms if math.isnan(one.total))
        failed, asked = causes.total(), len(terms)
        window = self._config.unscorable_window
        least = failed / (asked / len(self._steps) * window) if asked else 0.0
        if least <= self._config.most_unscorable:
            return ""
        listed = ", ".join(f"{name} {count}" for name, count in causes.most_common())
        return (
            f"{failed} of {asked} responses of the last {len(self._steps)} steps could not be scored"
            f" ({listed}); rewards.most_unscorable allows {self._config.most_unscorable:.0%} of "
            f"{window} steps"
        )
