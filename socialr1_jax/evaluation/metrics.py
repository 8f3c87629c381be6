"""Grades of replies, and figures computed from them."""

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from socialr1_jax.evaluation.request import Request

T = TypeVar("T")


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


def item_mean(graded: Sequence[Graded], values: Sequence[float]) -> Metric:
    """Return the mean of a value for each row, with its standard error over items."""
    return mean_metric(values, [row.request.item for row in graded])


def accuracy(graded: Sequence[Graded]) -> Metric:
    """Return the mean grade with its standard error over items."""
    return item_mean(graded, [row.grade.value for row in graded])


def grouped(rows: Iterable[T], key: Callable[[T], Any]) -> dict[Any, list[T]]:
    """Group the rows by a key, in order of its first occurrence."""
    groups: dict[Any, list[T]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def by_group(graded: Sequence[Graded], key: str) -> dict[str, list[Graded]]:
    """Group the graded requests by `meta[key]`, sorted by name."""
    return dict(sorted(grouped(graded, lambda row: str(row.request.meta[key])).items()))


def accuracies(graded: Sequence[Graded], key: str, prefix: str = "") -> dict[str, Metric]:
    """Return the accuracy of each group of `by_group`, keyed `<prefix><group>`."""
    return {f"{prefix}{name}": accuracy(rows) for name, rows in by_group(graded, key).items()}


def prefixed(prefix: str, figures: Mapping[str, Metric]) -> dict[str, Metric]:
    return {f"{prefix}{name}": metric for name, metric in figures.items()}


def majority(graded: Sequence[Graded]) -> Graded:
    """Return the first row with the most frequent answer to a question; of equally frequent ones the first wins."""
    answer = Counter(row.grade.answer for row in graded).most_common(1)[0][0]
    return next(row for row in graded if row.grade.answer == answer)


def all_right(units: Collection[Sequence[Graded]]) -> Metric:
    """Return the share of units, each of one item, with all replies right; its standard error is over items."""
    values = [math.prod(row.grade.value for row in rows) for rows in units]
    return mean_metric(values, [rows[0].request.item for rows in units])


def figures_by_type(graded: Sequence[Graded], headline: str, types: Collection[str]) -> dict[str, Metric]:
    """Return the accuracy overall (as `headline`) and by `meta["type"]`, and the share of items with all types right.

    An item counts once for each order of its options, and only with a reply to each type. The share is `all_three`.
    """
    by_type = by_group(graded, "type")
    units = grouped(graded, lambda row: (row.request.item, row.request.meta.get("order"))).values()
    return {
        headline: accuracy(graded),
        **{name: accuracy(by_type[name]) for name in types if name in by_type},
        "all_three": all_right([rows for rows in units if len(rows) == len(types)]),
    }
