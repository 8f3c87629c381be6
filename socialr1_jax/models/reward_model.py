"""A Qwen3 with a scalar head, read at the last token of a text."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from socialr1_jax.models.attention import Backend
from socialr1_jax.models.blockwise import Segments
from socialr1_jax.models.qwen3 import Params, Remat, Weights, forward
from socialr1_jax.models.qwen3_config import Qwen3Config

__all__ = ["RewardModel", "position_scores", "reward_scores"]


@partial(jax.jit, static_argnums=1, static_argnames=("dtype", "backend", "remat"))
def position_scores(
    params: Params,
    config: Qwen3Config,
    tokens_bt: jax.Array,
    lengths_b: jax.Array,
    *,
    dtype: str,
    backend: Backend = "xla",
    remat: Remat = "nothing",
    segments: Segments | None = None,
) -> jax.Array:
    """Return the scalar at every position of right-padded rows, float32 [b, t]; undefined in the padding.

    With `segments` rows hold several texts, each scored as if it were alone. The body computes in `dtype`, the head in
    float32.
    """
    hidden_btd, _ = forward(
        params, config, tokens_bt, lengths_b, dtype=jnp.dtype(dtype), backend=backend, remat=remat, segments=segments
    )
    with jax.named_scope("score"):
        return jnp.sum(hidden_btd.astype(jnp.float32) * params["score"][0].astype(jnp.float32), axis=-1)


@partial(jax.jit, static_argnums=1, static_argnames=("dtype", "backend"))
def reward_scores(
    params: Params,
    config: Qwen3Config,
    tokens_bt: jax.Array,
    lengths_b: jax.Array,
    *,
    dtype: str,
    backend: Backend = "xla",
) -> jax.Array:
    """Return the scalar at the last token of each right-padded row [b, t], float32 [b]; lengths are >= 1."""
    scores_bt = position_scores(params, config, tokens_bt, lengths_b, dtype=dtype, backend=backend)
    return jnp.take_along_axis(scores_bt, (lengths_b - 1)[:, None], axis=1)[:, 0]


class RewardModel(Weights):
    """A reward model: `score` [1, d] in place of a language model's output matrix.

    `model(tokens_bt, lengths_b)` returns float32 scalars [b] of right-padded int32 rows.
    """

    def __init__(self, config: Qwen3Config, params: Params, *, source: str | None = None) -> None:
        super().__init__(config, params, source)
        self.score = nnx.Param(params["score"])

    def __call__(self, tokens_bt: ArrayLike, lengths_b: ArrayLike) -> jax.Array:
        batch = jnp.asarray(tokens_bt), jnp.asarray(lengths_b)
        return reward_scores(self.params, self.config, *batch, dtype=self.dtype.name)
