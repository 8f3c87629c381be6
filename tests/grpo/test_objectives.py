"""Advantages and losses of every preset: worked values, exact KL gradients, and properties that hold for all of them.

TRL's own code is the oracle in test_trl.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socialr1_jax.grpo import group_advantages, mismatch, policy_loss, soft_overlong, truncated_weights

NAN = float("nan")
PRESETS = ["social_r1", "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo"]
CLIP_PRESETS = [name for name in PRESETS if name != "cispo"]
AGGREGATIONS = ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"]
ESTIMATORS = ["k1", "k2", "k3", "k1+", "k3+"]
NO_KL = {"kl_coefficient": 0.0}  # for social_r1, which else needs reference log-probs
CLIP_20 = {"clip_low": 0.2, "clip_high": 0.2}

# What a property must hold for: every preset as it is, and some with every optional term switched on.
EXTRAS = {"entropy_coefficient": 0.3, "importance_cap": 1.3}
CASES = {name: (name, {"length_constant": 9} if name == "dr_grpo" else {}) for name in PRESETS} | {
    "social_r1 and more": ("social_r1", {**EXTRAS, "kl_estimator": "k3+", "importance_sampling": "token"}),
    "dr_grpo and more": (
        "dr_grpo",
        {**EXTRAS, "length_constant": 9, "kl_coefficient": 0.2, "kl_estimator": "k2", "importance_sampling": "token"},
    ),
    "gspo and more": (
        "gspo",
        {**EXTRAS, **CLIP_20, "kl_coefficient": 0.2, "kl_estimator": "k1+", "importance_sampling": "sequence"},
    ),
    "cispo and more": (
        "cispo",
        {**EXTRAS, "aggregation": "seq-mean-token-sum", "kl_coefficient": 0.2, "importance_sampling": "sequence"},
    ),
}
every_case = pytest.mark.parametrize("case", CASES)


# --- advantages

# rewards -> (reward - mean) / (Bessel's deviation + 1e-6), the same with 1e-4, the same with the population's
# deviation, reward - mean, reward - mean of the others
REWARDS = [
    (
        [0, 0, 1, 1],
        [-0.8660] * 2 + [0.8660] * 2,
        [-0.8659] * 2 + [0.8659] * 2,
        [-1, -1, 1, 1],
        [-0.5, -0.5, 0.5, 0.5],
        [-0.6667, -0.6667, 0.6667, 0.6667],
    ),
    (
        [0, 0, 0, 1],
        [-0.5] * 3 + [1.5],
        [-0.4999] * 3 + [1.4997],
        [-0.5774] * 3 + [1.7321],
        [-0.25] * 3 + [0.75],
        [-0.3333] * 3 + [1.0],
    ),
    (
        [1, 2, 3, 4],
        [-1.1619, -0.3873, 0.3873, 1.1619],
        [-1.1618, -0.3873, 0.3873, 1.1618],
        [-1.3416, -0.4472, 0.4472, 1.3416],
        [-1.5, -0.5, 0.5, 1.5],
        [-2, -0.6667, 0.6667, 2],
    ),
    ([0, 1], [-0.7071, 0.7071], [-0.7070, 0.7070], [-1, 1], [-0.5, 0.5], [-1, 1]),
    (
        [0] + [0.95] * 7,
        [-2.4749] + [0.3536] * 7,
        [-2.4741] + [0.3534] * 7,
        [-2.6458] + [0.3780] * 7,
        [-0.8313] + [0.1188] * 7,
        [-0.95] + [0.1357] * 7,
    ),
    # rounding noise: divided by its deviation it would be 0.071, 0.0007 or 1.407
    ([0.7, 0.7, 0.7, 0.7000001], *[[0] * 4] * 5),
]
VARIANTS = [
    ("social_r1", {}, 1),
    ("dapo", {}, 1),
    ("gspo", {}, 1),
    ("cispo", {}, 1),
    ("grpo", {"deviation_epsilon": 1e-6}, 1),
    ("grpo", {}, 2),
    ("dapo", {"deviation_epsilon": 1e-4}, 2),
    ("social_r1", {"deviation_ddof": 0, "deviation_epsilon": 1e-8}, 3),
    ("dr_grpo", {}, 4),
    ("social_r1", {"scale_advantages": False}, 4),
    ("rloo", {}, 5),
    ("dr_grpo", {"baseline": "leave_one_out"}, 5),
]


@pytest.mark.parametrize("row", REWARDS, ids=lambda row: str(row[0]))
@pytest.mark.parametrize(("preset", "overrides", "which"), VARIANTS, ids=str)
def test_worked_advantages(row, preset, overrides, which):
    found = group_advantages([row[0]], preset, **overrides)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, [row[which]], rtol=0, atol=6e-5)  # half of the last printed digit


@pytest.mark.parametrize(
    ("preset", "rewards", "expected"),
    [
        ("rloo", [[1, 2, 3]], [[1 - 2.5, 2 - 2, 3 - 1.5]]),  # rewards less the mean of the others
        ("rloo", [[1, 2]], [[-1, 1]]),
        ("rloo", [[1, NAN, 3]], [[1 - 3, 0, 3 - 1]]),
        ("rloo", [[6, 3], [9, 12]], [[3, -3], [-3, 3]]),
        ("rloo", [[7]], [[0]]),
        ("social_r1", [[0.9]], [[0]]),
        ("social_r1", [[NAN]], [[0]]),
        ("social_r1", [[0, 0, 0, 1e-4]], [np.array([-0.25e-4] * 3 + [0.75e-4]) / (0.5e-4 + 1e-6)]),
        ("dr_grpo", [[6, 3], [9, 12]], [[1.5, -1.5], [-1.5, 1.5]]),
    ],
    ids=str,
)
def test_worked_groups(preset, rewards, expected):
    np.testing.assert_allclose(group_advantages(rewards, preset), expected, rtol=0, atol=1e-12)


def test_mean_of_the_others_over_the_deviation():
    found = group_advantages([[1, 2, 3, 4]], baseline="leave_one_out")
    np.testing.assert_allclose(found, [np.array([-2, -2 / 3, 2 / 3, 2]) / (np.sqrt(5 / 3) + 1e-6)], rtol=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 100), st.just(NAN)), min_size=6, max_size=6), st.permutations(range(6)))
def test_advantages_of_any_group(hundredths, order):
    """Without a preset: that of social_r1. The order changes nothing, nor does a constant that is added."""

    def advantages(rewards):
        return group_advantages([rewards])[0]

    rewards = np.array(hundredths, np.float32) / 100
    found = advantages(rewards)
    scorable = rewards[~np.isnan(rewards)]
    if len(scorable) < 2 or np.ptp(scorable) == 0:
        expected = np.zeros(6)
    else:
        deviation = np.std(scorable.astype(np.float64), ddof=1)
        expected = np.nan_to_num((rewards - scorable.mean(dtype=np.float64)) / (deviation + 1e-6))
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(advantages(rewards[order]), found[order], atol=1e-4)
    np.testing.assert_allclose(advantages(rewards + 1), found, atol=1e-3)


@pytest.mark.parametrize("preset", PRESETS)
def test_unscorable_rewards_leave_mean_and_deviation(preset):
    rewards = [0.25, 1.0, 0.5, 0.0]
    alone = group_advantages([rewards], preset)[0]
    assert np.abs(alone).min() > 0
    found = group_advantages([[NAN, *rewards[:2], NAN, NAN, *rewards[2:]], [NAN] * 7, [NAN] * 6 + [0.5]], preset)
    np.testing.assert_allclose(found[0], [0, *alone[:2], 0, 0, *alone[2:]], rtol=1e-12)
    np.testing.assert_array_equal(found[1:], 0)


@pytest.mark.parametrize("epsilon", [1e-9, 1e-6])
@pytest.mark.parametrize("preset", PRESETS)
def test_rewards_that_differ_by_a_millionth_are_equal(preset, epsilon):
    """With an epsilon of 1e-9 the first group's noise would be -0.490 and 1.471."""
    rewards = [[0.7, 0.7, 0.7, 0.7000001], [0.0, 0.0, 0.0, 9e-7], [0.0, 0.0, 0.0, 2e-6]]
    found = group_advantages(rewards, preset, deviation_epsilon=epsilon)
    np.testing.assert_array_equal(found[:2], 0)
    assert found[2, 3] > 0 > found[2, 0]


