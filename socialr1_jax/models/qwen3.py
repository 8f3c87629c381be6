"""Qwen3 as pure functions over a plain tree of weights, with a thin Flax NNX module to hold them.

One declaration per weight gives its Hugging Face name, shape, layout and initialiser. Kernels keep Hugging Face's
orientation [out, in], so that loading and export are byte copies. Layers are stacked [l, ...] for `lax.scan`.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike

from socialr1_jax.models.attention import Backend, apply_rope, causal_attention, rope_tables
from socialr1_jax.models.qwen3_config import Qwen3Config

__all__ = ["Params", "Qwen3", "Qwen3Config", "Weight", "declare_weights", "forward", "init_params", "logits"]

Params = dict[str, Any]
# Kernels of the training tree are "oi" ([out, in], Hugging Face's); the rollout copy holds "io" (sampling/engine.py).
KernelLayout = Literal["oi", "io"]


class Weight(NamedTuple):
    """One weight: its Hugging Face name (`{i}` stands for the layer), shape and logical axes, without the layer's."""

    hf_name: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    init: Literal["normal", "ones", "zeros"] = "normal"


def declare_weights(config: Qwen3Config) -> dict[str, Any]:
    """The tree of weights: {"embed_tokens": Weight, "layers": {name: Weight}, "norm": Weight, "lm_head"?: Weight}."""
    d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
    nh, kh = config.num_attention_heads * h, config.num_key_value_heads * h
    layers = {}
    for name, out_dim, in_dim, out_axis, in_axis in (
        ("self_attn.q_proj", nh, d, "heads", "width"),
        ("self_attn.k_proj", kh, d, "heads", "width"),
        ("self_attn.v_proj", kh, d, "heads", "width"),
        ("self_attn.o_proj", d, nh, "width", "heads"),
        ("mlp.gate_proj", f, d, "ffn", "width"),
        ("mlp.up_proj", f, d, "ffn", "width"),
        ("mlp.down_proj", d, f, "width", "ffn"),
    ):
        block, kernel = name.split(".")
        layers[kernel] = Weight(f"model.layers.{{i}}.{name}.weight", (out_dim, in_dim), (out_axis, in_axis))
        if config.attention_bias and block == "self_attn":
            layers[f"{kernel}_bias"] = Weight(f"model.layers.{{i}}.{name}.bias", (out_dim,), (out_axis,), "zeros")
    for name, width, axis in (
        ("self_attn.q_norm", h, "head"),
        ("self_attn.k_norm", h, "head"),
        ("input_layernorm", d, "width"),
        ("post_attention_layernorm", d, "width"),
    ):
        layers[name.split(".")[-1]] = Weight(f"model.layers.{{i}}.{name}.weight", (width,), (axis,), "ones")
    table = {
        "embed_tokens": Weight("model.embed_tokens.weight", (config.vocab_size, d), ("vocab", "width")),
        "layers": layers,
        "norm": Weight("model.norm.weight", (d,), ("width",), "ones"),
    }
    if not config.tie_word_embeddings:
        table["lm_head"] = Weight("lm_head.weight", (config.vocab_size, d), ("vocab", "width"))
    return table


