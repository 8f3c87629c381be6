"""Prompts that come while others are being decoded: one batch on the devices, filled again as rows become free."""

from __future__ import annotations

from collections.abc import Sequence

from socialr1_jax.sampling.batch import Rollout, Segment
from socialr1_jax.sampling.engine import Engine, groups_of, joined
from socialr1_jax.sampling.params import Completion, SamplingParams


class Feed:
    """Samples one response to each prompt that is added, for as long as prompts come.

    `rows` of them are decoded at once on all devices together; more wait. A response depends on (seed, prompt id) as
    those of `Engine.sample` do. Memory is planned for prompts of `prompt_tokens`; caches grow with those that come.

    Raises ValueError when such a prompt passes the model's positions, or when not one row fits into memory.
    """

    def __init__(self, engine: Engine, sampling: SamplingParams, *, prompt_tokens: int, rows: int) -> None:
        if sampling.n != 1:
            raise ValueError(f"a feed draws one response to a prompt, not {sampling.n}")
        engine.check([[0] * prompt_tokens], [sampling])
        plan = engine.plan([range(prompt_tokens)] * rows, sampling)
        self._engine, self._sampling, self._longest = engine, sampling, prompt_tokens
        self._rollout = Rollout(engine, plan, [], [sampling])
        self._rollout.smallest = plan.rows  # a batch that is filled again keeps its size
        self._steps = self._rollout.steps()
        self._parts: dict[int, list[Segment]] = {}  # of responses that have not ended
        self._added = 0

    @property
    def rows(self) -> int:
        """Return how many prompts are decoded at once."""
        return int(self._rollout.rows.size)

    @property
    def busy(self) -> int:
        """Return how many rows the segment that runs now began with."""
        return int((self._rollout.rows >= 0).sum())

    def add(self, prompt: Sequence[int], prompt_id: int) -> int:
        """Takes a prompt (token ids) and returns its number, by which `step` names it. Raises ValueError."""
        if len(prompt) > self._longest:
            raise ValueError(f"a prompt of {len(prompt)} tokens; the feed is made for {self._longest}")
        each = [self._sampling]
        self._engine.check([prompt], each)
        number = self._added
        self._rollout.wait(groups_of([prompt], each, [prompt_id], 0, 1, first=number))
        self._added += 1
        return number

    def step(self) -> list[tuple[int, Completion]]:
        """(number, completion) of what has ended since; none is no sign of the end.

        A segment is decoded, and the devices are at the next one when the call returns.
        """
        parts = next(self._steps, None)
        if parts is None:  # it ran dry; there may be more by now
            self._steps = self._rollout.steps()
            parts = next(self._steps, [])
        ended = []
        for part in parts:
            self._parts.setdefault(part.row, []).append(part)
            if part.finish_reason:
                ended.append((part.row, joined(self._parts.pop(part.row))))
                self._rollout.forget(part.row)
        return ended
