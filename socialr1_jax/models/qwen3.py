"""Qwen3 as pure functions over a plain tree of weights, with a thin Flax NNX module to hold them.

One declaration per weight gives its Hugging Face name, shape and initialiser; a short table gives its sharding.
Kernels keep Hugging Face's orientation [out, in], so loading and export are byte copies. Layers are stacked [l, ...]
for `lax.scan`.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.typing import ArrayLike

from socialr1_jax.models.attention import Backend, apply_rope, causal_attention, rope_tables
from socialr1_jax.models.blockwise import SAVED, Prefix, Segments
from socialr1_jax.models.eight_bit import EightBit
from socialr1_jax.models.linear import PRODUCT, linear
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.mesh import ROWS, P, constrain, tensor_shards

__all__ = ["Params", "Qwen3", "Qwen3Config", "Remat", "Weight", "declare_weights", "forward", "init_params", "logits"]

Params = dict[str, Any]

# Sharding of a weight: the first pattern found in its name gives the mesh axes of [out, in]. The layout "train" splits
# every large weight (and so its gradient and moments) over fsdp; "rollout" replicates it there. "lent" is the layout
# "train" of a mesh without tensor in the terms of the rollout's mesh, which splits that fsdp into fsdp x tensor.
SHARDING_RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    ("norm|bias|score", (None,)),  # replicated: an 8B has 1.2 MB of these, and each would cost a collective
    ("o_proj|down_proj", ("fsdp", "tensor")),
    ("", ("tensor", "fsdp")),
)
Layout = Literal["train", "rollout", "lent"]
_AXES: dict[Layout, dict[str | None, Any]] = {
    "train": {"fsdp": "fsdp", "tensor": "tensor"},
    "rollout": {"tensor": "tensor"},
    "lent": {"fsdp": ("fsdp", "tensor")},
}

# What the backward pass recomputes: nothing; all but the products with weights (attention and elementwise work); or
# everything, from the layers' inputs.
Remat = Literal["nothing", "attention", "everything"]


class Weight(NamedTuple):
    """A weight's Hugging Face name (`{i}` stands for the layer), its shape without the layer axis, its initialiser."""

    hf_name: str
    shape: tuple[int, ...]
    init: Literal["normal", "ones", "zeros"] = "normal"


def declare_weights(config: Qwen3Config) -> dict[str, Any]:
    """Return the tree of weights: {"embed_tokens": Weight, "layers": {name: Weight}, "norm": Weight}.

    Untied models also have "lm_head", reward models "score".
    """
    d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
    nh, kh = config.num_attention_heads * h, config.num_key_value_heads * h
    layers = {}
    for name, shape in (
        ("self_attn.q_proj", (nh, d)),
        ("self_attn.k_proj", (kh, d)),
        ("self_attn.v_proj", (kh, d)),
        ("self_attn.o_proj", (d, nh)),
        ("mlp.gate_proj", (f, d)),
        ("mlp.up_proj", (f, d)),
        ("mlp.down_proj", (d, f)),
    ):
        block, kernel = name.split(".")
        layers[kernel] = Weight(f"model.layers.{{i}}.{name}.weight", shape)
        if config.attention_bias and block == "self_attn":
            layers[f"{kernel}_bias"] = Weight(f"model.layers.{{i}}.{name}.bias", shape[:1], "zeros")
    for name, width in (
        ("self_attn.q_norm", h),
        ("self_attn.k_norm", h),
        ("input_layernorm", d),
        ("post_attention_layernorm", d),
    ):
        layers[name.split(".")[-1]] = Weight(f"model.layers.{{i}}.{name}.weight", (width,), "ones")
    table = {
        "embed_tokens": Weight("model.embed_tokens.weight", (config.vocab_size, d)),
        "layers": layers,
        "norm": Weight("model.norm.weight", (d,), "ones"),
    }
    if config.scalar_head:
        table["score"] = Weight("score.weight", (1, d))
    elif not config.tie_word_embeddings:
        table["lm_head"] = Weight("lm_head.weight", (config.vocab_size, d))
    return table


