"""FLOP counted from shapes against FLOP counted from the programs themselves."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.kv_cache import Sharing
from socialr1_jax.models.qwen3 import init_params
from socialr1_jax.models.shapes import SHAPES
from socialr1_jax.runtime.chips import CHIPS, chip_of, parse_topology
from socialr1_jax.sampling.decode import decode_step, empty_caches
from socialr1_jax.sampling.memory import plan_batch
from socialr1_jax.sampling.rollout_weights import rollout_weights

CONFIG = replace(SHAPES["tiny"], vocab_size=512, num_hidden_layers=3)


def dots(jaxpr, times=1):
    """FLOP of every matrix product, those in loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        inner = times * equation.params.get("length", 1) if equation.primitive.name == "scan" else times
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            size = 1
            for axis in contracted:
                size *= equation.invars[0].aval.shape[axis]
            total += 2 * times * size * equation.outvars[0].aval.size
        branches = [
            dots(getattr(inner_jaxpr, "jaxpr", inner_jaxpr), inner)
            for value in equation.params.values()
            for inner_jaxpr in (value if isinstance(value, tuple | list) else [value])
            if hasattr(getattr(inner_jaxpr, "jaxpr", inner_jaxpr), "eqns")
        ]
        total += max(branches, default=0) if equation.primitive.name == "cond" else sum(branches)
    return total


def shapes():
    return jax.eval_shape(lambda: init_params(CONFIG, jax.random.key(0)))


def row_arguments(rows, tokens):
    return jax.ShapeDtypeStruct((rows, tokens), jnp.int32), jax.ShapeDtypeStruct((rows,), jnp.int32)


def logprobs(remat):
    def run(params, tokens_bt, lengths_b):
        return row_logprobs(
            params, CONFIG, tokens_bt, lengths_b, 1.0, num_tokens=CONFIG.vocab_size, dtype="float32", remat=remat
        )[0].sum()

    return run


def attention(rows, pairs, products):
    """FLOP of so many products over pairs of a query and a key."""
    return rows * products * 2 * CONFIG.num_hidden_layers * CONFIG.num_attention_heads * CONFIG.head_dim * pairs


TOKENS, HALF = 160, 160 * 160 / 2
PAIRS = 128 * 128 + 32 * 160  # in blocks of 128


def test_forward():
    rows, tokens = 3, TOKENS
    counted = dots(jax.make_jaxpr(logprobs(remat="nothing"))(shapes(), *row_arguments(rows, tokens)).jaxpr)
    expected = Arithmetic(CONFIG, 4, 1).forward(rows * tokens, rows * HALF, rows * (tokens - 1)).flops
    expected += attention(rows, PAIRS, 2) - attention(rows, HALF, 2)
    assert counted == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("remat", ["nothing", "attention", "everything"])
def test_update(remat):
    rows, tokens = 3, TOKENS
    counted = dots(jax.make_jaxpr(jax.grad(logprobs(remat)))(shapes(), *row_arguments(rows, tokens)).jaxpr)
    expected = Arithmetic(CONFIG, 4, 1).update(rows * tokens, rows * HALF, rows * (tokens - 1), 1, remat).flops
    # Counted are three or four forwards' worth of half squares; run are 2 products forward, 5 backward.
    forwards, products = (4, 9) if remat == "everything" else (3, 7)
    expected += attention(rows, PAIRS, products) - forwards * attention(rows, HALF, 2)
    assert counted == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("form", "joint"), [("dtype", False), ("dtype", True), ("int8", True)])
