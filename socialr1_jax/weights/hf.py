"""Load models from Hugging Face folders, and create random ones of a named shape."""

import os
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from socialr1_jax.models.qwen3 import Qwen3, check_mesh, init_params, weight_specs
from socialr1_jax.models.reward_model import RewardModel
from socialr1_jax.models.shapes import SHAPES, named_shape
from socialr1_jax.weights.declared import map_weights
from socialr1_jax.weights.hf_folder import open_hf
from socialr1_jax.weights.tokenizer_files import count_tokens, has_tokenizer


def load_hf(
    path: str | os.PathLike[str],
    mesh: Mesh | None = None,
    dtype: str | None = "float32",
    *,
    allow_nonfinite: bool = False,
    ignore_fields: Collection[str] = (),
) -> Qwen3:
    """Read a Qwen3 from a Hugging Face folder or hub id.

    With a mesh, every weight has the layout "train" (models/qwen3.py), and each process reads only the slices that its
    devices hold.

    Args:
        path: the folder, which may start with `~`, or a hub id.
        mesh: the device mesh; None uses the first device.
        dtype: type of the arrays ("float32", "bfloat16", "float16"); None keeps each weight's own.
        allow_nonfinite: accept weights that contain NaN or infinities.
        ignore_fields: unknown fields of config.json that cannot change the forward pass.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: one line with the missing, unexpected, mis-shaped, duplicate or unreadable tensors (the first 20 and
            the number of others), those that contain NaN or infinities, the faults of config.json or the tokenizer's
            files, the sizes that the mesh does not divide, or a link out of the folder.
    """
    source = open_hf(path, mesh, dtype, ignore_fields=ignore_fields)
    num_tokens = count_tokens(source.folder, source.config.vocab_size)  # before the weights are read
    params = map_weights(source.config, source.read)
    if not allow_nonfinite:
        source.refuse_nonfinite()
    return Qwen3(source.config, params, source=str(source.folder), num_tokens=num_tokens)


def load_reward_model(
    path: str | os.PathLike[str], mesh: Mesh | None = None, dtype: str | None = "float32"
) -> RewardModel:
    """Read a reward model (a Qwen3ForSequenceClassification with one label) from a folder or hub id, as `load_hf`."""
    source = open_hf(path, mesh, dtype, scalar_head=True)
    params = map_weights(source.config, source.read)
    source.refuse_nonfinite()
    return RewardModel(source.config, params, source=str(source.folder))


def init_reward_model(model: Qwen3, key: jax.Array, pad_token_id: int | None = None) -> RewardModel:
    """Create a reward model that shares a language model's body and has a new scalar head.

    The head is normal with standard deviation 1 / sqrt(d + 1) (Stiennon et al., arXiv 2009.01325, appendix B).
    `pad_token_id`, the tokenizer's, is used if the model's config.json has none.
    """
    own = model.config.pad_token_id
    config = replace(model.config, scalar_head=True, pad_token_id=pad_token_id if own is None else own)
    d, norm = config.hidden_size, model.norm.get_value()
    score = (d + 1) ** -0.5 * jax.random.normal(key, (1, d), model.dtype)
    if isinstance(norm.sharding, NamedSharding):
        score = jax.device_put(np.asarray(score), NamedSharding(norm.sharding.mesh, weight_specs(config)["score"]))
    params = {name: value for name, value in model.params.items() if name != "lm_head"}
    return RewardModel(config, params | {"score": score}, source=model.source)


def random_model(tokenizer_folder: str | os.PathLike[str], shape: str, seed: int, mesh: Mesh | None = None) -> Qwen3:
    """Create a Qwen3 of a named shape with random float32 weights.

    The tokenizer files come from `tokenizer_folder`; if it has more tokens than the shape, the vocabulary is that of
    published Qwen3s. Raises ValueError for an unknown shape, and FileNotFoundError if the folder has neither
    tokenizer.json nor vocab.json.
    """
    folder = Path(os.path.expanduser(tokenizer_folder))
    config = named_shape(shape)
    if not has_tokenizer(folder):
        raise FileNotFoundError(f"{folder} has neither tokenizer.json nor vocab.json: put a tokenizer there")
    num_tokens = count_tokens(folder, SHAPES["8b"].vocab_size)
    if num_tokens > config.vocab_size:
        config = replace(config, vocab_size=SHAPES["8b"].vocab_size)
    shardings = None
    if mesh is not None:
        check_mesh(config, mesh)
        shardings = jax.tree.map(partial(NamedSharding, mesh), weight_specs(config))
    params = jax.jit(init_params, static_argnums=0, out_shardings=shardings)(config, jax.random.key(seed))
    return Qwen3(config, params, source=str(folder), num_tokens=num_tokens)
