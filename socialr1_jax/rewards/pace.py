"""When a server may be asked: how many calls at once, how many in a minute, and how long it wants to be left alone."""

from __future__ import annotations

import math
import time
from collections import deque
from email.utils import parsedate_to_datetime

from socialr1_jax.reward_config import StructureConfig

MINUTE = 60.0  # seconds of the rate limits' window


class Pace:
    """How many calls may run at once and begin in a minute. Used by one thread; ``limit`` may be read anywhere.

    The number at once is halved when the server says too many or does not answer in time, but once for all the calls
    that were under way together, and grows by one when as many calls as it allows have succeeded.
    """

    def __init__(self, config: StructureConfig) -> None:
        self._most = config.concurrency
        self._calls, self._tokens = config.requests_per_minute, config.tokens_per_minute  # 0 = no limit
        self.limit = float(config.concurrency)
        self._halved = -math.inf
        self._recent: deque[tuple[float, int]] = deque()  # (began, tokens) of the last minute
        self._recent_tokens = 0

    def succeeded(self) -> None:
        self.limit = min(float(self._most), self.limit + 1.0 / self.limit)

    def failed(self, started: float) -> None:
        """A call that began at `started` was too much."""
        if started > self._halved:
            self.limit = max(1.0, self.limit / 2)
            self._halved = time.monotonic()

    def pause(self, tokens: int) -> float:
        """Seconds until a call of so many tokens may begin; infinite when it never may."""
        if not (self._calls or self._tokens):
            return 0.0
        if self._tokens and tokens > self._tokens:
            return math.inf
        now = time.monotonic()
        while self._recent and self._recent[0][0] <= now - MINUTE:
            self._recent_tokens -= self._recent.popleft()[1]
        calls_full = self._calls and len(self._recent) >= self._calls
        tokens_full = self._tokens and self._recent_tokens + tokens > self._tokens
        return self._recent[0][0] + MINUTE - now if calls_full or tokens_full else 0.0

    def started(self, tokens: int) -> None:
        if self._calls or self._tokens:
            self._recent.append((time.monotonic(), tokens))
            self._recent_tokens += tokens


def retry_after(value: str) -> float:
    """Seconds of a Retry-After header, a number or a date; 0 when there is none."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, TypeError):
            return 0.0
    return max(0.0, seconds) if math.isfinite(seconds) else 0.0
