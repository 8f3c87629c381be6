"""Intervals of means and shares."""

from __future__ import annotations

import math

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
