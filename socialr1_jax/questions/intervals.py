"""Confidence intervals of means and shares, and a test of paired differences."""

import math
from collections.abc import Sequence

import numpy as np

_Z = 1.959964  # 97.5 % of the normal distribution
_MOST_ENUMERATED = 16  # up to this many clusters, all signs are enumerated
_DRAWS = 20_000  # random signs for more clusters
_AT_ONCE = 1_000


def around(mean: float, stderr: float, n: int) -> tuple[float, float]:
    """Return the 95 % t interval of a mean over `n` independent units; NaN for fewer than two."""
    reach = _t_quantile(n) * stderr if n > 1 else math.nan
    return mean - reach, mean + reach


def interval(share: float, stderr: float | None, count: float) -> tuple[float, float]:
    """Return the 95 % interval of a share: normal if `stderr` is given, else Wilson's (1927) on `count` responses."""
    if stderr:
        return max(0.0, share - _Z * stderr), min(1.0, share + _Z * stderr)
    if count <= 0 or not 0 <= share <= 1:
        return share, share
    return _wilson(share, count, _Z)


def share_interval(share: float, stderr: float, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share over `n` independent units, within 0 to 1; NaN for fewer than two.

    It is Wilson's interval on the effective sample size that the standard error implies (Korn and Graubard 1998), with
    the quantile of the t distribution. If the standard error is 0, it is Wilson's on `n` responses.
    """
    if n < 2 or math.isnan(share) or math.isnan(stderr):
        return math.nan, math.nan
    spread = share * (1 - share)
    if stderr <= 1e-12 or spread <= 1e-12:
        low, high = _wilson(share, n, _Z)
    else:
        low, high = _wilson(share, spread / stderr**2, _t_quantile(n))
    return min(low, share), max(high, share)  # rounding may leave a share of 0 or 1 outside


def _t_quantile(n: int) -> float:
    """Return the 97.5 % quantile of Student's t distribution for a mean over `n` units."""
    from scipy.special import stdtrit  # a twentieth of a training command's imports, which need no t distribution

    return float(stdtrit(n - 1, 0.975))


def _wilson(share: float, count: float, z: float) -> tuple[float, float]:
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (centre - spread) / (1 + z * z / count)), min(1.0, (centre + spread) / (1 + z * z / count))


def sign_flip_p(sums: Sequence[float]) -> float:
    """Return the two-sided p of a paired difference by a sign-flip test.

    All signs are enumerated for at most 16 non-zero clusters; otherwise 20,000 signs are drawn with seed 0. On single
    items that are right or wrong it is McNemar's exact test.

    Args:
        sums: the sum of the differences in each independent cluster.
    """
    changed_c = np.array([value for value in sums if abs(value) > 1e-9])
    count, total = len(changed_c), abs(float(np.sum(changed_c))) - 1e-9
    if not count:
        return 1.0
    if count <= _MOST_ENUMERATED:
        signs_nc = (np.arange(2**count)[:, None] >> np.arange(count) & 1) * 2 - 1
        return float(np.mean(np.abs(signs_nc @ changed_c) >= total))
    draws, hits = np.random.default_rng(0), 0
    for _ in range(_DRAWS // _AT_ONCE):
        signs_nc = draws.integers(0, 2, (_AT_ONCE, count)) * 2 - 1
        hits += int(np.sum(np.abs(signs_nc @ changed_c) >= total))
    return (hits + 1) / (_DRAWS + 1)


def share_figures(name: str, shares: np.ndarray, count: float) -> dict[str, float]:
    """Return the mean of the shares as `name`, with NAME_stderr over the shares and the bounds NAME_low, NAME_high.

    Args:
        shares: one for each independent unit, such as a question.
        count: sample size for `interval` if all shares are equal.
    """
    mean = float(shares.mean())
    stderr = float(shares.std(ddof=1) / len(shares) ** 0.5) if len(shares) > 1 else 0.0
    low, high = interval(mean, stderr, count)
    return {name: mean, f"{name}_stderr": stderr, f"{name}_low": low, f"{name}_high": high}
