"""Keep rows in host memory while the caches of the others need their part of the device's."""

from dataclasses import dataclass
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
    state: DecodeState  # of `_HostCopy`


@dataclass(frozen=True)
class _HostCopy:
    """The parts of an array that this process's devices have. XLA's own host memory has a limit for all devices."""

    shape: tuple[int, ...]
    sharding: jax.sharding.Sharding
    parts: list[tuple[jax.Device, np.ndarray]]

    @classmethod
    def of(cls, x: jax.Array) -> "_HostCopy":
        return cls(x.shape, x.sharding, [(part.device, np.asarray(part.data)) for part in x.addressable_shards])

    def placed(self) -> jax.Array:
        parts = [jax.device_put(part, device) for device, part in self.parts]
        return jax.make_array_from_single_device_arrays(self.shape, self.sharding, parts)


def to_host(state: DecodeState, rows: np.ndarray) -> DecodeState:
    """Return a copy of one row of each device, [d], in host memory."""
    at = place(rows)

    def copied(part: Any, slots: int) -> Any:
        return jax.tree.map(_HostCopy.of, take_rows(part, at, slots=slots))

    caches = [copied(cache, cache.slots) for cache in state.caches]  # one layer at a time on the device
    return copied(state._replace(caches=[]), 0)._replace(caches=caches)


def from_host(state: DecodeState, rows: np.ndarray, parked: DecodeState) -> DecodeState:
    """Return the state with the rows of `parked` in its rows `rows`, [d]; numbers past the end are dropped."""
    at = place(rows)

    def inserted(part: Any, new: Any) -> Any:
        return _inserted(part, at, jax.tree.map(_HostCopy.placed, new))

    caches = [inserted(cache, new) for cache, new in zip(state.caches, parked.caches, strict=True)]
    return inserted(state._replace(caches=[]), parked._replace(caches=[]))._replace(caches=caches)


@partial(jax.jit, donate_argnames=("part",))
def _inserted(part: Any, rows: jax.Array, new: Any) -> Any:
    with jax.named_scope("insert"):
        return by_rows(put_rows, (ROWS, ROWS, ROWS), ROWS)(part, rows, new)
