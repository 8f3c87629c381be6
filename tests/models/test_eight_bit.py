"""Kernels of 8 bits against float64: the error of a product is that of the rounding and no more."""

import jax.numpy as jnp
import numpy as np
import pytest

from socialr1_jax.models.eight_bit import eight_bit
from socialr1_jax.models.linear import linear

FORMATS = ["int8", "float8"]


def dequantised(kernel):
    return np.asarray(kernel.numbers_oi).astype(np.float64) * np.asarray(kernel.scale_o, np.float64)[:, None]


@pytest.fixture(scope="module")
def weights():
    """A kernel whose outputs have scales from 1e-6 to 1e4, with outliers, and an output of zeros."""
    rng = np.random.default_rng(0)
    kernel_oi = rng.standard_t(3, (64, 48)) * np.logspace(-6, 4, 64)[:, None]
    kernel_oi[5] = 0
    return kernel_oi.astype(np.float32)


@pytest.mark.parametrize("form", FORMATS)
def test_a_product_errs_by_the_rounding_alone(weights, form):
    kernel, exact_oi = eight_bit(jnp.asarray(weights), form), weights.astype(np.float64)
    assert kernel.numbers_oi.nbytes == weights.size
    scale_o1 = np.abs(exact_oi).max(1, keepdims=True) / {"int8": 127, "float8": 448}[form]
    # int8: half a unit. float8, 3 bits of mantissa: a sixteenth of the weight, or half of the smallest number, 2^-9.
    bound_oi = np.maximum(
        *((np.abs(exact_oi) / 16, scale_o1 / 1024) if form == "float8" else (scale_o1 / 2, 0 * exact_oi))
    )
    assert (np.abs(dequantised(kernel) - exact_oi) <= bound_oi * (1 + 1e-4)).all()
    x_bti = np.random.default_rng(1).normal(size=(3, 2, 48)).astype(np.float32)
    rounded = x_bti.astype(np.float64) @ dequantised(kernel).T
    for blocks in (1, 4):
        y_bto = np.asarray(linear(jnp.asarray(x_bti), kernel, blocks))
        size = np.abs(x_bti) @ np.abs(exact_oi).T
        assert (np.abs(y_bto - rounded) <= 1e-5 * size).all()
        assert (np.abs(y_bto - x_bti @ exact_oi.T) <= np.abs(x_bti) @ bound_oi.T + 1e-5 * size).all()
    # Nothing is lost in a bfloat16 product before its result is rounded: every 8-bit number is one of bfloat16.
    low = linear(jnp.asarray(x_bti, jnp.bfloat16), kernel, preferred_element_type=jnp.float32)
    exact = np.asarray(jnp.asarray(x_bti, jnp.bfloat16), np.float64) @ dequantised(kernel).T
    assert (np.abs(np.asarray(low) - exact) <= 1e-5 * size).all()
    assert linear(jnp.asarray(x_bti, jnp.bfloat16), kernel).dtype == jnp.bfloat16


@pytest.mark.parametrize("form", FORMATS)
def test_weights_that_fit_the_format_are_kept(weights, form):
    first = eight_bit(jnp.asarray(weights), form)
    second = eight_bit(jnp.asarray(dequantised(first), jnp.float32), form)
    np.testing.assert_array_equal(np.asarray(first.numbers_oi, np.float32), np.asarray(second.numbers_oi, np.float32))
    np.testing.assert_allclose(first.scale_o, second.scale_o, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("form", FORMATS)
def test_broken_weights_stay_visible(weights, form, bad):
    broken = weights.copy()
    broken[3, 7] = bad
    y_bto = np.asarray(linear(jnp.ones((1, 1, 48)), eight_bit(jnp.asarray(broken), form)))
    assert np.flatnonzero(~np.isfinite(y_bto[0, 0])).tolist() == [3]