def weight_spec(name: str, layout: Layout = "train") -> P:
    """Return the mesh axes of one weight [out, in], without the layer axis."""
    axes = next(axes for pattern, axes in SHARDING_RULES if re.search(pattern, name))
    return P(*(_AXES[layout].get(axis) for axis in axes))


def weight_specs(config: Qwen3Config, layout: Layout = "train") -> Params:
    """Return the tree of mesh axes for the tree of weights with stacked layers."""
    table = declare_weights(config)
    layers = {name: P(None, *weight_spec(name, layout)) for name in table.pop("layers")}
    return {**{name: weight_spec(name, layout) for name in table}, "layers": layers}


def check_mesh(config: Qwen3Config, mesh: Mesh) -> None:
    """Check that the mesh divides the model's sizes. Raises ValueError naming every size that it does not divide."""
    sizes = {
        "fsdp": ("hidden_size",),
        "tensor": ("num_key_value_heads", "intermediate_size", "vocab_size"),  # query heads: a multiple of the former
    }
    problems = [
        f"{axis}={mesh.shape[axis]} does not divide {name} {getattr(config, name)}"
        for axis, names in sizes.items()
        for name in names
        if getattr(config, name) % mesh.shape[axis]
    ]
    if problems:
        raise ValueError(f"this model does not fit this mesh: {'; '.join(problems)}. Change the size of that mesh axis")


def lent(params: Params, config: Qwen3Config, mesh: Mesh) -> Params:
    """Return the weights of training as arrays on the rollout's mesh, which has the same devices in the same order.

    They stay where they are, and nothing is copied unless the mesh of training splits `tensor`.
    """
    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), weight_specs(config, "lent"))
    return jax.device_put(params, shardings)


def moved(name: str, weight: jax.Array, dtype: Any) -> jax.Array:
    """Cast a weight to the compute dtype, and bring it from the layout "lent" or "train" to "train".

    From "lent" this is one all-to-all. On its way from there to "rollout" XLA would replicate it.
    """
    return constrain(weight.astype(dtype), weight_spec(name))


@partial(jax.custom_vjp, nondiff_argnums=(0, 2))
def gathered(name: str, weight: jax.Array, dtype: Any) -> jax.Array:
    """All-gather a weight over fsdp in the compute dtype; the backward pass reduce-scatters its gradient.

    Casting before the all-gather halves its traffic. Without the custom backward pass XLA all-reduces the full gradient
    and slices it.
    """
    return constrain(weight.astype(dtype), weight_spec(name, "rollout"))


def _gathered_forward(name: str, weight: jax.Array, dtype: Any) -> tuple[jax.Array, jax.Array]:
    return gathered(name, weight, dtype), jnp.zeros(0, weight.dtype)


