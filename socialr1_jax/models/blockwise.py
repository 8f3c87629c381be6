"""Causal attention in plain XLA, for CPUs and TPUs: blocks of queries with a custom backward pass.

A block of queries reads the keys up to its end, so nearly half of the square is never computed. The backward pass
recomputes the scores block by block from the saved log-sum-exp (FlashAttention-2, arXiv 2307.08691, algorithm 2), so
the whole square is never stored. 2.7 times as fast as `jax.nn.dot_product_attention`, forward and backward, on two CPU
cores (8 rows x 256 tokens, 4 heads of 64, float32).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from socialr1_jax.models.linear import dot

SAVED = "attention"  # checkpoint name of the results that a remat policy may save to avoid recomputing attention
_BLOCKS, _SMALLEST_BLOCK = 8, 128  # 8: 9/16 of the square; smaller blocks take longer on a CPU


class Segments(NamedTuple):
    """Segment ids of rows that hold several texts; each array is int32 [b, t].

    A position sees the earlier positions of its own segment and all of its prefix: the segment with the beginning that
    it shares with others. A segment without a prefix names itself. `positions_bt` count from the text's beginning.
    """

    own_bt: Any
    prefix_bt: Any
    positions_bt: Any

    def seen(self, queries: slice, keys: slice) -> jax.Array:
        """Return the mask of keys that each query may see, without causality: boolean [b, q, k]."""
        key_b1k = self.own_bt[:, None, keys]
        return (self.own_bt[:, queries, None] == key_b1k) | (self.prefix_bt[:, queries, None] == key_b1k)

    def check(self) -> None:
        """Raise ValueError unless ids ascend in a row of these host arrays and none is below its prefix's."""
        falls_bt = (np.diff(self.own_bt, prepend=0) < 0) & (self.own_bt != 0)  # padding is segment 0
        for b, t in np.argwhere(falls_bt | (self.prefix_bt > self.own_bt))[:1]:
            own, prefix = self.own_bt[b, t], self.prefix_bt[b, t]
            raise ValueError(
                f"segments: position {t} of row {b} is in segment {own} with prefix {prefix}, after segment "
                f"{self.own_bt[b, max(t - 1, 0)]}; number the segments in their order, each after its prefix"
            )


class Prefix(NamedTuple):
    """Keys and values [d, s, k, h] that precede the rows' own: row i of b sees those of entry i // (b / d).

    Only the first `lengths_d` slots of an entry are valid. With stacked layers the arrays are [l, d, s, k, h].
    """

    k_dskh: Any
    v_dskh: Any
    lengths_d: Any

    def seen(self) -> jax.Array:
        """Return the mask of valid slots: boolean [d, s]."""
        return jnp.arange(self.k_dskh.shape[-3]) < self.lengths_d[:, None]

    def values(self) -> jax.Array:
        """Return the values, zero in invalid slots: a NaN there would survive the mask, since 0 * NaN is NaN."""
        return jnp.where(self.seen()[:, :, None, None], self.v_dskh, 0)


@jax.custom_vjp
def blockwise_attention(
    q_btnh: jax.Array, k_btkh: jax.Array, v_btkh: jax.Array, segments: Segments | None
) -> jax.Array:
    """Return softmax(q k / sqrt(h)) v over earlier positions that the segments allow, [b, t, n, h].

    n is a multiple of k. Softmax and sums are float32, results in the arguments' dtype.
    """
    return _forward(q_btnh, k_btkh, v_btkh, segments)[0]


