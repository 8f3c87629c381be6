"""Grades of replies, and figures computed from them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from socialr1_jax.evaluation.request import Request


class Grade(NamedTuple):
    """A reply's answer in the gold's terms ("" = none could be parsed), and its value from 0 to 1."""

    answer: str
    value: float


class Graded(NamedTuple):
    """A request with the grade of one of its replies."""

    request: Request
    grade: Grade


class Metric(NamedTuple):
    """A figure with its standard error and the number of independent units (items, not replies) behind it."""

    value: float
    stderr: float
    n: int


def mean_metric(values: Sequence[float], clusters: Sequence[str] | None = None) -> Metric:
    """Return the mean and its standard error, over clusters (of any size) if the item of each value is passed.

    Without values both are NaN, and n = 0.
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
    # Variance of a ratio estimate over clusters; for clusters of size one it reduces to s / sqrt(n).
    spread = math.fsum(math.fsum(residuals) ** 2 for residuals in sums.values())
    return Metric(mean, math.sqrt(spread * n / (n - 1)) / count, n)


def accuracy(graded: Sequence[Graded]) -> Metric:
    """Return the mean grade with its standard error over items."""
    return mean_metric([row.grade.value for row in graded], [row.request.item for row in graded])


def by_group(graded: Sequence[Graded], key: str) -> dict[str, list[Graded]]:
    """Group the graded requests by `meta[key]`, sorted by name."""
    groups: dict[str, list[Graded]] = {}
    for row in graded:
        groups.setdefault(str(row.request.meta[key]), []).append(row)
    return dict(sorted(groups.items()))


def accuracies(graded: Sequence[Graded], key: str, prefix: str = "") -> dict[str, Metric]:
    """Return the accuracy of each group of `by_group`, keyed `<prefix><group>`."""
    return {f"{prefix}{name}": accuracy(rows) for name, rows in by_group(graded, key).items()}


def all_right(graded: Sequence[Graded], size: int, *keys: str) -> Metric:
    """Return the share of items (per value of `keys`) with all replies right, among those with `size` replies."""
    values: dict[tuple[str, ...], list[float]] = {}
    for row in graded:
        unit = (row.request.item, *(str(row.request.meta[key]) for key in keys))
        values.setdefault(unit, []).append(row.grade.value)
    whole = {unit: math.prod(each) for unit, each in values.items() if len(each) == size}
    return mean_metric(list(whole.values()), [item for item, *_ in whole])