# --- policy term


def column(values):
    """One token a row: lets every token have its own advantage."""
    return jnp.asarray(values, jnp.float32)[:, None]


def tokens_of(preset, logp, old, advantages, sampler=None, **overrides):
    """Each token's loss and its gradient by the token's log-prob, the tokens being rows of their own."""

    def one(logp, old, sampler, advantage):
        def cell(x):
            return None if x is None else x.reshape(1, 1)

        return policy_loss(
            cell(logp),
            cell(old),
            cell(logp) if preset == "social_r1" else None,
            advantage.reshape(1),
            jnp.ones((1, 1), bool),
            preset,
            sampler_logp_bt=cell(sampler),
            **overrides,
        )[0]

    # 16 tokens in every case, so that each operation is compiled once.
    arrays = (
        None if x is None else jnp.asarray(np.resize(x, 16), jnp.float32) for x in (logp, old, sampler, advantages)
    )
    return (np.asarray(x)[: len(logp)] for x in jax.vmap(jax.value_and_grad(one))(*arrays))


NARROW = [0.5, 1.0, 1.5], [1, -1, 2]
WIDE = [0.5, 1.0, 10.0], [1, -1, -4]
CLIPPED = [
    # preset, overrides, (ratios, advantages), loss of each token, is it free of the clip
    *[(preset, CLIP_20, NARROW, [-0.5, 1.0, -2.4], [1, 1, 0]) for preset in CLIP_PRESETS],
    ("social_r1", {}, WIDE, [-0.5, 1.0, 12.0], [1, 1, 0]),  # dual clip: 3 x 4 instead of 40
    ("social_r1", {}, ([0.5, 0.5, 1.5], [-1, 1, -1]), [0.8, -0.5, 1.5], [0, 1, 1]),
    ("social_r1", {}, ([2.9, 3.1], [-1, -1]), [2.9, 3.0], [1, 0]),
    ("grpo", {}, NARROW, [-0.5, 1.0, -2.4], [1, 1, 0]),
    ("dr_grpo", {}, NARROW, [-0.5, 1.0, -2.4], [1, 1, 0]),
    ("rloo", {}, NARROW, [-0.5, 1.0, -2.4], [1, 1, 0]),
    ("dapo", {}, NARROW, [-0.5, 1.0, -2.56], [1, 1, 0]),
    ("gspo", {}, NARROW, [-0.5, 1.0, -2.0008], [1, 1, 0]),
    ("gspo", {}, ([0.5, 0.9996, 0.9998], [-1, -1, -1]), [0.9997, 0.9997, 0.9998], [0, 0, 1]),
    ("dapo", {}, ([0.5, 0.79, 1.27], [-1, -2, 1]), [0.8, 1.6, -1.27], [0, 0, 1]),
    *[(preset, {}, WIDE, [-0.5, 1.0, 40.0], [1, 1, 1]) for preset in ("grpo", "dr_grpo", "dapo", "gspo")],
    *[(preset, {"dual_clip": 3.0}, WIDE, [-0.5, 1.0, 12.0], [1, 1, 0]) for preset in ("grpo", "dr_grpo", "dapo")],
    ("social_r1", {"dual_clip": 0.0}, WIDE, [-0.5, 1.0, 40.0], [1, 1, 1]),
    ("social_r1", {"dual_clip": 1.5}, ([2, 2, 0.5], [2, -2, 2]), [-2.4, 3.0, -1.0], [0, 0, 1]),
    ("gspo", {"dual_clip": 1.5, **CLIP_20}, ([2, 2, 0.5], [2, -2, 2]), [-2.4, 3.0, -1.0], [0, 0, 1]),
]


@pytest.mark.parametrize(("preset", "overrides", "tokens", "values", "free"), CLIPPED, ids=str)
def test_worked_clips(preset, overrides, tokens, values, free):
    ratios, advantages = tokens
    found, gradient = tokens_of(preset, np.log(ratios) - 1.0, -1.0, advantages, **overrides)
    np.testing.assert_allclose(found, values, rtol=2e-5)
    np.testing.assert_allclose(gradient, np.multiply(values, free), rtol=2e-5)  # -ratio A, or nothing