def _gathered_backward(name: str, dtype: Any, like: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    return (constrain(gradient.astype(like.dtype), weight_spec(name)),)


gathered.defvjp(_gathered_forward, _gathered_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def embedded(weight_vd: jax.Array, tokens_bt: jax.Array, dtype: Any) -> jax.Array:
    """Look up embeddings, [b, t, d] in `dtype`. The gradient is summed in the weight's dtype, in a fixed order.

    The default gradient of `x[tokens]` sums in the compute dtype: in bfloat16 a frequent token's is wrong by 4 %. On a
    GPU it is also a scatter with atomics, which is not deterministic.
    """
    return gathered("embed_tokens", weight_vd, dtype)[tokens_bt]


def _embedded_forward(weight_vd: jax.Array, tokens_bt: jax.Array, dtype: Any) -> tuple[jax.Array, Any]:
    return embedded(weight_vd, tokens_bt, dtype), (tokens_bt, jnp.zeros((weight_vd.shape[0], 0), weight_vd.dtype))


def _embedded_backward(dtype: Any, saved: Any, gradient_btd: jax.Array) -> tuple[jax.Array, None]:
    tokens_bt, like_v = saved
    spec = weight_spec("embed_tokens")
    gradient_btd = constrain(gradient_btd, P(None, None, spec[1]))  # each device: all tokens, its slice of the width
    gradient_nd = gradient_btd.reshape(-1, gradient_btd.shape[-1]).astype(like_v.dtype)
    return constrain(sum_rows(gradient_nd, tokens_bt.reshape(-1), like_v.shape[0]), spec), None


embedded.defvjp(_embedded_forward, _embedded_backward)


def sum_rows(rows_nd: jax.Array, index_n: jax.Array, size: int) -> jax.Array:
    """Sum the rows with each index, [size, d]. Sorting and pairwise addition fix the order."""
    n = index_n.shape[0]
    order_n = jnp.argsort(index_n, stable=True)
    index_n = index_n[order_n]
    new_n = jnp.concatenate([jnp.ones(1, bool), index_n[1:] != index_n[:-1]])
    last_n = jnp.concatenate([new_n[1:], jnp.ones(1, bool)])

    def add(left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        return left[0] | right[0], right[1] + jnp.where(right[0], 0, left[1])

    _, sums_nd = jax.lax.associative_scan(add, (new_n[:, None], rows_nd[order_n]))
    places_n = jnp.where(last_n, index_n, size + jnp.arange(n))  # drops all but the last row of an index
    zeros = jnp.zeros((size, rows_nd.shape[1]), rows_nd.dtype)
    return zeros.at[places_n].set(sums_nd, mode="drop", unique_indices=True)


def init_params(config: Qwen3Config, key: jax.Array, dtype: Any = jnp.float32) -> Params:
    """Return random weights: normal with `initializer_range`, norms one, biases zero (as transformers initialises)."""
    keys = iter(jax.random.split(key, 64))

    def draw(weight: Weight, stack: tuple[int, ...]) -> jax.Array:
        shape = stack + weight.shape
        if weight.init == "normal":
            return config.initializer_range * jax.random.normal(next(keys), shape, dtype)
        return jnp.full(shape, 1.0 if weight.init == "ones" else 0.0, dtype)

    table = declare_weights(config)
    layers = {name: draw(weight, (config.num_hidden_layers,)) for name, weight in table.pop("layers").items()}
    return {**{name: draw(weight, ()) for name, weight in table.items()}, "layers": layers}


def rms_norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
    """Apply the root-mean-square norm over the last axis: variance in float32, result in x's dtype."""
    x32 = x.astype(jnp.float32)
    x32 = x32 * jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + eps)
    return weight.astype(x.dtype) * x32.astype(x.dtype)


def joined(arrays: Sequence[jax.Array]) -> jax.Array:
    """Join arrays [o, ...] along the first axis so that each device of `tensor` keeps its parts of all of them."""
    if len(arrays) == 1:
        return arrays[0]
    inner = arrays[0].shape[1:]
    return jnp.concatenate([x.reshape(tensor_shards(), -1, *inner) for x in arrays], axis=1).reshape(-1, *inner)


def parted(x_bto: jax.Array, first: int, second: int) -> list[jax.Array]:
    """Part what `joined` has joined in the ratio first : second."""
    shards, outer = tensor_shards(), x_bto.shape[:-1]
    cut = x_bto.shape[-1] // shards * first // (first + second)
    return [x.reshape(*outer, -1) for x in jnp.split(x_bto.reshape(*outer, shards, -1), [cut], axis=-1)]


def block(
    x_btd: jax.Array,
    weights: Params,
    config: Qwen3Config,
    rope: tuple[jax.Array, jax.Array],
    attend: Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]],
    blocks: int = 1,
) -> tuple[jax.Array, Any]:
    """Apply one decoder layer. `attend(q_btnh, k_btkh, v_btkh)` returns [b, t, n, h] and a value to pass through.

    The weights may be joint: `qkv_proj`, `qk_norm` and `gate_up_proj` in place of the kernels and norms of their names.
    """

    def project(x: jax.Array, name: str) -> jax.Array:
        y = linear(x, weights[name], blocks)
        bias = weights.get(f"{name}_bias")
        return y if bias is None else y + bias.astype(x.dtype)

    def heads(x_bti: jax.Array) -> jax.Array:
        return x_bti.reshape(*x_bti.shape[:2], -1, config.head_dim)

    with jax.named_scope("attention"):
        h_btd = rms_norm(x_btd, weights["input_layernorm"], config.rms_norm_eps)
        if "qkv_proj" in weights:
            n, k = config.num_attention_heads, config.num_key_value_heads
            qk_bto, v_bto = parted(project(h_btd, "qkv_proj"), n + k, k)
            qk_bteh = rms_norm(heads(qk_bto), weights["qk_norm"], config.rms_norm_eps)
            q_bto, k_bto = parted(qk_bteh.reshape(qk_bto.shape), n, k)
            q_btnh, k_btkh, v_btkh = heads(q_bto), heads(k_bto), heads(v_bto)
        else:
            q_btnh = rms_norm(heads(project(h_btd, "q_proj")), weights["q_norm"], config.rms_norm_eps)
            k_btkh = rms_norm(heads(project(h_btd, "k_proj")), weights["k_norm"], config.rms_norm_eps)
            v_btkh = heads(project(h_btd, "v_proj"))
        with jax.named_scope("rope"):
            q_btnh, k_btkh = apply_rope(q_btnh, *rope), apply_rope(k_btkh, *rope)
        with jax.named_scope("attend"):
            mixed_btnh, carry = attend(q_btnh, k_btkh, v_btkh)
        x_btd = x_btd + project(mixed_btnh.reshape(*x_btd.shape[:2], -1), "o_proj")
    with jax.named_scope("mlp"):
        h_btd = rms_norm(x_btd, weights["post_attention_layernorm"], config.rms_norm_eps)
        if "gate_up_proj" in weights:
            gate_btf, up_btf = parted(project(h_btd, "gate_up_proj"), 1, 1)
        else:
            gate_btf, up_btf = project(h_btd, "gate_proj"), project(h_btd, "up_proj")
        return x_btd + project(jax.nn.silu(gate_btf) * up_btf, "down_proj"), carry