def _forward(
    q_btnh: jax.Array, k_btkh: jax.Array, v_btkh: jax.Array, segments: Segments | None
) -> tuple[jax.Array, Any]:
    q_bkrh, k_bksh, v_bksh = _rows(q_btnh, k_btkh), k_btkh.swapaxes(1, 2), v_btkh.swapaxes(1, 2)
    outs, sums, scale = [], [], q_btnh.shape[-1] ** -0.5
    for r, s, seen_b1rs in _blocks(q_btnh, k_btkh, segments):
        scores_bkrs = dot("bkrh,bksh->bkrs", q_bkrh[:, :, r], k_bksh[:, :, s]) * scale
        scores_bkrs = jnp.where(seen_b1rs, scores_bkrs, -jnp.inf)
        highest_bkr1 = scores_bkrs.max(-1, keepdims=True)
        powers_bkrs = jnp.exp(scores_bkrs - highest_bkr1)
        total_bkr1 = powers_bkrs.sum(-1, keepdims=True)
        outs.append(dot("bkrs,bksh->bkrh", powers_bkrs.astype(v_btkh.dtype), v_bksh[:, :, s]) / total_bkr1)
        sums.append(highest_bkr1 + jnp.log(total_bkr1))
    out_btnh = checkpoint_name(_heads(jnp.concatenate(outs, 2), q_btnh), SAVED)
    norm_bkr1 = checkpoint_name(jnp.concatenate(sums, 2), SAVED)
    return out_btnh, (q_btnh, k_btkh, v_btkh, segments, out_btnh, norm_bkr1)


def _backward(residuals: Any, dout_btnh: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None]:
    q_btnh, k_btkh, v_btkh, segments, out_btnh, norm_bkr1 = residuals
    dtype, scale = q_btnh.dtype, q_btnh.shape[-1] ** -0.5
    q_bkrh, k_bksh, v_bksh = _rows(q_btnh, k_btkh), k_btkh.swapaxes(1, 2), v_btkh.swapaxes(1, 2)
    dout_bkrh = _rows(dout_btnh, k_btkh)
    q_bkhr, dout_bkhr = q_bkrh.swapaxes(2, 3), dout_bkrh.swapaxes(2, 3)
    delta_bkr1 = _rows((dout_btnh.astype(jnp.float32) * out_btnh).sum(-1, keepdims=True), k_btkh)
    dqs = []
    dk_bkhs = dv_bkhs = jnp.zeros(k_bksh.swapaxes(2, 3).shape, jnp.float32)
    for r, s, seen_b1rs in _blocks(q_btnh, k_btkh, segments):
        q, k, v, dout = q_bkrh[:, :, r], k_bksh[:, :, s], v_bksh[:, :, s], dout_bkrh[:, :, r]
        scores_bkrs = dot("bkrh,bksh->bkrs", q, k) * scale - norm_bkr1[:, :, r]
        weights_bkrs = jnp.exp(jnp.where(seen_b1rs, scores_bkrs, -jnp.inf))
        dscores_bkrs = (weights_bkrs * (dot("bkrh,bksh->bkrs", dout, v) - delta_bkr1[:, :, r])).astype(dtype)
        dqs.append(dot("bkrs,bksh->bkrh", dscores_bkrs, k))
        # [h, s] instead of [s, h]: the first array of the product is then not the wide one that XLA would transpose.
        dk_bkhs = _add(dk_bkhs, dot("bkhr,bkrs->bkhs", q_bkhr[..., r], dscores_bkrs))
        dv_bkhs = _add(dv_bkhs, dot("bkhr,bkrs->bkhs", dout_bkhr[..., r], weights_bkrs.astype(dtype)))
    dk_btkh, dv_btkh = (x_bkhs.transpose(0, 3, 1, 2) for x_bkhs in (scale * dk_bkhs, dv_bkhs))
    return _heads(scale * jnp.concatenate(dqs, 2), q_btnh), dk_btkh.astype(dtype), dv_btkh.astype(dtype), None


blockwise_attention.defvjp(_forward, _backward)


def _add(sum_bkhs: jax.Array, first_bkhs: jax.Array) -> jax.Array:
    """Add to the first positions of the sum, in place."""
    first_bkhs = sum_bkhs[..., : first_bkhs.shape[-1]] + first_bkhs
    return jax.lax.dynamic_update_slice_in_dim(sum_bkhs, first_bkhs, 0, axis=3)