@pytest.mark.parametrize(
    ("ratios", "advantages", "clipped"),
    [
        ([0.5, 1.0, 1.5], [1, -1, 2], 1),
        ([0.5, 0.5, 1.5], [-1, 1, -1], 1),
        ([0.5, 1.5, 1.1], [-1, 1, 1], 2),
        ([0.81, 1.19, 1.0], [-1, 1, 1], 0),
    ],
)
def test_clip_fraction_counts_tokens_that_are_clipped(ratios, advantages, clipped):
    logp = column(np.log(ratios) - 1.0)
    old, mask_bt = jnp.full_like(logp, -1.0), jnp.ones_like(logp, bool)
    _, denominator, metrics = policy_loss(logp, old, logp, jnp.asarray(advantages, jnp.float32), mask_bt)
    assert (float(metrics["clip_fraction"]), float(denominator)) == (clipped, 3)


@pytest.mark.parametrize("advantage", [-1.0, 1.0])
@pytest.mark.parametrize("preset", PRESETS)
def test_far_apart_policies_stay_finite(preset, advantage):
    for found in tokens_of(preset, [-1001.0, 999.0], -1.0, [advantage] * 2):
        assert np.isfinite(found).all()


@pytest.mark.parametrize("preset", CLIP_PRESETS)
def test_without_old_log_probs_it_is_reinforce(preset):
    logp, advantages = [-0.5, -1.0, -1.5], [1, -1, 2]
    values, gradient = tokens_of(preset, logp, None, advantages)
    np.testing.assert_array_equal(values, np.negative(advantages))
    np.testing.assert_allclose(values.mean(), -0.6667, atol=5e-5)
    np.testing.assert_array_equal(gradient, np.negative(advantages))


def test_without_old_log_probs_cispo_is_reinforce():
    values, gradient = tokens_of("cispo", [-0.5, -1.0, -1.5], None, [1, -1, 2])
    np.testing.assert_allclose(values, [0.5, -1.0, 3.0], rtol=1e-6)
    np.testing.assert_allclose(values.mean(), 0.8333, atol=5e-5)
    np.testing.assert_array_equal(gradient, [-1, 1, -2])


@every_case
def test_old_log_probs_default_to_the_current_ones(batch, case):
    logp = jnp.asarray(batch["logp_bt"])

    def total(x, old):
        return call(batch, case, logp_bt=x, old_logp_bt=old)[0]

    for found, expected in zip(
        jax.value_and_grad(total)(logp, None), jax.value_and_grad(total)(logp, logp), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)


# --- CISPO


@pytest.mark.parametrize(
    ("overrides", "ratios", "clamped"),
    [
        (CLIP_20, [0.5, 1.0, np.exp(-0.69741 + 1)], [0.8, 1.0, 1.2]),
        ({"clip_low": 0.2, "clip_high": 0.28}, [1.0, 1.14, 1.56, 0.4], [1.0, 1.14, 1.28, 0.8]),
        ({}, [0.01, 0.7, 4.9, 5.1, 60.0], [0.01, 0.7, 4.9, 5.0, 5.0]),  # the preset: no lower bound, 5 the upper one
        ({"ratio": "sequence"}, [0.01, 0.7, 4.9, 5.1, 60.0], [0.01, 0.7, 4.9, 5.0, 5.0]),
    ],
    ids=str,
)
@pytest.mark.parametrize("advantage", [1.0, -1.0, 2.5])
def test_cispo_weighs_by_the_clipped_ratio(overrides, ratios, clamped, advantage):
    """No token loses its gradient, and nothing flows through the ratio."""
    logp = np.log(ratios) - 1.0
    values, gradient = tokens_of("cispo", logp, -1.0, np.full(len(ratios), advantage), **overrides)
    np.testing.assert_allclose(gradient, -advantage * np.array(clamped), rtol=1e-5)
    np.testing.assert_allclose(values, -advantage * np.array(clamped) * logp, rtol=1e-5)


def test_worked_cispo_sum():
    values, gradient = tokens_of("cispo", [-1.69315, -1.0, -0.69741], -1.0, [1, -1, -4], **CLIP_20)
    np.testing.assert_allclose(values.sum(), -2.9930, atol=6e-5)
    np.testing.assert_allclose(gradient, [-0.8, 1.0, 4.8], rtol=1e-5)


# --- GSPO

GSPO_LOGP = [-1.69315, -1.0, -0.59453]
GSPO_TABLE = [
    # old log-probs, overrides, loss of the row with advantage 1, -1 and 2, does its gradient flow
    (-1.0, {}, [-0.9086, 0.9086, -1.8171], [1, 1, 1]),
    (-2.0, {}, [-1.2, 2.4697, -2.4], [0, 1, 0]),
    (-2.0, {"dual_clip": 1.5}, [-1.2, 1.5, -2.4], [0, 0, 0]),
]


def gspo(logp, old, advantages, sampler=None, **overrides):
    """(sum, denominator) of rows with these log-probs and a fourth, masked-out token."""
    rows = len(advantages)

    def wide(x):
        return None if x is None else jnp.pad(jnp.broadcast_to(x, (rows, 3)), ((0, 0), (0, 1)), constant_values=-7.0)

    return policy_loss(
        wide(logp),
        wide(jnp.asarray(old, jnp.float32)),
        None,
        jnp.asarray(advantages, jnp.float32),
        jnp.arange(4) < jnp.full((rows, 1), 3),
        "gspo",
        sampler_logp_bt=wide(sampler),
        **(CLIP_20 | overrides),
    )[:2]


@pytest.mark.parametrize(("old", "overrides", "values", "free"), GSPO_TABLE, ids=str)
@pytest.mark.parametrize("which", [0, 1, 2])
def test_worked_sequence_ratios(old, overrides, values, free, which):
    """The gradient reaches each of the row's tokens in equal parts: that of the mean log-ratio."""
    advantage = [[1.0], [-1.0], [2.0]][which]
    value, gradient = jax.value_and_grad(lambda logp: gspo(logp, old, advantage, **overrides)[0])(
        jnp.asarray(GSPO_LOGP, jnp.float32)
    )
    np.testing.assert_allclose(value, values[which], atol=6e-5)
    np.testing.assert_allclose(gradient, np.full(3, values[which] * free[which] / 3), atol=3e-5)


