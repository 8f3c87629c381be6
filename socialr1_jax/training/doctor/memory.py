"""Checks of memory: the least that the run takes of a device and of the host, from the shapes alone.

scripts/plan.py compiles the run and knows it to the byte; this one takes no time.
"""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

from socialr1_jax.training.doctor.devices import platform, run_mesh
from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, gib, good_or
from socialr1_jax.training.doctor.model import model_shape, parameters, shape_at

STATE_BYTES = 12  # of a parameter: float32 master weight and two moments
GRADIENT_BYTES = 4
_FIX = (
    "more devices under mesh.fsdp, grpo.reference_memory=host, model.dtype=bfloat16, or a smaller model; "
    "scripts/plan.py says what the whole run takes"
)
_HOST_FIX = "a host with more memory, grpo.reference_memory=device, or a smaller model"


def check_memory(config: DoctorConfig) -> Iterator[Line]:
    on_cpu, host = platform() == "cpu", host_memory()
    weights, mesh = parameters(model_shape(config)), run_mesh(config).shape
    import jax

    from socialr1_jax.sampling.memory import free_memory

    free = free_memory()
    if free is None:
        raise NotChecked(f"{platform()} does not report its memory; scripts/plan.py says what the run takes")
    if host and on_cpu:
        free = min(free, host // jax.local_device_count())
    yield _fits("memory" if on_cpu else "device memory", device_parts(config, weights, mesh), free, _FIX)
    if host and not on_cpu:
        yield _fits("host memory", host_parts(config, weights), host, _HOST_FIX)


def device_parts(config: DoctorConfig, weights: int, mesh: Mapping[str, int]) -> dict[str, int]:
    """Return the bytes of a device that training takes before any token is in it."""
    shards, rewards = mesh["fsdp"] * mesh["tensor"], config.rewards
    parts = {"weights and moments": STATE_BYTES * weights // shards, "gradients": GRADIENT_BYTES * weights // shards}
    if config.grpo.kl_coefficient and config.grpo.reference_memory == "device":
        parts["reference"] = _itemsize(config) * weights // shards
    with contextlib.suppress(NotChecked):
        if rewards.uses.content:
            parts["content model"] = _itemsize(config) * parameters(shape_at(rewards.content.model)) // mesh["tensor"]
    with contextlib.suppress(NotChecked):
        if rewards.uses.structure and rewards.structure.judge == "local":
            parts["local judge"] = 2 * parameters(shape_at(rewards.structure.model)) // shards
    return parts


def host_parts(config: DoctorConfig, weights: int) -> dict[str, int]:
    """Return the bytes of the host where the run computes on accelerators."""
    parts = {"a checkpoint while it is written": STATE_BYTES * weights}
    if config.grpo.kl_coefficient and config.grpo.reference_memory == "host":
        parts["reference"] = _itemsize(config) * weights
    return parts


def host_memory() -> int:
    """Return the bytes of RAM that this process may still take: the machine's, or its container's; 0 if unknown."""
    free = 0
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable")) * 1024
    with contextlib.suppress(OSError, ValueError, KeyError):  # ValueError: "max", no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        cached = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())["inactive_file"]
        free = min(free or limit, max(0, limit - used + int(cached)))
    return free


def _fits(name: str, parts: Mapping[str, int], free: int, fix: str) -> Line:
    listed = ", ".join(f"{what} {gib(size)}" for what, size in parts.items())
    found = f"at least {gib(sum(parts.values()))} of {gib(free)} free: {listed}"
    return good_or("problem", name, sum(parts.values()) <= free, found, fix)


def _itemsize(config: DoctorConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4
