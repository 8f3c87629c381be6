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
_PLAN = "scripts/plan.py says what the whole run takes"


def check_memory(config: DoctorConfig) -> Iterator[Line]:
    on_cpu, host = platform() == "cpu", host_memory()
    weights, mesh = parameters(model_shape(config)), run_mesh(config).shape
    import jax

    from socialr1_jax.sampling.memory import free_memory

    free = free_memory()
    if free is None:
        raise NotChecked(f"{platform()} does not report its memory; {_PLAN}")
    if host and on_cpu:
        free = min(free, host // jax.local_device_count())
    parts = device_parts(config, weights, mesh)
    if on_cpu:  # whose devices share one memory
        yield _fits("memory", parts, free, f"a machine with {gib(sum(parts.values()) - free)} more, or a smaller model")
        return
    yield _fits("device memory", parts, free, device_fix(config, weights, mesh, free))
    if host:
        parts = host_parts(config, weights)
        yield _fits("host memory", parts, host, host_fix(parts, host))


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


def device_fix(config: DoctorConfig, weights: int, mesh: Mapping[str, int], free: int) -> str:
    """Return what makes the parts fit into the free bytes of a device; each proposal is computed."""
    host = config.grpo.model_copy(update={"reference_memory": "host"})
    half = config.model.model_copy(update={"dtype": "bfloat16"})
    parts = device_parts(config, weights, mesh)
    fixes: list[str] = []
    for name, update in (
        ("grpo.reference_memory=host", {"grpo": host}),
        ("model.dtype=bfloat16", {"model": half}),
        ("grpo.reference_memory=host with model.dtype=bfloat16", {"grpo": host, "model": half}),
    ):
        taken = sum(device_parts(config.model_copy(update=update), weights, mesh).values())
        if taken < sum(parts.values()) and taken <= free and not (fixes and "with" in name):
            fixes.append(f"{name} (at least {gib(taken)}, {gib(free - taken)} left)")
    whole = parts.pop("content model", 0)  # on every device; fsdp splits the others
    if whole < free:
        fsdp = -(-sum(parts.values()) * mesh["fsdp"] // (free - whole))
        fixes.append(f"at least {fsdp * mesh['tensor'] * mesh['replica']:,} such devices (mesh.fsdp={fsdp})")
    return f"{', or '.join([*fixes, 'a smaller model'])}; {_PLAN}"


def host_fix(parts: Mapping[str, int], free: int) -> str:
    """Return what makes the parts fit into the free bytes of a host."""
    taken = sum(parts.values())
    fixes = [f"a host with {gib(taken - free)} more memory"]
    if parts.get("reference", 0) > 0 and taken - parts["reference"] <= free:
        fixes.append(f"grpo.reference_memory=device (then {gib(taken - parts['reference'])})")
    return ", or ".join([*fixes, "a smaller model"])


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
    taken = sum(parts.values())
    found = f"at least {gib(taken)} of {gib(free)} free: {listed}"
    found += f"; this fits and leaves {gib(free - taken)} for the tokens" if taken <= free else ""
    return good_or("problem", name, taken <= free, found, fix)


def _itemsize(config: DoctorConfig) -> int:
    return 2 if config.model.dtype == "bfloat16" else 4