def test_worked_sequence_ratio_batches():
    first = gspo(jnp.asarray(GSPO_LOGP), -1.0, [1, -1, 2])
    second = gspo(jnp.asarray(GSPO_LOGP), -2.0, [1, -1, 2])
    np.testing.assert_allclose(first[0] / first[1], -0.6057, atol=6e-5)
    np.testing.assert_allclose((first[0] + second[0]) / (first[1] + second[1]), -0.4912, atol=6e-5)


@pytest.mark.parametrize(("cap", "mean"), [(2.0, -0.4959), (0.8, -0.4846)])
def test_worked_sequence_weights_of_sequence_ratios(cap, mean):
    total, denominator = gspo(
        jnp.asarray(GSPO_LOGP),
        -1.0,
        [1, -1, 2],
        jnp.asarray([-0.5, -1.5, -0.8]),
        importance_sampling="sequence",
        importance_cap=cap,
    )
    np.testing.assert_allclose(total / denominator, mean, atol=6e-5)


# --- sampler's mismatch: weights

SAMPLER = [-0.5, -1.5, -0.8]  # against -1


@pytest.mark.parametrize(
    ("log_ratios", "level", "cap", "expected"),
    [
        (np.subtract(-1, SAMPLER), "token", 2.0, [0.6065, 1.6487, 0.8187]),
        (np.subtract(-1, SAMPLER), "token", 0.8, [0.6065, 0.8, 0.8]),
        (np.subtract(-1, SAMPLER), "sequence", 2.0, [0.8187] * 3),
        (np.subtract(-1, SAMPLER), "sequence", 0.8, [0.8] * 3),
        ([0.5, -0.5, 1.0], "token", 2.0, [1.6487, 0.6065, 2.0]),
        ([0.5, -0.5, 1.0], "sequence", 5.0, [2.7183] * 3),
        ([0.5, -0.5, 1.0], "sequence", 2.0, [2.0] * 3),
        ([500.0, -500.0, 0.0], "token", 2.0, [2.0, 0.0, 1.0]),  # exp would overflow float32
        ([500.0, 500.0, 0.0], "sequence", 2.0, [2.0] * 3),
        ([-500.0, -500.0, 0.0], "sequence", 2.0, [0.0] * 3),
        ([np.log(1.1)] * 10, "sequence", 1e6, [2.5937] * 10),
        ([np.log(1.1)] * 100, "token", 1e6, [1.1] * 100),
    ],
    ids=str,
)
@pytest.mark.parametrize("garbage", [0.3, NAN])
def test_worked_weights(log_ratios, level, cap, expected, garbage):
    """A masked-out token before and one behind change nothing and weigh 1."""

    def row(values):
        return jnp.asarray([[garbage, *values, garbage]], jnp.float32)

    old = np.full(len(log_ratios), -1.0)
    mask_bt = np.pad(np.ones((1, len(log_ratios)), bool), ((0, 0), (1, 1)))
    found = np.asarray(truncated_weights(row(old), row(old - np.asarray(log_ratios)), mask_bt, level, cap))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[1, *expected, 1]], rtol=0, atol=6e-5)


def test_a_products_weight_grows_with_the_length():
    old = np.zeros((2, 100), np.float32)
    mask_bt = np.arange(100) < np.array([[10], [100]])
    found = np.asarray(truncated_weights(old, old - np.float32(np.log(1.1)), mask_bt, "sequence", 1e6))
    np.testing.assert_allclose(found[:, 0], [1.1**10, 1.1**100], rtol=1e-4)  # 2.6 and 13,780
    np.testing.assert_array_equal(found[0, 10:], 1)


@pytest.mark.parametrize(
    ("cap", "values", "mean"),
    [(2.0, [-0.30325, 1.6487, -1.96488], -0.2065), (0.8, [-0.30325, 0.8, -1.92], -0.4744)],
    ids=str,
)
@pytest.mark.parametrize("level", ["token", "sequence"])  # the same with one token a row
@pytest.mark.parametrize("preset", CLIP_PRESETS)
def test_worked_weighted_losses(preset, level, cap, values, mean):
    found, gradient = tokens_of(
        preset,
        np.log([0.5, 1.0, 1.5]) - 1.0,
        -1.0,
        [1, -1, 2],
        SAMPLER,
        importance_sampling=level,
        importance_cap=cap,
        **CLIP_20,
    )
    np.testing.assert_allclose(found, values, rtol=1e-4)
    np.testing.assert_allclose(found.mean(), mean, atol=6e-5)
    np.testing.assert_allclose(gradient, np.multiply(values, [1, 1, 0]), rtol=1e-4)


