"""Traverse the weights that an architecture declares, and the tensors of which files store them."""

from collections.abc import Callable, Iterator
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


def _declared(config: Qwen3Config) -> Iterator[tuple[str, Weight, str, int | None]]:
    """Yield (Hugging Face name, weight, key in the tree, layer) of every tensor; layer is None outside of layers."""
    table = declare_weights(config)
    layers = table.pop("layers")
    yield from ((weight.hf_name, weight, key, None) for key, weight in table.items())
    for i in range(config.num_hidden_layers):
        yield from ((weight.hf_name.format(i=i), weight, key, i) for key, weight in layers.items())


def expected_shapes(config: Qwen3Config) -> dict[str, tuple[int, ...]]:
    """Return Hugging Face name -> shape of every tensor of this architecture."""
    return {name: weight.shape for name, weight, _, _ in _declared(config)}


def tensor_names(weight: Weight, layers: int | None) -> list[str]:
    """Return the names of a weight's tensors in the files, one per layer."""
    return [weight.hf_name] if layers is None else [weight.hf_name.format(i=i) for i in range(layers)]


def tensors(model: Qwen3 | RewardModel) -> dict[str, tuple[jax.Array, int | None]]:
    """Return every tensor's Hugging Face name with its array and, if that is stacked, its layer (else None)."""
    params = model.params
    return {
        name: (params[key] if layer is None else params["layers"][key], layer)
        for name, _, key, layer in _declared(model.config)
    }
