"""Plan a run for devices that are not on this machine, by compiling every phase for them from abstract arrays.

XLA compiles for a topology by name and reports the program's memory there. Nothing is allocated and nothing runs.
"""

import math
import os
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, cast

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from socialr1_jax.config.run import PlanConfig, RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.models.attention import Backend, attention_backend
from socialr1_jax.models.qwen3 import check_mesh
from socialr1_jax.plan.phase import Part, Phase
from socialr1_jax.plan.phases import AbstractRun
from socialr1_jax.plan.shapes import UnknownSizesError, model_shape
from socialr1_jax.run.run import rollout_mesh, run_mesh
from socialr1_jax.runtime.chips import Chip, parse_topology
from socialr1_jax.runtime.mesh import AXES
from socialr1_jax.runtime.startup import memory_share, tune_compiler
from socialr1_jax.runtime.terminal import counted, gib
from socialr1_jax.sampling.memory import USABLE, free_memory

_EXTRAS = {"cuda": "cuda12", "tpu": "tpu"}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All phases of a run on a topology."""

    chip: Chip
    devices: int
    node: int  # devices of a node, between which links are fast
    backend: Backend
    memory: int  # bytes of a device
    allowed: int  # bytes of it that the run may use
    resident: dict[str, int]  # bytes per device that training keeps allocated throughout
    hosted: dict[str, int] = field(default_factory=dict)  # and those in the host's memory between their uses
    rollout_tensor: int = 1  # devices that share a row in the rollout
    why: str = ""  # that number was chosen, if the run chooses
    phases: list[Phase]
    response_tokens: float = 0.0  # mean length that the times assume
    update_flops: float = 0.0  # of a step, as a run's MFU counts them

    @property
    def fullest(self) -> Phase:
        """The phase that needs the most memory."""
        return max(self.phases, key=lambda phase: phase.peak)

    @property
    def free(self) -> int:
        """Bytes of `allowed` that the fullest phase leaves free; negative if it does not fit."""
        return self.allowed - self.fullest.peak

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of a step, the sums over its phases: lower bound, predicted, and exposed in collectives."""
        if not self.chip.flops:
            return {}
        return {
            "bound": sum(max(phase.bounds(self.chip, self.devices).values()) for phase in self.phases),
            "predicted": sum(phase.predicted(self.chip, self.devices) for phase in self.phases),
            "exposed": sum(phase.exposed for phase in self.phases),
        }

    @property
    def mfu(self) -> float:
        """Predicted MFU of the updates; 0 if they are not planned, or for a chip without known peaks."""
        updates = [phase for phase in self.phases if phase.name in ("backward", "gradient sum", "optimizer")]
        seconds = sum(phase.predicted(self.chip, self.devices) for phase in updates) if self.chip.flops else 0.0
        return self.update_flops / seconds / self.devices / self.chip.flops if seconds else 0.0

    def record(self) -> dict[str, Any]:
        """Return the figures as `plan.py --json` writes them."""
        return {
            "devices": self.devices,
            "node": self.node,
            "attention": self.backend,
            "rollout_tensor": self.rollout_tensor,
            "response_tokens": self.response_tokens,
            "bytes": {
                "device": self.memory,
                "allowed": self.allowed,
                "resident": self.resident,
                "hosted": self.hosted,
            },
            "fits": bool(self.phases) and self.free >= 0,
            "seconds": self.seconds,
            "mfu": self.mfu,
            "phases": [phase.record(self.chip, self.devices) for phase in self.phases],
        }

    @property
    def parts_too_large(self) -> list[Part]:
        """The parts with a phase that does not fit."""
        return list(dict.fromkeys(phase.part for phase in self.phases if phase.peak > self.allowed))

    @property
    def problems(self) -> list[str]:
        """One line for each phase that does not fit."""
        return [
            f"{phase.name} does not fit: {gib(phase.peak)} GiB a device, {gib(phase.peak - self.allowed)} GiB more "
            f"than the {gib(self.allowed)} GiB that it may take"
            for phase in self.phases
            if phase.peak > self.allowed
        ]


