"""The attention kernel of this machine, found by trying it: cuDNN makes no plan with some versions of CUDA."""

import functools
import logging
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.models.attention import Backend, attention_backend, causal_attention
from socialr1_jax.models.blockwise import Segments
from socialr1_jax.processes import least_of_all

log = logging.getLogger(__name__)

_COMPARED = ("results", "dq", "dk", "dv")
_TOLERANCE = 0.03  # relative, of norms: bfloat16 has 8 bits, and two kernels round sums at other places


def working_attention(name: Literal["auto", "xla", "cudnn"], dtype: str) -> Backend:
    """Return the kernel that `name` stands for here, tried first: auto falls back to xla, with a warning that says why.

    Raises ValueError when cudnn is asked for by name and does not compute what xla does.
    """
    backend = attention_backend(name, dtype, jax.default_backend())
    if backend == "xla":
        return backend
    fault = cudnn_fault(dtype)
    if least_of_all(not fault):
        return backend
    why = fault or "it failed in another process"
    if name == "cudnn":
        raise ValueError(f"attention cudnn does not compute here: {why}; set auto")
    log.warning("attention xla: cuDNN, which is faster, does not compute here: %s", why)
    return "xla"


@functools.cache
def cudnn_fault(dtype: str) -> str:
    """Return why cuDNN's attention cannot be used on this machine's GPU; "" when results and gradients are right."""
    b, t, heads, groups, h = 2, 256, 4, 2, 128
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (
        jax.random.normal(key, (b, t, m, h), dtype) for key, m in zip(keys, (heads, groups, groups), strict=True)
    )
    lengths_b = jnp.array([t, t - 56])
    inside_bt = jnp.arange(t) < lengths_b[:, None]
    own_t = np.repeat(np.arange(4, dtype=np.int32), t // 4)  # 0 is the beginning that 1 shares
    prefix_t = np.where(own_t == 1, 0, own_t)
    segments = jax.tree.map(lambda x: jnp.tile(x, (b, 1)), Segments(own_t, prefix_t, np.arange(t, dtype=np.int32)))

    @functools.partial(jax.jit, static_argnums=(1, 2))
    def run(q: jax.Array, backend: Backend, packed: bool) -> tuple[jax.Array, ...]:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
            out_btnh = causal_attention(q, k, v, lengths_b, backend, segments if packed else None)
            out_btnh = jnp.where(inside_bt[..., None, None], out_btnh, 0).astype(jnp.float32)
            return (out_btnh**2).sum(), out_btnh

        gradients, out_btnh = jax.grad(loss, (0, 1, 2), has_aux=True)(q, k, v)
        return (out_btnh, *gradients)

    for packed in (False, True):
        what = "packed texts" if packed else "rows"
        try:
            found = jax.block_until_ready(run(q, "cudnn", packed))
        except Exception as error:  # whatever XLA, cuDNN or the driver raise
            return f"{what}: {str(error).strip().splitlines()[0][:200]}"
        for name, ours, theirs in zip(_COMPARED, run(q, "xla", packed), found, strict=True):
            apart = jnp.linalg.norm((ours - theirs).astype(jnp.float32)) / jnp.linalg.norm(ours.astype(jnp.float32))
            if not apart < _TOLERANCE:
                return f"{what}: {name} are {float(apart):.2g} (relative) from XLA's"
    return ""
