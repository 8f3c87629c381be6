"""Bounds of the sampling temperature in sampler and trainer, which keep log-probs finite over all of float32."""

import jax
import jax.numpy as jnp

SMALL = (
    0.01  # below it the largest logit is subtracted before the division; otherwise log-probs lose digits or overflow
)
SMALLEST = 1e-30  # lower clip: smaller values overflow float32, and all mass is on the largest logit anyway
GREEDY = 1e-6  # below it the sampler takes the largest logit, the first of equal ones, as at 0
LARGEST = 1e30  # upper clip: larger values have a reciprocal of 0 on a device, and log-probs are uniform anyway


def divisor(temperature: jax.Array) -> jax.Array:
    """Return the divisor of the logits: the temperature clipped to [`SMALLEST`, `LARGEST`]."""
    return jnp.clip(temperature, SMALLEST, LARGEST)
