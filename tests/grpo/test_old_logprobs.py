"""Loss and ratio of each update of a step against NumPy, with old log-probs recomputed and of the sampler."""

import jax
import numpy as np
import pytest

from socialr1_jax.config.run import RunConfig
from socialr1_jax.grpo.packing import pack_rows
from socialr1_jax.grpo.step import GrpoStep, compile_programs
from socialr1_jax.grpo.update import init_state
from socialr1_jax.models.qwen3 import Qwen3, init_params
from socialr1_jax.models.shapes import SHAPES

UPDATES, GROUP, EACH = 2, 2, 4  # rows of an update: 2 prompts x 2 responses
SHAPE = SHAPES["nano"]


@pytest.fixture(scope="module")
def rows():
    """Prompts and responses with the log-probs of a sampler that is up to 0.4 from the trainer."""
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, SHAPE.vocab_size, 5).tolist() for _ in range(UPDATES * EACH)]
    responses = [rng.integers(0, SHAPE.vocab_size, size).tolist() for size in rng.integers(3, 9, UPDATES * EACH)]
    advantages = rng.normal(size=UPDATES * EACH).astype(np.float32)
    logprobs = [(-np.log(SHAPE.vocab_size) + rng.uniform(-0.4, 0.4, len(r))).tolist() for r in responses]
    return pack_rows(prompts, responses, multiple=16, advantages=advantages, sampler_logprobs=logprobs)


def logp_of(params, rows):
    """float64 log-probs [b, t] from whole logits."""
    logits_btv = np.asarray(Qwen3(SHAPE, params)(rows.tokens_bt, rows.lengths_b), np.float64)
    logp_btv = logits_btv - np.log(np.exp(logits_btv).sum(-1, keepdims=True))
    logp_bu = np.take_along_axis(logp_btv[:, :-1], rows.tokens_bt[:, 1:, None], axis=2)[..., 0]
    return np.pad(logp_bu, ((0, 0), (1, 0)))


def loss_and_ratios(logp_bt, old_bt, rows):
    """The clip term with dual clip, averaged over the tokens."""
    ratio_bt, gain_bt = np.exp(logp_bt - old_bt), np.broadcast_to(rows.advantages[:, None], logp_bt.shape)
    term_bt = -np.minimum(ratio_bt * gain_bt, np.clip(ratio_bt, 0.8, 1.2) * gain_bt)
    term_bt = np.where(gain_bt < 0, np.minimum(term_bt, -3 * gain_bt), term_bt)
    return term_bt[rows.mask_bt].mean(), ratio_bt[rows.mask_bt]


@pytest.mark.parametrize("old", ["recompute", "sampler"])
def test_updates_equal_numpy_with_these_old_logprobs(rows, old):
    config = RunConfig.model_validate(
        {
            "steps": 1,
            "model": {"path": "given"},
            "data": {"train": "given"},
            "sampling": {"group_size": GROUP},
            "grpo": {
                "prompts_per_step": UPDATES * EACH // GROUP,
                "mini_batch_prompts": EACH // GROUP,
                "micro_batch_tokens": 64,
                "kl_coefficient": 0.0,
                "old_logprobs": old,
            },
            "optimizer": {"learning_rate": 1e-2},
        }
    )
    params = init_params(SHAPE, jax.random.key(0))
    programs = compile_programs(config, SHAPE, SHAPE.vocab_size, "xla")
    if old == "sampler":
        programs = programs._replace(logprobs=None)  # a pass would fail
    step = GrpoStep(config=config, model=SHAPE, backend="xla", programs=programs, reference=None, multiple=16)
    state = init_state(params, programs.optimizer)
    updates, arrays = step.log_probs(state.params, step.mini_batches(rows)), []
    sampled_bt = logp_of(params, rows)
    for number, batch in enumerate(updates):
        part = rows.take(slice(number * EACH, (number + 1) * EACH))
        logp_bt = logp_of(state.params, part)
        old_bt = part.sampler_logp_bt if old == "sampler" else sampled_bt[number * EACH :][:EACH]
        loss, ratios = loss_and_ratios(logp_bt, old_bt, part)
        assert (np.ptp(ratios) > 0.05) == (old == "sampler" or number > 0)
        state, metrics, of_rows = programs.update(state, [one.rows.placed() for one in batch])
        arrays.append(of_rows)
        np.testing.assert_allclose(metrics["loss"], loss, rtol=1e-5, atol=1e-6)
        for name, value in (("ratio_max", ratios.max()), ("ratio_min", ratios.min())):
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5)
    # The trainer's log-probs at the weights that sampled: of all rows, or of the first update's.
    seen = rows.mask_bt.copy()
    seen[EACH if old == "sampler" else len(seen) :] = False
    distance = np.abs(sampled_bt - rows.sampler_logp_bt)[seen]
    drift = step.mismatch(rows, updates, arrays)
    np.testing.assert_allclose(drift["mean"], distance.mean(), rtol=1e-4)
    np.testing.assert_allclose(drift["max"], distance.max(), rtol=1e-4)
