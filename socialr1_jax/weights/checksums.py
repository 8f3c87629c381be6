"""Compare two copies of a model by the SHA-256 of every tensor's bytes."""

import hashlib
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np
from safetensors import safe_open

from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.runtime.terminal import counted
from socialr1_jax.weights.declared import tensors
from socialr1_jax.weights.hf_export import fetched
from socialr1_jax.weights.hf_folder import HfFolder


def folder_sums(source: HfFolder) -> dict[str, str]:
    """Return the checksums of a folder's tensors by Hugging Face name, in `source.dtype` (None: each in its own)."""
    sums: dict[str, str] = {}
    for file in source.files:
        with safe_open(source.folder / file, framework="np") as opened:
            for name, place in source.places.items():
                if place.file == file:
                    tensor = opened.get_tensor(place.name)
                    with np.errstate(over="ignore"):
                        cast = tensor if source.dtype is None else tensor.astype(jnp.dtype(source.dtype))
                    sums[name] = _sum(cast)
    return sums


def model_sums(model: Qwen3, dtype: str | None = None) -> dict[str, str]:
    """Return the checksums of a model's weights by Hugging Face name, in `dtype` (None: each in its own)."""
    return {name: _sum(tensor) for name, tensor in fetched(model, list(tensors(model)), dtype)}


def compare_sums(source: Mapping[str, str], written: Mapping[str, str]) -> str:
    """Return a line reporting that all checksums agree. Raises ValueError naming every tensor that differs."""
    differing = [name for name in sorted({*source, *written}) if source.get(name) != written.get(name)]
    if differing:
        raise ValueError(f"{len(differing)} of {counted(len(source), 'tensor')} differ: {', '.join(differing)}")
    return f"verified: the SHA-256 of all {len(source)} tensors agree"


def _sum(tensor: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data).hexdigest()
