"""Compute log-probs of given tokens in chunks, without the logits of a whole row in memory.

The vocabulary has 151,936 entries: float32 logits of 1,024 positions take 622 MB. Only the wanted positions are
computed, in chunks. The logits of a chunk are freed after its log-probs and recomputed in the backward pass.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from socialr1_jax.models.attention import Backend
from socialr1_jax.models.blockwise import Segments
from socialr1_jax.models.linear import dot
from socialr1_jax.models.qwen3 import Params, Qwen3, Remat, forward, gathered, logits, moved, weight_spec
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.temperature import SMALL, divisor
from socialr1_jax.runtime.mesh import ROWS, P, by_rows, constrain

# Most logits of a device's chunk: 256 MiB of float32. Each chunk reads and writes the head's float32 gradient; with
# 441 positions of Qwen3's vocabulary it does 220 FLOP per byte of that traffic. 882 positions take as long on a CPU
# (3.27 and 3.29 s of processor time) and twice the memory.
_CHUNK_LOGITS = 1 << 26

_HEAD = "lm_head"  # sharded like the embedding, which tied models use
_SPECS = (ROWS, P(), ROWS, ROWS, P())  # of hidden states, kernel, targets, wanted positions and temperature


def token_logprobs(model: Qwen3, tokens_bt: ArrayLike, lengths_b: ArrayLike, temperature: float = 1.0) -> jax.Array:
    """Return float32 [b, t]: the log-prob of tokens_bt[:, t] given the tokens before it; 0 at t = 0 and in padding.

    Rows are right-padded int32 [b, t] with lengths [b]. Logits are divided by the sampling temperature; log-probs stay
    finite at any temperature above 0. Ids that the tokenizer lacks are left out of the softmax. Raises ValueError if
    the temperature is not above 0.
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
    """Return log-probs as in `token_logprobs` and entropies of the predictions, both float32 [b, t], differentiable.

    `wanted_bt` (boolean, default all) selects tokens. The others get 0 and their logits are never computed, which for a
    long prompt would cost as much as its forward pass. With `segments` a row holds several texts, and the first token
    of each must not be wanted.
    """
    hidden_btd, _ = forward(
        params, config, tokens_bt, lengths_b, dtype=jnp.dtype(dtype), backend=backend, remat=remat, segments=segments
    )
    if wanted_bt is None:
        wanted_bt = jnp.arange(tokens_bt.shape[1]) < lengths_b[:, None]
    head_vd = params["lm_head" if "lm_head" in params else "embed_tokens"]
    with jax.named_scope("logprobs"):
        logp_bu, entropy_bu = _chunked(
            num_tokens, hidden_btd[:, :-1], head_vd, tokens_bt[:, 1:], wanted_bt[:, 1:], jnp.float32(temperature)
        )

    def place(x_bu: jax.Array) -> jax.Array:  # position u predicts token u + 1
        return jnp.where(wanted_bt, jnp.pad(x_bu, ((0, 0), (1, 0))), 0.0)

    return place(logp_bu), place(entropy_bu)


