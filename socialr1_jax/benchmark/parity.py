"""Compare a device's logits with those of the CPU in float32."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3 import Params, forward, head_kernel, logits
from socialr1_jax.models.qwen3_config import Qwen3Config


@partial(jax.jit, static_argnums=(1, 3, 4))
def _logits(params: Params, config: Qwen3Config, tokens_bt: jax.Array, dtype: str, backend: Backend) -> jax.Array:
    full_b = jnp.full(len(tokens_bt), tokens_bt.shape[1])
    hidden_btd, _ = forward(params, config, tokens_bt, full_b, dtype=jnp.dtype(dtype), backend=backend)
    return logits(hidden_btd, head_kernel(params, hidden_btd.dtype))


def parity(
    params: Params, config: Qwen3Config, tokens_bt: np.ndarray, dtype: str, backend: Backend
) -> dict[str, float]:
    """Return how far logits are from those of the CPU: relative norm, largest, and share of equal likeliest tokens."""
    ours_btv = np.asarray(_logits(params, config, tokens_bt, dtype, backend))
    with jax.default_device(jax.devices("cpu")[0]):
        exact_btv = np.asarray(_logits(jax.device_get(params), config, tokens_bt, "float32", "xla"))
    return {
        "relative": float(np.linalg.norm(ours_btv - exact_btv) / np.linalg.norm(exact_btv)),
        "largest": float(np.abs(ours_btv - exact_btv).max()),
        "same_token": float((ours_btv.argmax(-1) == exact_btv.argmax(-1)).mean()),
    }
