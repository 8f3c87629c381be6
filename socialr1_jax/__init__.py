"""Social-R1 in JAX: GRPO training of Qwen3 with process rewards for social reasoning.

The public names load on first use: neither `import socialr1_jax.config.run` nor `socialr1_jax.rewards` pays for JAX.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from socialr1_jax.models.qwen3 import Qwen3
    from socialr1_jax.models.qwen3_config import Qwen3Config
    from socialr1_jax.runtime.mesh import make_mesh
    from socialr1_jax.sampling import Completion, SamplingParams, generate
    from socialr1_jax.weights.hf import load_hf
    from socialr1_jax.weights.hf_export import save_hf

# transformers says at its import that there is no PyTorch, which nothing here needs; an empty value lets it speak.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

__version__ = "0.1.0"

_HOME = {
    "Completion": "socialr1_jax.sampling",
    "Qwen3": "socialr1_jax.models.qwen3",
    "Qwen3Config": "socialr1_jax.models.qwen3",
    "SamplingParams": "socialr1_jax.sampling",
    "generate": "socialr1_jax.sampling",
    "load_hf": "socialr1_jax.weights.hf",
    "make_mesh": "socialr1_jax.runtime.mesh",
    "save_hf": "socialr1_jax.weights.hf_export",
}

__all__ = ["Completion", "Qwen3", "Qwen3Config", "SamplingParams", "generate", "load_hf", "make_mesh", "save_hf"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'socialr1_jax' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(_HOME[name]), name)