def test_decode_step(form, joint):
    rows, slots, prompts, width = 6, 64, 2, 32
    params = jax.eval_shape(lambda: init_params(CONFIG, jax.random.key(0)))
    weights = jax.eval_shape(lambda params: rollout_weights(params, CONFIG, "float32", form, joint), params)
    caches, prefixes = (
        jax.eval_shape(lambda rows=rows, slots=slots: empty_caches(CONFIG, rows, slots, jnp.dtype("float32")))
        for rows, slots in ((rows, slots), (prompts, width))
    )
    ints, two = (jax.ShapeDtypeStruct((size,), jnp.int32) for size in (rows, prompts))
    sharing = Sharing(two, jax.ShapeDtypeStruct((prompts, rows // prompts), jnp.int32), ints)
    traced = jax.make_jaxpr(lambda w, *args: decode_step(w, CONFIG, *args))(
        weights, ints, ints, caches, prefixes, sharing, ints
    )
    arithmetic = Arithmetic(CONFIG, 4, 1, form)
    cost = arithmetic.decode_step(rows, slots, width, rows // prompts)
    assert dots(traced.jaxpr) == cost.flops
    kernels = [weight for layer in weights["layers"] for name, weight in layer.items() if name.endswith("_proj")]
    read = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kernels) if x.ndim == 2)
    read += CONFIG.vocab_size * CONFIG.hidden_size * (4 if form == "dtype" else 1)
    read += sum(x.size * 4 for x in jax.tree.leaves((caches, prefixes)))
    assert cost.bytes == read


def test_copy_for_three_devices_that_share_rows():
    """Three divides the heads, but neither the hidden size nor the width of a head."""
    config = replace(CONFIG, num_attention_heads=6, num_key_value_heads=3, intermediate_size=96, vocab_size=192)
    automatic = (jax.sharding.AxisType.Auto,) * 3  # the default up to JAX 0.11
    mesh = jax.sharding.AbstractMesh((1, 1, 3), ("replica", "fsdp", "tensor"), axis_types=automatic)
    with jax.sharding.use_abstract_mesh(mesh):
        params = jax.eval_shape(lambda: init_params(config, jax.random.key(0)))
        copy = jax.eval_shape(lambda params: rollout_weights(params, config, "bfloat16", "int8", True), params)
    assert config.hidden_size % 3
    assert config.head_dim % 3
    rows = 12 * config.head_dim  # of queries, keys and values
    assert copy["layers"][0]["qkv_proj"].numbers_oi.shape == (rows, config.hidden_size)


@pytest.mark.parametrize("form", ["dtype", "int8", "float8"])
@pytest.mark.parametrize("name", ["0.6b", "8b"])  # tied and untied
def test_bytes_of_the_rollout_copy(name, form):
    config = SHAPES[name]
    copy = jax.eval_shape(lambda: rollout_weights(init_params(config, jax.random.key(0)), config, "bfloat16", form))
    held = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(copy))
    assert Arithmetic(config, 2, 1, form).rollout_copy == pytest.approx(held, rel=5e-3)  # norms and scales
    plan = plan_batch(config, 2, rows=4, group=4, prompts=1, width=128, slots=128, weights=form)
    assert plan.weights == Arithmetic(config, 2, 1, form).rollout_copy


def test_parameters_are_those_published():
    """Qwen3-4B: 4.02 B, 8B: 8.19 B; 147,456 bytes of keys and values a token in bfloat16 for both."""
    sizes = {name: Arithmetic(SHAPES[name], 2, 1) for name in ("4b", "8b")}
    assert [round(size.parameters / 1e9, 2) for size in sizes.values()] == [4.02, 8.19]
    assert {size.cache_token for size in sizes.values()} == {147_456}


def test_topologies():
    assert parse_topology("v5p:2x2x2") == (CHIPS["v5p"], (2, 2, 2))
    assert parse_topology("a100-80gb:4x8") == (CHIPS["a100-80gb"], (4, 8))
    for text, said in (
        ("b200:8", "unknown chip 'b200'; known: a100-80gb"),
        ("h200", "number of devices"),
        ("h200:64", "write h200:4x8 for four nodes"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_topology(text)


def test_flops_of_packed_texts():
    """Two responses of 3 and 5 tokens behind a prompt of 8: a query sees the prompt and half of its own part."""
    arithmetic = Arithmetic(CONFIG, 4, 1)
    pairs = 8 * 4 + 3 * (8 + 1.5) + 5 * (8 + 2.5)
    expected = 16 * 2 * arithmetic.kernels + pairs * 4 * 3 * 4 * 64 + 8 * 2 * 512 * 256
    assert arithmetic.flops(16, pairs, 8) == expected


def test_chips_by_the_names_that_jax_gives():
    for kind, name in (("NVIDIA A100-SXM4-80GB", "a100-80gb"), ("NVIDIA H200", "h200"), ("TPU v5 lite", "v5e")):
        assert chip_of(kind) is CHIPS[name]
    assert chip_of("cpu") is None