def make_plan(config: PlanConfig, parts: Collection[Part] = ("rollout", "update")) -> Plan:
    """Compile every phase of these parts of the run for `config.topology`.

    Raises ConfigError if topology, mesh and batch are incompatible or the XLA plugin for the topology is not installed,
    and DoesNotFit if the compiler rejects a phase.
    """
    try:
        chip, shape = parse_topology(config.topology)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    node = shape[-1] if chip.platform == "cuda" else math.prod(shape)
    return _plan(_mesh(config, chip, shape), chip, node, config, parts)


def plan_here(config: RunConfig) -> tuple[PlanConfig, Plan]:
    """Plan the resident memory of training on this process's devices, without compiling. Raises ConfigError."""
    mesh, platform = run_mesh(config), jax.default_backend()
    chip = Chip(platform=cast(Any, "cuda" if platform == "gpu" else platform), memory=free_memory() or 0)
    if not (config.model.path or config.model.random):
        raise UnknownSizesError("model.path is not given")
    values = config.model_dump(include=set(RunConfig.model_fields)) | {"memory_fraction": 1.0}
    run = PlanConfig.model_validate(values)
    return run, _plan(mesh, chip, mesh.size, run, ())


def _plan(mesh: Mesh, chip: Chip, node: int, config: PlanConfig, parts: Collection[Part]) -> Plan:
    model, num_tokens = model_shape(config)
    try:
        check_mesh(model, mesh)
        backend = attention_backend(config.model.attention, config.model.dtype, chip.platform)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // mesh.size
    memory = chip.memory or host
    allowed = int(memory * (config.memory_fraction or memory_share()))
    if parts:
        tune_compiler(chip.capability, mesh.size)
    run = AbstractRun(
        config=config,
        model=model,
        num_tokens=num_tokens,
        mesh=mesh,
        chip=chip,
        node=node,
        backend=backend,
        allowed=allowed,
    )
    free = int((allowed - sum(run.resident.values())) * USABLE)
    split, why = rollout_mesh(config, model, mesh, chip, free)
    return Plan(
        chip=chip,
        devices=mesh.size,
        node=node,
        backend=backend,
        memory=memory,
        allowed=allowed,
        resident=run.resident,
        hosted=run.hosted,
        rollout_tensor=split.shape["tensor"],
        why=why,
        phases=[phase for part in parts for phase in run.phases(part, split)],
        response_tokens=float(run.lengths_pg.mean()),
        update_flops=run.update_flops if "update" in parts else 0.0,
    )


def _mesh(config: PlanConfig, chip: Chip, shape: tuple[int, ...]) -> Mesh:
    name, count = config.topology.partition(":")[0], math.prod(shape)
    try:
        if chip.platform == "cuda":
            nodes = "x".join(map(str, (1, *shape)[-2:]))  # slices x nodes x devices
            devices = topologies.get_topology_desc(
                platform="cuda", topology_name=name, topology=f"1x{nodes}", target_config=chip.target
            ).devices
        elif chip.platform == "tpu":
            devices = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{name}:{'x'.join(map(str, shape))}"
            ).devices
        else:
            devices = jax.devices("cpu")[:count]
    except Exception as error:  # a missing plugin raises many kinds of exception
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"cannot compile for {config.topology}: {reason}\nThis needs XLA's {chip.platform} plugin: "
            f"pip install -e '.[{_EXTRAS.get(chip.platform, 'test')}]' in the repository (no such device is needed)"
        ) from error
    if len(devices) != count:
        raise ConfigError(
            f"topology {config.topology} has {counted(count, 'device')}, and {len(devices)} can be described"
        )
    sizes = config.mesh
    fsdp = sizes.fsdp or count // (sizes.replica * sizes.tensor)
    if sizes.replica * fsdp * sizes.tensor != count:
        raise ConfigError(
            f"mesh.replica {sizes.replica} x mesh.fsdp {fsdp} x mesh.tensor {sizes.tensor} is not the {count} "
            f"devices of {config.topology}; change one of them"
        )
    grid: np.ndarray = np.asarray(devices).reshape(sizes.replica, fsdp, sizes.tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)
