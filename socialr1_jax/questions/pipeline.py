"""Stream prompts in an order that grain shuffles for each epoch, and that resumes without a replay."""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from socialr1_jax.data.prompts import Prompt, encode_prompt
from socialr1_jax.data.tables import DataError
from socialr1_jax.questions.sources import Questions
from socialr1_jax.runtime.terminal import printable

log = logging.getLogger(__name__)


class QuestionStream(Iterator[list[Prompt]]):
    """Yield endless batches of prompts, encoded on demand.

    Every epoch has each question once, in a new order; a batch may span two epochs. Prompts of more than
    `max_prompt_tokens` are dropped and counted, never cut, and so are bad rows of large Parquet files. The batches
    depend only on the questions, the seed and the state. Streams with different seeds have independent orders.

    It runs in the caller's thread: a batch of 64 takes some 45 ms, nearly all of it in the tokenizer, and the state is
    never ahead of the batches returned.

    Args:
        questions: result of `open_questions`, or a view of it.
        tokenizer: a tokenizer with a chat template.
        prompts_per_step: prompts per batch; may exceed the number of questions.
        seed: seed of the shuffles, 0 or more.

    Raises:
        ValueError: no question, or `prompts_per_step` below 1.
    """

    def __init__(
        self, questions: Questions, tokenizer: Any, *, prompts_per_step: int, max_prompt_tokens: int, seed: int
    ) -> None:
        if not len(questions) or prompts_per_step < 1:
            raise ValueError(
                f"a stream needs at least one question and one prompt a step, not {len(questions)} and "
                f"{prompts_per_step}"
            )
        import grain  # not at the top: it imports jax, which checking question files does not need

        self._count, self._seed = len(questions), seed
        self._prompts = _Prompts(questions, tokenizer, max_prompt_tokens)
        # Repeat before batching, so that no prompt is dropped at the end of an epoch. grain reshuffles with each
        # repetition and skips None. No threads: prefetching would save milliseconds in a step of seconds.
        order = grain.MapDataset.source(self._prompts).seed(seed).shuffle().repeat(None)
        inline = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        self._batches = iter(order.to_iter_dataset(inline).batch(prompts_per_step, batch_fn=list))

    def __next__(self) -> list[Prompt]:
        """Return the next batch.

        Raises DataError if no prompt is short enough, or for a bad row of a large Parquet file if these are not
        allowed. The stream's position is then unchanged.
        """
        before = self._batches.get_state()
        try:
            return next(self._batches)
        except BaseException:
            self._batches.set_state(before)
            raise

    def get_state(self) -> dict[str, Any]:
        """Return the position after the last batch, as JSON for `set_state`."""
        return {"grain": self._batches.get_state(), "questions": self._count, "seed": self._seed}

    def set_state(self, state: dict[str, Any]) -> None:
        """Move to a saved position without a replay. Raises ValueError if the questions or the seed differ."""
        for name, here in (("questions", self._count), ("seed", self._seed)):
            if state.get(name) != here:
                raise ValueError(
                    f"the saved place in the questions is one of {name} {state.get(name)}, these have {name} {here}: "
                    "give the run the questions and the seed that it began with"
                )
        self._batches.set_state(state["grain"])

    @property
    def dropped(self) -> int:
        """The number of distinct questions that this process dropped because they were too long or bad."""
        return int(self._prompts.dropped.sum())

    def close(self) -> None:
        """Release the questions; the stream cannot be used afterwards."""
        self._batches.close()


class _Prompts:
    """Random access to the prompts for grain, with None for questions that are dropped."""

    def __init__(self, questions: Questions, tokenizer: Any, limit: int) -> None:
        self._questions, self._tokenizer, self._limit = questions, tokenizer, limit
        self._shortest = 0  # length of the shortest prompt that was too long
        self.dropped = np.zeros(len(questions), bool)

    def __len__(self) -> int:
        return len(self.dropped)

    def __getitem__(self, index: int) -> Prompt | None:
        if not self.dropped[index]:
            prompt = self._encoded(index)
            if prompt is not None:
                return prompt
            self.dropped[index] = True
        if self.dropped.all():
            raise DataError(
                f"none of {len(self)} prompts has at most {self._limit} tokens"
                + (f"; the shortest has {self._shortest}; raise data.max_prompt_tokens" if self._shortest else "")
            )
        return None

    def _encoded(self, index: int) -> Prompt | None:
        example = self._questions.get(index)
        if example is None:
            return None
        tokens = encode_prompt(self._tokenizer, example)
        if len(tokens) <= self._limit:
            return Prompt(id=int(index), example=example, tokens=tokens)
        if not self._shortest:
            log.warning(
                "the prompt of question %s has %d tokens and is dropped, as all that have more than "
                "data.max_prompt_tokens=%d; further ones are counted only",
                *(printable(example.id, 100), len(tokens), self._limit),
            )
        self._shortest = min(self._shortest or len(tokens), len(tokens))
        return None


class PromptStream:
    """Endless shuffled numbers of `count` prompts with random access by step, in epochs as of `QuestionStream`.

    Raises ValueError for `count` or `prompts_per_step` below 1.
    """

    def __init__(self, count: int, prompts_per_step: int, seed: int) -> None:
        if count < 1 or prompts_per_step < 1:
            raise ValueError(
                f"a stream needs at least one prompt and one prompt a step, not {count} and {prompts_per_step}"
            )
        import grain  # imports jax

        self._order = grain.MapDataset.range(count).seed(seed).shuffle().repeat(None)
        self._prompts_per_step = prompts_per_step

    def batch(self, step: int) -> list[int]:
        """Return the indices of the prompts of step `step` (from 0), in order."""
        if step < 0:
            raise ValueError(f"steps count from 0, not {step}")
        start = step * self._prompts_per_step
        return [int(self._order[position]) for position in range(start, start + self._prompts_per_step)]
