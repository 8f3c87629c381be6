"""The copy of the weights that decoding reads."""

import re
from typing import Any

import jax

from socialr1_jax.models.eight_bit import EightBit, WeightFormat, eight_bit
from socialr1_jax.models.qwen3 import Params, gathered, moved, weight_spec
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.mesh import P, constrain


def rollout_weights(params: Params, config: Qwen3Config, dtype: Any, weights: WeightFormat = "dtype") -> Params:
    """Return the copy of the weights that decoding reads: layout "rollout", in `dtype`, one tree per layer.

    With 8-bit `weights` the kernels of the layers and the output matrix are rounded, also if it is tied: the embedding
    stays in `dtype`, since a step reads only a few of its rows. The layers are sliced once here, because XLA does not
    hoist the slices out of the decode loop.
    """

    def copied(name: str, weight: jax.Array) -> Any:
        if weights == "dtype" or not re.search("_proj$|lm_head", name):
            return gathered(name, moved(name, weight, dtype), dtype)
        numbers_oi, scale_o = eight_bit(weight, weights)  # before the all-gather, which then moves 8 bits
        spec = weight_spec(name, "rollout")
        numbers_oi = moved(name, numbers_oi, numbers_oi.dtype)
        return EightBit(constrain(numbers_oi, spec), constrain(scale_o, P(spec[0])))

    layers = [
        {name: copied(name, stacked[i]) for name, stacked in params["layers"].items()}
        for i in range(config.num_hidden_layers)
    ]
    others = {name: weight for name, weight in params.items() if name != "layers"}
    if weights != "dtype":
        others.setdefault("lm_head", params["embed_tokens"])
    return {**{name: copied(name, weight) for name, weight in others.items()}, "layers": layers}


reshard = jax.jit(rollout_weights, static_argnums=(1, 2, 3))
