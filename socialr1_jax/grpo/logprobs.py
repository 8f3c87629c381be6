"""Log-probs of given tokens, without ever holding a whole row of vocabulary logits.

The vocabulary has 151,936 entries: float32 logits of 1,024 positions are 622 MB. Positions are taken in chunks; a
chunk's logits live only while its log-probs are computed, and are computed again in the backward pass.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from socialr1_jax.mesh import ROWS, P, by_rows
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3 import Params, Qwen3, Qwen3Config, forward, head_kernel, logits

_CHUNK_LOGITS = 1 << 25  # logits a device's chunk may hold: 128 MiB of float32


def token_logprobs(model: Qwen3, tokens_bt: ArrayLike, lengths_b: ArrayLike, temperature: float = 1.0) -> jax.Array:
    """float32 [b, t]: the log-prob of tokens_bt[:, t] given the ones before it; 0 at t = 0 and in padding.

    Rows are right-padded int32 [b, t] with lengths [b]. Logits are divided by the sampling temperature (> 0); ids that
    the tokenizer does not know have no share of the softmax.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be above 0 to have log-probs, got {temperature}")
    return _jitted(
        model.params, model.config, jnp.asarray(tokens_bt), jnp.asarray(lengths_b), temperature,
        num_tokens=model.num_tokens, dtype=model.dtype.name,
    )[0]  # fmt: skip


def row_logprobs(
    params: Params, config: Qwen3Config, tokens_bt: jax.Array, lengths_b: jax.Array, temperature: float | jax.Array,
    *, num_tokens: int, dtype: str, wanted_bt: jax.Array | None = None, backend: Backend = "xla", remat: bool = False,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
    """Log-probs as in `token_logprobs` and the entropy of each prediction (no gradient), both float32 [b, t].

    `wanted_bt` (boolean) marks the tokens that are asked for, all by default; the others get 0, and the logits of a
    chunk without any are never computed: those of a long prompt cost as much as its forward pass.
    """
    hidden_btd, _ = forward(params, config, tokens_bt, lengths_b, dtype=jnp.dtype(dtype), backend=backend, remat=remat)
    if wanted_bt is None:
        wanted_bt = jnp.arange(tokens_bt.shape[1]) < lengths_b[:, None]
    # Every device goes through its own rows' chunks, and the head is gathered once for all of them.
    chunked = by_rows(partial(_chunked, num_tokens=num_tokens), (ROWS, P(), ROWS, ROWS, P()), (ROWS, ROWS))
    logp_bu, entropy_bu = chunked(
        hidden_btd[:, :-1], head_kernel(params, dtype), tokens_bt[:, 1:], wanted_bt[:, 1:], jnp.float32(temperature)
    )

    def place(x_bu: jax.Array) -> jax.Array:  # position u predicts token u + 1
        return jnp.where(wanted_bt, jnp.pad(x_bu, ((0, 0), (1, 0))), 0.0)

    return place(logp_bu), place(entropy_bu)


_jitted = jax.jit(row_logprobs, static_argnums=1, static_argnames=("num_tokens", "dtype", "backend", "remat"))


def _chunked(
    hidden_bud: jax.Array,
    kernel_vd: jax.Array,
    targets_bu: jax.Array,
    wanted_bu: jax.Array,
    temperature: jax.Array,
    *,
    num_tokens: int,
) -> tuple[jax.Array, jax.Array]:
    """Log-prob of each target and entropy, [b, u], chunk by chunk along u."""
    b, u = targets_bu.shape
    chunk = max(1, min(u, _CHUNK_LOGITS // (b * kernel_vd.shape[0])))
    chunks = -(-u // chunk)

    def cut(x: jax.Array) -> jax.Array:  # [b, u, ...] -> [chunks, b, chunk, ...]
        x = jnp.pad(x, ((0, 0), (0, chunks * chunk - u)) + ((0, 0),) * (x.ndim - 2))
        return jnp.moveaxis(x.reshape(b, chunks, chunk, *x.shape[2:]), 1, 0)

    @jax.checkpoint
    def compute(hidden_bcd: jax.Array, targets_bc: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits_bcv = logits(hidden_bcd, kernel_vd) / temperature
        vocabulary_v = jnp.arange(kernel_vd.shape[0])
        if num_tokens < kernel_vd.shape[0]:
            logits_bcv = jnp.where(vocabulary_v < num_tokens, logits_bcv, -1e30)
        norm_bc = jax.nn.logsumexp(logits_bcv, axis=-1)
        # A masked sum, not a gather: it fuses with the logits and splits over a sharded vocabulary.
        chosen_bc = jnp.sum(jnp.where(vocabulary_v == targets_bc[..., None], logits_bcv, 0.0), axis=-1)
        still = jax.lax.stop_gradient(logits_bcv)
        mean_bc = jnp.sum(jnp.exp(still - jax.lax.stop_gradient(norm_bc)[..., None]) * still, axis=-1)
        return chosen_bc - norm_bc, jax.lax.stop_gradient(norm_bc) - mean_bc

    def skip(hidden_bcd: jax.Array, targets_bc: jax.Array) -> tuple[jax.Array, jax.Array]:
        nothing_bc = jnp.zeros(targets_bc.shape, jnp.float32)
        return nothing_bc, nothing_bc

    def one(part: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        hidden_bcd, targets_bc, wanted_bc = part
        return jax.lax.cond(jnp.any(wanted_bc), compute, skip, hidden_bcd, targets_bc)

    parts = jax.lax.map(one, (cut(hidden_bud), cut(targets_bu), cut(wanted_bu)))
    logp_bu, entropy_bu = (jnp.moveaxis(x, 0, 1).reshape(b, -1)[:, :u] for x in parts)
    return logp_bu, entropy_bu
