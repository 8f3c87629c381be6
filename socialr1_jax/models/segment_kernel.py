"""Causal attention of packed rows for NVIDIA GPUs that computes only blocks that are seen: three Pallas kernels.

A query sees two ranges of keys: its own segment up to itself, and its prefix. The kernels get the ends of these ranges
instead of a mask and skip the blocks outside them. The backward pass recomputes the scores from the saved log-sum-exp
(FlashAttention-2, arXiv 2307.08691, algorithm 2). It has a kernel for the gradient of the queries and one for those of
keys and values, so no sum needs atomics.

Axes as in docs/architecture.md; `r` are the queries of a block, `s` its keys. Positions at or after a row's length are
not read, and their results are zero.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl

from socialr1_jax.models.blockwise import SAVED, Segments

_OWN, _OTHER = 128, 64  # positions of a program, and of the blocks that its loop reads
_MOST = 2**31 - 1  # elements of an array: the kernels compute offsets in 32 bits


def segment_attention(
    q_btnh: jax.Array, k_btkh: jax.Array, v_btkh: jax.Array, lengths_b: jax.Array, segments: Segments | None
) -> jax.Array:
    """Return what `blockwise_attention` does, [b, t, n, h], but zeros at padded positions.

    Segments are contiguous, each behind its prefix; their numbers are from 0 to 2 t. Raises ValueError if the rows are
    too long.
    """
    b, t, n, h = q_btnh.shape
    if q_btnh.size > _MOST:
        most = _MOST // (b * n * h)
        raise ValueError(
            f"attention triton takes {b} rows of at most {most:,} tokens at once, not of {t:,}: lower "
            "grpo.micro_batch_tokens or the lengths of prompts and responses, or set model.attention to cudnn or xla"
        )
    ranges_b4t = checkpoint_name(_ranges(lengths_b, segments, t), SAVED)
    return _attention(q_btnh, k_btkh, v_btkh, lengths_b, ranges_b4t)


def computed_pairs(lengths_b: Any, segments: Segments) -> int:
    """Return the pairs of a query and a key in the blocks that the forward kernel computes for a head of these rows."""
    ranges_b4t = _ranges(jnp.asarray(lengths_b), segments, segments.own_bt.shape[1])
    ranges_b4ir = ranges_b4t.reshape(*ranges_b4t.shape[:2], -1, _OWN)

    def of_block(i: jax.Array, ranges_4r: jax.Array, length: jax.Array) -> jax.Array:
        return _seen_blocks((i, *ranges_4r[:3]), i, length)[3]

    of_row = jax.vmap(of_block, (0, 1, None))
    counts_bi = jax.vmap(of_row, (None, 0, 0))(jnp.arange(ranges_b4ir.shape[2]), ranges_b4ir, jnp.asarray(lengths_b))
    return int(counts_bi.sum()) * _OWN * _OTHER


def _ranges(lengths_b: jax.Array, segments: Segments | None, t: int) -> jax.Array:
    """Return four positions of each position, int32 [b, 4, t], padded to whole blocks.

    They are the first key of its segment, the first and the end of its prefix, and the end of the queries that see it.
    """
    width = pl.cdiv(t, _OWN) * _OWN
    position_t = jnp.arange(width)

    def of_row(length: jax.Array, own_t: jax.Array, prefix_t: jax.Array) -> jax.Array:
        inside_t, last = position_t < length, 2 * width
        own_t, prefix_t = (jnp.where(inside_t, jnp.pad(x, (0, width - t)), last) for x in (own_t, prefix_t))
        first_i = jnp.full(last + 1, width).at[own_t].min(position_t)
        stop_i = jnp.zeros(last + 1, int).at[own_t].max(position_t + 1)
        seen_i = stop_i.at[prefix_t].max(position_t + 1)
        firsts, stops = (first_i[own_t], first_i[prefix_t]), (stop_i[prefix_t], seen_i[own_t])
        return jnp.stack([jnp.where(inside_t, x, none) for part, none in ((firsts, width), (stops, 0)) for x in part])

    whole_bt = jnp.zeros((len(lengths_b), t), int)
    own_bt, prefix_bt = (whole_bt, whole_bt) if segments is None else segments[:2]
    return jax.vmap(of_row)(lengths_b, own_bt, prefix_bt).astype(jnp.int32)


@jax.custom_vjp
def _attention(
    q_btnh: jax.Array, k_btkh: jax.Array, v_btkh: jax.Array, lengths_b: jax.Array, ranges_b4t: jax.Array
) -> jax.Array:
    return _forward(q_btnh, k_btkh, v_btkh, lengths_b, ranges_b4t)[0]


def _forward(q_btnh: jax.Array, *others: jax.Array) -> tuple[jax.Array, Any]:
    b, _, n, _ = q_btnh.shape
    *_, lengths_b, ranges_b4t = others
    norms = jax.ShapeDtypeStruct((b, n, ranges_b4t.shape[2]), jnp.float32)
    results = _run(_attend, n, [_like(q_btnh), norms], lengths_b, ranges_b4t, q_btnh, *others[:2])
    out_btnh, norm_bnt = (checkpoint_name(x, SAVED) for x in results)
    return out_btnh, (q_btnh, *others, out_btnh, norm_bnt)


def _backward(residuals: Any, dout_btnh: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array, None, None]:
    q_btnh, k_btkh, v_btkh, lengths_b, ranges_b4t, out_btnh, norm_bnt = residuals
    given = lengths_b, ranges_b4t, q_btnh, k_btkh, v_btkh, dout_btnh, norm_bnt
    results = [_like(q_btnh), _like(norm_bnt)]
    dq_btnh, delta_bnt = _run(_of_queries, q_btnh.shape[2], results, *given, out_btnh)
    results = [_like(k_btkh), _like(v_btkh)]
    dk_btkh, dv_btkh = _run(_of_keys, k_btkh.shape[2], results, *given, delta_bnt)
    return dq_btnh, dk_btkh, dv_btkh, None, None


_attention.defvjp(_forward, _backward)


def _like(x: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _run(kernel: Any, heads: int, results: Any, lengths_b: jax.Array, ranges_b4t: jax.Array, *arrays: jax.Array) -> Any:
    from jax.experimental.pallas import triton  # deprecated in JAX 0.12: without it the trial takes another kernel

    b, _, width = ranges_b4t.shape
    params = triton.CompilerParams(num_warps=8, num_stages=2)
    grid, name = (heads, width // _OWN, b), f"segment{kernel.__name__}"
    return pl.pallas_call(kernel, results, grid=grid, compiler_params=params, name=name)(lengths_b, ranges_b4t, *arrays)


# --------------------------------------------------------------------- the kernels: a program is a head and its block


def _attend(*refs: Any) -> None:
    """Attend from the queries of one block and head."""
    lengths_b, ranges_b4t, q_btnh, k_btkh, v_btkh, out_btnh, norm_bnt = refs
    n, i, b = map(pl.program_id, range(3))
    kv, length = n // (q_btnh.shape[2] // k_btkh.shape[2]), lengths_b[b]
    q_rh, view = _read(q_btnh, b, i, n, length, _OWN), _view(ranges_b4t, b, i, _OWN)

    def step(j: jax.Array, softmax: Any) -> Any:
        highest_r1, total_r1, sum_rh = softmax
        k_sh, v_sh = (_read(x, b, j, kv, length, _OTHER) for x in (k_btkh, v_btkh))
        scores_rs = _dot(q_rh, k_sh.T) * q_btnh.shape[3] ** -0.5
        # Finite: the sums of a query that has seen no key yet are multiplied by 0 when it sees the first one.
        scores_rs = jnp.where(_seen(view, _positions(j, _OTHER)), scores_rs, -1e30)
        new_r1 = jnp.maximum(highest_r1, scores_rs.max(1, keepdims=True))
        less_r1, powers_rs = jnp.exp(highest_r1 - new_r1), jnp.exp(scores_rs - new_r1)
        sum_rh = sum_rh * less_r1 + _dot(powers_rs.astype(v_sh.dtype), v_sh)
        return new_r1, total_r1 * less_r1 + powers_rs.sum(1, keepdims=True), sum_rh

    zeros_r1 = jnp.zeros((_OWN, 1))
    nothing = zeros_r1 - 1e30, zeros_r1, jnp.zeros(q_rh.shape)
    highest_r1, total_r1, sum_rh = _over_keys(view, i, length, step, nothing)
    live_r1 = _positions(i, _OWN)[:, None] < length
    total_r1 = jnp.where(live_r1, total_r1, 1.0)
    _write(out_btnh, b, i, n, jnp.where(live_r1, sum_rh, 0.0) / total_r1)
    norm_bnt[b, n, pl.ds(i * _OWN, _OWN)] = jnp.where(live_r1, highest_r1 + jnp.log(total_r1), 0.0).reshape(-1)


def _of_queries(*refs: Any) -> None:
    """Compute the gradient of the queries of one block and head, and the products of their results and gradients."""
    lengths_b, ranges_b4t, q_btnh, k_btkh, v_btkh, dout_btnh, norm_bnt, out_btnh, dq_btnh, delta_bnt = refs
    n, i, b = map(pl.program_id, range(3))
    kv, length = n // (q_btnh.shape[2] // k_btkh.shape[2]), lengths_b[b]
    q_rh, dout_rh, out_rh = (_read(x, b, i, n, length, _OWN) for x in (q_btnh, dout_btnh, out_btnh))
    view, own, scale = _view(ranges_b4t, b, i, _OWN), pl.ds(i * _OWN, _OWN), q_btnh.shape[3] ** -0.5
    norm_r = norm_bnt[b, n, own]
    delta_r = (dout_rh.astype(jnp.float32) * out_rh.astype(jnp.float32)).sum(1)

    def step(j: jax.Array, dq_rh: jax.Array) -> jax.Array:
        k_sh, v_sh = (_read(x, b, j, kv, length, _OTHER) for x in (k_btkh, v_btkh))
        scores_rs = _dot(q_rh, k_sh.T) * scale - norm_r[:, None]
        weights_rs = jnp.exp(jnp.where(_seen(view, _positions(j, _OTHER)), scores_rs, -1e30))
        dscores_rs = weights_rs * (_dot(dout_rh, v_sh.T) - delta_r[:, None])
        return dq_rh + _dot(dscores_rs.astype(k_sh.dtype), k_sh)

    _write(dq_btnh, b, i, n, scale * _over_keys(view, i, length, step, jnp.zeros(q_rh.shape)))
    delta_bnt[b, n, own] = delta_r


def _of_keys(*refs: Any) -> None:
    """Compute the gradients of the keys and values of one block and KV head, over the query heads that share it."""
    lengths_b, ranges_b4t, q_btnh, k_btkh, v_btkh, dout_btnh, norm_bnt, delta_bnt, dk_btkh, dv_btkh = refs
    kv, j, b = map(pl.program_id, range(3))
    group, length = q_btnh.shape[2] // k_btkh.shape[2], lengths_b[b]
    k_sh, v_sh = (_read(x, b, j, kv, length, _OWN) for x in (k_btkh, v_btkh))
    scale, first = q_btnh.shape[3] ** -0.5, j * _OWN // _OTHER
    stop = jnp.max(ranges_b4t[b, 3, pl.ds(j * _OWN, _OWN)])
    count = jnp.maximum(pl.cdiv(stop, _OTHER) - first, 0)

    def step(u: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        i, n = first + u // group, kv * group + u - u // group * group
        q_rh, dout_rh = (_read(x, b, i, n, length, _OTHER) for x in (q_btnh, dout_btnh))
        norm_r, delta_r = (x[b, n, pl.ds(i * _OTHER, _OTHER)] for x in (norm_bnt, delta_bnt))
        # Transposed: the weights are the left operand of the next products, which keeps them in registers.
        seen_sr = _seen(_view(ranges_b4t, b, i, _OTHER), _positions(j, _OWN), by_key=True)
        scores_sr = jnp.where(seen_sr, _dot(k_sh, q_rh.T) * scale - norm_r[None], -1e30)
        weights_sr = jnp.exp(scores_sr)
        dscores_sr = weights_sr * (_dot(v_sh, dout_rh.T) - delta_r[None])
        dv_sh = sums[1] + _dot(weights_sr.astype(dout_rh.dtype), dout_rh)
        return sums[0] + _dot(dscores_sr.astype(q_rh.dtype), q_rh), dv_sh

    zeros_sh = jnp.zeros(k_sh.shape)
    dk_sh, dv_sh = jax.lax.fori_loop(0, count * group, step, (zeros_sh, zeros_sh))
    _write(dk_btkh, b, j, kv, scale * dk_sh)
    _write(dv_btkh, b, j, kv, dv_sh)


# Positions of some queries, the first keys of their segments, and the first keys and the ends of their prefixes, [r].
View = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


def _view(ranges_b4t: Any, b: Any, i: Any, size: int) -> View:
    first_r, before_r, stop_r = (ranges_b4t[b, part, pl.ds(i * size, size)] for part in range(3))
    return _positions(i, size), first_r, before_r, stop_r


def _seen(view: View, key_s: jax.Array, by_key: bool = False) -> jax.Array:
    """Return the mask of what queries see, [r, s], or with `by_key` [s, r]."""
    position, first, before, stop = (x[None] if by_key else x[:, None] for x in view)
    key = key_s[:, None] if by_key else key_s[None]
    return (key <= position) & ((key >= first) | ((key >= before) & (key < stop)))


def _over_keys(view: View, i: Any, length: Any, step: Callable[[Any, Any], Any], carry: Any) -> Any:
    """Fold `step` over the blocks of keys that a block of queries sees: its prefix, then its own segments."""
    before_at, before, own_at, count = _seen_blocks(view, i, length)

    def at(u: jax.Array, carry: Any) -> Any:
        return step(jnp.where(u < before, before_at, own_at - before) + u, carry)

    return jax.lax.fori_loop(0, count, at, carry)


def _seen_blocks(view: View, i: Any, length: Any) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Return the first block of the prefix and the number of its blocks, the first own block and the number of all."""
    _, first_r, before_r, stop_r = view
    own = jnp.min(first_r)
    # A prefix that ends after the first own key also begins after it, as segments are contiguous.
    stop = jnp.max(jnp.where(stop_r <= own, stop_r, 0))
    before_at, own_at = jnp.min(before_r) // _OTHER, own // _OTHER
    before = jnp.maximum(jnp.minimum(pl.cdiv(stop, _OTHER), own_at) - before_at, 0)
    return (
        before_at,
        before,
        own_at,
        before + jnp.maximum(pl.cdiv(jnp.minimum((i + 1) * _OWN, length), _OTHER) - own_at, 0),
    )


