"""Name this machine's devices, and measure their peaks with a large matrix product and a large copy."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from socialr1_jax.models.arithmetic import Cost
from socialr1_jax.models.linear import precision

_SECONDS = 0.7  # duration of each of the two measurements
_ROW = 0.05  # seconds of calls between two waits: waiting after every call would leave an accelerator idle


class Peaks(NamedTuple):
    """Peaks of all devices together: FLOP/s in the compute dtype, and bytes/s read and written."""

    flops: float
    bandwidth: float

    def bound(self, cost: Cost) -> float:
        """Return the least seconds that a cost takes by the roofline model, by its FLOP or its bytes."""
        return max(cost.flops / self.flops, cost.bytes / self.bandwidth)


def device_text() -> str:
    """Return the kind of the devices, for a CPU with its number of cores."""
    kind = jax.devices()[0].device_kind
    return f"{kind}, {os.cpu_count()} cores" if kind == "cpu" else kind


def measure_peaks(dtype: str, devices: int = 0) -> Peaks:
    """Measure one device for 1.4 seconds, and multiply by the number of accelerators (CPU devices share the cores).

    devices: accelerators to multiply by; 0 = all.
    """
    small = jax.default_backend() == "cpu"
    n, numbers = (1024, 1 << 26) if small else (8192, 1 << 28)
    devices = 1 if small else devices or jax.device_count()
    # Random numbers, since chips slow down as more bits flip: ones gave 13 % more on a Hopper. The scale is stable.
    a = (jax.random.normal(jax.random.key(0), (n, n)) * n**-0.5).astype(dtype)
    product = _fastest(jax.jit(lambda x: jnp.matmul(x, a, precision=precision(x))), a + 0)
    # Donated: with fresh memory the host has a page fault for every 4 KiB, and 3.3 instead of 35 GB/s on two cores.
    numbers_n = jnp.tile(jax.random.normal(jax.random.key(1), (1 << 20,)), numbers >> 20)
    copy = _fastest(jax.jit(lambda x: x + 1, donate_argnums=0), numbers_n)
    return Peaks(devices * 2 * n**3 / product, devices * 2 * 4 * numbers / copy)


def _fastest(call: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """Return the seconds of the fastest call after a warm-up. Calls are chained, so none is optimised away."""
    x = call(x).block_until_ready()
    fastest, begun, count = float("inf"), time.perf_counter(), 1
    while time.perf_counter() - begun < _SECONDS:
        started = time.perf_counter()
        for _ in range(count):
            x = call(x)
        x.block_until_ready()
        fastest = min(fastest, (time.perf_counter() - started) / count)
        count = max(count, int(_ROW / fastest))
    return fastest
