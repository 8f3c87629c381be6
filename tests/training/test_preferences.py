"""The Bradley-Terry loss and the figures about pairs against values worked out by hand and by torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialr1_jax.training.preferences import (
    bradley_terry,
    calibration_error,
    length_correlation,
    length_matched,
    pair_accuracy,
    preference_metrics,
    swap_consistency,
)


@pytest.mark.parametrize(
    ("chosen", "rejected", "margin", "expected"),
    [
        (0.3, 0.3, 0.0, 0.693147),  # ln 2: what equal scores cost, as DPO at its start
        (1.0, 0.0, 0.0, 0.313262),
        (0.0, 1.0, 0.0, 1.313262),
        (2.5, 0.5, 0.0, 0.126928),
        (2.0, 0.0, 1.0, 0.313262),
    ],
)
def test_the_loss_of_one_pair(chosen, rejected, margin, expected):
    total, count = bradley_terry([chosen], [rejected], jnp.array([margin]))
    assert float(total) == pytest.approx(expected, abs=1e-6)
    assert float(count) == 1.0


def test_centring_adds_the_squared_sum_of_the_scores():
    plain, _ = bradley_terry([1.0], [-0.5])
    centred, _ = bradley_terry([1.0], [-0.5], centring=0.01)
    assert float(centred - plain) == pytest.approx(0.0025, abs=1e-6)


def test_sum_over_real_pairs_equals_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    chosen, rejected = rng.normal(size=(2, 7)).astype(np.float32) * 3
    margin = rng.uniform(0, 2, 7).astype(np.float32)
    real = np.array([True] * 5 + [False] * 2)
    total, count = bradley_terry(chosen, rejected, margin, real, centring=0.1)
    c, r, m = (torch.tensor(x[:5], dtype=torch.float64) for x in (chosen, rejected, margin))
    expected = -torch.nn.functional.logsigmoid(c - r - m) + 0.1 * (c + r) ** 2
    assert float(count) == 5.0
    assert float(total) == pytest.approx(float(expected.sum()), rel=1e-6)


def test_filler_touches_neither_loss_nor_gradient():
    def loss(chosen):
        return bradley_terry(chosen, jnp.zeros(2), 0.0, jnp.array([True, False]))[0]

    value, gradient = jax.value_and_grad(loss)(jnp.array([1.0, 5.0]))
    assert float(value) == pytest.approx(0.313262, abs=1e-6)
    np.testing.assert_allclose(gradient, [-0.268941, 0.0], atol=1e-6)  # -sigmoid(-1)
    assert float(loss(jnp.array([1.0, jnp.nan]))) == pytest.approx(0.313262, abs=1e-6)


@pytest.mark.parametrize("difference", [-1e4, -100.0, 100.0, 1e4])
def test_extreme_differences_have_finite_losses(difference):
    value, gradient = jax.value_and_grad(lambda c: bradley_terry([c], [0.0])[0])(difference)
    assert float(value) == pytest.approx(max(0.0, -difference))
    assert float(gradient) == pytest.approx(-1.0 if difference < 0 else 0.0, abs=1e-6)


def test_accuracy_counts_ties_half():
    assert pair_accuracy(np.array([1.0, -1.0, 0.0, 2.0])) == 0.625
    assert np.isnan(pair_accuracy(np.array([])))


def test_calibration_error_by_hand():
    # sigmoid(ln 4) = 0.8 in five pairs of which four are right: calibrated. sigmoid(ln 9) = 0.9 with none right: 0.9.
    calibrated = np.log(4) * np.array([1, 1, 1, 1, -1])
    wrong = np.log(9) * np.array([-1.0, -1.0, -1.0])
    assert calibration_error(calibrated) == pytest.approx(0.0, abs=1e-12)
    assert calibration_error(wrong) == pytest.approx(0.9)
    assert calibration_error(np.concatenate([calibrated, wrong])) == pytest.approx(0.9 * 3 / 8)
    assert calibration_error(np.array([1e3, -1e3])) == pytest.approx(0.5)  # certain, and right in half
    assert calibration_error(np.zeros(4)) == 0.0  # no opinion is right in half


def test_length_correlation():
    lengths = np.array([1, 2, 3, 4])
    assert length_correlation(np.array([2.0, 4.0, 6.0, 8.0]), lengths) == pytest.approx(1.0)
    assert length_correlation(np.array([1.0, -1.0, -1.0, 1.0]), lengths) == pytest.approx(0.0)
    assert np.isnan(length_correlation(np.ones(4), lengths))


def test_matched_lengths_differ_by_a_tenth():
    lengths = np.array([(100, 90), (100, 89), (90, 100), (70, 70), (7, 6)])
    assert length_matched(lengths).tolist() == [True, False, True, True, False]


def test_swap_consistency_is_about_which_text_is_ahead():
    difference = np.array([1.0, -2.0, 0.0, 3.0])
    assert swap_consistency(difference, -2 * difference) == 1.0
    assert swap_consistency(difference, np.array([-1.0, 2.0, 0.0, 1.0])) == 0.75
    assert swap_consistency(difference, difference) == 0.25  # a scorer that looks at the place alone: but for the tie


def test_a_scorer_of_length_alone_is_found_out():
    lengths = np.array([(200, 100), (300, 100), (100, 100), (100, 95), (105, 100), (100, 110)])
    metrics = preference_metrics(lengths / 100.0, lengths)
    assert metrics["pairs"] == 6
    assert metrics["length_correlation"] == pytest.approx(1.0)
    assert metrics["accuracy"] == metrics["longer_wins"] == pytest.approx(4.5 / 6)
    assert metrics["length_matched_pairs"] == 4
    assert metrics["accuracy_length_matched"] == pytest.approx(2.5 / 4)
    assert metrics["margin"] == pytest.approx((1 + 2 + 0 + 0.05 + 0.05 - 0.1) / 6)
    assert metrics["accuracy_stderr"] == pytest.approx(np.sqrt(0.75 * 0.25 / 6))
    expected = np.log1p(np.exp(-(lengths[:, 0] - lengths[:, 1]) / 100.0)).mean()
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert (metrics["score_chosen"], metrics["score_rejected"]) == pytest.approx((905 / 600, 605 / 600))
