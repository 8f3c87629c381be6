"""Temperature, top-k, top-p and min-p against hand-worked sets and a float64 NumPy oracle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socialr1_jax.models.temperature import GREEDY
from socialr1_jax.sampling.draw import draw
from socialr1_jax.sampling.filters import filter_logits

jitted = jax.jit(filter_logits)  # as the decode loop runs it
WORKED = np.log([0.5, 0.3, 0.15, 0.05])


def run_filter(logits_bv, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0):
    rows = len(logits_bv)
    out = jitted(
        jnp.asarray(logits_bv),
        jnp.broadcast_to(jnp.asarray(temperature, jnp.float32), rows),
        jnp.broadcast_to(jnp.asarray(top_k, jnp.int32), rows),
        jnp.broadcast_to(jnp.asarray(top_p, jnp.float32), rows),
        jnp.broadcast_to(jnp.asarray(min_p, jnp.float32), rows),
    )
    assert out.dtype == jnp.float32
    return np.asarray(out)


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({}, 4),
        ({"top_k": 3}, 3),
        ({"top_k": 1}, 1),
        ({"top_k": 4}, 4),
        ({"top_k": 100}, 4),
        ({"top_p": 0.6}, 2),  # 0.5 is not enough, 0.8 is
        ({"top_p": 0.45}, 1),
        ({"top_p": 1e-6}, 1),
        ({"top_p": 0.96}, 4),
        ({"min_p": 0.2}, 3),  # 0.2 x 0.5 = 0.1
        ({"min_p": 1.0}, 1),
        ({"top_k": 3, "top_p": 0.83}, 2),  # renormalised: 0.526 + 0.316 = 0.842; without renormalising 3
        ({"top_p": 0.83, "min_p": 0.2}, 3),  # min-p first would leave 2
        ({"temperature": 0.5, "min_p": 0.2}, 2),  # 0.25, 0.09, 0.0225: limit 0.05
        ({"temperature": 2.0, "top_p": 0.6}, 2),  # 0.379, 0.294
        ({"temperature": 2.0, "top_p": 0.7}, 3),
    ],
    ids=str,
)
def test_hand_worked_sets(options, kept):
    order = [2, 0, 3, 1]  # not sorted, so that a sort left undone shows
    out = run_filter(WORKED[None, order], **options)[0]
    expected = np.where(np.array(order) < kept, WORKED[order] / options.get("temperature", 1.0), -np.inf)
    np.testing.assert_allclose(out, expected, rtol=1e-6)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_random_rows_equal_the_oracle(filter_oracle, data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    spread = data.draw(st.sampled_from([0.1, 1.0, 4.0, 30.0]))
    logits_bv = np.random.default_rng(seed).normal(0, spread, size=(4, 23)).astype(np.float32)
    temperature = data.draw(st.lists(st.floats(0.125, 3.0, width=32), min_size=4, max_size=4))
    top_k = data.draw(st.lists(st.integers(0, 25), min_size=4, max_size=4))
    top_p = data.draw(st.lists(st.floats(0.0625, 1.0, width=32), min_size=4, max_size=4))
    min_p = data.draw(st.lists(st.one_of(st.just(0.0), st.floats(0.0009765625, 1.0, width=32)), min_size=4, max_size=4))
    out_bv = run_filter(logits_bv, temperature, top_k, top_p, min_p)
    for row in range(4):
        scaled, kept, unsure = filter_oracle(logits_bv[row], temperature[row], top_k[row], top_p[row], min_p[row])
        found = ~np.isneginf(out_bv[row])
        np.testing.assert_array_equal(found[~unsure], kept[~unsure])
        np.testing.assert_allclose(out_bv[row][found], scaled[found], rtol=1e-5, atol=1e-6)
        assert found[np.argmax(logits_bv[row])]


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}], ids=str)
@pytest.mark.parametrize("temperature", [1e-4, 1e-10, 1e-30, 1e-38, 1e-45])
def test_small_temperatures_leave_the_largest_logit_alone(temperature, options):
    """Also of logits that are all below 0, and of ones that no division by 1e-45 survives."""
    for shift in (0.0, -300.0, 3e4):
        logits_bv = np.array([[0.5, -3.0, 2.0, 1.5, -np.inf], [-1.0, 7.0, 6.5, -40.0, 0.0]], np.float32) + shift
        out_bv = np.exp(run_filter(logits_bv.astype(np.float32), temperature, **options).astype(np.float64))
        np.testing.assert_array_equal(out_bv, [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0]])


def test_off_keeps_every_token_however_small():
    logits = np.array([[0.0, -30.0, -90.0, -300.0]], np.float32)  # the cumulative sum is 1.0 in float32 after the first
    np.testing.assert_array_equal(run_filter(logits), logits)


def test_rejected_from_the_start_stays_rejected():
    out = run_filter(np.array([[1.0, -np.inf, 0.5, -np.inf]], np.float32), top_k=3, top_p=0.99, min_p=0.01)
    np.testing.assert_allclose(out, [[1.0, -np.inf, 0.5, -np.inf]])


def test_equal_logits_keep_at_least_what_was_asked():
    out = run_filter(np.zeros((1, 8), np.float32), top_k=3)
    assert 3 <= np.isfinite(out).sum() <= 8
    out = run_filter(np.zeros((1, 8), np.float32), top_p=0.3)
    assert 3 <= np.isfinite(out).sum() <= 8  # 3 / 8 is the first share that reaches 0.3


def test_bfloat16_logits_come_back_as_float32():
    out = run_filter(jnp.asarray(WORKED[None], jnp.bfloat16), top_k=2)
    np.testing.assert_allclose(out[0, :2], WORKED[:2], atol=0.01)
    assert np.isneginf(out[0, 2:]).all()


ADVERSARIAL = {
    "ties": [1.0, 3.0, 3.0, 2.0, 2.0, 2.0, 1.0, 0.0],
    "one dominant": [0.0, 90.0, 0.0, 1.0, -1.0, 0.5, 0.25, -90.0],
    "all equal": [0.5] * 8,
    "minus infinities": [-np.inf, 1.0, -np.inf, 0.5, 0.25, -np.inf, -np.inf, -1.0],
    "signed zeros": [0.0, -0.0, 1e-30, -1e-30, 0.0, 1.0, -1.0, -0.0],  # devices take denormals for zeros
    "huge": [3e38, -3e38, 1e30, -1e30, 0.0, 1.0, 2.9e38, -np.inf],
}


def keep(logits_v, top_k=0, top_p=1.0, min_p=0.0):
    """The kept set by definition, in float64; logits equal to the last one kept are kept, too."""
    kept = np.asarray(logits_v, np.float64)
    if top_k:
        kept = np.where(kept >= np.sort(kept)[::-1][min(top_k, kept.size) - 1], kept, -np.inf)
    if top_p < 1:
        probs = np.exp(kept - kept.max()) / np.exp(kept - kept.max()).sum()
        values = np.unique(kept)[::-1]
        kept = np.where(kept >= next(v for v in values if probs[kept >= v].sum() >= top_p), kept, -np.inf)
    if min_p:
        kept = np.where(kept >= kept.max() + np.log(min_p), kept, -np.inf)
    return np.isfinite(kept)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 1},
        {"top_k": 2},
        {"top_k": 5},
        {"top_p": 0.1},
        {"top_p": 0.55},
        {"min_p": 0.3},
        {"top_k": 4, "top_p": 0.7, "min_p": 0.05},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows_equal_the_definition(name, options):
    logits = np.array(ADVERSARIAL[name], np.float32)
    out = run_filter(logits[None], **options)[0]
    np.testing.assert_array_equal(np.isfinite(out), keep(logits, **options))
    np.testing.assert_array_equal(out[np.isfinite(out)], logits[np.isfinite(out)])


def test_filters_that_no_row_uses_are_left_out():
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 50)), jnp.float32)
    settings = jnp.ones(3), jnp.array([5, 0, 9]), jnp.ones(3), jnp.zeros(3)
    np.testing.assert_array_equal(filter_logits(logits, *settings, ("top_k",)), filter_logits(logits, *settings))
    np.testing.assert_array_equal(filter_logits(logits, *settings, ()), logits)


@pytest.mark.parametrize("options", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
@pytest.mark.parametrize("temperature", [1e-7, 1e-30])
def test_rows_below_greedy_equal_temperature_0(temperature, options):
    logits_bv = np.array([[0.5, 2.0, -np.inf, 2.0, 2.0], [-1.0, 6.5, 7.0, 7.0, 0.0]], np.float32)
    assert temperature < GREEDY
    for uniform in (0.0, 0.5, 0.99):
        tokens, logprobs = draw(
            run_filter(logits_bv, temperature, **options), jnp.full(2, uniform), jnp.array([True] * 2)
        )
        np.testing.assert_array_equal(tokens, [1, 2])
        np.testing.assert_allclose(logprobs, -np.log([3, 2]), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1e30, 1e38, np.inf])
def test_the_largest_temperatures_are_uniform_and_finite(temperature):
    logits_bv = np.array([[0.5, 3e4, -np.inf, -3e4, 2.0]], np.float32)
    _, logprobs = draw(run_filter(logits_bv, temperature), jnp.full(1, 0.3), jnp.array([False]))
    np.testing.assert_allclose(logprobs, -np.log(4), rtol=1e-6)
