"""Epochs as a number of steps."""

import math
from fractions import Fraction
from typing import TypeVar

from socialr1_jax.config.loading import validated
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.runtime.terminal import counted

RunT = TypeVar("RunT", bound=RunConfig | RewardModelConfig)


def steps_of(epochs: float, count: int, each: int) -> int:
    """Return how many steps `epochs` passes over `count` questions take, `each` a step, rounded up."""
    return math.ceil(Fraction(str(epochs)) * count / each)  # in floats, 0.1 x 30 is more than 3


def in_steps(config: RunT, count: int, each: int) -> tuple[RunT, list[str]]:
    """Return the run with its number of steps in place of its epochs, and a line that says so; no line without epochs.

    `count` are the questions or pairs to train on, of which a step takes `each`. Those that are too long count, though
    no step takes them: they are found when they are met. Raises ConfigError when the settings do not fit the number.
    """
    if not config.epochs:
        return config, []
    steps = steps_of(config.epochs, count, each)
    line = f"epochs {config.epochs:g}: {count:,} x {config.epochs:g} / {each:,} = {counted(steps, 'step')}"
    return validated(type(config), config.model_dump() | {"epochs": 0.0, "steps": steps}), [line]
