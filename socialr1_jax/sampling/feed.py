"""Sample prompts that arrive while others are being decoded: one batch, refilled as rows become free."""

from __future__ import annotations

from collections.abc import Sequence

from socialr1_jax.sampling.batch import Rollout, Segment
from socialr1_jax.sampling.engine import Engine, finished, groups_of
from socialr1_jax.sampling.params import Completion, SamplingParams


class Feed:
    """Samples one response to each prompt that is added, without end.

    `rows` prompts are decoded at once on all devices together; the others wait. A response depends on (seed, prompt id)
    as in `Engine.sample`. Memory is planned for prompts of `prompt_tokens`; caches grow with the actual prompts.

    Raises ValueError if such a prompt exceeds the model's positions, or if not even one row fits into memory.
    """

    def __init__(self, engine: Engine, sampling: SamplingParams, *, prompt_tokens: int, rows: int) -> None:
        if sampling.n != 1:
            raise ValueError(f"a feed samples one response per prompt, not {sampling.n}")
        engine.check([[0] * prompt_tokens], [sampling])
        plan = engine.plan([range(prompt_tokens)] * rows, sampling)
        self._engine, self._sampling, self._longest = engine, sampling, prompt_tokens
        self._rollout = Rollout(engine, plan, [], [sampling])
        self._rollout.smallest = plan.rows  # a batch that is filled again keeps its size
        self._steps = self._rollout.steps()
        self._parts: dict[int, list[Segment]] = {}  # of unfinished responses
        self._added = 0

    @property
    def rows(self) -> int:
        """Number of prompts that are decoded at once."""
        return int(self._rollout.rows.size)

    @property
    def busy(self) -> int:
        """Number of live rows at the start of the current segment."""
        return int((self._rollout.rows >= 0).sum())

    def add(self, prompt: Sequence[int], prompt_id: int) -> int:
        """Queue a prompt (token ids) and return its number, which `step` reports. Raises ValueError if invalid."""
        if len(prompt) > self._longest:
            raise ValueError(f"a prompt of {len(prompt)} tokens; the feed takes at most {self._longest}")
        each = [self._sampling]
        self._engine.check([prompt], each)
        self._rollout.wait(groups_of([prompt], each, [prompt_id], 0, 1, first=self._added))
        self._added += 1
        return self._added - 1

    def step(self) -> list[tuple[int, Completion]]:
        """Decode a segment and return (number, completion) of each completion that it finished.

        An empty list does not mean that the feed is exhausted. The devices already run the next segment on return.
        """
        parts = next(self._steps, None)
        if parts is None:  # no rows were left; more may have been added since
            self._steps = self._rollout.steps()
            parts = next(self._steps, [])
        ended = list(finished(parts, self._parts))
        for row, _ in ended:
            self._rollout.forget(row)
        return ended
