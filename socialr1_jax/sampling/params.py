"""Sampling parameters and sampled completions."""

import math
from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "error"]


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """Parameters of sampling. `temperature=0` is greedy; `top_k=0`, `top_p=1`, `min_p=0` switch a filter off.

    `repetition_penalty` comes first: it divides the positive logits of tokens in the prompt or the response and
    multiplies negative ones (as in transformers); 1 is off. Then temperature, top-k, top-p and min-p apply in this
    order, each to the result of the previous one. A response ends with one of `stop_token_ids`, when its text contains
    one of the strings `stop`, or after `max_new_tokens`. After `thinking_budget` tokens without `think_end_id` that
    token is inserted. Raises ValueError naming the field that is out of range.
    """

    n: int = 1
    max_new_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    thinking_budget: int | None = None
    think_end_id: int | None = None  # the id of </think>: 151668 in Qwen3's tokenizer
    raw_logprobs: bool = False  # also return the model's log-probs before temperature and filters

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        checks = {
            "n": self.n >= 1,
            "max_new_tokens": self.max_new_tokens >= 1,
            "temperature": 0 <= self.temperature < math.inf,
            "top_k": self.top_k >= 0,
            "top_p": 0 < self.top_p <= 1,
            "min_p": 0 <= self.min_p <= 1,
            "repetition_penalty": 0 < self.repetition_penalty < math.inf,
            "seed": 0 <= self.seed < 2**31,
            "stop": all(self.stop),
            "thinking_budget": self.thinking_budget is None or self.thinking_budget >= 0,
        }
        for name, fine in checks.items():
            if not fine:
                raise ValueError(f"SamplingParams.{name}={getattr(self, name)!r} is out of range")
        if self.thinking_budget is not None and self.think_end_id is None:
            raise ValueError("SamplingParams.thinking_budget needs think_end_id, the id of the token </think>")

    @property
    def filters(self) -> frozenset[str]:
        """Names of the filters that are switched on."""
        on = {"top_k": self.top_k > 0, "top_p": self.top_p < 1, "min_p": self.min_p > 0}
        return frozenset(name for name, used in on.items() if used)


@dataclass(frozen=True)
class Completion:
    """One sampled response.

    `tokens` includes the stop token, or all tokens of the stop string, that ended it. `logprobs` belong to the sampling
    distribution, after temperature and filters (plain softmax for greedy rows; 0 for a `</think>` inserted by the
    budget). `finish_reason` is "stop", "length", or "error" if the logits were not finite; the tokens before the error
    are kept but must not be trained on.
    """

    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason
    stop: int | str | None = None  # the stop token or stop string that ended it
    raw_logprobs: list[float] | None = None  # if SamplingParams.raw_logprobs is set
