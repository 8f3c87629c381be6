"""The device mesh and how arrays lie on it.

Three axes: `replica` (whole copies of the weights), `fsdp` (weights and batch rows split together) and `tensor`
(heads and feed-forward width split). Batch rows are split over replica x fsdp.
"""

from collections.abc import Mapping

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("replica", "fsdp", "tensor")
# Logical weight axes (models/qwen3.py) to mesh axes. The output side of a kernel is split over tensor, the model
# width over fsdp, so one rule serves every weight; what does not divide stays whole.
TRAIN_RULES: Mapping[str, str | None] = {
    "layer": None,
    "width": "fsdp",
    "heads": "tensor",
    "ffn": "tensor",
    "vocab": "tensor",
    "head": None,
}


def make_mesh(replica: int = 1, fsdp: int | None = None, tensor: int = 1) -> Mesh:
    """A mesh over all devices with axes (replica, fsdp, tensor); `fsdp=None` takes the devices that are left.

    Raises ValueError when the three sizes do not multiply to the number of devices.
    """
    devices = jax.device_count()
    if fsdp is None:
        fsdp, rest = divmod(devices, replica * tensor)
        if rest or fsdp == 0:
            raise ValueError(
                f"replica={replica} x tensor={tensor} does not divide the {devices} devices: change one of them"
            )
    if replica * fsdp * tensor != devices:
        raise ValueError(f"replica={replica} x fsdp={fsdp} x tensor={tensor} is not the {devices} devices present")
    return jax.make_mesh((replica, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3)


def weight_sharding(mesh: Mesh, shape: tuple[int, ...], axes: tuple[str, ...]) -> NamedSharding:
    """Where a weight of `shape` with logical `axes` lies in the train layout; axes that do not divide stay whole."""
    spec = [TRAIN_RULES[axis] for axis in axes]
    fits = [name if name and size % mesh.shape[name] == 0 else None for name, size in zip(spec, shape, strict=True)]
    return NamedSharding(mesh, PartitionSpec(*fits))
