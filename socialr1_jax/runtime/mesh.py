"""The device mesh and the sharding of arrays.

It has three axes: `replica` (full copies of the weights), `fsdp` (splits weights and rows) and `tensor` (splits heads,
feed-forward width and vocabulary). Rows are split over replica x fsdp. The sharding of each weight is declared in
models/qwen3.py.

Programs take the mesh from the context (`with jax.set_mesh(mesh):`), not from arguments. Without a mesh these functions
do nothing, and the program runs on one device.
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
ROWS = P(("replica", "fsdp"))  # for the first axis of arrays with one entry per row


def make_mesh(
    replica: int = 1, fsdp: int | None = None, tensor: int = 1, *, devices: list[jax.Device] | None = None
) -> Mesh:
    """Make a mesh of all devices (or `devices`) with axes (replica, fsdp, tensor); `fsdp=None` uses the remaining ones.

    Raises ValueError if the product of the three sizes is not the number of devices.
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


def with_tensor(mesh: Mesh, tensor: int) -> Mesh:
    """Return the mesh of the same devices, in the same order, on which `tensor` of them share a row.

    Raises ValueError if `tensor` does not divide a replica's devices, or if devices that share a row would be those of
    several processes.
    """
    if tensor == mesh.shape["tensor"]:
        return mesh
    rows = mesh.devices.reshape(mesh.shape["replica"], -1)
    if rows.shape[1] % tensor:
        raise ValueError(f"{tensor} does not divide the {counted(rows.shape[1], 'device')} of a replica: set a divisor")
    devices = rows.reshape(len(rows), -1, tensor)
    if any(len({device.process_index for device in row}) > 1 for row in devices.reshape(-1, tensor)):
        raise ValueError(f"{tensor} devices are not on one host: set a divisor of the number of devices of a process")
    return Mesh(devices, AXES, axis_types=mesh.axis_types)


def mesh_of(params: Any) -> Mesh:
    """Return the mesh of a tree of weights; a mesh of one device for weights on one device."""
    sharding = jax.tree.leaves(params)[0].sharding
    if isinstance(sharding, NamedSharding) and isinstance(sharding.mesh, Mesh):
        return sharding.mesh
    return make_mesh(devices=list(sharding.device_set))


def row_shards() -> int:
    """Return the number of parts into which the context's mesh splits rows."""
    return _size("replica") * _size("fsdp")


def tensor_shards() -> int:
    """Return the number of devices in the context's mesh that share a row."""
    return _size("tensor")


def replicas() -> int:
    """Return the number of copies of the weights on the context's mesh."""
    return _size("replica")


def _size(axis: str) -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty or axis in mesh.manual_axes else mesh.shape[axis]


def constrain(x: jax.Array, spec: P) -> jax.Array:
    """Constrain the sharding of `x` to `spec` on the context's mesh."""
    return x if jax.sharding.get_abstract_mesh().empty else jax.lax.with_sharding_constraint(x, _unmapped(spec))


def _unmapped(spec: P) -> P:
    """Return the spec without axes that a `shard_map` around the caller maps, such as `replica` in an update."""
    mapped = (None, *jax.sharding.get_abstract_mesh().manual_axes)
    parts = (part if isinstance(part, tuple) else (part,) for part in spec)
    return P(*(tuple(axis for axis in part if axis not in mapped) or None for part in parts))


def by_rows(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Map `function` over row shards, without collectives between devices that have different rows.

    Specs are ROWS for arrays of rows and P() for replicated ones. Loops inside may end at different steps; the compiler
    handles the axis `tensor`.
    """
    if row_shards() == 1:
        return function
    in_specs, out_specs = jax.tree.map(_unmapped, (in_specs, out_specs))
    axes = {"replica", "fsdp"} - set(jax.sharding.get_abstract_mesh().manual_axes)
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, axis_names=axes, check_vma=False)


def by_heads(function: Callable[..., Any], in_specs: Any, out_specs: Any) -> Callable[..., Any]:
    """Map `function` over the devices that share a row, inside `by_rows`: kernels cannot be split by the compiler."""
    if jax.sharding.get_abstract_mesh().empty:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def place(x: Any, spec: P = ROWS) -> jax.Array:
    """Put a host array on the context's mesh; every process passes the same array and stores its own part."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jnp.asarray(x)
    x = np.asarray(x)
    x = x.astype(jax.dtypes.canonicalize_dtype(x.dtype), copy=False)  # NumPy defaults to 64 bits
    return jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])


def fetch(x: jax.Array) -> np.ndarray:
    """Return the whole array on this host, with an all-gather if needed. All processes must call this."""
    if x.is_fully_addressable or x.is_fully_replicated:
        return np.asarray(x)
    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
