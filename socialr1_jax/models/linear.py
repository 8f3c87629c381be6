"""Products with kernels [out, in], and their gradients."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from socialr1_jax.models.eight_bit import EightBit

PRODUCT = "product"  # checkpoint name of the results that a remat policy may save to avoid recomputing products


def precision(x: jax.Array) -> jax.lax.Precision | None:
    """Return the matmul precision: exact for float32 (no TF32 or bfloat16 passes), the backend's default otherwise."""
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def dot(form: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Multiply and sum as an einsum's form says, with a float32 result."""
    return jnp.einsum(form, x, y, precision=precision(x), preferred_element_type=jnp.float32)


def linear(x_bti: jax.Array, kernel_oi: jax.Array | EightBit, blocks: int = 1, **options: Any) -> jax.Array:
    """Multiply x_bti by the kernel, [b, t, o]. `blocks` > 1 splits the outputs into that many batched products.

    This helps with few rows on a CPU, for a reason that is not known: in a loop over twelve kernels of [3072, 1024] a
    product takes 0.7 instead of 1.1 ms with 4 rows and 1.1 instead of 2.1 ms with 8 (two cores, weights not cached).
    """
    if isinstance(kernel_oi, EightBit):
        numbers_oi = kernel_oi.numbers_oi.astype(x_bti.dtype)
        y_bto = linear(x_bti, numbers_oi, blocks, preferred_element_type=jnp.float32) * kernel_oi.scale_o
        return y_bto.astype(options.get("preferred_element_type", x_bti.dtype))
    o, i = kernel_oi.shape
    if blocks > 1 and o % blocks == 0:
        kernel_koi = kernel_oi.reshape(blocks, -1, i)
        y_kbto = jnp.einsum("bti,koi->kbto", x_bti, kernel_koi, precision=precision(x_bti), **options)
        return jnp.moveaxis(y_kbto, 0, 2).reshape(*x_bti.shape[:2], o)
    if options:
        return jnp.einsum("bti,oi->bto", x_bti, kernel_oi, precision=precision(x_bti), **options)
    return _product(x_bti, kernel_oi)


@jax.custom_vjp
def _product(x_bti: jax.Array, kernel_oi: jax.Array) -> jax.Array:
    """Multiply x_bti by the kernel, [b, t, o].

    The kernel's gradient contracts the first axis of two arrays. XLA transposes the one that comes first, with the work
    that made it, which takes long on a CPU. So the narrower array comes first.
    """
    return jnp.einsum("bti,oi->bto", x_bti, kernel_oi, precision=precision(x_bti))


def _product_forward(x_bti: jax.Array, kernel_oi: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return checkpoint_name(_product(x_bti, kernel_oi), PRODUCT), (x_bti, kernel_oi)


def _product_backward(saved: tuple[jax.Array, jax.Array], dy_bto: jax.Array) -> tuple[jax.Array, jax.Array]:
    x_bti, kernel_oi = saved
    dx_bti = jnp.einsum("bto,oi->bti", dy_bto, kernel_oi, precision=precision(x_bti))
    if kernel_oi.shape[0] <= kernel_oi.shape[1]:
        return dx_bti, jnp.einsum("bto,bti->oi", dy_bto, x_bti, precision=precision(x_bti))
    return dx_bti, jnp.einsum("bti,bto->io", x_bti, dy_bto, precision=precision(x_bti)).T


_product.defvjp(_product_forward, _product_backward)
