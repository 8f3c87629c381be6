"""The questions of a run: what it trains on, what it holds out, what it is evaluated on."""

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from socialr1_jax.config import ConfigError, RunConfig
from socialr1_jax.data.bad_rows import write_bad_rows
from socialr1_jax.data.evaluation_sets import refuse_evaluation_sets
from socialr1_jax.data.pipeline import QuestionStream
from socialr1_jax.data.prompts import Prompt, encode_prompts
from socialr1_jax.data.question_sources import Questions, open_questions, source_names
from socialr1_jax.processes import is_first

HELD_OUT = "heldout"


def open_run_questions(config: RunConfig) -> tuple[Questions, dict[str, Questions]]:
    """(to train on, name -> to evaluate on), every row checked.

    Rows that are dropped are counted and listed in `output_dir`/bad_rows.jsonl. Raises DataError for a row that is no
    question where `data.allow_bad_rows` is not set, and for a file whose authors forbid training on it; ConfigError
    when `data.holdout` leaves nothing.
    """
    data = config.data
    refuse_evaluation_sets(data.train, data.train_on_evaluation_set)
    reading: Mapping[str, Any] = {
        "columns": data.columns, "where": data.where, "allow_bad_rows": data.allow_bad_rows
    }  # fmt: skip
    train = open_questions(data.train, **reading)
    names = source_names(data.eval)
    sets = {name: open_questions([one], **reading) for name, one in zip(names, data.eval, strict=True)}
    bad = [row for one in (train, *sets.values()) for row in one.bad_rows]
    if bad and is_first():
        write_bad_rows(Path(config.output_dir) / "bad_rows.jsonl", bad)
    if sets:
        return train, sets
    if len(train) <= data.holdout:
        raise ConfigError(
            f"data.train has {len(train)} questions and data.holdout takes {data.holdout}: lower data.holdout"
        )
    order = np.random.default_rng(0).permutation(len(train))  # not the run's seed: runs compare on the same ones
    heldout, rest = (train.take(np.sort(part).tolist()) for part in (order[: data.holdout], order[data.holdout :]))
    return rest, {HELD_OUT: heldout}


def prompt_streams(config: RunConfig, questions: Questions, tokenizer: Any) -> tuple[QuestionStream, QuestionStream]:
    """The prompts of the steps, and spare ones in an order of their own for groups that are replaced."""
    seeds = (config.seed, config.seed + 1)
    first, second = (
        QuestionStream(
            questions, tokenizer, prompts_per_step=config.grpo.prompts_per_step,
            max_prompt_tokens=config.data.max_prompt_tokens, seed=seed,
        )
        for seed in seeds
    )  # fmt: skip
    return first, second


def evaluation_prompts(config: RunConfig, sets: Mapping[str, Questions], tokenizer: Any) -> dict[str, list[Prompt]]:
    """The first `evaluation.questions` prompts of each set. Raises ValueError for a set without a short enough one."""
    count, limit = config.evaluation.questions, config.data.max_prompt_tokens
    return {name: encode_prompts(tokenizer, list(islice(one, count)), limit) for name, one in sets.items()}
