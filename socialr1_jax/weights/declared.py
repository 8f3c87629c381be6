"""Traverse the weights that an architecture declares, and the tensors of which files store them."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding

from socialr1_jax.models.qwen3 import Layout, Params, Qwen3, Weight, declare_weights, weight_specs
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.reward_model import RewardModel
from socialr1_jax.runtime.mesh import P


def map_weights(config: Qwen3Config, read: Callable[[Weight, int | None, P], Any], layout: Layout = "train") -> Params:
    """Return the tree of `read(weight, layers, spec)` over every declared weight.

    `layers` is None for a weight that is not stacked; `spec` is its partition spec in the layout.
    """
    table, specs = declare_weights(config), weight_specs(config, layout)
    count, stacked = config.num_hidden_layers, table.pop("layers")
    layers = {name: read(weight, count, specs["layers"][name]) for name, weight in stacked.items()}
    return {**{name: read(weight, None, specs[name]) for name, weight in table.items()}, "layers": layers}


def abstract_weight(weight: Weight, layers: int | None, spec: P, mesh: Mesh | None, dtype: Any) -> jax.ShapeDtypeStruct:
    """Return shape, dtype and sharding of a declared weight: on the mesh, or on the first device without one."""
    sharding = SingleDeviceSharding(jax.devices()[0]) if mesh is None else NamedSharding(mesh, spec)
    shape = weight.shape if layers is None else (layers, *weight.shape)
    return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)


def expected_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Return Hugging Face name -> shape of every tensor of this architecture."""
    table = declare_weights(config)
    layers = table.pop("layers")
    shapes = {weight.hf_name: weight.shape for weight in table.values()}
    for i in range(config.num_hidden_layers):
        shapes |= {weight.hf_name.format(i=i): weight.shape for weight in layers.values()}
    return shapes


def tensor_names(weight: Weight, layers: int | None) -> list[str]:
    """Return the names of a weight's tensors in the files, one per layer."""
    return [weight.hf_name] if layers is None else [weight.hf_name.format(i=i) for i in range(layers)]


def tensors(model: Qwen3 | RewardModel) -> dict[str, tuple[jax.Array, int | None]]:
    """Return every tensor's Hugging Face name with its array and, if that is stacked, its layer (else None)."""
    params, table = model.params, declare_weights(model.config)
    layers = table.pop("layers")
    stacked = {
        weight.hf_name.format(i=i): (params["layers"][name], i)
        for name, weight in layers.items()
        for i in range(model.config.num_hidden_layers)
    }
    return stacked | {weight.hf_name: (params[name], None) for name, weight in table.items()}
