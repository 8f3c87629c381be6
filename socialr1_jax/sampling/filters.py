"""Temperature, top-k, top-p and min-p on logits, without sorting the vocabulary.

A top-k or top-p set is all logits at or above a threshold, which is found by bisection over the 2^32 ordered float32
values: 32 fused passes over a row instead of a sort of 151,936 logits. Logits equal to the threshold are all kept.
"""

from collections.abc import Callable, Container

import jax
import jax.numpy as jnp

from socialr1_jax.models.temperature import SMALL, divisor

FILTERS = ("top_k", "top_p", "min_p")


def filter_logits(
    logits_bv: jax.Array,
    temperature_b: jax.Array,
    top_k_b: jax.Array,
    top_p_b: jax.Array,
    min_p_b: jax.Array,
    used: Container[str] = FILTERS,
) -> jax.Array:
    """Return float32 logits [b, v] divided by the temperature (see `temper`), with rejected tokens at -inf.

    Temperature, top-k, top-p and min-p apply in this order, each to the result of the previous one. Rows with
    temperature 0 are not scaled; `top_k` 0, `top_p` 1 and `min_p` 0 reject nothing. Filters not in `used` are skipped.
    """
    x_bv = temper(logits_bv, temperature_b)
    if "top_k" in used:
        k_b = jnp.where(top_k_b > 0, top_k_b, x_bv.shape[-1])
        x_bv = _keep_from(x_bv, _largest_threshold(x_bv, lambda kept_bv: jnp.sum(kept_bv, axis=-1) >= k_b))
    if "top_p" in used:
        probs_bv = jax.nn.softmax(x_bv, axis=-1)
        nucleus_b = _largest_threshold(
            x_bv, lambda kept_bv: jnp.sum(jnp.where(kept_bv, probs_bv, 0), axis=-1) >= top_p_b
        )
        x_bv = _keep_from(x_bv, jnp.where(top_p_b < 1, nucleus_b, -jnp.inf))
    if "min_p" in used:
        x_bv = _keep_from(x_bv, jnp.max(x_bv, axis=-1) + jnp.log(min_p_b))
    return x_bv


def temper(logits_bv: jax.Array, temperature_b: jax.Array) -> jax.Array:
    """Return float32 logits divided by each row's temperature; rows with temperature 0 are unchanged.

    Below `SMALL` the row's largest logit is subtracted first.
    """
    logits_bv = logits_bv.astype(jnp.float32)
    # Compare the bits, since devices flush subnormal numbers to 0.
    positive_b = jax.lax.bitcast_convert_type(temperature_b.astype(jnp.float32), jnp.int32) > 0
    temperature_b = jnp.where(positive_b, divisor(temperature_b), 1.0)
    offset_b = jnp.where(temperature_b < SMALL, jnp.max(logits_bv, axis=-1), 0.0)
    return (logits_bv - offset_b[:, None]) / temperature_b[:, None]


def _keep_from(x_bv: jax.Array, threshold_b: jax.Array) -> jax.Array:
    return jnp.where(x_bv >= threshold_b[:, None], x_bv, -jnp.inf)


def _largest_threshold(x_bv: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Return the largest t [b] for which `enough(x >= t)` holds. `enough` must be monotone and hold at -inf."""

    def flip(bits: jax.Array) -> jax.Array:  # maps float32 bits to int32 of the same order and back
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)

    def value(order_b: jax.Array) -> jax.Array:
        return jax.lax.bitcast_convert_type(flip(order_b), jnp.float32)

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low_b, high_b = bounds  # enough at low, not at high
        middle_b = (low_b & high_b) + ((low_b ^ high_b) >> 1)  # the mean, without overflow
        holds_b = enough(x_bv >= value(middle_b)[:, None])
        return jnp.where(holds_b, middle_b, low_b), jnp.where(holds_b, high_b, middle_b)

    rows = x_bv.shape[:1]
    order = [flip(jax.lax.bitcast_convert_type(jnp.float32(edge), jnp.int32)) for edge in (-jnp.inf, jnp.inf)]
    low_b, _ = jax.lax.fori_loop(0, 32, halve, (jnp.full(rows, order[0]), jnp.full(rows, order[1])))
    return value(low_b)
