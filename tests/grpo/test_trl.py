"""TRL's GRPOTrainer as oracle: its loss and the gradient of every weight on one saved batch, and its advantages.

Both sides run their own forward pass: TRL over left-padded prompts with right-padded completions, ours over
right-padded rows. TRL's model is float64, so that what differs is our rounding alone.
"""

import copy
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VOCAB_SIZE, trl_trainer
from flax import nnx

from socialr1_jax import load_hf, save_hf
from socialr1_jax.grpo import group_advantages, policy_loss
from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.grpo.packing import pack_rows

TEMPERATURE = 0.9
GROUP = 4
PROMPTS = [3, 9]  # lengths; each prompt has a group of completions
COMPLETIONS = [12, 1, 7, 5, 3, 10, 12, 2]
LONGEST = 16  # TRL's max_completion_length
RATIOS = [0.5, 0.7, 0.95, 1.0, 1.05, 1.24, 1.6, 2.5, 7.0]  # new over old, none near an edge of a clip
REWARDS = [[0.1, 0.9, 0.35, 0.5], [1.0, 0.0, 0.0, 0.25]]
# TRL's loss_type -> our preset and overrides, TRL's settings that differ from `oracle`'s
OBJECTIVES = {
    # delta caps the ratio: for a negative advantage the dual clip, for a positive one no change
    "bnpo": ("social_r1", {"deviation_epsilon": 1e-4}, {"delta": 3.0}),
    "grpo": ("grpo", {}, {}),
    "dr_grpo": ("dr_grpo", {"length_constant": LONGEST}, {"scale_rewards": "none"}),
    "dapo": ("dapo", {"deviation_epsilon": 1e-4}, {"epsilon_high": 0.28}),
    "gspo": (
        "gspo",
        {"deviation_epsilon": 1e-4, "clip_low": 0.1, "clip_high": 0.1},
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.1},
    ),
    "cispo": ("cispo", {"deviation_epsilon": 1e-4}, {"epsilon_high": 5.0}),  # TRL's is the cap itself, not above 1
}


@pytest.fixture(scope="module")
def trl():
    pytest.importorskip("torch")
    return pytest.importorskip("trl", minversion="1.16")  # of the fused head's log-probs


@pytest.fixture(scope="module")
def model(tiny, trl):
    """A float64 copy of `tiny` with TRL's fused head."""
    from trl.trainer.utils import add_fused_lm_head

    model = copy.deepcopy(tiny.torch_model).double()
    add_fused_lm_head(model, temperature=TEMPERATURE, outputs=("log_probs", "entropy"))
    return model


@pytest.fixture(scope="module")
def saved(model, trl):
    """The batch in TRL's form, without advantages: old log-probs that lie off the current ones by RATIOS."""
    import torch

    rng = np.random.default_rng(21)
    prompts = [rng.integers(0, VOCAB_SIZE, size=length) for length in PROMPTS for _ in range(GROUP)]
    completions = [rng.integers(0, VOCAB_SIZE, size=length) for length in COMPLETIONS]
    shape = len(COMPLETIONS), max(COMPLETIONS)
    prompt_ids = rng.integers(0, VOCAB_SIZE, size=(len(prompts), max(PROMPTS)))
    prompt_mask = np.arange(max(PROMPTS)) >= max(PROMPTS) - np.array([[len(prompt)] for prompt in prompts])
    prompt_ids[prompt_mask] = np.concatenate(prompts)
    completion_ids = rng.integers(0, VOCAB_SIZE, size=shape)
    completion_mask = np.arange(max(COMPLETIONS)) < np.array(COMPLETIONS)[:, None]
    completion_ids[completion_mask] = np.concatenate(completions)

    inputs = {
        "prompt_ids": torch.tensor(prompt_ids),
        "prompt_mask": torch.tensor(prompt_mask).long(),
        "completion_ids": torch.tensor(completion_ids),
        "completion_mask": torch.tensor(completion_mask).long(),
        "num_items_in_batch": torch.tensor(completion_mask.sum()),
    }
    with torch.no_grad():
        logp, _, _ = trl_trainer(trl)._get_per_token_logps_and_entropies(
            model,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            shape[1],
        )
    old = logp.numpy() - np.log(rng.choice(RATIOS, size=shape))
    inputs["old_per_token_logps"] = torch.tensor(old.astype(np.float32)).double()
    inputs["ref_per_token_logps"] = torch.tensor((logp.numpy() + rng.normal(0, 0.7, shape)).astype(np.float32)).double()
    return inputs, prompts, completions


def trl_advantages(rewards_pg, scale_rewards="group"):
    """TRL's formula over torch tensors, its own NaN-aware deviation included."""
    import torch
    from trl.trainer.utils import nanstd

    rewards_pg = torch.tensor(rewards_pg, dtype=torch.float64)
    advantages_pg = rewards_pg - torch.nanmean(rewards_pg, dim=1, keepdim=True)
    if scale_rewards == "group":
        advantages_pg = advantages_pg / (nanstd(rewards_pg, dim=1, keepdim=True) + 1e-4)
    return torch.nan_to_num(advantages_pg, nan=0.0)


