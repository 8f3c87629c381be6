"""Compare a device's logits with those of the CPU in float32."""

import jax
import numpy as np

from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3 import Params, row_logits
from socialr1_jax.models.qwen3_config import Qwen3Config


def parity(
    params: Params, config: Qwen3Config, tokens_bt: np.ndarray, dtype: str, backend: Backend
) -> dict[str, float]:
    """Return how far logits are from those of the CPU: relative norm, largest, and share of equal likeliest tokens."""
    full_b = np.full(len(tokens_bt), tokens_bt.shape[1])
    ours_btv = np.asarray(row_logits(params, config, tokens_bt, full_b, dtype, backend))
    with jax.default_device(jax.devices("cpu")[0]):
        exact_btv = np.asarray(row_logits(jax.device_get(params), config, tokens_bt, full_b, "float32", "xla"))
    return {
        "relative": float(np.linalg.norm(ours_btv - exact_btv) / np.linalg.norm(exact_btv)),
        "largest": float(np.abs(ours_btv - exact_btv).max()),
        "same_token": float((ours_btv.argmax(-1) == exact_btv.argmax(-1)).mean()),
    }
