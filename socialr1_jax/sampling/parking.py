"""Keep rows in host memory while the caches of the others need their part of the device's."""

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from socialr1_jax.runtime.mesh import ROWS, by_rows, place
from socialr1_jax.sampling.decode import DecodeState, put_rows, take_rows


class Parked(NamedTuple):
    """One row of each device in host memory, and the host's view of it as in `Rollout`, [d]."""

    rows: np.ndarray  # -1 where a device has none
    positions: np.ndarray
    left: np.ndarray
    entries: np.ndarray
    state: DecodeState


def to_host(state: DecodeState, rows: np.ndarray) -> DecodeState:
    """Return a copy of one row of each device, [d], in host memory. It is made layer by layer."""
    at = place(rows)

    def copied(part: Any, slots: int) -> Any:
        return _moved(take_rows(part, at, slots=slots), "pinned_host")

    rest = copied(state._replace(caches=[]), 0)
    return rest._replace(caches=[copied(cache, cache.slots) for cache in state.caches])


def from_host(state: DecodeState, rows: np.ndarray, parked: DecodeState) -> DecodeState:
    """Return the state with the rows of `parked` in its rows `rows`, [d]; numbers past the end are dropped."""
    return _inserted(state, place(rows), _moved(parked, "device"))


def _moved(tree: Any, memory: str) -> Any:
    return jax.device_put(tree, jax.tree.map(lambda x: x.sharding.with_memory_kind(memory), tree))


@partial(jax.jit, donate_argnames=("state",))
def _inserted(state: DecodeState, rows: jax.Array, new: DecodeState) -> DecodeState:
    with jax.named_scope("insert"):
        return by_rows(put_rows, (ROWS, ROWS, ROWS), ROWS)(state, rows, new)
