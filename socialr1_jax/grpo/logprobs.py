"""Log-probs of given tokens, without ever holding a whole row of vocabulary logits.

The vocabulary has 151,936 entries: float32 logits of 1,024 positions are 622 MB. The positions that are asked for are
taken in chunks; a chunk's logits live only while its log-probs are computed, and are computed again in the backward
pass.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from socialr1_jax.models.attention import Backend, Segments
from socialr1_jax.models.qwen3 import Params, Qwen3, Qwen3Config, Remat, forward, head_kernel, logits, precision
from socialr1_jax.models.temperature import SMALL, divisor
from socialr1_jax.runtime.mesh import ROWS, P, by_rows

# Logits that a device's chunk may hold: 256 MiB of float32. A chunk adds its share to the head's float32 gradient in
# memory: 441 positions of Qwen3's vocabulary do 220 FLOP for each of those bytes.
_CHUNK_LOGITS = 1 << 26


def token_logprobs(model: Qwen3, tokens_bt: ArrayLike, lengths_b: ArrayLike, temperature: float = 1.0) -> jax.Array:
    """Return float32 [b, t]: the log-prob of tokens_bt[:, t] given the ones before it; 0 at t = 0 and in padding.

    Rows are right-padded int32 [b, t] with lengths [b]. Logits are divided by the sampling temperature (> 0, however
    small: log-probs stay finite); ids that the tokenizer does not know have no share of the softmax.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0 to have log-probs, got {temperature}")
    return _jitted(
        model.params,
        model.config,
        jnp.asarray(tokens_bt),
        jnp.asarray(lengths_b),
        temperature,
        num_tokens=model.num_tokens,
        dtype=model.dtype.name,
    )[0]


