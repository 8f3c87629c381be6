"""What this machine does at most, measured: the rate of a large matrix product, the bandwidth of a large copy."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from socialr1_jax.models.qwen3 import precision

_REPEATS = 10


@dataclass(frozen=True)
class Peaks:
    """Of all devices together, the best of ten calls: FLOP/s in the computation's dtype, bytes/s read and written."""

    flops: float
    bandwidth: float

    def bound(self, flops: float, moved: float) -> float:
        """Seconds that so many FLOP and bytes take at least: the longer of the two, as in the roofline model."""
        return max(flops / self.flops, moved / self.bandwidth)


def measure_peaks(dtype: str) -> Peaks:
    """Measures one device and multiplies by their number. Takes a second."""
    small = jax.default_backend() == "cpu"
    n, numbers = (1024, 1 << 26) if small else (8192, 1 << 28)
    devices = jax.device_count()
    a = jnp.ones((n, n), dtype)
    product = _fastest(jax.jit(lambda x: jnp.matmul(x, a, precision=precision(x))), a + 0)
    # In place: fresh memory costs the host a page fault for every 4 KiB, 3.3 in place of 35 GB/s on two cores.
    copy = _fastest(jax.jit(lambda x: x + 1, donate_argnums=0), jnp.ones(numbers, jnp.float32))
    return Peaks(devices * 2 * n**3 / product, devices * 2 * 4 * numbers / copy)


def _fastest(call: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """Seconds of the fastest call, those of compiling not counted; each takes what the last gave."""
    x = call(x).block_until_ready()
    seconds = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        x = call(x).block_until_ready()
        seconds.append(time.perf_counter() - started)
    return min(seconds)
