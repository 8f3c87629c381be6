"""The embedding's gradient against sums in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from socialr1_jax.models.qwen3 import embedded

VOCABULARY, WIDTH = 50, 8


@pytest.mark.parametrize(("dtype", "within"), [("float32", 1e-6), ("bfloat16", 1e-6)])
@pytest.mark.parametrize("tokens", ["frequent", "one token", "all different"])
def test_embedding_gradient_equals_float64_sums(dtype, within, tokens):
    draws = np.random.default_rng(0)
    tokens_bt = {
        "frequent": np.minimum(draws.zipf(1.3, (4, 500)), VOCABULARY - 1),
        "one token": np.full((4, 500), VOCABULARY - 1),
        "all different": draws.permutation(VOCABULARY).reshape(2, -1),
    }[tokens]
    rows = jnp.asarray(draws.normal(size=(*tokens_bt.shape, WIDTH)) + 1, dtype)
    weight_vd = jnp.ones((VOCABULARY, WIDTH), jnp.float32)

    @jax.jit
    def forward_and_backward(weight_vd, tokens_bt, rows):
        out, gradient = jax.vjp(lambda weight: embedded(weight, tokens_bt, jnp.dtype(dtype)), weight_vd)
        return out, gradient(rows)[0]

    out, found_vd = forward_and_backward(weight_vd, tokens_bt, rows)
    assert out.dtype == dtype
    assert out.shape == rows.shape
    expected_vd = np.zeros((VOCABULARY, WIDTH))
    np.add.at(expected_vd, tokens_bt.reshape(-1), np.asarray(rows, np.float64).reshape(-1, WIDTH))
    assert found_vd.dtype == jnp.float32
    np.testing.assert_allclose(found_vd, expected_vd, rtol=within, atol=within * np.abs(expected_vd).max())
