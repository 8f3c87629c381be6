"""Group advantages: the worked table (float64, Bessel's deviation + 1e-6), unscorable rewards and zero variance."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socialr1_jax.grpo import group_advantages

NAN = float("nan")
TABLE = [
    ([0, 0, 1, 1], [-0.8660, -0.8660, 0.8660, 0.8660]),
    ([0, 0, 0, 1], [-0.5, -0.5, -0.5, 1.5]),
    ([1, 2, 3, 4], [-1.1619, -0.3873, 0.3873, 1.1619]),
    ([0, 1], [-0.7071, 0.7071]),
    ([0, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95, 0.95], [-2.4749] + [0.3536] * 7),
]


def advantages(rewards_pg):
    rewards_pg = np.asarray(rewards_pg, np.float32)
    out = np.asarray(group_advantages(rewards_pg, preset="social_r1"))
    assert out.shape == rewards_pg.shape
    return out


@pytest.mark.parametrize(("rewards", "expected"), TABLE, ids=str)
def test_worked_table(rewards, expected):
    np.testing.assert_allclose(advantages([rewards])[0], expected, atol=1e-4)


def test_groups_do_not_mix():
    np.testing.assert_allclose(advantages([TABLE[0][0], TABLE[2][0]]), [TABLE[0][1], TABLE[2][1]], atol=1e-4)


def test_the_preset_is_the_default():
    np.testing.assert_array_equal(
        np.asarray(group_advantages(np.array([[0, 0.3, 1]], np.float32))), advantages([[0, 0.3, 1]])
    )


@pytest.mark.parametrize("value", [0.0, 0.7, 1.0, -3.0, 2.375])
def test_equal_rewards_give_exactly_zero(value):
    np.testing.assert_array_equal(advantages([[value] * 5]), 0)


def test_rounding_noise_is_not_variance():
    """0.7 x 3, 0.7000001: plain division by the deviation would give 0.071, or 1.4 with a smaller epsilon."""
    np.testing.assert_array_equal(advantages([[0.7, 0.7, 0.7, 0.7000001]]), 0)


def test_a_small_real_difference_is_variance():
    found = advantages([[0.0, 0.0, 0.0, 1e-4]])[0]
    np.testing.assert_allclose(found, np.array([-0.25e-4] * 3 + [0.75e-4]) / (0.5e-4 + 1e-6), rtol=1e-4)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([NAN, 0, 0, 1, 1], [0, -0.8660, -0.8660, 0.8660, 0.8660]),
        ([0, NAN, NAN, 1, NAN], [-0.7071, 0, 0, 0.7071, 0]),
        ([NAN, NAN, 0.4, NAN], [0, 0, 0, 0]),
        ([NAN, NAN, NAN, NAN], [0, 0, 0, 0]),
        ([0.5, NAN, 0.5], [0, 0, 0]),
        ([0.9], [0]),
        ([NAN], [0]),
    ],
    ids=str,
)
def test_unscorable_rewards_leave_the_group(rewards, expected):
    np.testing.assert_allclose(advantages([rewards])[0], expected, atol=1e-4)


def test_an_unscorable_group_does_not_touch_its_neighbours():
    found = advantages([[NAN] * 4, TABLE[1][0]])
    np.testing.assert_allclose(found, [[0] * 4, TABLE[1][1]], atol=1e-4)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 100), st.just(NAN)), min_size=6, max_size=6), st.permutations(range(6)))
def test_properties(hundredths, order):
    rewards = np.array(hundredths, np.float32) / 100
    found = advantages([rewards])[0]
    scorable = rewards[~np.isnan(rewards)]
    if len(scorable) < 2 or np.ptp(scorable) == 0:
        expected = np.zeros(6)
    else:
        deviation = np.std(scorable.astype(np.float64), ddof=1)
        expected = np.nan_to_num((rewards - scorable.mean(dtype=np.float64)) / (deviation + 1e-6))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(advantages([rewards[order]])[0], found[order], atol=1e-4)
    np.testing.assert_allclose(advantages([rewards + 1])[0], found, atol=1e-3)


def test_an_unknown_preset_is_named():
    with pytest.raises(ValueError, match="socialr2"):
        group_advantages(np.zeros((1, 2)), preset="socialr2")


def test_without_scaling_advantages_are_only_centred():
    """Dr. GRPO's column of the worked table, and NaN still leaves the mean."""
    np.testing.assert_allclose(
        group_advantages([[1.0, 2.0, 3.0, 4.0]], scale_advantages=False), [[-1.5, -0.5, 0.5, 1.5]]
    )
    np.testing.assert_allclose(
        group_advantages([[1.0, np.nan, 3.0, np.nan]], scale_advantages=False), [[-1.0, 0.0, 1.0, 0.0]]
    )
    np.testing.assert_array_equal(
        group_advantages([[0.7, 0.7, 0.7, 0.7 + 1e-7]], scale_advantages=False), np.zeros((1, 4))
    )
