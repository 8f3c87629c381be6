"""Grades of replies, and the figures that are made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from socialr1_jax.evaluation.request import Request


class Grade(NamedTuple):
    """answer: what was read from the reply, in the gold's terms ("" = nothing could be read); value: 0 to 1."""

    answer: str
    value: float


class Graded(NamedTuple):
    """A request with the grade of one reply."""

    request: Request
    grade: Grade


class Metric(NamedTuple):
    """A figure with its standard error and the number of independent units (items, not replies) behind it."""

    value: float
    stderr: float
    n: int


def mean_metric(values: Sequence[float], clusters: Sequence[str] | None = None) -> Metric:
    """Return the mean with its standard error; with `clusters` (the item of each value) over clusters, which may
    differ in size. NaN and n = 0 for no values.
    """
    count = len(values)
    if not count:
        return Metric(math.nan, math.nan, 0)
    mean = math.fsum(values) / count
    sums: dict[Any, list[float]] = {}
    for i, value in enumerate(values):
        sums.setdefault(i if clusters is None else clusters[i], []).append(value - mean)
    n = len(sums)
    if n < 2:
        return Metric(mean, math.nan, n)
    # The variance of a ratio estimate over clusters; with clusters of one it is the usual s / sqrt(n).
    spread = math.fsum(math.fsum(one) ** 2 for one in sums.values())
    return Metric(mean, math.sqrt(spread * n / (n - 1)) / count, n)


def accuracy(graded: Sequence[Graded]) -> Metric:
    """Return the mean grade, with the standard error over items."""
    return mean_metric([one.grade.value for one in graded], [one.request.item for one in graded])


def by_group(graded: Sequence[Graded], key: str) -> dict[str, list[Graded]]:
    """Return the graded requests by `meta[key]`, groups in order of their names."""
    groups: dict[str, list[Graded]] = {}
    for one in graded:
        groups.setdefault(str(one.request.meta[key]), []).append(one)
    return dict(sorted(groups.items()))


def accuracies(graded: Sequence[Graded], key: str, prefix: str = "") -> dict[str, Metric]:
    """Return the accuracy of each group of `by_group` as `<prefix><group>`."""
    return {f"{prefix}{name}": accuracy(rows) for name, rows in by_group(graded, key).items()}


def all_right(graded: Sequence[Graded], size: int, *keys: str) -> Metric:
    """Return the share of items whose every reply is right, of those with `size` replies; of each value of `keys`."""
    values: dict[tuple[str, ...], list[float]] = {}
    for one in graded:
        unit = (one.request.item, *(str(one.request.meta[key]) for key in keys))
        values.setdefault(unit, []).append(one.grade.value)
    whole = {unit: math.prod(each) for unit, each in values.items() if len(each) == size}
    return mean_metric(list(whole.values()), [item for item, *_ in whole])
