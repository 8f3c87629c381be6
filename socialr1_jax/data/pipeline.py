"""The order in which a run meets its prompts: a pure function of (seed, step), so that resume needs no replay."""

from __future__ import annotations


class PromptStream:
    """Endless shuffled prompts with random access by step.

    Every epoch holds each prompt once, in an order of its own; a step may end one epoch and begin the next.

    Args:
        count: number of prompts.
        prompts_per_step: prompts of one step; may exceed ``count``.
        seed: of the shuffles.

    Raises:
        ValueError: ``count`` or ``prompts_per_step`` below 1.
    """

    def __init__(self, count: int, prompts_per_step: int, seed: int) -> None:
        if count < 1 or prompts_per_step < 1:
            raise ValueError(
                f"a stream needs at least one prompt and one prompt a step, not {count} and {prompts_per_step}"
            )
        import grain  # here, not above: it imports jax, and this package is also used for checking question files

        # repeat before batch: no prompt is left out at the end of an epoch. grain reshuffles with each repetition.
        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat(None)
        self._prompts_per_step = prompts_per_step

    def batch(self, step: int) -> list[int]:
        """Indices of the prompts of step ``step`` (from 0), in order."""
        if step < 0:
            raise ValueError(f"steps count from 0, not {step}")
        start = step * self._prompts_per_step
        return [int(self._order[position]) for position in range(start, start + self._prompts_per_step)]
