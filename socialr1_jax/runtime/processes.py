"""Coordinate several processes: barriers with timeouts, reductions, and division of host work.

In JAX's multi-controller model every process runs the same script and issues all computations in the same order. With
one process these functions do nothing.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

T = TypeVar("T")


def in_cluster(environment: Mapping[str, str]) -> bool:
    """Return whether this process is one of several started by a launcher that JAX supports."""
    counts = (environment.get(name, "") for name in ("SLURM_NTASKS", "OMPI_COMM_WORLD_SIZE"))
    started = "SLURM_PROCID" in environment or "OMPI_COMM_WORLD_RANK" in environment
    several = started and any(count.isdigit() and int(count) > 1 for count in counts)
    return several or "," in environment.get("TPU_WORKER_HOSTNAMES", "") or "JOBSET_NAME" in environment


def is_first() -> bool:
    """Return whether this is the process that writes files and prints on the console."""
    return jax.process_index() == 0


def wait_for_all(name: str, seconds: int) -> None:
    """Wait at a barrier for all processes. Raises an error after `seconds`. Use each name only once."""
    if jax.process_count() > 1:
        ocp.multihost.sync_global_processes(name, timeout=seconds)


def any_of_all(value: bool) -> bool:
    """Return whether `value` is true in any process; the result is the same in all."""
    return bool(np.any(_gather(np.array([value])))) if jax.process_count() > 1 else value


def least_of_all(value: int) -> int:
    """Return the smallest `value` (below 2^31) of any process; the result is the same in all."""
    return int(np.min(_gather(np.array([value])))) if jax.process_count() > 1 else value


def divided(function: Callable[[T], Mapping[str, Any]], items: Sequence[T]) -> list[dict[str, Any]]:
    """Map `function` over items, divided among the processes; results must be JSON (NaN allowed)."""
    count, first = jax.process_count(), jax.process_index()
    mine = [function(item) for item in items[first::count]]
    if count == 1:
        return [dict(result) for result in mine]
    content = np.frombuffer(json.dumps(mine).encode(), np.uint8)
    sizes = _gather(np.array([content.size]))[:, 0]
    padded = np.zeros(int(sizes.max()), np.uint8)
    padded[: content.size] = content
    shares = [json.loads(row[:size].tobytes()) for row, size in zip(_gather(padded), sizes, strict=True)]
    return [shares[i % count][i // count] for i in range(len(items))]


def _gather(x: np.ndarray) -> np.ndarray:
    """Return the arrays of all processes: [processes, ...]."""
    return np.asarray(multihost_utils.process_allgather(x))
