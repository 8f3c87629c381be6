"""The clipped loss with k3: worked tables, additivity, masked garbage, gradients, and TRL's own loss code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import trl_trainer

from socialr1_jax.grpo import policy_loss

KL = 0.04  # coefficient of the social_r1 preset


def column(values):
    """One token a row: lets every token have its own advantage."""
    return jnp.asarray(values, jnp.float32)[:, None]


def loss_of_ratios(ratios, advantages):
    logp = column(np.log(ratios) - 1.0)
    return policy_loss(
        logp, jnp.full_like(logp, -1.0), logp, jnp.asarray(advantages, jnp.float32), jnp.ones_like(logp, bool)
    )


@pytest.fixture
def batch():
    """5 rows of 6 tokens, ratios on both sides of both clips and beyond the dual clip, ragged mask."""
    rng = np.random.default_rng(0)
    logp = rng.normal(-1.5, 0.7, size=(5, 6)).astype(np.float32)
    return {
        "logp_bt": logp,
        "old_logp_bt": logp - rng.normal(0, 0.7, size=(5, 6)).astype(np.float32),
        "ref_logp_bt": logp + rng.normal(0, 0.8, size=(5, 6)).astype(np.float32),
        "advantages_b": np.array([1.2, -0.7, 0.0, -2.0, 0.4], np.float32),
        "mask_bt": np.arange(6) < np.array([6, 4, 5, 6, 1])[:, None],
    }


def call(batch, **changes):
    return policy_loss(**{name: jnp.asarray(value) for name, value in (batch | changes).items()})


# --- worked values


@pytest.mark.parametrize(
    ("ratios", "advantages", "tokens"),
    [
        ([0.5, 1.0, 1.5], [1, -1, 2], [-0.5, 1.0, -2.4]),
        ([0.5, 1.0, 10.0], [1, -1, -4], [-0.5, 1.0, 12.0]),  # dual clip: 3 x 4 instead of 40
        ([0.5, 0.5, 1.5], [-1, 1, -1], [0.8, -0.5, 1.5]),
        ([2.9, 3.1], [-1, -1], [2.9, 3.0]),
    ],
    ids=["clip", "dual_clip", "negative", "dual_clip_edge"],
)
def test_worked_policy_terms(ratios, advantages, tokens):
    total, denominator, metrics = loss_of_ratios(ratios, advantages)
    np.testing.assert_allclose(float(total), sum(tokens), rtol=1e-5)
    assert float(denominator) == len(tokens)
    np.testing.assert_allclose(float(metrics["kl"]), 0, atol=1e-6)


def test_clip_fraction_counts_tokens_where_the_clip_bites():
    assert float(loss_of_ratios([0.5, 1.0, 1.5], [1, -1, 2])[2]["clip_fraction"]) == 1
    assert float(loss_of_ratios([0.5, 0.5, 1.5], [-1, 1, -1])[2]["clip_fraction"]) == 1
    assert float(loss_of_ratios([0.5, 1.5, 1.1], [-1, 1, 1])[2]["clip_fraction"]) == 2
    assert float(loss_of_ratios([0.81, 1.19, 1.0], [-1, 1, 1])[2]["clip_fraction"]) == 0


@pytest.mark.parametrize(
    ("d", "k3"),
    [
        (0.0, 0.0),
        (0.1, 0.0051709),
        (-0.1, 0.0048374),
        (1.0, 0.7182818),
        (-1.0, 0.3678794),
        (-14.0, 10.0),  # 13 before the clamp
        (-29.0, 10.0),
        (20.0, 10.0),  # 4.85e8 before the clamp
        (500.0, 10.0),  # exp would overflow float32
    ],
)
def test_worked_kl(d, k3):
    logp = column([-1.0])
    total, _, metrics = policy_loss(logp, logp, logp + d, jnp.zeros(1), jnp.ones((1, 1), bool))
    np.testing.assert_allclose(float(metrics["kl"]), k3, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(float(total), KL * k3, rtol=1e-3, atol=1e-6)


def test_worked_kl_sum_over_tokens():
    logp = jnp.array([[0.0, -1.0, -2.0]])
    total, denominator, _ = policy_loss(logp, logp, jnp.full((1, 3), -1.0), jnp.zeros(1), jnp.ones((1, 3), bool))
    np.testing.assert_allclose(float(total) / float(denominator), KL * 0.362, rtol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_mask_of_numbers_is_the_same_mask(batch, dtype):
    np.testing.assert_allclose(float(call(batch, mask_bt=batch["mask_bt"].astype(dtype))[0]), float(call(batch)[0]))


# --- (sum, denominator)


@pytest.mark.parametrize("parts", [[[0, 1, 2], [3, 4]], [[0], [1], [2], [3], [4]], [[4, 2], [0, 3, 1]]], ids=str)
def test_sums_add_over_any_split_of_rows(batch, parts):
    whole = call(batch)
    pieces = [call({name: value[rows] for name, value in batch.items()}) for rows in parts]
    np.testing.assert_allclose(sum(float(piece[0]) for piece in pieces), float(whole[0]), rtol=1e-5)
    assert sum(float(piece[1]) for piece in pieces) == float(whole[1])
    for name in ("kl", "clip_fraction"):
        np.testing.assert_allclose(sum(float(p[2][name]) for p in pieces), float(whole[2][name]), rtol=1e-5)


def test_wider_padding_changes_nothing(batch):
    wide = {name: np.pad(value, ((0, 0), (0, 9))) if value.ndim == 2 else value for name, value in batch.items()}
    for found, expected in zip(jax.tree.leaves(call(wide)), jax.tree.leaves(call(batch)), strict=True):
        np.testing.assert_allclose(float(found), float(expected), rtol=1e-6)


def test_no_tokens_is_zero_over_zero_without_nan(batch):
    total, denominator, metrics = call(batch, mask_bt=np.zeros((5, 6), bool))
    assert float(total) == float(denominator) == 0
    assert float(metrics["kl"]) == float(metrics["clip_fraction"]) == 0


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("name", ["logp_bt", "old_logp_bt", "ref_logp_bt"])
def test_garbage_under_the_mask_is_harmless(batch, name, garbage):
    dirty = np.where(batch["mask_bt"], batch[name], np.float32(garbage))
    for found, expected in zip(
        jax.tree.leaves(call(batch, **{name: dirty})), jax.tree.leaves(call(batch)), strict=True
    ):
        np.testing.assert_allclose(float(found), float(expected), rtol=1e-6)
    logp = jnp.asarray(dirty if name == "logp_bt" else batch["logp_bt"])
    rest = {} if name == "logp_bt" else {name: dirty}
    gradient = np.asarray(jax.grad(lambda x: call(batch, **rest, logp_bt=x)[0])(logp))
    clean = np.asarray(jax.grad(lambda x: call(batch, logp_bt=x)[0])(jnp.asarray(batch["logp_bt"])))
    np.testing.assert_allclose(gradient, clean, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("shift", [-1000.0, 1000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_far_apart_policies_stay_finite(shift, advantage):
    old = column([-1.0])

    def total(logp):
        return policy_loss(logp, old, old, jnp.full(1, advantage), jnp.ones((1, 1), bool))[0]

    value, gradient = jax.value_and_grad(total)(old + shift)
    assert np.isfinite(float(value))
    assert np.isfinite(np.asarray(gradient)).all()


# --- gradients


def test_first_on_policy_gradient_is_minus_advantage(batch):
    """At ratio 1 and KL 0 the gradient of the mean loss is -A * grad log-prob / N, with nothing from the clip or k3."""
    logp = jnp.asarray(batch["logp_bt"])

    def mean(x):
        total, denominator, _ = call(batch, logp_bt=x, old_logp_bt=logp, ref_logp_bt=logp)
        return total / denominator

    expected = -batch["advantages_b"][:, None] * batch["mask_bt"] / 22
    np.testing.assert_allclose(np.asarray(jax.grad(mean)(logp)), expected, atol=1e-7)


# --- TRL's own code as oracle


@pytest.mark.parametrize("loss_type", ["bnpo", "dapo"])  # with one micro-batch both are a token mean
def test_equal_to_trl(batch, loss_type):
    torch = pytest.importorskip("torch")
    trl = pytest.importorskip("trl")
    mask = torch.tensor(batch["mask_bt"]).long()
    logps = torch.tensor(batch["logp_bt"], requires_grad=True)
    inputs = {
        "prompt_ids": torch.zeros(5, 1, dtype=torch.long),
        "prompt_mask": torch.ones(5, 1, dtype=torch.long),
        "completion_ids": torch.zeros(5, 6, dtype=torch.long),
        "completion_mask": mask,
        "advantages": torch.tensor(batch["advantages_b"]),
        "old_per_token_logps": torch.tensor(batch["old_logp_bt"]),
        "ref_per_token_logps": torch.tensor(batch["ref_logp_bt"]),
        "num_items_in_batch": mask.sum(),
    }
    trainer = trl_trainer(
        trl,
        _get_per_token_logps_and_entropies=lambda *_, **__: (logps, torch.zeros(5, 6), None),
        loss_type=loss_type,
        beta=KL,
    )
    trainer.args.delta = 3.0  # caps the ratio: for a negative advantage the dual clip, for a positive one no change
    expected = trl.GRPOTrainer._compute_loss(trainer, None, inputs)
    expected.backward()

    total, denominator, metrics = call(batch)
    assert float(metrics["clip_fraction"]) > 0
    np.testing.assert_allclose(float(total) / float(denominator), expected.item(), rtol=1e-5)
    np.testing.assert_allclose(float(metrics["kl"]) / 22, trainer._metrics["train"]["kl"][0], rtol=1e-5)
    region = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    np.testing.assert_allclose(float(metrics["clip_fraction"]) / 22, region, rtol=1e-5)
    gradient = jax.grad(lambda x: call(batch, logp_bt=x)[0] / denominator)(jnp.asarray(batch["logp_bt"]))
    np.testing.assert_allclose(np.asarray(gradient), logps.grad.numpy(), rtol=1e-4, atol=1e-6)


def test_an_unknown_preset_is_named(batch):
    with pytest.raises(ValueError, match="socialr2"):
        policy_loss(*map(jnp.asarray, batch.values()), preset="socialr2")
