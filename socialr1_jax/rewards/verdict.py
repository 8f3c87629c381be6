"""Verdict of a judge of structure on one response, and the interface of every judge."""

import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

from socialr1_jax.runtime.interrupt import NEVER, Stop
from socialr1_jax.runtime.terminal import CommandEnded


class JudgeRefused(CommandEnded):
    """The judge answers nothing until the settings are corrected: a wrong key, an unknown model."""


@dataclass(frozen=True)
class Verdict:
    """score: in [0, 1], NaN when there is none, and then `cause` is a short name of why (timeout, http_500, ...)."""

    score: float
    cause: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)  # encode, interpret, goal, respond, each in [0, 1]
    violations: tuple[str, ...] = ()

    @classmethod
    def unscorable(cls, cause: str) -> Self:
        return cls(math.nan, cause)


class Judge:
    """Scores thoughts. Results are futures, so that judging goes on while other responses are still sampled."""

    everywhere = False  # runs on the run's mesh: every process asks about every response; else each about its share

    def submit(self, story: str, question: str, thoughts: str) -> Future[Verdict]:
        """Return at once a future of the verdict; its only exception is JudgeRefused.

        Call `finish` after the last submission of a step.
        """
        raise NotImplementedError

    def finish(self, stop: Stop = NEVER) -> None:
        """Return when every future submitted so far is done, by the judge's own deadline at the latest.

        When `stop` is asked meanwhile, those that wait become unscorable or Interrupted is raised.
        """

    def counters(self) -> dict[str, float]:
        """Return numbers since the last call, for the metrics: calls, retries, tokens, cost."""
        return {}

    def close(self) -> None:
        """Stop threads and close files; what is still waiting becomes unscorable."""