def row_logprobs(
    params: Params,
    config: Qwen3Config,
    tokens_bt: jax.Array,
    lengths_b: jax.Array,
    temperature: float | jax.Array,
    *,
    num_tokens: int,
    dtype: str,
    wanted_bt: jax.Array | None = None,
    backend: Backend = "xla",
    remat: Remat = "nothing",
    segments: Segments | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Log-probs as in `token_logprobs` and the entropy of each prediction, both float32 [b, t] with gradients.

    `wanted_bt` (boolean) marks the tokens that are asked for, all by default; the others get 0, and their logits are
    never computed: those of a long prompt cost as much as its forward pass. With `segments` rows hold several texts,
    and the first token of each must not be wanted.
    """
    hidden_btd, _ = forward(
        params,
        config,
        tokens_bt,
        lengths_b,
        dtype=jnp.dtype(dtype),
        backend=backend,
        remat=remat,
        segments=segments,
    )
    if wanted_bt is None:
        wanted_bt = jnp.arange(tokens_bt.shape[1]) < lengths_b[:, None]
    # Every device goes through its own rows' chunks, and the head is gathered once for all of them.
    chunked = by_rows(partial(_chunked, num_tokens), (ROWS, P(), ROWS, ROWS, P()), (ROWS, ROWS))
    with jax.named_scope("logprobs"):
        logp_bu, entropy_bu = chunked(
            hidden_btd[:, :-1], head_kernel(params, dtype), tokens_bt[:, 1:], wanted_bt[:, 1:], jnp.float32(temperature)
        )

    def place(x_bu: jax.Array) -> jax.Array:  # position u predicts token u + 1
        return jnp.where(wanted_bt, jnp.pad(x_bu, ((0, 0), (1, 0))), 0.0)

    return place(logp_bu), place(entropy_bu)


_jitted = jax.jit(row_logprobs, static_argnums=1, static_argnames=("num_tokens", "dtype", "backend", "remat"))


def _chunked_forward(
    num_tokens: int,
    hidden_bud: jax.Array,
    kernel_vd: jax.Array,
    targets_bu: jax.Array,
    wanted_bu: jax.Array,
    temperature: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    """(log-prob of each wanted target and entropy of its prediction, [b, u], 0 at the others), and what is kept."""
    chunks = _Chunks(targets_bu, wanted_bu, kernel_vd.shape[0])

    def one(i: jax.Array, results: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        hidden_cd, targets_c = chunks.cut(i, hidden_bud), chunks.cut(i, targets_bu)
        raw_cv = logits(hidden_cd[None], kernel_vd)[0]
        offset_c = _offset(raw_cv, temperature, num_tokens)
        logits_cv = _tempered(raw_cv, offset_c, temperature, num_tokens)
        highest_c = jnp.max(logits_cv, axis=1)
        powers_cv = jnp.exp(logits_cv - highest_c[:, None])
        sum_c = jnp.sum(powers_cv, axis=1)
        norm_c = highest_c + jnp.log(sum_c)
        # A masked sum, not a gather: it fuses with the logits and splits over a sharded vocabulary.
        chosen_c = jnp.sum(jnp.where(_is_target(targets_c, logits_cv), logits_cv, 0.0), axis=1)
        mean_c = jnp.sum(powers_cv * logits_cv, axis=1) / sum_c
        return tuple(
            chunks.put(i, result, x)
            for result, x in zip(results, (chosen_c - norm_c, norm_c - mean_c, norm_c, offset_c), strict=True)
        )

    nothing = jnp.zeros(chunks.size, jnp.float32)
    logp_n, entropy_n, norm_n, offset_n = jax.lax.fori_loop(0, chunks.count, one, (nothing,) * 4)
    results = chunks.restore(logp_n), chunks.restore(entropy_n)
    return results, (hidden_bud, kernel_vd, targets_bu, wanted_bu, temperature, norm_n, entropy_n, offset_n)


def _chunked_backward(
    num_tokens: int, saved: Any, gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, None, None, None]:
    hidden_bud, kernel_vd, targets_bu, wanted_bu, temperature, norm_n, entropy_n, offset_n = saved
    chunks = _Chunks(targets_bu, wanted_bu, kernel_vd.shape[0])
    dtype = hidden_bud.dtype

    def one(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_nd, kernel_sum_vd = sums
        hidden_cd, targets_c = chunks.cut(i, hidden_bud), chunks.cut(i, targets_bu)
        logp_c, entropy_c = (chunks.cut(i, gradient_bu)[:, None] for gradient_bu in gradients)
        norm_c, spread_c = (chunks.take(i, x_n)[:, None] for x_n in (norm_n, entropy_n))
        raw_cv = logits(hidden_cd[None], kernel_vd)[0]
        logits_cv = _tempered(raw_cv, chunks.take(i, offset_n), temperature, num_tokens)
        probs_cv = jnp.exp(logits_cv - norm_c)
        # d log-prob / d logits = onehot - p, d entropy / d logits = -p (log p + entropy)
        change_cv = jnp.where(_is_target(targets_c, logits_cv), logp_c, 0.0)
        change_cv -= probs_cv * (logp_c + entropy_c * (logits_cv - norm_c + spread_c))
        change_cv = (change_cv / divisor(temperature)).astype(dtype)
        part_cd = _product("cv,vd->cd", change_cv, kernel_vd)
        part_vd = _product("cv,cd->vd", change_cv, hidden_cd)
        return chunks.put(i, hidden_nd, part_cd.astype(dtype)), kernel_sum_vd + part_vd

    zeros = jnp.zeros((chunks.size, hidden_bud.shape[2]), dtype), jnp.zeros(kernel_vd.shape, jnp.float32)
    hidden_nd, kernel_sum_vd = jax.lax.fori_loop(0, chunks.count, one, zeros)
    return chunks.restore(hidden_nd), kernel_sum_vd.astype(kernel_vd.dtype), None, None, None


_chunked = jax.custom_vjp(lambda num_tokens, *arrays: _chunked_forward(num_tokens, *arrays)[0], nondiff_argnums=(0,))
_chunked.defvjp(_chunked_forward, _chunked_backward)


class _Chunks:
    """The positions of [b, u] as a list, the wanted ones first, in chunks of which only those are gone through."""

    def __init__(self, targets_bu: jax.Array, wanted_bu: jax.Array, vocabulary: int) -> None:
        self._shape = targets_bu.shape
        positions = targets_bu.size
        self._length = max(1, min(positions, _CHUNK_LOGITS // vocabulary))
        self.size = -(-positions // self._length) * self._length  # of the list, its last places filled up
        wanted_n = wanted_bu.reshape(-1)
        total = jnp.sum(wanted_n)
        self.count = -(-total // self._length)  # chunks with a wanted position
        order_n = jnp.pad(jnp.argsort(~wanted_n, stable=True), (0, self.size - positions))
        # Behind the wanted ones the list is empty: an index out of bounds reads 0, whatever lies there.
        self._order_n = jnp.where(jnp.arange(self.size) < total, order_n, positions)
        # Where each position stands in the list; out of bounds where it is not.
        place_n = jnp.full(positions, self.size).at[self._order_n].set(jnp.arange(self.size), mode="drop")
        self._place_bu = place_n.reshape(self._shape)

    def cut(self, i: jax.Array, x_bu: jax.Array) -> jax.Array:
        """Chunk i of an array [b, u, ...]."""
        x_n = x_bu.reshape(-1, *x_bu.shape[2:])
        return x_n.at[self.take(i, self._order_n)].get(mode="fill", fill_value=0)

    def take(self, i: jax.Array, x_n: jax.Array) -> jax.Array:
        """Chunk i of a list."""
        return jax.lax.dynamic_slice_in_dim(x_n, i * self._length, self._length)

    def put(self, i: jax.Array, x_n: jax.Array, chunk_c: jax.Array) -> jax.Array:
        """The list with this as its chunk i."""
        return jax.lax.dynamic_update_slice_in_dim(x_n, chunk_c, i * self._length, axis=0)

    def restore(self, x_n: jax.Array) -> jax.Array:
        """The list as [b, u, ...], 0 where nothing is wanted."""
        return x_n.at[self._place_bu].get(mode="fill", fill_value=0)


def _is_known(logits_cv: jax.Array, num_tokens: int) -> jax.Array:
    """Return where ids are ones that the tokenizer knows, [v]."""
    return jnp.arange(logits_cv.shape[1]) < num_tokens


def _offset(logits_cv: jax.Array, temperature: jax.Array, num_tokens: int) -> jax.Array:
    """Return what is subtracted before the division, [c]: the largest logits at temperatures below `SMALL`, else 0."""

    def largest() -> jax.Array:
        return jnp.max(jnp.where(_is_known(logits_cv, num_tokens), logits_cv, -jnp.inf), axis=1)

    # A branch at run time: ordinary temperatures are spared a pass over the logits.
    return jax.lax.cond(temperature < SMALL, largest, lambda: jnp.zeros(logits_cv.shape[0], jnp.float32))


def _tempered(logits_cv: jax.Array, offset_c: jax.Array, temperature: jax.Array, num_tokens: int) -> jax.Array:
    """Return the logits less their offset, divided by the temperature; -1e30 for ids that the tokenizer lacks."""
    tempered_cv = (logits_cv - offset_c[:, None]) / divisor(temperature)
    return jnp.where(_is_known(logits_cv, num_tokens), tempered_cv, -1e30)


def _is_target(targets_c: jax.Array, logits_cv: jax.Array) -> jax.Array:
    return jnp.arange(logits_cv.shape[1]) == targets_c[:, None]


def _product(form: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(form, x, y, precision=precision(x), preferred_element_type=jnp.float32)
