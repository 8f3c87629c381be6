"""Find the sizes of a run's model, from a folder, a published Qwen3 or a named shape, and make abstract arrays."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from socialr1_jax.config.run import PlanConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.models.qwen3 import Layout, Params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.shapes import PUBLISHED_TOKENS, SHAPES, named_shape
from socialr1_jax.runtime.files import read_json
from socialr1_jax.runtime.mesh import P
from socialr1_jax.weights.declared import abstract_weight, map_weights
from socialr1_jax.weights.hub import cached_folder
from socialr1_jax.weights.tokenizer_files import count_tokens


class UnknownSizesError(ConfigError):
    """Raised for a model that is not on this machine and is not a published one."""


def model_shape(config: PlanConfig) -> tuple[Qwen3Config, int]:
    """Return the sizes of `config.model` and the number of ids of its tokenizer, from its folder or as published."""
    shape = shape_of(config.model.path, config.model.random, config.model.ignore_fields)
    folder = Path(config.model.path)
    if not config.model.random and (folder / "config.json").exists():
        return shape, count_tokens(folder, shape.vocab_size)
    return shape, min(PUBLISHED_TOKENS, shape.vocab_size)


def shape_of(path: str, named: str = "", ignore_fields: Sequence[str] = ()) -> Qwen3Config:
    """Return the sizes of a model folder, of a published Qwen3 by its hub id, or of a named shape."""
    published = path.removeprefix("Qwen/Qwen3-").removesuffix("-Base").lower()
    if named or published in SHAPES:
        return named_shape(named or published)
    file = (cached_folder(path) or Path(path)) / "config.json"
    if not file.exists():
        raise UnknownSizesError(
            f"model.path {path!r} is neither a model folder nor one of Qwen/Qwen3-{{{','.join(SHAPES)}}}; give a "
            "folder with a config.json, or name the shape with model.random"
        )
    return Qwen3Config.from_hf(read_json(file), str(file), ignore_fields)


def laid_out(arrays: Any, shardings: Any) -> Any:
    """Return abstract arrays with these shardings."""
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), arrays, shardings)


def abstract_weights(model: Qwen3Config, dtype: Any, mesh: Mesh, layout: Layout = "train") -> Params:
    """Return a model's weights as abstract arrays in a layout on the mesh."""
    return map_weights(model, partial(abstract_weight, mesh=mesh, dtype=dtype), layout)


def per_replica(arrays: Any, mesh: Mesh) -> Any:
    """Return abstract arrays with a first axis for the replicas, if the mesh has several."""
    count = mesh.shape["replica"]

    def of_replicas(x: Any) -> jax.ShapeDtypeStruct:
        sharding = NamedSharding(mesh, P("replica", *x.sharding.spec))
        return jax.ShapeDtypeStruct((count, *x.shape), x.dtype, sharding=sharding)

    return arrays if count == 1 else jax.tree.map(of_replicas, arrays)


def device_bytes(tree: Any) -> int:
    """Return the bytes of a tree of abstract arrays on one device."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))