def _positions(i: Any, size: int) -> jax.Array:
    return i * size + jnp.arange(size)


def _read(x_btnh: Any, b: Any, i: Any, n: Any, length: Any, size: int) -> jax.Array:
    """Return a block of a head, [size, h], zero at and after `length`: a NaN there would survive the mask."""
    from jax.experimental.pallas import triton

    at, inside_rh = _place(x_btnh, b, i, n, length, size)
    return triton.load(x_btnh.at[at], mask=inside_rh, other=0.0)


def _write(x_btnh: Any, b: Any, i: Any, n: Any, block_rh: jax.Array) -> None:
    from jax.experimental.pallas import triton

    at, inside_rh = _place(x_btnh, b, i, n, x_btnh.shape[1], len(block_rh))
    triton.store(x_btnh.at[at], block_rh.astype(x_btnh.dtype), mask=inside_rh)


def _place(x_btnh: Any, b: Any, i: Any, n: Any, length: Any, size: int) -> tuple[Any, jax.Array]:
    """Return the indices of a block of a head, as wide as a power of two, and where these are inside."""
    width = x_btnh.shape[3]
    position_r1, column_1h = _positions(i, size)[:, None], jnp.arange(max(16, pl.next_power_of_2(width)))[None]
    return (b, position_r1, n, column_1h), (position_r1 < length) & (column_1h < width)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.dot(x, y, precision="highest", preferred_element_type=jnp.float32)
