"""Sampling: filters, drawing, the segmented decode engine, and the one-call `generate`."""

from collections.abc import Sequence

import jax

from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.runtime.mesh import mesh_of
from socialr1_jax.sampling.engine import Engine
from socialr1_jax.sampling.feed import Feed
from socialr1_jax.sampling.params import Completion, SamplingParams

__all__ = ["Completion", "Engine", "Feed", "SamplingParams", "generate"]


def generate(
    model: Qwen3, prompts: Sequence[Sequence[int]], sampling: SamplingParams | None = None
) -> list[list[Completion]]:
    """Return `sampling.n` completions of each prompt, a non-empty list of token ids. None means SamplingParams().

    A completion depends on (sampling.seed, prompt index, sample index) alone. Without stop token ids every row runs to
    `max_new_tokens`.
    """
    sampling = sampling or SamplingParams()
    params = model.params
    engine = Engine(params=params, config=model.config, num_tokens=model.num_tokens, dtype=model.dtype.name)
    with jax.set_mesh(mesh_of(params)):
        return engine.sample(prompts, sampling)
