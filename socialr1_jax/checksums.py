"""Whether two copies of a model hold the same numbers: SHA-256 of every tensor's bytes, by its Hugging Face name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open

from socialr1_jax.hf import fetched, tensors
from socialr1_jax.models.qwen3 import Qwen3


def folder_sums(folder: Path, home: Mapping[str, str]) -> dict[str, str]:
    """Of the tensors of safetensors files, read as they lie there; `home` gives each one's file."""
    sums: dict[str, str] = {}
    for file in sorted(set(home.values())):
        with safe_open(folder / file, framework="np") as opened:
            sums |= {name: _sum(opened.get_tensor(name)) for name in home if home[name] == file}
    return sums


def model_sums(model: Qwen3, dtype: str | None = None) -> dict[str, str]:
    """Of a model's weights, in its own dtype or in `dtype`."""
    kind = np.dtype(dtype or model.dtype)
    return {name: _sum(tensor) for name, tensor in fetched(model, list(tensors(model)), kind)}


def compare(source: Mapping[str, str], written: Mapping[str, str]) -> str:
    """What the comparison found; ValueError naming every tensor that differs or is on one side only."""
    differing = [name for name in sorted({*source, *written}) if source.get(name) != written.get(name)]
    if differing:
        raise ValueError(f"{len(differing)} of {len(source)} tensors differ: {', '.join(differing)}")
    return f"verified: the SHA-256 of all {len(source)} tensors agree"


def _sum(tensor: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data).hexdigest()
