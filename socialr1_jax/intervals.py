"""Intervals of shares."""

from __future__ import annotations

import math

Z = 1.959964  # 97.5 % of the normal distribution


def interval(share: float, stderr: float | None, count: float) -> tuple[float, float]:
    """95 % interval of a share: normal with the given standard error, else Wilson's (1927) on `count` responses."""
    if stderr:
        return max(0.0, share - Z * stderr), min(1.0, share + Z * stderr)
    if count <= 0 or not 0 <= share <= 1:
        return share, share
    centre = share + Z * Z / (2 * count)
    spread = Z * math.sqrt(share * (1 - share) / count + Z * Z / (4 * count * count))
    return max(0.0, (centre - spread) / (1 + Z * Z / count)), min(1.0, (centre + spread) / (1 + Z * Z / count))
