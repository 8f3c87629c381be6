"""Choose this machine's attention kernels by trying them: with some CUDA versions cuDNN finds no execution plan."""

import functools
import logging
import time
from contextlib import suppress
from pathlib import Path
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
from socialr1_jax.models.segment_kernel import segment_attention
from socialr1_jax.runtime.files import read_json, write_json
from socialr1_jax.runtime.mesh import tensor_shards
from socialr1_jax.runtime.processes import least_of_all
from socialr1_jax.runtime.terminal import first_line

log = logging.getLogger(__name__)

# Axes: t queries, s keys, n query heads, k key and value heads, h head width; 1 a batch of one.

FusedBackend = Literal["cudnn", "triton"]
_ROW = 4096  # tokens of the packed row that kernels are timed on
_LAYERS = 100  # calls of a decode kernel that are timed at once
_TOLERANCE = 0.03  # of the relative error in norm: bfloat16 has 8 bits; cuDNN on an H200 differs 0.001-0.004 from XLA


def working_attention(name: Literal["auto", "xla", "cudnn", "triton"], dtype: str) -> Backend:
    """Resolve a kernel's name on this machine after a trial: auto is the fastest one that is right. The log says why.

    Raises ValueError if "cudnn" or "triton" is requested and does not work here.
    """
    backend = attention_backend(name, dtype, jax.default_backend())
    return backend if name == "xla" or backend == "xla" else _attention_choice(name, dtype)


def prefill_attention(name: Literal["auto", "xla", "cudnn", "triton"], dtype: str) -> Backend:
    """Return the kernel of prefill beside this one of updates: cuDNN if it works here, else XLA, instead of Triton.

    Prompts are whole rows, or follow keys that were computed before: Triton's kernels gain nothing there.
    """
    fused = attention_backend("auto", dtype, jax.default_backend()) == "cudnn"
    return name if name in ("xla", "cudnn") else _attention_choice("prefill", dtype) if fused else "xla"


@functools.cache
def _attention_choice(name: Literal["auto", "prefill", "cudnn", "triton"], dtype: str) -> Backend:
    what = "attention of prefill" if name == "prefill" else "attention"
    kernels: tuple[FusedBackend, ...] = ("cudnn", "triton")
    if name != "auto":
        kernels = ("cudnn",) if name == "prefill" else (name,)
    if name in ("auto", "prefill") and (kept := _kept(f"{what} {dtype}", kernels)):
        return kept
    seconds = dict[Backend, float]()
    for kernel in kernels:
        fault, taken = attention_trial(kernel, dtype)
        if least_of_all(not fault):  # a collective: all processes must agree
            seconds[kernel] = taken
            continue
        why = fault or "it failed in another process"
        if name == kernel:
            raise ValueError(f"attention {name} does not compute here: {why}; set auto")
        log.warning("attention %s does not compute here: %s", kernel, why)
    fastest: Backend = min(seconds, key=seconds.__getitem__) if seconds else "xla"
    if len(seconds) > 1:  # processes may measure different times
        fastest = "triton" if least_of_all(fastest == "triton") else "cudnn"
    times = ", ".join(f"{each} {1e3 * taken:.1f} ms" for each, taken in seconds.items())
    log.info("%s %s (a packed row of %d tokens, forward and backward: %s)", what, fastest, _ROW, times or "none")
    if name in ("auto", "prefill") and len(seconds) == len(kernels):
        _keep(f"{what} {dtype}", fastest)
    return fastest