@pytest.mark.parametrize("preset", PRESETS)
def test_weights_of_current_log_probs_have_no_gradient(preset):
    logp, advantages = [-1.0, -1.0, -1.0], [1, -1, 2]
    gradient = list(tokens_of(preset, logp, None, advantages, SAMPLER, importance_sampling="token"))[1]
    np.testing.assert_allclose(gradient, np.multiply([-1, 1, -2], [0.6065, 1.6487, 0.8187]), rtol=1e-4)


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_weights_are_constants(batch, level):
    def total(old_bt, sampler_bt):
        return truncated_weights(old_bt, sampler_bt, batch["mask_bt"], level, 1.3).sum()

    for gradient in jax.grad(total, (0, 1))(batch["old_logp_bt"], batch["sampler_logp_bt"]):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("level", ["token", "sequence"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_weights_multiply_neither_kl_nor_entropy(batch, level, estimator):
    rest = {"kl_coefficient": 1.0, "kl_estimator": estimator, "entropy_coefficient": 0.5}
    calm = {**batch, "advantages_b": np.zeros_like(batch["advantages_b"])}
    logp = jnp.asarray(batch["logp_bt"])

    def total(x, how):
        return policy_loss(**{**calm, "logp_bt": x}, preset="grpo", importance_sampling=how, **rest)[0]

    for found, expected in zip(
        jax.value_and_grad(total)(logp, level), jax.value_and_grad(total)(logp, "none"), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(float(total(logp, level))) > 0.1


# --- aggregation

X = NAN  # masked out
AGGREGATED = [
    # aggregation, length constant, losses of the tokens, sum, denominator
    ("token-mean", 1, [[1, 2, X], [4, 5, 6]], 18, 5),  # 3.6
    ("seq-mean-token-mean", 1, [[1, 2], [3, X]], 1.5 + 3, 2),  # 2.25
    ("seq-mean-token-sum-norm", 10, [[2, 3], [9, X]], 14, 2 * 10),  # 0.7
    ("seq-mean-token-sum", 1, [[1, 2, X], [4, X, 6]], 13, 2),
    ("seq-mean-token-sum", 1, [[1, 2, X], [4, X, 6]] * 4, 52, 8),
    ("token-mean", 1, [[1, 2, 3, X], [4, X, X, X], [5, 6, 7, 8]], 36, 8),  # 4.5
    ("seq-mean-token-mean", 1, [[1, 2, 3, X], [4, X, X, X], [5, 6, 7, 8]], 2 + 4 + 6.5, 3),  # 4.1667
    ("seq-mean-token-sum", 1, [[1, 2, 3, X], [4, X, X, X], [5, 6, 7, 8]], 36, 3),  # 12.0
    ("seq-mean-token-sum-norm", 4, [[1, 2, 3, X], [4, X, X, X], [5, 6, 7, 8]], 36, 3 * 4),  # 3.0
    ("token-mean", 1, [[1, 2], [X, X]], 3, 2),
    ("seq-mean-token-mean", 1, [[1, 2], [X, X]], 1.5, 1),
    ("seq-mean-token-sum", 1, [[1, 2], [X, X]], 3, 1),
    ("seq-mean-token-sum-norm", 10, [[1, 2], [X, X]], 3, 10),
    *[(aggregation, 4, [[X, X], [X, X]], 0, 0) for aggregation in AGGREGATIONS],
]


def aggregate(losses, term, aggregation, length_constant=1):
    """(sum, denominator) where each token's loss is the given one, and 99 lies under the mask."""
    padded = np.full((8, 8), X, np.float32)  # one shape, so that each operation is compiled once
    padded[: len(losses), : len(losses[0])] = losses
    mask_bt = ~np.isnan(padded)
    losses = jnp.asarray(np.where(mask_bt, padded, 99.0))
    one, zero = jnp.ones(len(losses)), jnp.zeros_like(losses)
    how = {"aggregation": aggregation, "length_constant": length_constant}
    if term == "policy":  # -A log-prob
        found = policy_loss(losses, None, None, -one, mask_bt, "cispo", **how)
    elif term == "kl":  # log-prob - ref
        how |= {"kl_coefficient": 1.0, "kl_estimator": "k1"}
        found = policy_loss(zero, None, -losses, 0 * one, mask_bt, "dapo", **how)
    else:
        how |= {"entropy_coefficient": -1.0}
        found = policy_loss(zero, None, None, 0 * one, mask_bt, "grpo", entropy_bt=losses, **how)
    return found[:2]


@pytest.mark.parametrize("term", ["policy", "kl", "entropy"])
@pytest.mark.parametrize(("aggregation", "constant", "losses", "total", "denominator"), AGGREGATED, ids=str)
def test_worked_aggregations(aggregation, constant, losses, total, denominator, term):
    found = aggregate(losses, term, aggregation, constant)
    np.testing.assert_allclose(found[0], total, rtol=1e-6)
    assert float(found[1]) == denominator


@pytest.mark.parametrize(
    ("micro_batches", "mean", "mean_of_means"),
    [
        ([[[1, 2]], [[3, 4, 5, 6, 7]]], 4.0, 3.25),
        ([[[2, 4], [6, X]], [[10, 12], [14, 16]]], 64 / 7, 8.5),
    ],
    ids=str,
)
def test_micro_batches_sum_to_the_mean_of_tokens(micro_batches, mean, mean_of_means):
    parts = [aggregate(losses, "policy", "token-mean") for losses in micro_batches]
    np.testing.assert_allclose(sum(total for total, _ in parts) / sum(count for _, count in parts), mean, rtol=1e-6)
    assert np.mean([total / count for total, count in parts]) == mean_of_means


def test_the_entropy_is_maximised(batch):
    def mean(entropy_bt):
        total, denominator, _ = policy_loss(
            **{**batch, "entropy_bt": entropy_bt}, preset="dapo", entropy_coefficient=0.5
        )
        return total / denominator

    gradient = jax.grad(mean)(jnp.asarray(batch["entropy_bt"]))
    np.testing.assert_allclose(gradient, -0.5 * batch["mask_bt"] / batch["mask_bt"].sum(), rtol=1e-6)


# --- KL

KL_TABLE = [
    # log ref - log-prob, k1, k2, k3; each at most 10 away from 0
    (0.0, 0.0, 0.0, 0.0),
    (0.1, -0.1, 0.005, 0.0051709),
    (-0.1, 0.1, 0.005, 0.0048374),
    (1.0, -1.0, 0.5, 0.7182818),
    (-1.0, 1.0, 0.5, 0.3678794),
    (20.0, -10.0, 10.0, 10.0),  # -20, 200 and 4.85e8
    (-14.0, 10.0, 10.0, 10.0),  # 14, 98 and 13
    (-29.0, 10.0, 10.0, 10.0),  # 29, 420.5 and 28
    (500.0, -10.0, 10.0, 10.0),
    (-500.0, 10.0, 10.0, 10.0),
]


@pytest.mark.parametrize("old", [None, -3.0])  # a ratio of e^2: no estimator's value carries it
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_worked_kl(estimator, old):
    d_n, *values = np.resize(KL_TABLE, (16, 4)).T  # as many as above
    old = None if old is None else column([old])

    def one(logp, ref):
        total, _, metrics = policy_loss(
            logp.reshape(1, 1),
            old,
            ref.reshape(1, 1),
            jnp.zeros(1),
            jnp.ones((1, 1), bool),
            "grpo",
            kl_coefficient=0.1,
            kl_estimator=estimator,
        )
        return total, metrics["kl"]

    logp_n = jnp.full(len(d_n), -1.0)
    (total_n, kl_n), gradient_n = jax.vmap(jax.value_and_grad(one, has_aux=True))(logp_n, logp_n + d_n)
    expected = values[int(estimator[1]) - 1]
    np.testing.assert_allclose(kl_n, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(total_n, 0.1 * expected, rtol=1e-4, atol=1e-6)
    assert np.isfinite(gradient_n).all()


@pytest.mark.parametrize(
    ("estimator", "mean"), [("k1", 0.0), ("k2", 1 / 3), ("k3", 0.3620), ("k1+", 0.0), ("k3+", 0.3620)]
)
@pytest.mark.parametrize("preset", PRESETS)
def test_worked_kl_only_loss(preset, estimator, mean):
    """One row, so that three of the aggregations agree; dr_grpo's sum is over as many tokens as its constant."""
    logp = jnp.array([[0.0, -1.0, -2.0]])
    total, denominator, _ = policy_loss(
        logp,
        None,
        jnp.full((1, 3), -1.0),
        jnp.zeros(1),
        jnp.ones((1, 3), bool),
        preset,
        kl_coefficient=0.1,
        kl_estimator=estimator,
        length_constant=3,
    )
    np.testing.assert_allclose(total / denominator, 0.1 * mean, rtol=1e-3, atol=1e-7)


@pytest.fixture(scope="module")
def vocabulary():
    """Logits of policy, reference and sampler over 16 words, all float64; the sampler is far from the policy."""
    rng = np.random.default_rng(3)
    return 0.7 * rng.normal(size=16), 0.7 * rng.normal(size=16), 1.5 * rng.normal(size=16)


def kl_gradients(theta_v, ref_v, estimator, old_v=None):
    """[word, logit]: gradient of each word's KL term, as if it was the one token of a row."""

    def one(theta_v, word):
        def cell(logits_v):
            return jax.nn.log_softmax(jnp.asarray(logits_v, jnp.float32))[word].reshape(1, 1)

        old = None if old_v is None else cell(old_v)
        how = {"kl_coefficient": 1.0, "kl_estimator": estimator}
        return policy_loss(cell(theta_v), old, cell(ref_v), jnp.zeros(1), jnp.ones((1, 1), bool), "grpo", **how)[0]

    rows = jax.vmap(jax.grad(one), (None, 0))(jnp.asarray(theta_v, jnp.float32), jnp.arange(16))
    return np.asarray(rows, np.float64)


@pytest.mark.parametrize(
    ("estimator", "which"), [("k1+", "reverse"), ("k2", "reverse"), ("k3+", "reverse"), ("k3", "forward"), ("k1", None)]
)
def test_expected_kl_gradient(vocabulary, log_softmax, estimator, which):
    """By exact enumeration: k2 and the + forms follow KL(policy || ref), k1 nothing, k3 KL(ref || policy)."""
    theta_v, ref_v, _ = vocabulary
    logp_v, logref_v = log_softmax(theta_v), log_softmax(ref_v)
    policy_v, d_v = np.exp(logp_v), logp_v - logref_v
    exact = {
        "reverse": policy_v * (d_v - policy_v @ d_v),
        "forward": policy_v - np.exp(logref_v),
        None: np.zeros(16),
    }[which]
    np.testing.assert_allclose(policy_v @ kl_gradients(theta_v, ref_v, estimator), exact, rtol=0, atol=1e-6)
    assert np.abs(exact).max() > 0.05 or which is None


@pytest.mark.parametrize("estimator", ["k1+", "k3+"])
def test_expected_kl_gradient_of_old_samples(vocabulary, log_softmax, estimator):
    theta_v, ref_v, old_v = vocabulary
    logp_v, sampler_v = log_softmax(theta_v), np.exp(log_softmax(old_v))
    policy_v, d_v = np.exp(logp_v), logp_v - log_softmax(ref_v)
    assert np.abs(logp_v - log_softmax(old_v)).max() > 2
    exact = policy_v * (d_v - policy_v @ d_v)
    np.testing.assert_allclose(sampler_v @ kl_gradients(theta_v, ref_v, estimator, old_v), exact, rtol=0, atol=1e-6)


def test_kl_needs_reference_log_probs(batch):
    with pytest.raises((ValueError, TypeError)):
        policy_loss(**{**batch, "ref_logp_bt": None}, preset="social_r1")


# --- long responses


@pytest.mark.parametrize(
    ("lengths", "sizes", "expected"),
    [
        ([10, 22, 25, 30], (25, 5, 0.5), [0, -0.2, -0.5, -0.5]),
        ([20, 21, 24, 26, 1000], (25, 5), [0, -0.2, -0.8, -1, -1]),
        ([0, 5, 10], (10, 10, 2.0), [0, -1, -2]),
    ],
    ids=str,
)
def test_worked_soft_overlong(lengths, sizes, expected):
    np.testing.assert_allclose(soft_overlong(np.array(lengths), *sizes), expected, rtol=0, atol=1e-6)


def test_soft_overlong_is_added_to_rewards():
    rewards = np.array([1, 0.8, 0.6, 0.4]) + soft_overlong(np.array([10, 22, 25, 30]), 25, 5, factor=0.5)
    np.testing.assert_allclose(rewards, [1, 0.6, 0.1, -0.1], atol=1e-6)


# --- mismatch

MISMATCHES = {
    "worked": ([-1] * 3, SAMPLER, {"mean": 0.4, "max": 0.5, "ratio_error": 1.50628, "effective_samples": 0.83848}),
    "far": ([-15], [-5], {"mean": 10, "max": 10, "p99": 10, "ratio_error": 22026.4658, "effective_samples": 1}),
    "equal": ([-1, -2, -3], [-1, -2, -3], {"mean": 0, "max": 0, "p99": 0, "ratio_error": 1, "effective_samples": 1}),
    "two": ([0, np.log(3)], [0, 0], {"ratio_error": 2, "effective_samples": 16 / 20, "max": np.log(3)}),
    "hundredths": (np.arange(101) / 100, np.zeros(101), {"mean": 0.5, "max": 1.0, "p99": 0.99}),
    "none": ([], [], {"mean": 0, "max": 0, "p99": 0, "ratio_error": 1, "effective_samples": 1}),
}


@pytest.mark.parametrize("garbage", [0.0, NAN, -np.inf])
@pytest.mark.parametrize(("trainer", "sampler", "expected"), MISMATCHES.values(), ids=MISMATCHES)
def test_worked_mismatch(trainer, sampler, expected, garbage):
    """With a masked-out token in front, and a row without tokens."""

    def rows(values, other):
        return np.array([[garbage, *values], [other] * (len(values) + 1)], np.float32)

    mask_bt = np.arange(len(trainer) + 1) > np.array([[0], [len(trainer)]])
    found = mismatch(rows(trainer, 3.0), rows(sampler, garbage), mask_bt)
    assert sorted(found) == ["effective_samples", "max", "mean", "p99", "ratio_error"]
    assert all(isinstance(value, float) for value in found.values())
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=2e-5, atol=1e-7, err_msg=name)


# --- what holds for every preset


@pytest.fixture(scope="module")
def batch():
    """6 rows of 8 tokens: ratios on both sides of every clip, masks that are ragged at both ends, one with a hole."""
    rng = np.random.default_rng(4)
    logp = rng.normal(-1.5, 0.7, size=(6, 8)).astype(np.float32)
    mask_bt = (np.arange(8) >= np.array([0, 2, 1, 5, 0, 3])[:, None]) & (
        np.arange(8) < np.array([8, 6, 7, 6, 3, 8])[:, None]
    )
    mask_bt[5, 5] = False
    return {
        "logp_bt": logp,
        "old_logp_bt": logp - rng.normal([[0], [0.4], [0], [-0.6], [0], [0]], 0.7, logp.shape).astype(np.float32),
        "ref_logp_bt": logp + rng.normal(0, 0.8, size=logp.shape).astype(np.float32),
        "advantages_b": np.array([1.2, -0.7, 0.0, -2.0, 0.4, 1.0], np.float32),
        "mask_bt": mask_bt,
        "sampler_logp_bt": logp - rng.normal(0, 0.5, size=logp.shape).astype(np.float32),
        "entropy_bt": rng.uniform(0.1, 2.0, size=logp.shape).astype(np.float32),
    }


def call(batch, case, **changes):
    preset, overrides = CASES[case]
    fields = {name: None if x is None else jnp.asarray(x) for name, x in (batch | changes).items()}
    return policy_loss(**fields, preset=preset, **overrides)


def differentiated(batch, case):
    """Everything that comes out, and the gradients by log-probs and entropies."""

    def total(logp_bt, entropy_bt):
        total, *rest = call(batch, case, logp_bt=logp_bt, entropy_bt=entropy_bt)
        return total, rest

    (value, (denominator, metrics)), gradients = jax.value_and_grad(total, (0, 1), has_aux=True)(
        *(jnp.asarray(batch[name]) for name in ("logp_bt", "entropy_bt"))
    )
    return {"sum": value, "denominator": denominator} | metrics, tuple(map(np.asarray, gradients))


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, err_msg=name)


@every_case
def test_the_batch_has_something_of_everything(batch, case):
    """Else the properties below would hold of nothing."""
    _, _, metrics = call(batch, case)
    assert float(metrics["tokens"]) == batch["mask_bt"].sum() == 26
    assert float(metrics["ratio_min"]) < 0.8 < 1.25 < float(metrics["ratio_max"])
    if "cispo" not in case:
        assert 0 < float(metrics["clip_fraction"]) < 26


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_mask_of_numbers_is_the_same_mask(batch, dtype):
    found, expected = (call(b, "social_r1")[0] for b in (batch | {"mask_bt": batch["mask_bt"].astype(dtype)}, batch))
    assert float(found) == float(expected)


@pytest.mark.parametrize("parts", [[[0, 1, 2], [3, 4, 5]], [[4, 2, 0], [3, 1, 5]]], ids=str)
@every_case
def test_sums_add_over_any_split_of_rows(batch, case, parts):
    whole = call(batch, case)
    pieces = [call({name: x[rows] for name, x in batch.items()}, case) for rows in parts]
    for place in (0, 1):
        np.testing.assert_allclose(sum(float(piece[place]) for piece in pieces), float(whole[place]), rtol=1e-5)
    extremes = {"ratio_max": max, "ratio_min": min}
    for name in ("kl", "clip_fraction", "tokens", "ratio_max", "ratio_min"):
        together = extremes.get(name, sum)(float(piece[2][name]) for piece in pieces)
        np.testing.assert_allclose(together, float(whole[2][name]), rtol=1e-5, atol=1e-6, err_msg=name)


@every_case
def test_padding_width_changes_nothing(batch, case):
    narrow, gradients = differentiated(batch, case)
    wide = {name: np.pad(x, ((0, 0), (3, 5))) if x.ndim == 2 else x for name, x in batch.items()}
    found, found_gradients = differentiated(wide, case)
    assert_same(found, narrow)
    for x_bt, expected_bt in zip(found_gradients, gradients, strict=True):
        np.testing.assert_allclose(x_bt, np.pad(expected_bt, ((0, 0), (3, 5))), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
@every_case
def test_garbage_under_the_mask_is_harmless(batch, case, garbage):
    clean, gradients = differentiated(batch, case)
    dirty = {
        name: np.where(batch["mask_bt"], x, np.float32(garbage)) if name.endswith("_bt") and name != "mask_bt" else x
        for name, x in batch.items()
    }
    found, found_gradients = differentiated(dirty, case)
    assert_same(found, clean)
    for x_bt, expected_bt in zip(found_gradients, gradients, strict=True):
        np.testing.assert_allclose(x_bt, expected_bt, rtol=1e-5, atol=1e-7)
        assert (x_bt[~batch["mask_bt"]] == 0).all()


@pytest.mark.parametrize("garbage", [-1.0, np.nan])
@every_case
def test_fully_masked_rows_change_nothing(batch, case, garbage):
    some, gradients = differentiated(batch, case)
    empty = {name: np.full((2, *x.shape[1:]), garbage, x.dtype) for name, x in batch.items() if name != "mask_bt"}
    empty |= {"mask_bt": np.zeros((2, 8), bool), "advantages_b": np.array([3.0, -3.0], np.float32)}
    found, found_gradients = differentiated({name: np.concatenate([empty[name], batch[name]]) for name in batch}, case)
    assert_same(found, some)
    for x_bt, expected_bt in zip(found_gradients, gradients, strict=True):
        np.testing.assert_array_equal(x_bt[:2], 0)
        np.testing.assert_allclose(x_bt[2:], expected_bt, rtol=1e-5, atol=1e-7)


@every_case
def test_no_tokens_at_all_is_zero_without_nan(batch, case):
    found, gradients = differentiated({**batch, "mask_bt": np.zeros((6, 8), bool)}, case)
    for name in ("sum", "denominator", "kl", "clip_fraction", "tokens"):
        assert float(found[name]) == 0, name
    for x_bt in gradients:
        np.testing.assert_array_equal(x_bt, 0)


def test_ratio_extremes_are_of_masked_in_tokens():
    logp_bt = jnp.log(jnp.array([[0.1, 0.5, 1.0], [1.5, 1.25, 9.0]]))
    mask_bt = jnp.array([[False, True, True], [True, True, False]])
    _, _, metrics = policy_loss(logp_bt, jnp.zeros((2, 3)), None, jnp.ones(2), mask_bt, "dapo")
    np.testing.assert_allclose([metrics["ratio_min"], metrics["ratio_max"]], [0.5, 1.5], rtol=1e-6)
    assert float(metrics["tokens"]) == 4


# --- overrides


@pytest.mark.parametrize(
    ("preset", "overrides", "tokens", "values"),
    [
        ("dapo", {"clip_high": 0.4}, ([1.5, 0.5, 10.0], [2, -1, -1]), [-2.8, 0.8, 10.0]),  # low clip, no dual clip
        ("social_r1", {"clip_high": 0.28}, ([1.5, 0.5, 10.0], [2, -1, -1]), [-2.56, 0.8, 3.0]),
        ("social_r1", {"clip_low": 0.4}, ([1.5, 0.5, 10.0], [2, -1, -1]), [-2.4, 0.6, 3.0]),
        ("gspo", {"clip_low": 0.2}, ([1.5, 0.5], [1, -1]), [-1.0004, 0.8]),
        ("cispo", {"clip_high": 1.0}, ([1.5, 10.0], [1, -1]), [-1.5 * np.log(1.5), 2 * np.log(10)]),
    ],
    ids=str,
)
def test_an_override_leaves_the_rest_of_the_preset(preset, overrides, tokens, values):
    ratios, advantages = tokens
    found, _ = tokens_of(preset, np.log(ratios), 0.0, advantages, **overrides)
    np.testing.assert_allclose(found, values, rtol=2e-5)


@pytest.mark.parametrize(
    ("preset", "overrides", "denominator"),
    [
        ("dapo", {"clip_high": 0.4}, 26),
        ("social_r1", {"aggregation": "seq-mean-token-mean"}, 6),
        ("grpo", {"kl_coefficient": 0.1}, 6),
        ("grpo", {"aggregation": "seq-mean-token-sum-norm", "length_constant": 7}, 42),
        ("dr_grpo", {"length_constant": 5}, 30),
        ("gspo", {"clip_high": 0.4}, 6),
        ("cispo", {"importance_sampling": "token"}, 26),
        ("rloo", {"scale_advantages": True}, 26),
    ],
    ids=str,
)
def test_an_override_leaves_the_presets_denominator(batch, preset, overrides, denominator):
    assert float(policy_loss(**batch, preset=preset, **overrides)[1]) == denominator


def test_an_override_leaves_the_presets_kl():
    """social_r1's coefficient of 0.04 and k3 stay, and other presets have none until it is given."""
    logp, ones = column([-1.0]), jnp.ones((1, 1), bool)

    def total(preset, **overrides):
        return float(policy_loss(logp, logp, logp + 1, jnp.zeros(1), ones, preset, **overrides)[0])

    np.testing.assert_allclose(total("social_r1", clip_high=0.4), 0.04 * 0.7182818, rtol=1e-5)
    np.testing.assert_allclose(total("social_r1", kl_estimator="k2"), 0.04 * 0.5, rtol=1e-5)
    np.testing.assert_allclose(total("social_r1", kl_coefficient=0.5), 0.5 * 0.7182818, rtol=1e-5)
    np.testing.assert_allclose(total("dapo", kl_coefficient=0.5), 0.5 * 0.7182818, rtol=1e-5)
    for preset in PRESETS[1:]:
        assert total(preset, entropy_coefficient=0.0) == 0


def test_an_override_leaves_the_presets_advantages():
    rewards = [[1, 2, 3, 4]]
    for preset in PRESETS:
        found = group_advantages(rewards, preset, clip_high=0.4, length_constant=5)
        np.testing.assert_array_equal(found, group_advantages(rewards, preset))
    found = group_advantages(rewards, "rloo", deviation_ddof=0)
    np.testing.assert_allclose(found, [[-2, -2 / 3, 2 / 3, 2]], rtol=1e-12)
    scaled = group_advantages(rewards, "grpo", baseline="leave_one_out")
    np.testing.assert_allclose(scaled[0, 3], 2 / (np.sqrt(5 / 3) + 1e-4), rtol=1e-9)


def _advantages(*arguments, **overrides):
    return group_advantages(np.zeros((1, 2)), *arguments, **overrides)


def _loss(*arguments, **overrides):
    return policy_loss(*[jnp.zeros((1, 1))] * 3, jnp.zeros(1), jnp.ones((1, 1), bool), *arguments, **overrides)


@pytest.mark.parametrize("function", [_advantages, _loss])
@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_unknown_is_refused_by_name(function, preset):
    function(preset)
    with pytest.raises((ValueError, TypeError), match="dapo2"):
        function("dapo2")
    with pytest.raises((ValueError, TypeError), match="clip_hihg"):
        function(preset, clip_hihg=0.3)
    with pytest.raises((ValueError, TypeError), match="epsilon_low"):
        function(preset, clip_low=0.1, epsilon_low=0.1)
