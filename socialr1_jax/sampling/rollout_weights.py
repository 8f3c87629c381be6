"""The copy of the weights that decoding reads."""

import re
from typing import Any

import jax
import jax.numpy as jnp

from socialr1_jax.models.eight_bit import EightBit, WeightFormat, eight_bit
from socialr1_jax.models.qwen3 import Params, gathered, joined, moved, weight_spec
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.mesh import P, constrain


def rollout_weights(
    params: Params, config: Qwen3Config, dtype: Any, weights: WeightFormat = "dtype", joint: bool = False
) -> Params:
    """Return the copy of the weights that decoding reads: layout "rollout", in `dtype`, one tree per layer.

    With 8-bit `weights` the kernels of the layers and the output matrix are rounded, also if it is tied: the embedding
    stays in `dtype`, since a step reads only a few of its rows. With `joint`, kernels with the same input are one, for
    fewer and larger products, and so are the norms of queries and keys. The layers are sliced once here, because XLA
    does not hoist the slices out of the decode loop.
    """

    def copied(name: str, *arrays: jax.Array) -> Any:
        """Return the copy of a weight, or of several that are joined."""
        if weights == "dtype" or not re.search("_proj$|lm_head", name):
            return gathered(name, joined([moved(name, array, dtype) for array in arrays]), dtype)
        rounded = [eight_bit(array, weights) for array in arrays]  # before the all-gather, which then moves 8 bits
        spec = weight_spec(name, "rollout")
        numbers_oi = joined([moved(name, one.numbers_oi, one.numbers_oi.dtype) for one in rounded])
        scale_o = joined([constrain(one.scale_o, P(spec[0])) for one in rounded])
        return EightBit(constrain(numbers_oi, spec), constrain(scale_o, P(spec[0])))

    def sources(layer: Params) -> dict[str, tuple[jax.Array, ...]]:
        """Return the arrays that make each weight of a layer."""
        if not joint:
            return {name: (weight,) for name, weight in layer.items()}
        taken: dict[str, tuple[jax.Array, ...]] = {}
        for end in ("", "_bias"):
            if f"q_proj{end}" in layer:
                taken[f"qkv_proj{end}"] = tuple(layer.pop(f"{each}_proj{end}") for each in "qkv")
        heads = ("q", config.num_attention_heads), ("k", config.num_key_value_heads)
        taken["gate_up_proj"] = layer.pop("gate_proj"), layer.pop("up_proj")
        taken["qk_norm"] = tuple(jnp.tile(layer.pop(f"{each}_norm"), (count, 1)) for each, count in heads)
        return taken | {name: (weight,) for name, weight in layer.items()}

    layers = []
    for i in range(config.num_hidden_layers):
        layer = sources({name: stacked[i] for name, stacked in params["layers"].items()})
        layers.append({name: copied(name, *arrays) for name, arrays in layer.items()})
    others = {name: weight for name, weight in params.items() if name != "layers"}
    if weights != "dtype":
        others.setdefault("lm_head", params["embed_tokens"])
    return {**{name: copied(name, weight) for name, weight in others.items()}, "layers": layers}


reshard = jax.jit(rollout_weights, static_argnums=(1, 2, 3, 4))
