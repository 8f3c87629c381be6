"""What to sample, and what comes back."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How to sample. `temperature=0` is greedy; `top_k=0`, `top_p=1`, `min_p=0` switch a filter off.

    Filters act in this order, each on what the one before left: temperature, top-k, top-p, min-p.
    """

    n: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        checks = {
            "n": self.n >= 1,
            "max_new_tokens": self.max_new_tokens >= 1,
            "temperature": self.temperature >= 0,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"SamplingParams.{name}={getattr(self, name)} is out of range")

    @property
    def filtered(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    `tokens` includes the stop token that ended it. `logprobs` are those of the distribution that was drawn from
    (tempered and filtered; for greedy rows the plain softmax). `finish_reason` is "stop" or "length".
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: Literal["stop", "length"]
