"""Choose this machine's attention kernels by trying them: with some CUDA versions cuDNN finds no execution plan."""

import functools
import logging
import time
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.models.attention import (
    Backend,
    DecodeKernel,
    attention_backend,
    causal_attention,
    decode_attention,
    decode_kernel,
)
from socialr1_jax.models.blockwise import Segments
from socialr1_jax.models.decode_kernel import attention_by_length
from socialr1_jax.models.kv_cache import LayerCache, Sharing
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.mesh import tensor_shards
from socialr1_jax.runtime.processes import least_of_all
from socialr1_jax.runtime.terminal import first_line

log = logging.getLogger(__name__)

# Axes: t queries, s keys, n query heads, k key and value heads, h head width; 1 a batch of one.

_LAYERS = 100  # calls of a decode kernel that are timed at once
_TOLERANCE = 0.03  # of the relative error in norm: bfloat16 has 8 bits; cuDNN on an H200 differs 0.001-0.004 from XLA


def working_attention(name: Literal["auto", "xla", "cudnn"], dtype: str) -> Backend:
    """Resolve a kernel's name on this machine after a trial: auto falls back to XLA, with a warning that says why.

    Raises ValueError if "cudnn" is requested and does not work here.
    """
    backend = attention_backend(name, dtype, jax.default_backend())
    if backend == "xla":
        return backend
    fault = cudnn_fault(dtype)
    if least_of_all(not fault):  # a collective: all processes must agree
        return backend
    why = fault or "it failed in another process"
    if name == "cudnn":
        raise ValueError(f"attention cudnn does not compute here: {why}; set auto")
    log.warning("attention xla: cuDNN, which is faster, does not compute here: %s", why)
    return "xla"


