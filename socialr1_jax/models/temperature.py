"""The sampling temperature as sampler and trainer apply it: finite log-probs at both ends of float32."""

import jax
import jax.numpy as jnp

SMALL = 0.01  # below it the largest logit is subtracted before the division: else log-probs lose digits, or overflow
SMALLEST = 1e-30  # stands for all smaller ones, which overflow float32: only the largest logit has a share already
GREEDY = 1e-6  # below it the sampler takes the largest logit, the first of equal ones, as at 0
LARGEST = 1e30  # stands for all larger ones, whose reciprocal is 0 to a device: log-probs are uniform already


def divisor(temperature: jax.Array) -> jax.Array:
    """Return what logits are divided by: the temperature within `SMALLEST` and `LARGEST`."""
    return jnp.clip(temperature, SMALLEST, LARGEST)
