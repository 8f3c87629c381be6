"""Group-relative advantages."""

from typing import Any

import numpy as np
import numpy.typing as npt

from socialr1_jax.config.objective import Objective, objective
from socialr1_jax.rewards.shares import centred

_FLAT = 1e-6  # a group whose rewards differ by at most this has zero variance


def group_advantages(
    rewards_pg: npt.ArrayLike, preset: str | Objective = "social_r1", **overrides: Any
) -> npt.NDArray[np.float64]:
    """Return (reward - baseline) / (group deviation + epsilon), float64 [prompts, group].

    The preset (config/objective.py; GRPO: DeepSeekMath arXiv 2402.03300 section 4.1) sets the baseline, the division,
    its ddof and epsilon; `overrides` replace single fields. A reward of NaN or infinity marks an unscorable or excluded
    response: it does not enter its group's baseline and deviation, and its advantage is 0. All advantages of a group
    are 0 if it has fewer than two finite rewards or if they differ by at most 1e-6. This compares max - min, since
    rounding noise divided by its own deviation would give full-size advantages.
    """
    chosen = objective(preset, **overrides)
    rewards = _two_axes(rewards_pg)
    scorable = np.isfinite(rewards)
    count = scorable.sum(axis=1, keepdims=True)
    advantages = from_mean = centred(rewards, scorable)
    if chosen.baseline == "leave_one_out":  # r - mean of the others = (r - mean) n / (n - 1)
        advantages = from_mean * count / np.maximum(count - 1, 1)
    if chosen.scale_advantages:
        variance = (from_mean**2).sum(axis=1, keepdims=True) / np.maximum(count - chosen.deviation_ddof, 1)
        advantages = advantages / (np.sqrt(variance) + chosen.deviation_epsilon + np.finfo(float).tiny)
    return np.where(flat_groups(rewards)[:, None], 0.0, advantages)


def flat_groups(rewards_pg: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Return a mask [prompts] of groups without a learning signal: fewer than two scorable rewards, or equal ones."""
    rewards = _two_axes(rewards_pg)
    scorable = np.isfinite(rewards)
    highest = np.where(scorable, rewards, -np.inf).max(axis=1)
    lowest = np.where(scorable, rewards, np.inf).min(axis=1)
    return (scorable.sum(axis=1) < 2) | ~(highest - lowest > _FLAT)


def soft_overlong(lengths_b: npt.ArrayLike, limit: int, buffer: int, factor: float = 1.0) -> npt.NDArray[np.float64]:
    """Return the length penalty of responses [b] (lengths in tokens): 0 up to limit - buffer, then linear to -factor.

    DAPO's soft overlong punishment (arXiv 2503.14476 eq. 13), float64 [b]; add it to the rewards.
    """
    exceed = np.asarray(lengths_b, np.float64) - (limit - buffer)
    return -np.clip(exceed, 0, buffer) / buffer * factor


def _two_axes(rewards_pg: npt.ArrayLike) -> npt.NDArray[np.float64]:
    rewards = np.asarray(rewards_pg, np.float64)
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [prompts, group], got shape {rewards.shape}")
    return rewards
