"""Decode attention for NVIDIA GPUs that reads the filled positions of caches instead of all slots: two Pallas kernels.

Axes as in docs/architecture.md; `r` are query rows of one program, query heads of a KV head for some rows of the batch.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from socialr1_jax.models.kv_cache import LayerCache, Sharing

_BLOCK = 64  # slots that a program reads at a time
_LEAST_ROWS, _MOST_ROWS = 16, 64  # query rows of a program: the least for tensor cores, the most for its registers
_SPLIT = 256  # slots of a prefix that a program reads: rounding depends on a row's lengths, not on the batch

# Highest score [r, 1], sum of the powers [r, 1] and weighted sum of values [r, h] of an online softmax, float32.
Softmax = tuple[jax.Array, jax.Array, jax.Array]


def attention_by_length(
    q_bnh: jax.Array, cache: LayerCache, lengths_b: jax.Array, prefixes: LayerCache, sharing: Sharing
) -> jax.Array:
    """Return what `decode_attention` does, [b, n, h], reading only filled blocks of slots.

    Rows of length 0 have ended: neither their caches nor prefixes without other rows are read. The first kernel attends
    to prefixes, in splits, for all rows of a prefix at once. The second begins each row's online softmax with its
    results over the prefix and continues over the row's own cache.
    """
    q_bkgh = q_bnh.reshape(*cache.v_bksh.shape[:2], -1, q_bnh.shape[-1])
    (b, k, g, h), (e, m) = q_bkgh.shape, sharing.rows_em.shape
    live_e = jnp.zeros(e, bool).at[sharing.places_b // m].max(lengths_b > 0)
    lengths_e = jnp.where(live_e, sharing.lengths_e, 0)
    rows = min(_program_rows(m * g), _MOST_ROWS)
    splits = pl.cdiv(prefixes.slots, _SPLIT)
    sums = jax.ShapeDtypeStruct((e, k, splits, m * g, h), jnp.float32)
    norms = jax.ShapeDtypeStruct((e, k, splits, m * g), jnp.float32)
    over_prefixes = _kernel(partial(_over_prefix, rows=rows), (e, k, pl.cdiv(m * g, rows), splits), [sums, norms])
    before = over_prefixes(lengths_e, sharing.rows_em, q_bkgh, *prefixes)
    over_own = _kernel(_over_own, (b, k), jax.ShapeDtypeStruct(q_bkgh.shape, q_bkgh.dtype))
    return over_own(lengths_b, sharing.places_b, lengths_e, *before, q_bkgh, *cache).reshape(q_bnh.shape)


def _kernel(body: Any, grid: tuple[int, ...], out_shape: Any) -> Any:
    from jax.experimental.pallas import triton  # deprecated in JAX 0.12: without it the trial takes XLA

    params = triton.CompilerParams(num_warps=4, num_stages=2)
    return pl.pallas_call(body, out_shape, grid=grid, compiler_params=params)


def _program_rows(rows: int) -> int:
    return max(_LEAST_ROWS, pl.next_power_of_2(rows))


def _over_prefix(
    lengths_e: Any, rows_em: Any, q_bkgh: Any, k_ekhs: Any, v_eksh: Any, sum_eksrh: Any, norm_eksr: Any, *, rows: int
) -> None:
    """Attend from `rows` query rows behind a prefix to one split of its filled blocks."""
    e, k, part, split = map(pl.program_id, range(4))
    _, _, group, h = q_bkgh.shape
    # Numbers past the end become the last one: its results are computed and stored several times.
    r, h = jnp.minimum(part * rows + jnp.arange(rows), norm_eksr.shape[3] - 1)[:, None], jnp.arange(h)[None]
    q_rh = q_bkgh[rows_em[e, r // group], k, r % group, h]
    span = split * _SPLIT, jnp.minimum((split + 1) * _SPLIT, lengths_e[e])
    highest_r1, total_r1, sum_rh = _attend(_nothing(q_rh), q_rh, k_ekhs, v_eksh, (e, k), *span)
    total_r1 = jnp.maximum(total_r1, 1e-30)  # a split may be empty
    sum_eksrh[e, k, split, r, h] = sum_rh / total_r1
    norm_eksr[e, k, split, r] = highest_r1 + jnp.log(total_r1)


def _over_own(
    lengths_b: Any,
    places_b: Any,
    lengths_e: Any,
    sum_eksrh: Any,
    norm_eksr: Any,
    q_bkgh: Any,
    k_bkhs: Any,
    v_bksh: Any,
    out_bkgh: Any,
) -> None:
    """Merge the results of one row's query heads over the splits of its prefix, and attend to its own filled blocks."""
    b, k = pl.program_id(0), pl.program_id(1)
    _, _, group, h = q_bkgh.shape
    g, h = jnp.minimum(jnp.arange(_program_rows(group)), group - 1)[:, None], jnp.arange(h)[None]
    q_gh, places = q_bkgh[b, k, g, h], norm_eksr.shape[3] // group
    e, r = places_b[b] // places, places_b[b] % places * group + g

    def merge(split: jax.Array, softmax: Softmax) -> Softmax:
        return _joined(softmax, norm_eksr[e, k, split, r], 1.0, sum_eksrh[e, k, split, r, h])

    before = jax.lax.fori_loop(0, pl.cdiv(lengths_e[e], _SPLIT), merge, _nothing(q_gh))
    _, total_g1, sum_gh = _attend(before, q_gh, k_bkhs, v_bksh, (b, k), 0, lengths_b[b])
    out_bkgh[b, k, g, h] = (sum_gh / jnp.maximum(total_g1, 1e-30)).astype(out_bkgh.dtype)


def _nothing(q_rh: jax.Array) -> Softmax:
    zeros_r1 = jnp.zeros((len(q_rh), 1))
    return zeros_r1 - 1e30, zeros_r1, jnp.zeros(q_rh.shape)


def _joined(softmax: Softmax, highest_r1: jax.Array, total_r1: Any, sum_rh: jax.Array) -> Softmax:
    before_r1, before_total_r1, before_rh = softmax
    new_r1 = jnp.maximum(before_r1, highest_r1)
    less_r1, share_r1 = jnp.exp(before_r1 - new_r1), jnp.exp(highest_r1 - new_r1)
    return new_r1, before_total_r1 * less_r1 + total_r1 * share_r1, before_rh * less_r1 + sum_rh * share_r1


def _attend(softmax: Softmax, q_rh: jax.Array, k_bkhs: Any, v_bksh: Any, at: Any, first: Any, stop: Any) -> Softmax:
    """Return the online softmax continued over slots `first` to `stop` of the keys and values at two indices."""
    size = math.gcd(v_bksh.shape[2], _BLOCK)
    dot = partial(jnp.dot, precision="highest", preferred_element_type=jnp.float32)

    def step(i: jax.Array, softmax: Softmax) -> Softmax:
        slots = pl.ds(i * size, size)
        scores_rs = dot(q_rh, k_bkhs[*at, :, slots]) * q_rh.shape[1] ** -0.5
        scores_rs = jnp.where((i * size + jnp.arange(size) < stop)[None], scores_rs, -1e30)
        highest_r1 = jnp.maximum(softmax[0], scores_rs.max(1, keepdims=True))
        powers_rs = jnp.exp(scores_rs - highest_r1)
        sum_rh = dot(powers_rs.astype(v_bksh.dtype), v_bksh[*at, slots])
        return _joined(softmax, highest_r1, powers_rs.sum(1, keepdims=True), sum_rh)

    return jax.lax.fori_loop(first // size, pl.cdiv(stop, size), step, softmax)
