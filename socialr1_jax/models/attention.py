"""Rotary positions and attention: full causal rows (training, prefill) and one new token against a cache (decode)."""

from typing import Literal

import jax
import jax.numpy as jnp

from socialr1_jax.models.blockwise import Prefix, Segments, blockwise_attention, prefixed_attention
from socialr1_jax.models.kv_cache import LayerCache, Sharing
from socialr1_jax.models.segment_kernel import segment_attention
from socialr1_jax.runtime.mesh import ROWS, P, by_heads, by_rows

Backend = Literal["xla", "cudnn", "triton"]
DecodeKernel = Literal["xla", "triton"]


def attention_backend(name: Literal["auto", "xla", "cudnn", "triton"], dtype: str, platform: str) -> Backend:
    """Resolve a kernel's name on a platform ("cpu", "gpu", "cuda", "tpu"): auto is cuDNN if supported, else XLA.

    cuDNN and Triton support NVIDIA GPUs with bfloat16 or float16. Raises ValueError if one is requested elsewhere.
    """
    fits = _fused(dtype, platform)
    if name == "auto":
        return "cudnn" if fits else "xla"
    if name != "xla" and not fits:
        raise ValueError(f"attention {name} computes bfloat16 on NVIDIA GPUs, not {dtype} on {platform}; set auto")
    return name


def decode_kernel(name: Literal["auto", "xla", "triton"], dtype: str, platform: str) -> DecodeKernel:
    """Resolve the name of decoding's kernel as `attention_backend` does: auto is Triton if supported, else XLA."""
    fits = _fused(dtype, platform)
    if name == "triton" and not fits:
        raise ValueError(
            f"sampling.attention triton computes bfloat16 on NVIDIA GPUs, not {dtype} on {platform}; set auto"
        )
    return "triton" if fits and name != "xla" else "xla"


def _fused(dtype: str, platform: str) -> bool:
    return platform in ("gpu", "cuda") and dtype in ("bfloat16", "float16")


def rope_tables(positions_bt: jax.Array, head_dim: int, theta: float) -> tuple[jax.Array, jax.Array]:
    """Return cos and sin of the rotary angles, float32 [b, t, 1, head_dim / 2].

    Angles stay float32: bfloat16 cannot represent position 257.
    """
    frequencies_h = theta ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
    angles_bth = positions_bt[..., None].astype(jnp.float32) * frequencies_h
    return jnp.cos(angles_bth)[:, :, None], jnp.sin(angles_bth)[:, :, None]


