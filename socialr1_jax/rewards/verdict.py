"""Verdict of a judge of structure on one response, and the interface of every judge."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from socialr1_jax.runtime.interrupt import NEVER, Stop


class JudgeRefused(RuntimeError):
    """The judge answers nothing until the settings are corrected: a wrong key, an unknown model."""


@dataclass(frozen=True)
class Verdict:
    """score: in [0, 1], NaN when there is none, and then `cause` is a short name of why (timeout, http_500, ...)."""

    score: float
    cause: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)  # encode, interpret, goal, respond, each in [0, 1]
    violations: tuple[str, ...] = ()

    @classmethod
    def unscorable(cls, cause: str) -> Verdict:
        return cls(math.nan, cause)


class Judge(Protocol):
    """Scores thoughts. Results are futures, so that judging goes on while other responses are still sampled."""

    everywhere: bool  # runs on the run's mesh: every process asks about every response; else each about its share

    def submit(self, story: str, question: str, thoughts: str) -> Future[Verdict]:
        """The verdict to come. It never raises, except JudgeRefused; what cannot be scored is a verdict with a cause.

        Returns at once. `finish` says that no more come for now.
        """

    def finish(self, stop: Stop = NEVER) -> None:
        """Every future submitted so far is done when this returns, by the judge's own deadline at the latest.

        When `stop` is asked meanwhile, those that wait become unscorable or Interrupted is raised.
        """

    def counters(self) -> dict[str, float]:
        """Numbers since the last call, for the metrics: calls, retries, tokens, cost."""

    def close(self) -> None:
        """Stops the threads and closes the files; pending calls become unscorable."""
