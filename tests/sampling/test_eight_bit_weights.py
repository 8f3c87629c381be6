"""Decoding with kernels of 8 bits: the samples of a model whose kernels are rounded beforehand, on the same bytes."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VOCAB_SIZE

from socialr1_jax import SamplingParams, load_hf
from socialr1_jax.models.eight_bit import eight_bit
from socialr1_jax.sampling import Engine


@partial(jax.jit, static_argnames="form")
def rounded(params, form):
    """The weights with every kernel that decoding would round replaced by its rounded values, in float32."""

    def kept(kernel_oi):
        numbers_oi, scale_o = eight_bit(kernel_oi, form)
        return numbers_oi.astype(jnp.float32) * scale_o[:, None]

    layers = {name: jax.vmap(kept)(x) if name.endswith("_proj") else x for name, x in params["layers"].items()}
    head = "lm_head" if "lm_head" in params else "embed_tokens"
    return {**params, "layers": layers, head: kept(params[head])}


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(7)
    return [rng.integers(0, VOCAB_SIZE, size=length).tolist() for length in (1, 9, 34, 5)]


@pytest.mark.parametrize(
    ("name", "form", "platform"), [("untied_gqa1_bias", "int8", "gpu"), ("tied_gqa4_bias", "float8", "cpu")]
)
def test_samples_are_those_of_rounded_kernels(tiny_models, prompts, name, form, platform):
    """On a platform other than a CPU kernels with the same input are one."""
    model, sampling = load_hf(tiny_models(name).folder), SamplingParams(n=2, max_new_tokens=24, seed=5)
    exact = Engine(params=rounded(model.params, form), config=model.config, num_tokens=VOCAB_SIZE, max_rows=8)
    expected = [one for group in exact.sample(prompts, sampling) for one in group]
    assert len({one.tokens[0] for one in expected}) > 4
    for params, kept in ((exact.params, True), (model.params, False)):  # which prompts are prefilled with as they are
        engine = replace(exact, params=params, weights=form, platform=platform, attention="xla")
        groups = engine.sample(prompts, sampling)
        samples = [one for group in groups for one in group]
        assert ([one.tokens for one in samples] == [one.tokens for one in expected]) == kept
        if kept:
            found, wanted = ([one.logprobs for one in part] for part in (samples, expected))
            np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.parametrize(("form", "share"), [("int8", 0.9), ("float8", 0.4)])
def test_greedy_texts_are_mostly_kept(tiny_jax, prompts, form, share):
    """A text is another one after its first other token; of the first tokens none is, in these four."""
    engine = Engine(params=tiny_jax.params, config=tiny_jax.config, num_tokens=VOCAB_SIZE)
    greedy = SamplingParams(max_new_tokens=24, temperature=0.0)
    exact, rounded = (
        np.array([group[0].tokens for group in replace(engine, weights=weights).sample(prompts, greedy)])
        for weights in ("dtype", form)
    )
    assert (exact[:, 0] == rounded[:, 0]).all()
    assert (exact == rounded).mean() > share