def prefixed_attention(
    q_btnh: jax.Array, k_btkh: jax.Array, v_btkh: jax.Array, segments: Segments | None, prefix: Prefix
) -> jax.Array:
    """Return `blockwise_attention` over the prefix and the rows' own keys, [b, t, n, h]; not differentiable.

    The two parts are computed separately and merged by their log-sum-exp. A prefix is read once for all its rows.
    """
    own_btnh, residuals = _forward(q_btnh, k_btkh, v_btkh, segments)
    own_bkrh, norm_bkr1 = _rows(own_btnh, k_btkh), residuals[-1]
    seen_d11s = prefix.seen()[:, None, None]
    k_dksh, v_dksh = prefix.k_dskh.swapaxes(1, 2), prefix.values().swapaxes(1, 2)
    entries, scale = len(k_dksh), q_btnh.shape[-1] ** -0.5

    def beside(q_dkrh: jax.Array) -> tuple[jax.Array, jax.Array]:
        scores_dkrs = dot("dkrh,dksh->dkrs", q_dkrh, k_dksh) * scale
        scores_dkrs = jnp.where(seen_d11s, scores_dkrs, -1e30)  # finite: an entry may be empty
        highest_dkr1 = scores_dkrs.max(-1, keepdims=True)
        powers_dkrs = jnp.exp(scores_dkrs - highest_dkr1)
        total_dkr1 = powers_dkrs.sum(-1, keepdims=True)
        out_dkrh = dot("dkrs,dksh->dkrh", powers_dkrs.astype(v_dksh.dtype), v_dksh) / total_dkr1
        return out_dkrh, highest_dkr1 + jnp.log(total_dkr1)

    # One row of every entry at a time limits the memory of the scores.
    q_bkrh = _rows(q_btnh, k_btkh)
    q_cdkrh = q_bkrh.reshape(entries, -1, *q_bkrh.shape[1:]).swapaxes(0, 1)
    parts = jax.lax.map(beside, q_cdkrh)
    before_bkrh, before_bkr1 = (x.swapaxes(0, 1).reshape(len(q_bkrh), *x.shape[2:]) for x in parts)
    share_bkr1 = jax.nn.sigmoid(norm_bkr1 - before_bkr1)  # the softmax mass of the row's own keys
    return _heads(share_bkr1 * own_bkrh + (1 - share_bkr1) * before_bkrh, q_btnh)


def _blocks(
    q_btnh: jax.Array, k_btkh: jax.Array, segments: Segments | None
) -> Iterator[tuple[slice, slice, jax.Array]]:
    """Yield each block's slice of query rows, its slice of keys, and the mask between them."""
    t, group = q_btnh.shape[1], q_btnh.shape[2] // k_btkh.shape[2]
    size = max(_SMALLEST_BLOCK, -(-t // _BLOCKS))
    for start, stop in ((i, min(i + size, t)) for i in range(0, t, size)):
        position_r = jnp.arange(start * group, stop * group) // group
        seen_b1rs = (position_r[:, None] >= jnp.arange(stop))[None, None]
        if segments is not None:
            seen_bts = segments.seen(slice(start, stop), slice(0, stop))
            seen_b1rs &= jnp.repeat(seen_bts, group, axis=1)[:, None]
        yield slice(start * group, stop * group), slice(0, stop), seen_b1rs


def _rows(x_btnh: jax.Array, k_btkh: jax.Array) -> jax.Array:
    """Fold the query heads of each KV head into rows of one product: [b, k, t * group, h]."""
    x_bktgh = x_btnh.reshape(*k_btkh.shape[:3], -1, x_btnh.shape[-1]).swapaxes(1, 2)
    return x_bktgh.reshape(*x_bktgh.shape[:2], -1, x_bktgh.shape[-1])


def _heads(x_bkrh: jax.Array, like_btnh: jax.Array) -> jax.Array:
    """Invert `_rows`: reshape to [b, t, n, h]."""
    b, t, _, h = like_btnh.shape
    x_btkgh = x_bkrh.reshape(b, -1, t, x_bkrh.shape[2] // t, h).swapaxes(1, 2)
    return x_btkgh.reshape(like_btnh.shape).astype(like_btnh.dtype)