@functools.cache
def attention_trial(kernel: FusedBackend, dtype: str) -> tuple[str, float]:
    """Return why a kernel cannot be used on this machine's GPU, or "" if it is right, and its seconds on a packed row.

    Results and gradients are compared with NumPy's in float64: compiling XLA's for the GPU would take longer.
    """
    random, t = np.random.default_rng(0), 256
    parts, length = _packed(t, 50, 70, 30, 40), 190
    inside_t, causal_ts = np.arange(t) < length, np.tri(t, dtype=bool)
    seen_ts = causal_ts & np.asarray(parts.seen(slice(None), slice(None)))[0]

    def drawn(t: int, heads: int) -> list[jax.Array]:
        shapes = ((1, t, count, 128) for count in (heads, heads // 4, heads // 4, heads))
        return [jnp.asarray(random.standard_normal(shape, np.float32), dtype) for shape in shapes]

    @jax.jit
    def run(q: jax.Array, k: jax.Array, v: jax.Array, dout: jax.Array, length: int, segments: Segments | None) -> Any:
        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            if kernel == "triton":  # without the mesh, which has more devices than there are rows
                return segment_attention(q, k, v, jnp.array([length]), segments)
            return causal_attention(q, k, v, jnp.array([length]), kernel, segments)

        out, pull = jax.vjp(attend, q, k, v)
        return out, *pull(dout)

    q, k, v, dout = drawn(t, 8)
    arrays = q, k, v, jnp.where(inside_t[None, :, None, None], dout, 0)
    for what, segments, mask_ts in (("rows", None, causal_ts), ("packed texts", parts, seen_ts)):
        try:
            actual = [np.asarray(x, np.float64)[0] for x in run(*arrays, length, segments)]
        except Exception as error:  # XLA, cuDNN, Triton and the driver raise many kinds
            return f"{what}: {first_line(error)}", 0.0
        q64, k64, v64, dout64 = (np.asarray(x, np.float64)[0] for x in arrays)
        expected = _attention(q64, k64, v64, dout64, mask_ts)
        for name, want, got in zip(("results", "dq", "dk", "dv"), expected, actual, strict=True):
            want, got = want[:length], got[:length]  # results at padded positions are undefined
            error_norm = np.linalg.norm(want - got) / np.linalg.norm(want)
            if not error_norm < _TOLERANCE:
                return f"{what}: {name} are wrong by {error_norm:.2g} (relative)", 0.0
    row, segments, seconds = drawn(_ROW, 32), _packed(_ROW, _ROW // 8, *5 * (_ROW // 6,)), 0.0
    for _ in range(3):  # the first call compiles
        begun = time.perf_counter()
        jax.block_until_ready(run(*row, _ROW * 23 // 24, segments))
        seconds = time.perf_counter() - begun
    return "", seconds


def _packed(t: int, *sizes: int) -> Segments:
    """Return a row of t positions: a prefix, texts behind it, and padding."""
    own_t = np.repeat(np.arange(len(sizes) + 1, dtype=np.int32), (0, *sizes))
    own_1t = np.pad(own_t, (0, t - len(own_t)))[None]
    return Segments(own_1t, np.minimum(own_1t, 1), own_1t)


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
    what = f"decode attention {dtype} of {heads} heads"
    if name == "auto" and (kept := _kept(what, ("xla", "triton"))):
        return kept
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
    if name == "auto":
        _keep(what, kernel)
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


def _kept(what: str, kernels: tuple[Any, ...]) -> Any:
    """Return the one of `kernels` that an earlier run on such a device chose, or "" if not all processes know it.

    A run that resumes computes with the same kernels. Choices are beside the compiled programs, in kernels.json.
    """
    chosen = _choices().get(_case(what))
    place = least_of_all(kernels.index(chosen) if chosen in kernels else -1)
    if place < 0:
        return ""
    log.info("%s: %s, as in an earlier run on this machine (%s)", what, kernels[place], _choices_file())
    return kernels[place]


def _keep(what: str, kernel: str) -> None:
    if (file := _choices_file()) and file.parent.is_dir():
        with suppress(OSError):
            write_json(file, _choices() | {_case(what): kernel})


def _choices() -> dict[str, Any]:
    with suppress(OSError, ValueError):
        if file := _choices_file():
            return read_json(file)
    return {}


def _choices_file() -> Path | None:
    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    return Path(folder, "kernels.json") if folder else None


def _case(what: str) -> str:
    device = jax.devices()[0]
    return f"{what} on {device.device_kind} with jax {jax.__version__}, {device.client.platform_version}"


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
