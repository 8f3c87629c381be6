"""Group-relative advantages."""

from typing import Literal

import numpy as np
import numpy.typing as npt

Preset = Literal["social_r1"]

_EPSILON = 1e-6  # verl's; also the spread below which a group counts as having no variance


def group_advantages(
    rewards_pg: npt.ArrayLike, preset: Preset = "social_r1", *, scale: bool = True
) -> npt.NDArray[np.float64]:
    """(reward - group mean) / (group deviation + 1e-6), float64 [prompts, group], of rewards [prompts, group].

    The deviation is Bessel-corrected (GRPO, DeepSeekMath arXiv 2402.03300 section 4.1, with verl's constants). NaN
    (or an infinity) marks an unscorable response: it leaves its group's mean and deviation and gets 0. A group whose
    scorable rewards differ by at most 1e-6, or that has fewer than two, gets 0 everywhere: tested as max - min,
    because a deviation of rounding noise divided by itself would be an advantage of full size.

    `scale=False` leaves the division out (Dr. GRPO, arXiv 2503.20783): a group whose answers are all right and whose
    lengths differ a little then teaches a little, and not as much as one that is half right.
    """
    if preset != "social_r1":
        raise ValueError(f"unknown preset {preset!r}; known: social_r1")
    rewards = np.asarray(rewards_pg, np.float64)
    if rewards.ndim != 2:
        raise ValueError(f"rewards must be [prompts, group], got shape {rewards.shape}")
    scorable = np.isfinite(rewards)
    count = scorable.sum(axis=1, keepdims=True)
    filled = np.where(scorable, rewards, 0.0)
    mean = filled.sum(axis=1, keepdims=True) / np.maximum(count, 1)
    centred = np.where(scorable, rewards - mean, 0.0)
    deviation = np.sqrt((centred**2).sum(axis=1, keepdims=True) / np.maximum(count - 1, 1))
    highest = np.where(scorable, rewards, -np.inf).max(axis=1, keepdims=True)
    lowest = np.where(scorable, rewards, np.inf).min(axis=1, keepdims=True)
    varies = (count >= 2) & (highest - lowest > _EPSILON)
    return np.where(varies, centred / (deviation + _EPSILON) if scale else centred, 0.0)


def groups_without_variance(rewards_pg: npt.ArrayLike) -> int:
    """How many groups teach nothing because their scorable rewards are equal (or fewer than two)."""
    return int((~np.any(group_advantages(rewards_pg), axis=1)).sum())