_jitted = jax.jit(row_logprobs, static_argnums=1, static_argnames=("num_tokens", "dtype", "backend", "remat"))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(num_tokens: int, *arrays: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return log-probs of the wanted targets and entropies, both [b, u], 0 elsewhere.

    `arrays` are hidden_bud, weight_vd, targets_bu, wanted_bu and the temperature. The weight is gathered in the type of
    the hidden states, and its gradient is summed in float32, over the chunks and between devices.
    """
    return _chunked_forward(num_tokens, *arrays)[0]


def _chunked_forward(
    num_tokens: int, hidden_bud: jax.Array, weight_vd: jax.Array, *rest: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], Any]:
    dtype = hidden_bud.dtype
    # `moved` casts before the gather, which XLA may otherwise do first.
    arrays = hidden_bud, gathered(_HEAD, moved(_HEAD, weight_vd, dtype), dtype), *rest
    # Each device loops over the chunks of its own rows; the weight is gathered once, before the loop.
    forward = by_rows(partial(_forward_chunks, num_tokens), _SPECS, ((ROWS, ROWS), (ROWS,) * 3))
    results, residuals = forward(*arrays)
    return results, (jnp.zeros(0, weight_vd.dtype), arrays, residuals)


def _chunked_backward(
    num_tokens: int, saved: Any, gradients: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, None, None, None]:
    like, arrays, residuals = saved
    specs = (*_SPECS, (ROWS,) * 3, (ROWS, ROWS))
    backward = by_rows(partial(_backward_chunks, num_tokens), specs, (ROWS, ROWS))
    hidden_bud, sums_nvd = backward(*arrays, residuals, gradients)
    return hidden_bud, constrain(sums_nvd.sum(0), weight_spec(_HEAD)).astype(like.dtype), None, None, None


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _forward_chunks(
    num_tokens: int,
    hidden_bud: jax.Array,
    kernel_vd: jax.Array,
    targets_bu: jax.Array,
    wanted_bu: jax.Array,
    temperature: jax.Array,
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, ...]]:
    """Return the results of `_chunked` for a device's rows, and the backward pass's residuals."""
    chunks = _Chunks(targets_bu, wanted_bu, kernel_vd.shape[0])

    def add_chunk(i: jax.Array, results: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        hidden_cd, targets_c = chunks.cut(i, hidden_bud), chunks.cut(i, targets_bu)
        raw_cv = logits(hidden_cd[None], kernel_vd)[0]
        offset_c = _offset(raw_cv, temperature, num_tokens)
        logits_cv = _tempered(raw_cv, offset_c, temperature, num_tokens)
        highest_c = jnp.max(logits_cv, axis=1)
        powers_cv = jnp.exp(logits_cv - highest_c[:, None])
        sum_c = jnp.sum(powers_cv, axis=1)
        norm_c = highest_c + jnp.log(sum_c)
        # A masked sum instead of a gather: it fuses with the logits and works on a sharded vocabulary.
        chosen_c = jnp.sum(jnp.where(_is_target(targets_c, logits_cv), logits_cv, 0.0), axis=1)
        mean_c = jnp.sum(powers_cv * logits_cv, axis=1) / sum_c
        return tuple(
            chunks.put(i, result, x)
            for result, x in zip(results, (chosen_c - norm_c, norm_c - mean_c, norm_c, offset_c), strict=True)
        )

    zeros_n = jnp.zeros(chunks.size, jnp.float32)
    logp_n, entropy_n, norm_n, offset_n = jax.lax.fori_loop(0, chunks.count, add_chunk, (zeros_n,) * 4)
    return (chunks.restore(logp_n), chunks.restore(entropy_n)), (norm_n, entropy_n, offset_n)


def _backward_chunks(
    num_tokens: int,
    hidden_bud: jax.Array,
    kernel_vd: jax.Array,
    targets_bu: jax.Array,
    wanted_bu: jax.Array,
    temperature: jax.Array,
    residuals: tuple[jax.Array, ...],
    gradients: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Return the gradients of a device's hidden states, and of the kernel by its rows, float32 [1, v, d]."""
    norm_n, entropy_n, offset_n = residuals
    chunks = _Chunks(targets_bu, wanted_bu, kernel_vd.shape[0])
    dtype = hidden_bud.dtype

    def add_chunk(i: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_nd, kernel_sum_dv = sums
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
        part_cd = dot("cv,vd->cd", change_cv, kernel_vd)
        part_dv = dot("cd,cv->dv", hidden_cd, change_cv)
        return chunks.put(i, hidden_nd, part_cd.astype(dtype)), kernel_sum_dv + part_dv

    zeros = jnp.zeros((chunks.size, hidden_bud.shape[2]), dtype), jnp.zeros(kernel_vd.shape[::-1], jnp.float32)
    hidden_nd, kernel_sum_dv = jax.lax.fori_loop(0, chunks.count, add_chunk, zeros)
    return chunks.restore(hidden_nd), kernel_sum_dv.T[None]


def chunk_length(positions: int, vocabulary: int) -> int:
    """Return the length of a chunk if a device has `positions` predicted tokens."""
    return max(1, min(positions, _CHUNK_LOGITS // vocabulary))


class _Chunks:
    """The positions of [b, u] as a list, wanted ones first, cut into chunks; chunks without one are skipped."""

    def __init__(self, targets_bu: jax.Array, wanted_bu: jax.Array, vocabulary: int) -> None:
        self._shape = targets_bu.shape
        positions = targets_bu.size
        self._length = chunk_length(positions, vocabulary)
        self.size = -(-positions // self._length) * self._length  # length of the list, padded to whole chunks
        wanted_n = wanted_bu.reshape(-1)
        total = jnp.sum(wanted_n)
        self.count = -(-total // self._length)  # chunks with a wanted position
        order_n = jnp.pad(jnp.argsort(~wanted_n, stable=True), (0, self.size - positions))
        # Entries after the wanted ones are out of bounds, so that `cut` reads 0 there and never a NaN.
        self._order_n = jnp.where(jnp.arange(self.size) < total, order_n, positions)
        # The place of each position in the list; out of bounds for unwanted positions.
        place_n = jnp.full(positions, self.size).at[self._order_n].set(jnp.arange(self.size), mode="drop")
        self._place_bu = place_n.reshape(self._shape)

    def cut(self, i: jax.Array, x_bu: jax.Array) -> jax.Array:
        """Return chunk i of an array [b, u, ...]."""
        x_n = x_bu.reshape(-1, *x_bu.shape[2:])
        return x_n.at[self.take(i, self._order_n)].get(mode="fill", fill_value=0)

    def take(self, i: jax.Array, x_n: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x_n, i * self._length, self._length)

    def put(self, i: jax.Array, x_n: jax.Array, chunk_c: jax.Array) -> jax.Array:
        return jax.lax.dynamic_update_slice_in_dim(x_n, chunk_c, i * self._length, axis=0)

    def restore(self, x_n: jax.Array) -> jax.Array:
        """Return the list as [b, u, ...], 0 at unwanted positions."""
        return x_n.at[self._place_bu].get(mode="fill", fill_value=0)


def _is_known(logits_cv: jax.Array, num_tokens: int) -> jax.Array:
    return jnp.arange(logits_cv.shape[1]) < num_tokens


def _offset(logits_cv: jax.Array, temperature: jax.Array, num_tokens: int) -> jax.Array:
    """Return the offset [c] to subtract before the division: the largest logit if temperature < `SMALL`, else 0."""

    def largest() -> jax.Array:
        return jnp.max(jnp.where(_is_known(logits_cv, num_tokens), logits_cv, -jnp.inf), axis=1)

    # A run-time branch: ordinary temperatures skip this pass over the logits.
    return jax.lax.cond(temperature < SMALL, largest, lambda: jnp.zeros(logits_cv.shape[0], jnp.float32))


def _tempered(logits_cv: jax.Array, offset_c: jax.Array, temperature: jax.Array, num_tokens: int) -> jax.Array:
    """Return (logits - offset) / temperature, -1e30 for ids that the tokenizer lacks."""
    tempered_cv = (logits_cv - offset_c[:, None]) / divisor(temperature)
    return jnp.where(_is_known(logits_cv, num_tokens), tempered_cv, -1e30)


def _is_target(targets_c: jax.Array, logits_cv: jax.Array) -> jax.Array:
    return jnp.arange(logits_cv.shape[1]) == targets_c[:, None]
