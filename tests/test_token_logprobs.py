"""Log-probs of given tokens: transformers' log-softmax as oracle, zeros where there is none, and the gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VOCAB_SIZE
from flax import nnx

from socialr1_jax import load_hf
from socialr1_jax.grpo import token_logprobs


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
@pytest.mark.parametrize("name", ["untied_gqa2", "tied_gqa4_bias"])
def test_equal_to_transformers(tiny_models, ragged_rows, pad_rows, log_softmax, name, temperature):
    tiny = tiny_models(name)
    tokens_bt, lengths_b = pad_rows(ragged_rows, width=40)
    logp_bt = token_logprobs(
        load_hf(tiny.folder), jnp.asarray(tokens_bt), jnp.asarray(lengths_b), temperature=temperature
    )
    assert logp_bt.dtype == jnp.float32
    expected_bt = np.zeros((4, 40))
    for row, tokens in enumerate(ragged_rows):
        logp_tv = log_softmax(tiny.logits(tokens) / temperature)
        expected_bt[row, 1 : len(tokens)] = logp_tv[np.arange(len(tokens) - 1), tokens[1:]]
    np.testing.assert_allclose(np.asarray(logp_bt), expected_bt, rtol=0, atol=3e-4)


def test_first_position_and_padding_are_exactly_zero(tiny_jax, ragged_rows, pad_rows):
    tokens_bt, lengths_b = pad_rows(ragged_rows, width=50)
    logp_bt = np.asarray(token_logprobs(tiny_jax, jnp.asarray(tokens_bt), jnp.asarray(lengths_b)))
    inside = (np.arange(50) >= 1) & (np.arange(50) < lengths_b[:, None])
    assert (logp_bt[~inside] == 0).all()
    assert (logp_bt[inside] < 0).all()


@pytest.mark.parametrize("length", [2, 63, 64, 65, 127, 129, 300])
def test_any_length_equals_the_plain_log_softmax(tiny_jax, length):
    """Lengths around powers of two: where chunks of positions would begin and end."""
    tokens_bt = jnp.asarray(np.random.default_rng(length).integers(0, VOCAB_SIZE, size=(2, length)), jnp.int32)
    lengths_b = jnp.array([length, length - 1], jnp.int32)
    logp_btv = jax.nn.log_softmax(tiny_jax(tokens_bt, lengths_b), axis=-1)
    plain = np.asarray(jnp.take_along_axis(logp_btv[:, :-1], tokens_bt[:, 1:, None], axis=-1)[..., 0])
    found = np.asarray(token_logprobs(tiny_jax, tokens_bt, lengths_b))
    np.testing.assert_allclose(found[0, 1:], plain[0], atol=2e-5)
    np.testing.assert_allclose(found[1, 1 : length - 1], plain[1, : length - 2], atol=2e-5)


def test_padding_width_and_batch_split_do_not_matter(tiny_jax, ragged_rows, pad_rows):
    together = np.asarray(token_logprobs(tiny_jax, *map(jnp.asarray, pad_rows(ragged_rows, width=70, seed=1))))
    for row, tokens in enumerate(ragged_rows):
        alone = np.asarray(token_logprobs(tiny_jax, *map(jnp.asarray, pad_rows([tokens], seed=2))))
        np.testing.assert_allclose(alone[0], together[row, : len(tokens)], atol=2e-5)


@pytest.mark.parametrize("name", ["untied_gqa2", "tied_gqa4_bias"])
def test_gradient_equals_autodiff_of_the_plain_log_softmax(tiny_models, ragged_rows, pad_rows, name):
    temperature = 0.8
    tokens_bt, lengths_b = map(jnp.asarray, pad_rows(ragged_rows, width=40))
    weight_bt = jax.random.normal(jax.random.key(0), tokens_bt.shape)  # another cotangent at every position
    inside_bt = (jnp.arange(40) >= 1) & (jnp.arange(40) < lengths_b[:, None])
    graph, params, rest = nnx.split(load_hf(tiny_models(name).folder), nnx.Param, ...)

    def chunked(params):
        logp_bt = token_logprobs(nnx.merge(graph, params, rest), tokens_bt, lengths_b, temperature=temperature)
        return (weight_bt * logp_bt).sum()

    def plain(params):
        logits_btv = nnx.merge(graph, params, rest)(tokens_bt, lengths_b) / temperature
        logp_btv = jax.nn.log_softmax(logits_btv[:, :-1], axis=-1)
        logp_bt = jnp.take_along_axis(logp_btv, tokens_bt[:, 1:, None], axis=-1)[..., 0]
        return (weight_bt * inside_bt)[:, 1:].ravel() @ logp_bt.ravel()

    value, found = jax.value_and_grad(chunked)(params)
    expected_value, expected = jax.value_and_grad(plain)(params)
    np.testing.assert_allclose(float(value), float(expected_value), rtol=1e-4)
    paths = jax.tree_util.tree_leaves_with_path(expected)
    assert len(paths) >= 12
    for (path, leaf), other in zip(paths, jax.tree.leaves(found), strict=True):
        scale = float(jnp.abs(leaf).max())
        assert scale > 0, jax.tree_util.keystr(path)
        error = float(jnp.abs(leaf - other).max())
        assert error <= 1e-4 * scale + 1e-6, f"{jax.tree_util.keystr(path)}: {error} of {scale}"
