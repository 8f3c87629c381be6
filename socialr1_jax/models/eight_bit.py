"""Kernels of 8 bits: decoding is bound by the bytes of its weights, and these have a half or a quarter of them.

A kernel has one scale per output, which a product is multiplied by afterwards. So the numbers go into the product as
they are, and only their 8 bits are read from memory. int8 and float8 are exact in bfloat16 and float32.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

WeightFormat = Literal["dtype", "int8", "float8"]  # "dtype": no 8-bit numbers, but the compute dtype
_FORMATS = {"int8": (jnp.int8, 127), "float8": (jnp.float8_e4m3fn, 448)}  # with the largest number of each


class EightBit(NamedTuple):
    """A kernel [o, i] as 8-bit numbers and a float32 scale per output."""

    numbers_oi: jax.Array
    scale_o: jax.Array


def eight_bit(kernel_oi: jax.Array, weights: WeightFormat) -> EightBit:
    """Round a kernel to 8 bits. The largest weight of each output becomes the format's largest number."""
    dtype, largest = _FORMATS[weights]
    kernel_oi = kernel_oi.astype(jnp.float32)
    scale_o = jnp.max(jnp.abs(kernel_oi), axis=1) / largest
    numbers_oi = kernel_oi / jnp.where(scale_o == 0, 1, scale_o)[:, None]
    return EightBit((jnp.round(numbers_oi) if weights == "int8" else numbers_oi).astype(dtype), scale_o)
