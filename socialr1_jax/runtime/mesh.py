"""The device mesh and how arrays lie on it.

Three axes: `replica` (whole copies of the weights), `fsdp` (weights and rows split together) and `tensor` (heads,
feed-forward width and vocabulary split). Rows are split over replica x fsdp. Which weight is split how stands beside
the weights' declarations (models/qwen3.py).

Programs read the mesh from the context (`with jax.set_mesh(mesh):`), so their signatures do not carry it. Without one
everything here does nothing and the program runs on one device.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from socialr1_jax.runtime.terminal import counted

P = PartitionSpec
AXES = ("replica", "fsdp", "tensor")
ROWS = P(("replica", "fsdp"))  # the first axis of every array that has one entry a row


def make_mesh(
    replica: int = 1, fsdp: int | None = None, tensor: int = 1, *, devices: list[jax.Device] | None = None
) -> Mesh:
    """A mesh of all devices (or of `devices`) with axes (replica, fsdp, tensor); `fsdp=None` takes what is left.

    Raises ValueError when the three sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    count = len(devices)
    if fsdp is None:
        fsdp, rest = divmod(count, replica * tensor)
        if rest or fsdp == 0:
            raise ValueError(
                f"replica={replica} x tensor={tensor} does not divide {counted(count, 'device')}: change one of them"
            )
    if replica * fsdp * tensor != count:
        raise ValueError(
            f"replica={replica} x fsdp={fsdp} x tensor={tensor} is {replica * fsdp * tensor}, not the number of "
            f"devices, {count}: change one of the three"
        )
    return jax.make_mesh((replica, fsdp, tensor), AXES, devices=devices, axis_types=(AxisType.Auto,) * 3)


def mesh_of(params: Any) -> Mesh:
    """The mesh that a tree of weights lies on; a mesh of one device for weights on one device."""
    sharding = jax.tree.leaves(params)[0].sharding
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return sharding.mesh
    return make_mesh(devices=list(sharding.device_set))


def row_shards() -> int:
    """Into how many parts the context's mesh splits rows."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["replica"] * mesh.shape["fsdp"]


def tensor_shards() -> int:
    """Return how many devices of the context's mesh share a row."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["tensor"]


def constrain(x: jax.Array, spec: P) -> jax.Array:
    """x, laid out by `spec` on the context's mesh."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, spec)


def by_rows(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """`function` run by every device on its own rows, with nothing said between devices that hold different rows.

    The specs say where rows are (ROWS) and what is whole on all of them (P()). Loops inside may end at different
    steps; the axis `tensor` stays with the compiler.
    """
    if row_shards() == 1:
        return function
    return jax.shard_map(
        function, in_specs=in_specs, out_specs=out_specs, axis_names={"replica", "fsdp"}, check_vma=False
    )


def place(x: Any, spec: P = ROWS) -> jax.Array:
    """A host array on the context's mesh; every process gives the same array and keeps its own part."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jnp.asarray(x)
    x = np.asarray(x)
    x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)  # NumPy's integers have 64 bits
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])


def fetch(x: jax.Array) -> np.ndarray:
    """The whole array on this host, wherever its parts lie. With several processes all of them must ask for it."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
