"""Convert epochs to steps."""

import math
from fractions import Fraction
from typing import TypeVar

from socialr1_jax.config.loading import validated
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.runtime.terminal import counted

RunT = TypeVar("RunT", bound=RunConfig | RewardModelConfig)


def steps_of(epochs: float, count: int, each: int) -> int:
    """Return the steps of `epochs` passes over `count` questions, `each` per step, rounded up."""
    return math.ceil(Fraction(str(epochs)) * count / each)  # in floats, 0.1 x 30 is more than 3


def in_steps(config: RunT, count: int, each: int) -> tuple[RunT, list[str]]:
    """Return the run with steps in place of epochs, and a line with the arithmetic; no line without epochs.

    `count` is the number of questions or pairs to train on, `each` the number per step. Prompts that are too long are
    included in `count`, because they are found only during training. Raises ConfigError if the settings do not fit the
    resulting number of steps.
    """
    if not config.epochs:
        return config, []
    steps = steps_of(config.epochs, count, each)
    line = f"epochs {config.epochs:g}: {count:,} x {config.epochs:g} / {each:,} = {counted(steps, 'step')}"
    return validated(type(config), config.model_dump() | {"epochs": 0.0, "steps": steps}), [line]
