"""The float32 forward pass against transformers' Qwen3ForCausalLM, and what right padding promises."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ARCHITECTURES, VOCAB_SIZE

from socialr1_jax import load_hf, make_mesh

TOLERANCE = 2e-4  # max abs difference of float32 logits, from the issue


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def pair(request, tiny_models):
    tiny = tiny_models(request.param)
    return tiny, load_hf(tiny.folder)


def test_config_is_read_from_the_folder(pair):
    tiny, model = pair
    for name, value in tiny.fields.items():
        if name not in ("rope_parameters", "bos_token_id", "eos_token_id", "pad_token_id"):
            assert getattr(model.config, name) == value, name
    assert model.config.rope_theta == tiny.fields["rope_parameters"]["rope_theta"]


def test_logits_equal_transformers_on_rows_of_different_lengths(pair, ragged_rows, pad_rows):
    tiny, model = pair
    tokens_bt, lengths_b = pad_rows(ragged_rows, width=40)
    logits_btv = model(jnp.asarray(tokens_bt), jnp.asarray(lengths_b))
    assert logits_btv.shape == (4, 40, VOCAB_SIZE)
    assert logits_btv.dtype == jnp.float32
    for row, tokens in enumerate(ragged_rows):
        expected = tiny.logits(tokens)
        assert np.std(expected) > 0.5  # a flat oracle would prove nothing
        np.testing.assert_allclose(np.asarray(logits_btv[row, : len(tokens)]), expected, rtol=0, atol=TOLERANCE)


def test_logits_equal_transformers_on_a_long_row(tiny, tiny_jax):
    tokens = np.random.default_rng(3).integers(0, VOCAB_SIZE, size=300)
    logits_btv = tiny_jax(jnp.asarray(tokens[None], jnp.int32), jnp.array([300], jnp.int32))
    np.testing.assert_allclose(np.asarray(logits_btv[0]), tiny.logits(tokens), rtol=0, atol=TOLERANCE)


def test_padding_width_and_content_do_not_matter(tiny_jax, ragged_rows, pad_rows):
    narrow = np.asarray(tiny_jax(*map(jnp.asarray, pad_rows(ragged_rows, width=33, seed=1))))
    wide = np.asarray(tiny_jax(*map(jnp.asarray, pad_rows(ragged_rows, width=64, seed=2))))
    for row, tokens in enumerate(ragged_rows):
        np.testing.assert_allclose(narrow[row, : len(tokens)], wide[row, : len(tokens)], rtol=0, atol=2e-5)


def test_splitting_the_batch_does_not_matter(tiny_jax, ragged_rows, pad_rows):
    tokens_bt, lengths_b = pad_rows(ragged_rows)
    together = np.asarray(tiny_jax(jnp.asarray(tokens_bt), jnp.asarray(lengths_b)))
    halves = [tiny_jax(jnp.asarray(tokens_bt[part]), jnp.asarray(lengths_b[part])) for part in (slice(2), slice(2, 4))]
    apart = np.concatenate([np.asarray(half) for half in halves])
    for row, tokens in enumerate(ragged_rows):
        np.testing.assert_allclose(apart[row, : len(tokens)], together[row, : len(tokens)], rtol=0, atol=2e-5)


def test_padding_gives_no_nan(tiny_jax, ragged_rows, pad_rows):
    logits_btv = tiny_jax(*map(jnp.asarray, pad_rows(ragged_rows, width=64)))
    assert bool(jnp.isfinite(logits_btv).all())


def test_bfloat16_compute_is_near_float32_and_returns_float32(tiny, ragged_rows, pad_rows):
    model = load_hf(tiny.folder, dtype="bfloat16")
    tokens_bt, lengths_b = pad_rows(ragged_rows)
    logits_btv = model(jnp.asarray(tokens_bt), jnp.asarray(lengths_b))
    assert logits_btv.dtype == jnp.float32
    expected = tiny.logits(ragged_rows[-1])
    error = np.asarray(logits_btv[3]) - expected
    assert 1e-4 < np.sqrt(np.mean(error**2)) < 0.05 * np.std(expected)  # rounded, but only rounded


def test_mesh_gives_the_same_logits(tiny, tiny_jax, ragged_rows, pad_rows):
    batch = tuple(map(jnp.asarray, pad_rows(ragged_rows)))
    on_mesh = load_hf(tiny.folder, mesh=make_mesh())(*batch)
    np.testing.assert_allclose(np.asarray(on_mesh), np.asarray(tiny_jax(*batch)), rtol=0, atol=2e-5)
