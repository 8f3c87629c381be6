"""Intervals of means and shares."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import stdtrit  # comes with JAX

_Z = 1.959964  # 97.5 % of the normal distribution


def around(mean: float, stderr: float, n: int) -> tuple[float, float]:
    """95 % interval of a mean over `n` independent units: the t distribution's; NaN for fewer than two."""
    reach = float(stdtrit(n - 1, 0.975)) * stderr if n > 1 else math.nan
    return mean - reach, mean + reach


def interval(share: float, stderr: float | None, count: float) -> tuple[float, float]:
    """95 % interval of a share: normal with the given standard error, else Wilson's (1927) on `count` responses."""
    if stderr:
        return max(0.0, share - _Z * stderr), min(1.0, share + _Z * stderr)
    if count <= 0 or not 0 <= share <= 1:
        return share, share
    centre = share + _Z * _Z / (2 * count)
    spread = _Z * math.sqrt(share * (1 - share) / count + _Z * _Z / (4 * count * count))
    return max(0.0, (centre - spread) / (1 + _Z * _Z / count)), min(1.0, (centre + spread) / (1 + _Z * _Z / count))


def share_figures(name: str, shares: np.ndarray, count: float) -> dict[str, float]:
    """Return the mean of the shares as `name`, with NAME_stderr over the shares and the bounds NAME_low, NAME_high.

    Args:
        shares: one of each independent unit, such as a question.
        count: responses that `interval` counts on where all shares are equal.
    """
    mean = float(shares.mean())
    stderr = float(shares.std(ddof=1) / len(shares) ** 0.5) if len(shares) > 1 else 0.0
    low, high = interval(mean, stderr, count)
    return {name: mean, f"{name}_stderr": stderr, f"{name}_low": low, f"{name}_high": high}