@functools.cache
def cudnn_fault(dtype: str) -> str:
    """Return why cuDNN's attention cannot be used on this machine's GPU, or "" if results and gradients are right.

    The reference is NumPy in float64: compiling XLA's attention for the GPU would take longer.
    """
    t, heads, kv_heads, h = 256, 4, 2, 128
    random = np.random.default_rng(0)
    q_1tnh, k_1tkh, v_1tkh, dout_1tnh = (
        jnp.asarray(random.standard_normal((1, t, m, h)), dtype) for m in (heads, kv_heads, kv_heads, heads)
    )
    own_t = np.repeat(np.arange(4, dtype=np.int32), t // 4)
    prefix_t = np.where(own_t == 1, 0, own_t)  # segment 0 is the prefix of segment 1
    segments = Segments(own_t[None], prefix_t[None], np.arange(t, dtype=np.int32)[None])
    length = 200  # of the padded row
    inside_t = np.arange(t) < length
    causal_ts = np.tri(t, dtype=bool)
    seen_ts = causal_ts & ((own_t[:, None] == own_t) | (prefix_t[:, None] == own_t))

    @functools.partial(jax.jit, static_argnums=4)
    def run(q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array, packed: bool) -> Any:
        lengths_b, parts = jnp.array([length]), segments if packed else None
        out, pull = jax.vjp(lambda q, k, v: causal_attention(q, k, v, lengths_b, "cudnn", parts), q, k, v)
        return out, *pull(dout)

    for packed in (False, True):
        what = "packed texts" if packed else "rows"
        dout = dout_1tnh if packed else jnp.where(inside_t[None, :, None, None], dout_1tnh, 0)
        try:
            actual = [np.asarray(x, np.float64)[0] for x in run(q_1tnh, k_1tkh, v_1tkh, dout, packed)]
        except Exception as error:  # XLA, cuDNN and the driver raise many kinds
            return f"{what}: {first_line(error)}"
        q, k, v, d = (np.asarray(x, np.float64)[0] for x in (q_1tnh, k_1tkh, v_1tkh, dout))
        expected = _attention(q, k, v, d, seen_ts if packed else causal_ts)
        if not packed:  # results at padded positions are undefined
            actual, expected = [x[:length] for x in actual], [x[:length] for x in expected]
        for name, want, got in zip(("results", "dq", "dk", "dv"), expected, actual, strict=True):
            error_norm = np.linalg.norm(want - got) / np.linalg.norm(want)
            if not error_norm < _TOLERANCE:
                return f"{what}: {name} are wrong by {error_norm:.2g} (relative)"
    return ""


def working_decode_kernel(name: Literal["auto", "xla", "triton"], model: Qwen3Config, dtype: str) -> DecodeKernel:
    """Resolve the kernel of decoding on this machine: auto is the faster one, if both are right. The log says why.

    Raises ValueError if "triton" is requested and does not work here.
    """
    kernel = decode_kernel(name, dtype, jax.default_backend())
    if kernel == "xla":
        return kernel
    shards = tensor_shards()
    heads = model.num_attention_heads // shards, model.num_key_value_heads // shards, model.head_dim
    return _decode_choice(name, heads, dtype)


@functools.cache
def _decode_choice(name: Literal["auto", "triton"], heads: tuple[int, int, int], dtype: str) -> DecodeKernel:
    fault, seconds = decode_trial(heads, dtype)
    if not least_of_all(not fault):  # a collective: all processes must agree
        why = fault or "it failed in another process"
        if name == "triton":
            raise ValueError(f"sampling.attention triton does not compute here: {why}; set auto")
        log.warning("decode attention xla: Triton, which reads less, does not compute here: %s", why)
        return "xla"
    faster = least_of_all(seconds["triton"] < seconds["xla"])
    kernel: DecodeKernel = "triton" if name == "triton" or faster else "xla"
    times = ", ".join(f"{each} {1e6 * taken:.0f} µs" for each, taken in seconds.items())
    log.info("decode attention %s (a layer, half-filled caches: %s)", kernel, times)
    return kernel


def decode_trial(heads: tuple[int, int, int], dtype: str) -> tuple[str, dict[DecodeKernel, float]]:
    """Return why Triton's decode attention cannot be used on this GPU, or "", and the seconds of each kernel.

    The reference is XLA. heads: query heads, KV heads and head width of one device.
    """
    n, k, h = heads
    b, s, e, m = 32, 1024, 4, 8
    random = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(random.standard_normal(shape, np.float32), dtype)

    q_bnh = normal(b, n, h)
    cache, prefixes = (LayerCache(normal(rows, k, h, s), normal(rows, k, s, h)) for rows in (b, e))
    lengths_b = random.integers(1, s + 1, b)
    lengths_b[:5] = 0, 1, 64, 65, s  # ended; the edges of a block
    places_b = random.permutation(b)
    sharing = Sharing(jnp.array([0, 1, 700, s]), jnp.asarray(np.argsort(places_b).reshape(e, m)), jnp.asarray(places_b))

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def run(kernel: DecodeKernel, layers: int, q_bnh: jax.Array, *others: Any) -> jax.Array:
        attend = decode_attention if kernel == "xla" else attention_by_length
        return jax.lax.fori_loop(0, layers, lambda _, q_bnh: attend(q_bnh, *others), q_bnh)

    results, seconds = {}, dict[DecodeKernel, float]()
    others = cache, jnp.asarray(lengths_b), prefixes, sharing
    for kernel in ("xla", "triton"):
        try:
            results[kernel] = np.asarray(run(kernel, 1, q_bnh, *others), np.float64).reshape(b, -1)
            for _ in range(2):  # the first call compiles
                begun = time.perf_counter()
                run(kernel, _LAYERS, q_bnh, *others).block_until_ready()
                seconds[kernel] = (time.perf_counter() - begun) / _LAYERS
        except Exception as error:  # JAX, Triton and the driver raise many kinds
            return first_line(error), seconds
    live_b = lengths_b > 0
    want, got = (results[kernel][live_b] for kernel in ("xla", "triton"))
    worst = (np.linalg.norm(want - got, axis=1) / np.linalg.norm(want, axis=1)).max()
    return ("" if worst < _TOLERANCE else f"a row is wrong by {worst:.2g} (relative)"), seconds


def _attention(
    q_tnh: np.ndarray, k_tkh: np.ndarray, v_tkh: np.ndarray, dout_tnh: np.ndarray, seen_ts: np.ndarray
) -> list[np.ndarray]:
    """Return softmax(q k / sqrt(h)) v and the gradients of q, k and v for `dout_tnh`, in float64."""
    scale, group = q_tnh.shape[-1] ** -0.5, q_tnh.shape[1] // k_tkh.shape[1]
    k_tnh, v_tnh = k_tkh.repeat(group, 1), v_tkh.repeat(group, 1)
    scores_nts = np.where(seen_ts, np.einsum("tnh,snh->nts", q_tnh, k_tnh) * scale, -np.inf)
    weights_nts = np.exp(scores_nts - scores_nts.max(-1, keepdims=True))
    weights_nts /= weights_nts.sum(-1, keepdims=True)
    out_tnh = np.einsum("nts,snh->tnh", weights_nts, v_tnh)
    delta_nt1 = (dout_tnh * out_tnh).sum(-1).T[..., None]
    dscores_nts = weights_nts * (np.einsum("tnh,snh->nts", dout_tnh, v_tnh) - delta_nt1) * scale
    dq_tnh = np.einsum("nts,snh->tnh", dscores_nts, k_tnh)
    dk_snh = np.einsum("nts,tnh->snh", dscores_nts, q_tnh)
    dv_snh = np.einsum("nts,tnh->snh", weights_nts, dout_tnh)
    folded = (x.reshape(len(x), -1, group, x.shape[-1]).sum(2) for x in (dk_snh, dv_snh))
    return [out_tnh, dq_tnh, *folded]