def _keeps(primitive: Any, *inputs: Any, **options: Any) -> bool:
    """Return whether `remat="attention"` saves an operation's results: products with kernels and attention's output."""
    policies = jax.checkpoint_policies
    return (
        policies.save_only_these_names(PRODUCT, SAVED)(primitive, *inputs, **options)
        or primitive.name == "dot_product_attention_fwd_wrapper"  # cuDNN's; if JAX renames it, it is recomputed
    )


# The two passes are separate scans, so XLA merges nothing of them. With the barrier of prevent_cse a layer's gathers
# would wait for the gradient from the layer above: 95 ms instead of 40 of an 8B's 2.1 s backward pass on eight A100.
_checkpoint = partial(jax.checkpoint, prevent_cse=False)
_REMAT: dict[Remat, Callable[[Any], Any]] = {
    "nothing": lambda layer: layer,
    "attention": partial(_checkpoint, policy=_keeps),
    "everything": _checkpoint,
}


def forward(
    params: Params,
    config: Qwen3Config,
    tokens_bt: jax.Array,
    lengths_b: jax.Array,
    *,
    dtype: Any,
    backend: Backend = "xla",
    remat: Remat = "nothing",
    keep_kv: bool = False,
    segments: Segments | None = None,
    prefix: Prefix | None = None,
    move: bool = False,
) -> tuple[jax.Array, Any]:
    """Return hidden states after the last norm, [b, t, d] in `dtype`, of right-padded rows.

    With `segments` rows hold several texts, each computed as if it were alone. With a `prefix`, whose arrays are
    [l, d, s, k, h], the texts continue it, and their positions count from its beginning.

    With `keep_kv` the second value is the stacked keys and values, each [l, b, t, k, h]; otherwise None. With `move`
    the weights may have the layout "lent".
    """
    positions_bt = jnp.broadcast_to(jnp.arange(tokens_bt.shape[1]), tokens_bt.shape)
    if segments is not None:
        positions_bt = segments.positions_bt
    with jax.named_scope("rope"):
        rope = rope_tables(positions_bt, config.head_dim, config.rope_theta)

    before = None if prefix is None else (prefix.k_dskh, prefix.v_dskh)

    def layer(x_btd: jax.Array, of_layer: tuple[Params, Any]) -> tuple[jax.Array, Any]:
        stored, before = of_layer
        if move:
            stored = {name: moved(name, weight, dtype) for name, weight in stored.items()}
        seen = None if prefix is None else Prefix(before[0], before[1], prefix.lengths_d)

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, Any]:
            return causal_attention(q, k, v, lengths_b, backend, segments, seen), (k, v) if keep_kv else None

        weights = {name: gathered(name, weight, dtype) for name, weight in stored.items()}
        x_btd, kv = block(x_btd, weights, config, rope, attend)
        return constrain(x_btd, ROWS), kv

    with jax.named_scope("embed"):
        embedding_vd = params["embed_tokens"]
        if move:
            embedding_vd = moved("embed_tokens", embedding_vd, dtype)
        x_btd = constrain(embedded(embedding_vd, tokens_bt, dtype), ROWS)
    x_btd, kv = jax.lax.scan(_REMAT[remat](layer), x_btd, (params["layers"], before))
    with jax.named_scope("final_norm"):
        return rms_norm(x_btd, params["norm"], config.rms_norm_eps), kv


