"""Group-relative advantages."""

from typing import Any

import numpy as np
import numpy.typing as npt

from socialr1_jax.config.objective import Objective, objective

_FLAT = 1e-6  # rewards of a group that differ by no more than this have no variance


def group_advantages(
    rewards_pg: npt.ArrayLike, preset: str | Objective = "social_r1", **overrides: Any
) -> npt.NDArray[np.float64]:
    """(reward - baseline) / (group deviation + epsilon), float64 [prompts, group], of rewards [prompts, group].

    Baseline, whether it is divided, the deviation's ddof and epsilon are the preset's (GRPO, DeepSeekMath arXiv
    2402.03300 section 4.1; config/objective.py) or `overrides` of single fields. NaN (or an infinity) marks a response
    that is unscorable or excluded: it leaves its group's baseline and deviation and gets 0. A group whose remaining
    rewards differ by at most 1e-6, or that has fewer than two, gets 0 everywhere: tested as max - min, because a
    deviation of rounding noise divided by itself would be an advantage of full size.
    """
    chosen = objective(preset, **overrides)
    rewards = _two_axes(rewards_pg)
    scorable = np.isfinite(rewards)
    count = scorable.sum(axis=1, keepdims=True)
    mean = np.where(scorable, rewards, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(scorable, rewards - mean, 0.0)
    advantages = centred
    if chosen.baseline == "leave_one_out":  # r - mean of the others = (r - mean) n / (n - 1)
        advantages = centred * count / np.maximum(count - 1, 1)
    if chosen.scale_advantages:
        variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(count - chosen.deviation_ddof, 1)
        advantages = advantages / (np.sqrt(variance) + chosen.deviation_epsilon + np.finfo(float).tiny)
    return np.where(flat_groups(rewards)[:, None], 0.0, advantages)


def flat_groups(rewards_pg: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """[prompts]: whether a group teaches nothing, its scorable rewards being equal or fewer than two."""
    rewards = _two_axes(rewards_pg)
    scorable = np.isfinite(rewards)
    highest = np.where(scorable, rewards, -np.inf).max(axis=1)
    lowest = np.where(scorable, rewards, np.inf).min(axis=1)
    return (scorable.sum(axis=1) < 2) | ~(highest - lowest > _FLAT)


def soft_overlong(lengths_b: npt.ArrayLike, limit: int, buffer: int, factor: float = 1.0) -> npt.NDArray[np.float64]:
    """Return what rewards [b] lose by length in tokens: 0 up to limit - buffer, then linearly to -factor.

    DAPO's soft overlong punishment (arXiv 2503.14476 eq. 13), float64 [b], to be added to the rewards.
    """
    exceed = np.asarray(lengths_b, np.float64) - (limit - buffer)
    return -np.clip(exceed, 0, buffer) / buffer * factor


def _two_axes(rewards_pg: npt.ArrayLike) -> npt.NDArray[np.float64]:
    rewards = np.asarray(rewards_pg, np.float64)
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [prompts, group], got shape {rewards.shape}")
    return rewards
