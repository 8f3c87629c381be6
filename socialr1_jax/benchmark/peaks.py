"""This machine: its device by name, and measured peaks, of a large matrix product and of a large copy."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from socialr1_jax.models.arithmetic import Cost
from socialr1_jax.models.qwen3 import precision

_SECONDS = 0.7  # of calls, for each of the two
_ROW = 0.05  # seconds of calls in a row: an accelerator that is waited for after each rests until the next comes


class Peaks(NamedTuple):
    """Peaks of all devices together: FLOP/s in the computation's dtype, bytes/s read and written."""

    flops: float
    bandwidth: float

    def bound(self, cost: Cost) -> float:
        """Seconds that its FLOP and bytes take at least: the longer of the two, as in the roofline model."""
        return max(cost.flops / self.flops, cost.bytes / self.bandwidth)


def device_text() -> str:
    """Return what a figure was measured on: the kind of the devices, a CPU with its cores."""
    kind = jax.devices()[0].device_kind
    return f"{kind}, {os.cpu_count()} cores" if kind == "cpu" else kind


def measure_peaks(dtype: str) -> Peaks:
    """The fastest calls on one device in 1.4 seconds, times the accelerators; a host's CPU devices share its cores."""
    small = jax.default_backend() == "cpu"
    n, numbers = (1024, 1 << 26) if small else (8192, 1 << 28)
    devices = 1 if small else jax.device_count()
    # Random, for chips slow down as more bits change: ones gave 13 % more on a Hopper. The scale keeps the numbers.
    a = (jax.random.normal(jax.random.key(0), (n, n)) * n**-0.5).astype(dtype)
    product = _fastest(jax.jit(lambda x: jnp.matmul(x, a, precision=precision(x))), a + 0)
    # In place: fresh memory costs the host a page fault for every 4 KiB, 3.3 in place of 35 GB/s on two cores.
    numbers_n = jax.random.normal(jax.random.key(1), (numbers,))
    copy = _fastest(jax.jit(lambda x: x + 1, donate_argnums=0), numbers_n)
    return Peaks(devices * 2 * n**3 / product, devices * 2 * 4 * numbers / copy)


def _fastest(call: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """Seconds of the fastest call after a warm-up; each takes what the last gave."""
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