def init_params(config: Qwen3Config, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Random weights: normal with `initializer_range`, norms one, biases zero (as transformers starts a Qwen3)."""
    keys = iter(jax.random.split(key, 64))

    def draw(weight: Weight, stack: tuple[int, ...]) -> jax.Array:
        shape = stack + weight.shape
        if weight.init == "normal":
            return config.initializer_range * jax.random.normal(next(keys), shape, dtype)
        return jnp.full(shape, 1.0 if weight.init == "ones" else 0.0, dtype)

    table = declare_weights(config)
    layers = {name: draw(weight, (config.num_hidden_layers,)) for name, weight in table.pop("layers").items()}
    return {**{name: draw(weight, ()) for name, weight in table.items()}, "layers": layers}


def _precision(x: jax.Array) -> jax.lax.Precision | None:
    # float32 is asked for where equality is checked: keep TF32 and bfloat16 passes out of it.
    return jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Root-mean-square norm over the last axis; variance in float32, result in x's dtype."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return weight.astype(x.dtype) * x32.astype(x.dtype)


def block(
    x_btd: jax.Array,
    weights: Params,
    config: Qwen3Config,
    rope: tuple[jax.Array, jax.Array],
    attend: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]],
    kernel: KernelLayout = "oi",
) -> tuple[jax.Array, Any]:
    """One decoder layer. `attend(q_btnh, k_btkh, v_btkh)` gives [b, t, n, h] and whatever it wants to carry out."""

    def project(x: jax.Array, name: str) -> jax.Array:
        y = jnp.einsum(f"bti,{kernel}->bto", x, weights[name].astype(x.dtype), precision=_precision(x))
        bias = weights.get(f"{name}_bias")
        return y if bias is None else y + bias.astype(x.dtype)

    def heads(x_bti: jax.Array) -> jax.Array:
        return x_bti.reshape(*x_bti.shape[:2], -1, config.head_dim)

    with jax.named_scope("attention"):
        h_btd = rms_norm(x_btd, weights["input_layernorm"], config.rms_norm_eps)
        q_btnh = rms_norm(heads(project(h_btd, "q_proj")), weights["q_norm"], config.rms_norm_eps)
        k_btkh = rms_norm(heads(project(h_btd, "k_proj")), weights["k_norm"], config.rms_norm_eps)
        v_btkh = heads(project(h_btd, "v_proj"))
        mixed_btnh, carry = attend(apply_rope(q_btnh, *rope), apply_rope(k_btkh, *rope), v_btkh)
        x_btd = x_btd + project(mixed_btnh.reshape(*x_btd.shape[:2], -1), "o_proj")
    with jax.named_scope("mlp"):
        h_btd = rms_norm(x_btd, weights["post_attention_layernorm"], config.rms_norm_eps)
        gated_btf = jax.nn.silu(project(h_btd, "gate_proj")) * project(h_btd, "up_proj")
        return x_btd + project(gated_btf, "down_proj"), carry


def forward(
    params: Params,
    config: Qwen3Config,
    tokens_bt: jax.Array,
    lengths_b: jax.Array,
    *,
    dtype: Any,
    backend: Backend = "xla",
    remat: bool = False,
    keep_kv: bool = False,
) -> tuple[jax.Array, Any]:
    """Hidden states after the last norm, [b, t, d] in `dtype`, of right-padded rows.

    With `keep_kv` the second value is the stacked keys and values, each [l, b, t, k, h]; otherwise None.
    `remat` keeps only each layer's input for the backward pass.
    """
    positions_bt = jnp.broadcast_to(jnp.arange(tokens_bt.shape[1]), tokens_bt.shape)
    rope = rope_tables(positions_bt, config.head_dim, config.rope_theta)

    def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
        return causal_attention(q, k, v, lengths_b, backend), (k, v) if keep_kv else None

    def layer(x_btd: jax.Array, weights: Params) -> tuple[jax.Array, Any]:
        return block(x_btd, weights, config, rope, attend)

    with jax.named_scope("embed"):
        x_btd = params["embed_tokens"].astype(dtype)[tokens_bt]
    x_btd, kv = jax.lax.scan(jax.checkpoint(layer) if remat else layer, x_btd, params["layers"])
    return rms_norm(x_btd, params["norm"], config.rms_norm_eps), kv


def head_kernel(params: Params) -> jax.Array:
    """The output matrix [v, d]: lm_head, or the embedding where it is tied."""
    return params["lm_head"] if "lm_head" in params else params["embed_tokens"]


def logits(hidden_btd: jax.Array, kernel_vd: jax.Array) -> jax.Array:
    """float32 logits [b, t, v] of normed hidden states."""
    with jax.named_scope("lm_head"):
        return jnp.einsum(
            "btd,vd->btv",
            hidden_btd,
            kernel_vd.astype(hidden_btd.dtype),
            precision=_precision(hidden_btd),
            preferred_element_type=jnp.float32,
        )


class Qwen3(nnx.Module):
    """Holds a Qwen3's weights. Hot paths take `model.params`, a plain tree, and the pure functions above.

    `model(tokens_bt, lengths_b)` gives float32 logits [b, t, v] of right-padded int32 rows; positions at and after a
    row's length mean nothing.
    """

    def __init__(
        self, config: Qwen3Config, params: Params, *, source: str | None = None, num_tokens: int | None = None
    ) -> None:
        self.config = config
        self.source = source  # the folder it was read from: save_hf copies the tokenizer files from there
        # Ids that the tokenizer knows. The vocabulary's rows above are padding: never drawn, no share of the softmax.
        self.num_tokens = num_tokens or config.vocab_size
        self.embed_tokens = nnx.Param(params["embed_tokens"])
        self.layers = nnx.Dict({name: nnx.Param(value) for name, value in params["layers"].items()})
        self.norm = nnx.Param(params["norm"])
        if not config.tie_word_embeddings:
            self.lm_head = nnx.Param(params["lm_head"])

    @property
    def params(self) -> Params:
        """The weights as a plain tree of arrays (no copy)."""
        return nnx.to_pure_dict(nnx.state(self, nnx.Param))

    @property
    def dtype(self) -> jnp.dtype:
        return self.norm.get_value().dtype

    def __call__(self, tokens_bt: ArrayLike, lengths_b: ArrayLike) -> jax.Array:
        return _logits(self.params, self.config, jnp.asarray(tokens_bt), jnp.asarray(lengths_b), self.dtype.name)


def _forward_logits(
    params: Params, config: Qwen3Config, tokens_bt: jax.Array, lengths_b: jax.Array, dtype: str
) -> jax.Array:
    hidden_btd, _ = forward(params, config, tokens_bt, lengths_b, dtype=jnp.dtype(dtype))
    return logits(hidden_btd, head_kernel(params))


_logits = jax.jit(_forward_logits, static_argnums=(1, 4))
