"""Write a whole model as an Orbax folder."""

import os
from pathlib import Path

import jax

from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.weights.declared import map_weights
from socialr1_jax.weights.orbax_folder import write_orbax


def save_orbax(model: Qwen3, directory: str | os.PathLike[str]) -> None:
    """Writes the model's weights in their own dtypes, its configuration and its tokenizer files; all or nothing.

    An existing Orbax folder is replaced; any other non-empty folder raises FileExistsError.
    """
    names = jax.tree.leaves(map_weights(model.config, lambda weight, layers, spec: weight.hf_name))
    arrays = dict(zip(names, jax.tree.leaves(model.params), strict=True))
    tokenizer = Path(model.source) if model.source else None
    dtypes = {name: array.dtype.name for name, array in arrays.items()}
    write_orbax(directory, model.config, dtypes, lambda weight, *_: arrays[weight.hf_name], tokenizer)
