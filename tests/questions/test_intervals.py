"""Intervals of shares stay within 0 to 1; the paired test is McNemar's where it should be."""

import itertools
import math
import random

import pytest
from scipy.stats import binomtest

from socialr1_jax.evaluation.metrics import mean_metric
from socialr1_jax.questions.intervals import around, share_interval, sign_flip_p


@pytest.mark.parametrize(
    ("share", "stderr", "n", "low", "high"),
    [
        (0.5, 0.05, 101, 0.402698, 0.597302),  # as many as 100 responses; t of 100 is 1.983972; by hand
        (1.0, 0.0, 20, 0.838875, 1.0),  # all alike: Wilson on the items
        (0.0, 0.0, 20, 0.0, 0.161125),
        (0.5, 0.0, 100, 0.403832, 0.596168),  # one of two right in every story
    ],
)
def test_an_interval_of_a_share_by_hand(share, stderr, n, low, high):
    assert share_interval(share, stderr, n) == pytest.approx((low, high), abs=2e-6)


@pytest.mark.parametrize(("share", "stderr", "n"), [(1.0, math.nan, 1), (math.nan, math.nan, 0), (0.5, math.nan, 9)])
def test_one_unit_or_none_has_no_interval(share, stderr, n):
    assert all(map(math.isnan, share_interval(share, stderr, n)))


def test_share_interval_stays_within_0_and_1():
    draw, left = random.Random(0), 0
    for items, size, rate in itertools.product((2, 3, 10, 50), (1, 3), (0.02, 0.3, 0.97, 1.0)):
        values = [float(draw.random() < rate) for _ in range(items * size)]
        metric = mean_metric(values, [str(i // size) for i in range(len(values))])
        low, high = share_interval(*metric)
        assert 0 <= low <= metric.value <= high <= 1
        assert low < high
        left += not 0 <= around(*metric)[0] <= around(*metric)[1] <= 1
    assert left > 5  # where the plain t interval would leave


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (1, 0), (3, 3), (9, 4), (6, 0), (10, 2)])
def test_p_of_single_items_is_mcnemars(gained, lost):
    exact = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert sign_flip_p([1.0] * gained + [-1.0] * lost + [0.0] * 20) == pytest.approx(exact)


def test_p_of_many_items_is_near_mcnemars():
    assert sign_flip_p([1.0] * 25 + [-1.0] * 12) == pytest.approx(binomtest(25, 37).pvalue, abs=0.005)


def test_p_of_clusters_by_hand():
    # |+-2 +-2 +-1| is at least 3 in four of eight
    assert sign_flip_p([2.0, 2.0, -1.0]) == 0.5