def head_kernel(params: Params, dtype: Any) -> jax.Array:
    """Return the output matrix [v, d], gathered over fsdp: lm_head, or the embedding if tied."""
    name = "lm_head" if "lm_head" in params else "embed_tokens"
    return gathered(name, params[name], dtype)


def logits(hidden_btd: jax.Array, kernel_vd: jax.Array | EightBit, blocks: int = 1) -> jax.Array:
    """Return float32 logits [b, t, v] of normed hidden states."""
    with jax.named_scope("lm_head"):
        return linear(hidden_btd, kernel_vd, blocks, preferred_element_type=jnp.float32)


class Weights(nnx.Module):
    """Holds the weights that every Qwen3 has and the folder they were read from; subclasses add the head."""

    def __init__(self, config: Qwen3Config, params: Params, source: str | None) -> None:
        self.config = config
        self.source = source  # saving copies the tokenizer files from this folder
        self.layers = nnx.Dict({name: nnx.Param(value) for name, value in params["layers"].items()})
        self.embed_tokens = nnx.Param(params["embed_tokens"])
        self.norm = nnx.Param(params["norm"])

    @property
    def params(self) -> Params:
        """The weights as a plain tree of arrays (no copy)."""
        return nnx.to_pure_dict(nnx.state(self, nnx.Param))

    @property
    def dtype(self) -> jnp.dtype:
        return self.norm.get_value().dtype


class Qwen3(Weights):
    """A language model. Hot paths take `model.params` and the pure functions above.

    `model(tokens_bt, lengths_b)` returns float32 logits [b, t, v] of right-padded int32 rows, undefined in the padding.
    """

    def __init__(
        self, config: Qwen3Config, params: Params, *, source: str | None = None, num_tokens: int | None = None
    ) -> None:
        super().__init__(config, params, source)
        if not config.tie_word_embeddings:
            self.lm_head = nnx.Param(params["lm_head"])
        # Ids that the tokenizer knows. Higher rows of the vocabulary are padding: never sampled, masked in the softmax.
        self.num_tokens = num_tokens or config.vocab_size

    def __call__(self, tokens_bt: ArrayLike, lengths_b: ArrayLike) -> jax.Array:
        return row_logits(self.params, self.config, jnp.asarray(tokens_bt), jnp.asarray(lengths_b), self.dtype.name)


@partial(jax.jit, static_argnums=(1, 4, 5))
def row_logits(
    params: Params,
    config: Qwen3Config,
    tokens_bt: jax.Array,
    lengths_b: jax.Array,
    dtype: str,
    backend: Backend = "xla",
) -> jax.Array:
    """Return float32 logits [b, t, v] of right-padded rows, computed in `dtype`; undefined in the padding."""
    hidden_btd, _ = forward(params, config, tokens_bt, lengths_b, dtype=jnp.dtype(dtype), backend=backend)
    return logits(hidden_btd, head_kernel(params, hidden_btd.dtype))
