"""Count the responses of the last steps that could not be scored, and say when they are too many."""

import math
from collections import Counter, deque
from typing import Any

from pydantic import TypeAdapter

from socialr1_jax.config.command_line import Count
from socialr1_jax.config.run import RewardConfig
from socialr1_jax.rewards import RewardTerms
from socialr1_jax.runtime.terminal import counted

_STATE = TypeAdapter(list[tuple[Count, dict[str, Count]]])


class UnscorableWindow:
    """Counts over `rewards.unscorable_window` steps."""

    def __init__(self, config: RewardConfig) -> None:
        self._config = config
        # Of each step: number of responses, and those that could not be scored by cause.
        self._steps: deque[tuple[int, dict[str, int]]] = deque(maxlen=config.unscorable_window)

    def add(self, terms: list[RewardTerms]) -> None:
        """The responses of one step."""
        causes = Counter(one.cause or "unknown" for one in terms if math.isnan(one.total))
        self._steps.append((len(terms), dict(causes)))

    def get_state(self) -> list[Any]:
        """Return the state as JSON, for a checkpoint."""
        return [[count, causes] for count, causes in self._steps]

    def set_state(self, state: list[Any]) -> None:
        """Restores what `get_state` returned. Raises ValidationError for anything else."""
        self._steps.extend(_STATE.validate_python(state))

    @property
    def problem(self) -> str:
        """Return what is wrong, "" as long as the share allowed can still be kept in a whole window."""
        causes: Counter[str] = Counter()
        for _, of_step in self._steps:
            causes.update(of_step)
        failed, asked = causes.total(), sum(count for count, _ in self._steps)
        window = self._config.unscorable_window
        least = failed / (asked / len(self._steps) * window) if asked else 0.0
        if least <= self._config.most_unscorable:
            return ""
        listed = ", ".join(f"{name} {count}" for name, count in causes.most_common())
        return (
            f"{failed} of {counted(asked, 'response')} of the last {counted(len(self._steps), 'step')} could "
            "not be scored"
            f" ({listed}); rewards.most_unscorable allows {self._config.most_unscorable:.0%} of "
            f"{window} steps"
        )
