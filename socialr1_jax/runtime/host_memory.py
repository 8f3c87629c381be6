"""Keep arrays of the devices in the memory of their host while no program needs them."""

from pathlib import Path
from typing import Any, Literal

import jax

from socialr1_jax.runtime.processes import any_of_all
from socialr1_jax.runtime.terminal import gib

Memory = Literal["device", "host"]  # as settings name them
_KINDS = {"device": "device", "host": "pinned_host"}  # as JAX names them


def available() -> int | None:
    """Return the bytes of this host's memory that are free or can be freed; None if unknown."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.exists() else ()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")), None)


def check_room(arrays: Any, setting: str) -> None:
    """Raise ValueError naming the setting if the arrays do not fit into their host's memory, or cannot be there."""
    devices, free = jax.local_devices(), available()
    needed = sum(part.data.nbytes for x in jax.tree.leaves(arrays) for part in x.addressable_shards)
    if _KINDS["host"] not in {memory.kind for memory in devices[0].addressable_memories()}:
        raise ValueError(f"{setting} host: {devices[0].device_kind} does not use its host's memory; set it to device")
    if any_of_all(free is not None and needed > free):
        raise ValueError(
            f"{setting} host: {gib(needed)} GiB are needed on each host, and this one has {gib(free or 0)} GiB free; "
            "set it to device, or use more hosts"
        )


def on_host(arrays: Any) -> bool:
    """Return whether `moved` brought arrays to the host's memory."""
    return any(x.sharding.memory_kind == _KINDS["host"] for x in jax.tree.leaves(arrays))


def copied(arrays: Any, memory: Memory) -> Any:
    """Copy arrays from one memory to the other."""
    return jax.device_put(arrays, jax.tree.map(lambda x: x.sharding.with_memory_kind(_KINDS[memory]), arrays))


def moved(arrays: Any, memory: Memory) -> Any:
    """Move arrays, other than scalars, to a memory, one after another; each is deleted where it was."""

    def move(x: jax.Array) -> jax.Array:
        if not x.ndim:
            return x
        copy = jax.block_until_ready(copied(x, memory))
        x.delete()
        return copy

    return jax.tree.map(move, arrays)