@pytest.fixture(scope="module", params=["xla", "triton"])
def ours(request, tiny, saved, tmp_path_factory, segment_kernel):
    """(advantages, preset, overrides) -> loss, metrics and the gradient by exported name, of the saved batch.

    The model's part of the backward pass is one program for each kernel of attention, compiled once for all objectives.
    """
    safetensors = pytest.importorskip("safetensors.numpy")
    inputs, prompts, completions = saved
    rows = jax.tree.map(jnp.asarray, pack_rows(prompts, completions, multiple=8))
    keep = inputs["completion_mask"].numpy().astype(bool)

    def placed(name):
        x_bt = np.full(rows.tokens_bt.shape, np.nan, np.float32)
        x_bt[np.asarray(rows.mask_bt)] = inputs[name].numpy()[keep]  # both in the order of rows, then of tokens
        return jnp.asarray(x_bt)

    old_bt, ref_bt = placed("old_per_token_logps"), placed("ref_per_token_logps")
    model = load_hf(tiny.folder)
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    def forward(params):
        return row_logprobs(
            nnx.merge(graph, params, rest).params,
            model.config,
            rows.tokens_bt,
            rows.lengths_b,
            TEMPERATURE,
            num_tokens=model.num_tokens,
            dtype="float32",
            wanted_bt=rows.mask_bt,
            backend=request.param,
        )

    (logp_bt, entropy_bt), backward = jax.vjp(jax.jit(forward), params)
    backward = jax.jit(backward)

    def compute(advantages_b, preset, **overrides):
        @functools.partial(jax.value_and_grad, argnums=(0, 1), has_aux=True)
        def value_and_gradients(logp_bt, entropy_bt):
            total, denominator, metrics = policy_loss(
                logp_bt,
                old_bt,
                ref_bt if overrides["kl_coefficient"] else None,
                jnp.asarray(advantages_b, jnp.float32),
                rows.mask_bt,
                preset,
                entropy_bt=entropy_bt,
                **overrides,
            )
            return total / denominator, metrics

        (loss, metrics), gradients = value_and_gradients(logp_bt, entropy_bt)
        folder = tmp_path_factory.mktemp("gradient") / "model"
        save_hf(nnx.merge(graph, backward(gradients)[0], rest), folder)
        found = {}
        for file in folder.glob("*.safetensors"):
            found |= safetensors.load_file(file)
        return float(loss), metrics, found

    return compute


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_loss_and_gradient_equal_those_of_trl(model, saved, ours, trl, name, beta):
    preset, overrides, settings = OBJECTIVES[name]
    settings = {"loss_type": name, "beta": beta, "scale_rewards": "group", **settings}
    delta = settings.pop("delta", None)
    trainer = trl_trainer(trl, max_completion_length=LONGEST, **settings)
    trainer.args.delta = delta
    advantages = trl_advantages(REWARDS, settings["scale_rewards"]).flatten()
    model.zero_grad()
    expected = trl.GRPOTrainer._compute_loss(trainer, model, {**saved[0], "advantages": advantages})
    expected.backward()
    expected_gradient = {name: weight.grad.numpy() for name, weight in model.named_parameters()}
    measured = trainer._metrics["train"]
    clipped = measured["cispo_clip_ratio" if name == "cispo" else "clip_ratio/region_mean"][0]
    assert 0.01 < clipped < 0.95  # else the test says nothing about clips

    overrides = {**overrides, "kl_coefficient": beta}
    advantages_b = group_advantages(REWARDS, preset, **overrides).flatten()
    loss, metrics, gradient = ours(advantages_b, preset, **overrides)
    tokens = sum(COMPLETIONS)
    assert float(metrics["tokens"]) == tokens
    np.testing.assert_allclose(loss, expected.item(), rtol=1e-5)
    if beta:
        np.testing.assert_allclose(float(metrics["kl"]) / tokens, measured["kl"][0], rtol=1e-5)
    if settings.get("importance_sampling_level", "token") == "token" and name != "cispo":
        np.testing.assert_allclose(float(metrics["clip_fraction"]) / tokens, clipped, rtol=1e-6)

    assert sorted(gradient) == sorted(expected_gradient)
    for weight, leaf in expected_gradient.items():
        error = np.linalg.norm(gradient[weight] - leaf) / np.linalg.norm(leaf)
        assert error < 1e-5, f"{weight}: {error}"


@pytest.mark.parametrize("name", OBJECTIVES)
def test_advantages_equal_those_of_trl(trl, name):
    """Continuous rewards, some unscorable, one group without variance. TRL's n / (n - 1) is float32."""
    preset, overrides, settings = OBJECTIVES[name]
    rewards_pg = np.random.default_rng(8).normal(0.4, 1.0, size=(5, 6))
    rewards_pg[1, 2] = rewards_pg[2, :3] = rewards_pg[3, 1:] = np.nan
    rewards_pg[4] = 0.5
    expected = trl_advantages(rewards_pg, settings.get("scale_rewards", "group")).numpy()
    assert np.abs(expected[:3]).max() > 1
    np.testing.assert_allclose(group_advantages(rewards_pg, preset, **overrides), expected, rtol=1e-6, atol=1e-12)
