"""The sampling temperature as sampler and trainer apply it: finite down to the limit of 0."""

import jax
import jax.numpy as jnp

SMALL = 0.01  # below it the largest logit is subtracted before the division: else log-probs lose digits, or overflow
SMALLEST = 1e-30  # stands for all smaller ones, which overflow float32: only the largest logit has a share already


def divisor(temperature: jax.Array) -> jax.Array:
    """Return what logits are divided by: the temperature, or `SMALLEST` if that is larger."""
    return jnp.maximum(temperature, SMALLEST)
