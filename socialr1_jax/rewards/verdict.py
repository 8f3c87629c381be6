"""A judge's verdict on the structure of a response, and the interface of all judges."""

import math
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Self

from socialr1_jax.runtime.interrupt import NEVER, Stop
from socialr1_jax.runtime.terminal import CommandEnded


class JudgeRefused(CommandEnded):
    """Raised when every request will fail until the settings are corrected: a wrong key, an unknown model."""


@dataclass(frozen=True)
class Verdict:
    """A score in [0, 1], or NaN with `cause`, a short name of the reason (timeout, http_500, ...)."""

    score: float
    cause: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)  # encode, interpret, goal, respond, each in [0, 1]
    violations: tuple[str, ...] = ()

    @classmethod
    def unscorable(cls, cause: str) -> Self:
        return cls(math.nan, cause)


class Judge:
    """Interface of the judges. Verdicts are futures: judging runs while other responses are still being sampled."""

    everywhere = False  # True: runs on the mesh, and every process submits every response, not only its share

    def submit(self, story: str, question: str, thoughts: str) -> Future[Verdict]:
        """Return a future of the verdict without blocking; its only exception is JudgeRefused.

        Call `finish` after the last submission of a step.
        """
        raise NotImplementedError

    def finish(self, stop: Stop = NEVER) -> None:
        """Wait until every future submitted so far is done, at most until the judge's deadline.

        If `stop` is set meanwhile, pending verdicts become unscorable or Interrupted is raised.
        """

    def counters(self) -> dict[str, float]:
        """Return counts since the last call, for the metrics: calls, retries, tokens, cost."""
        return {}

    def close(self) -> None:
        """Stop threads and close files; pending verdicts become unscorable."""