def apply_rope(x_btnh: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotate the two halves of each head, as Qwen3 does (halves, not interleaved pairs), in float32."""
    left, right = jnp.split(x_btnh.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1).astype(x_btnh.dtype)


def causal_attention(
    q_btnh: jax.Array,
    k_btkh: jax.Array,
    v_btkh: jax.Array,
    lengths_b: jax.Array,
    backend: Backend,
    segments: Segments | None = None,
    prefix: Prefix | None = None,
) -> jax.Array:
    """Return causal attention over right-padded rows, [b, t, n, h]; outputs at padded positions are undefined.

    Padding is on the right, so causal attention never reaches it. `segments` restrict what a position sees; cuDNN then
    takes a mask array, [b, 1, t, t]. A `prefix`, which requires segments, is seen by all positions; Triton has no
    kernel for it, and XLA computes it.
    """
    if prefix is not None:
        assert segments is not None
        if backend != "cudnn":
            return prefixed_attention(q_btnh, k_btkh, v_btkh, segments, prefix)
        return _masked_attention(q_btnh, k_btkh, v_btkh, segments, prefix, backend)
    if backend == "xla":
        return blockwise_attention(q_btnh, k_btkh, v_btkh, segments)
    kernel, heads = segment_attention if backend == "triton" else _cudnn_attention, P(None, None, "tensor")
    attend = by_heads(kernel, (heads, heads, heads, P(), P()), heads)
    return by_rows(attend, (ROWS,) * 5, ROWS)(q_btnh, k_btkh, v_btkh, lengths_b, segments)


def _cudnn_attention(
    q_btnh: jax.Array, k_btkh: jax.Array, v_btkh: jax.Array, lengths_b: jax.Array, segments: Segments | None
) -> jax.Array:
    del lengths_b  # with lengths the results at padded positions would be undefined, and a NaN there spreads
    mask_b1tt = None if segments is None else segments.seen(slice(None), slice(None))[:, None]
    return jax.nn.dot_product_attention(q_btnh, k_btkh, v_btkh, mask=mask_b1tt, is_causal=True, implementation="cudnn")


def _masked_attention(
    q_btnh: jax.Array,
    k_btkh: jax.Array,
    v_btkh: jax.Array,
    segments: Segments,
    prefix: Prefix,
    implementation: Literal["xla", "cudnn"],
) -> jax.Array:
    """Return attention over the prefix and the rows' own keys with one mask array, [b, 1, t, s + t]."""
    b, t = q_btnh.shape[:2]
    times = b // len(prefix.lengths_d)
    earlier_tt = jnp.tril(jnp.ones((t, t), bool))
    own_b1tt = (segments.seen(slice(None), slice(None)) & earlier_tt)[:, None]
    before_b11s = jnp.repeat(prefix.seen(), times, axis=0)[:, None, None]
    before_b1ts = jnp.broadcast_to(before_b11s, (b, 1, t, before_b11s.shape[-1]))
    k_bskh, v_bskh = (
        jnp.concatenate([jnp.repeat(x, times, axis=0), own], axis=1)
        for x, own in ((prefix.k_dskh, k_btkh), (prefix.values(), v_btkh))
    )
    mask_b1ts = jnp.concatenate([before_b1ts, own_b1tt], axis=-1)
    return jax.nn.dot_product_attention(q_btnh, k_bskh, v_bskh, mask=mask_b1ts, implementation=implementation)


def decode_attention(
    q_bnh: jax.Array, cache: LayerCache, lengths_b: jax.Array, prefixes: LayerCache, sharing: Sharing
) -> jax.Array:
    """Return attention of one query per row over its prefix and the first `lengths_b` slots of its cache, [b, n, h].

    A prefix is read once for all rows that share it. The two parts are merged by their log-sum-exp in float32. All
    slots are read; `attention_by_length` reads the filled ones. Results of rows of length 0 are undefined.
    """
    e, m = sharing.rows_em.shape
    q_bkgh = q_bnh.reshape(*cache.v_bksh.shape[:2], -1, q_bnh.shape[-1])
    own_bkgh, norm_bkg1 = _beside(q_bkgh, cache, lengths_b)
    q_emkgh = q_bkgh[sharing.rows_em]
    q_ekrh = q_emkgh.swapaxes(1, 2).reshape(e, q_bkgh.shape[1], -1, q_bkgh.shape[3])
    parts = _beside(q_ekrh, prefixes, sharing.lengths_e)

    def of_rows(x_ekrh: jax.Array) -> jax.Array:
        x_emkgh = x_ekrh.reshape(*x_ekrh.shape[:2], m, -1, x_ekrh.shape[-1]).swapaxes(1, 2)
        return x_emkgh.reshape(e * m, *x_emkgh.shape[2:])[sharing.places_b]

    before_bkgh, before_bkg1 = map(of_rows, parts)
    share_bkg1 = jax.nn.sigmoid(norm_bkg1 - before_bkg1)  # the softmax mass of the row's own tokens
    mixed_bkgh = share_bkg1 * own_bkgh + (1 - share_bkg1) * before_bkgh
    return mixed_bkgh.reshape(q_bnh.shape).astype(q_bnh.dtype)


def _beside(q_bkrh: jax.Array, cache: LayerCache, lengths_b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return attention over the first `lengths_b` slots and its log-sum-exp, both float32."""
    scores_bkrs = jnp.einsum("bkrh,bkhs->bkrs", q_bkrh, cache.k_bkhs, preferred_element_type=jnp.float32)
    seen_bs = jnp.arange(cache.slots) < lengths_b[:, None]
    # Finite, since a prefix may be empty.
    scores_bkrs = jnp.where(seen_bs[:, None, None], scores_bkrs * q_bkrh.shape[-1] ** -0.5, -1e30)
    highest_bkr1 = scores_bkrs.max(-1, keepdims=True)
    powers_bkrs = jnp.exp(scores_bkrs - highest_bkr1)
    total_bkr1 = powers_bkrs.sum(-1, keepdims=True)
    out_bkrh = jnp.einsum(
        "bkrs,bksh->bkrh", powers_bkrs.astype(cache.v_bksh.dtype), cache.v_bksh, preferred_element_type=jnp.float32
    )
    return out_bkrh / total_bkr1, highest_bkr1 + jnp.log(total_bkr1)
