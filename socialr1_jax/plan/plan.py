"""Plan a run for devices that are not here: every phase compiled for them from abstract arrays.

XLA compiles for a topology by name and reports what the program takes there. Nothing is allocated and nothing runs.
"""

import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding

from socialr1_jax.config.run import ConfigError, PlanConfig, RunConfig
from socialr1_jax.grpo.packing import Rows, width_of
from socialr1_jax.grpo.step import Programs, compile_programs
from socialr1_jax.grpo.update import Sums, TrainState, moment_shardings
from socialr1_jax.models.arithmetic import Arithmetic, Cost
from socialr1_jax.models.attention import Backend, attention_backend
from socialr1_jax.models.blockwise import Segments
from socialr1_jax.models.kv_cache import LayerCache, Sharing
from socialr1_jax.models.qwen3 import Layout, Params, Qwen3Config, Weight, check_mesh, weight_specs
from socialr1_jax.models.reward_model import position_scores
from socialr1_jax.models.shapes import PUBLISHED_TOKENS, SHAPES, named_shape
from socialr1_jax.plan.hlo import Collective, attention_kernels, collectives
from socialr1_jax.run.run import run_mesh
from socialr1_jax.runtime.chips import Chip, parse_topology
from socialr1_jax.runtime.files import read_json
from socialr1_jax.runtime.mesh import AXES, ROWS, P
from socialr1_jax.runtime.terminal import counted
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.batch import STOP_MULTIPLE, product_blocks, slot_stride
from socialr1_jax.sampling.decode import (
    DecodeState,
    admit,
    decode_segment,
    empty_batch,
    empty_caches,
    reshard,
    take_rows,
)
from socialr1_jax.sampling.memory import USABLE, BatchPlan, free_memory
from socialr1_jax.weights.hf import map_weights
from socialr1_jax.weights.hub import cached_folder
from socialr1_jax.weights.tokenizer_files import count_tokens

Part = Literal["rollout", "update"]  # of a step; their phases do not share a device's memory at the same time
# What programs reach of a chip's peaks, for expected times. On one H200 (docs/performance.md) updates reached 0.30 to
# 0.36 of the FLOP/s and prefill 0.62, decode 0.57 to 0.60 of the bandwidth; links are assumed.
EFFICIENCY = {"compute": 0.4, "memory": 0.6, "links": 0.65}
_EXTRAS = {"cuda": "cuda12", "tpu": "tpu"}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One compiled program of a run. Bytes are per device, cost and seconds per GRPO step."""

    name: str
    part: Part
    calls: int  # in a GRPO step
    steps: int  # of its open loop, in all calls together: decode steps
    arguments: int
    outputs: int  # new ones: results that take the place of arguments are not counted
    temporaries: int
    beside: dict[str, int]  # what else lies on the device while it runs
    cost: Cost
    kernels: list[str]  # fused attention kernels that it calls
    collectives: list[Collective] = field(repr=False)

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs + self.temporaries + sum(self.beside.values())

    @property
    def sent(self) -> float:
        """Bytes that a device sends to others in a step."""
        return sum(one.sent * (self.steps if one.in_open_loop else self.calls) for one in self.collectives)

    def seconds(self, chip: Chip, devices: int) -> dict[str, float]:
        """Lower bounds of the step's time in this phase by compute, memory and links; the largest counts."""
        if not chip.flops:
            return {}
        return {
            "compute": self.cost.flops / devices / chip.flops,
            "memory": self.cost.bytes / devices / chip.bandwidth,
            "links": self.sent / chip.link,
        }

    def expected(self, chip: Chip, devices: int) -> float:
        """Seconds of the step in this phase at `EFFICIENCY`."""
        return max(seconds / EFFICIENCY[name] for name, seconds in self.seconds(chip, devices).items())


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All phases of a run on a topology."""

    chip: Chip
    devices: int
    backend: Backend
    memory: int  # bytes of a device
    allowed: int  # bytes of it that the run may take
    resident: dict[str, int]  # bytes a device of what training keeps there all the time
    phases: list[Phase]

    @property
    def fullest(self) -> Phase:
        """The phase that takes the most memory."""
        return max(self.phases, key=lambda phase: phase.peak)

    @property
    def free(self) -> int:
        """Bytes of a device that the fullest phase leaves of what the run may take; below 0 if it does not fit."""
        return self.allowed - self.fullest.peak

    @property
    def parts_too_large(self) -> list[Part]:
        """The parts with a phase that does not fit."""
        return list(dict.fromkeys(phase.part for phase in self.phases if phase.peak > self.allowed))

    @property
    def problems(self) -> list[str]:
        """A line for every phase that does not fit."""
        return [
            f"{phase.name} does not fit: {gib(phase.peak)} GiB a device, {gib(phase.peak - self.allowed)} GiB more "
            f"than the {gib(self.allowed)} GiB that it may take"
            for phase in self.phases
            if phase.peak > self.allowed
        ]


class DoesNotFit(Exception):
    """The compiler itself refused a phase of `part` for want of memory; the message names phase and excess."""

    def __init__(self, message: str, part: Part) -> None:
        super().__init__(message)
        self.part: Part = part


class UnknownSizesError(ConfigError):
    """A model that is not on this machine, and whose sizes are not published ones."""


def gib(size: float) -> str:
    return f"{size / 2**30:.2f}"


def make_plan(config: PlanConfig, parts: Collection[Part] = ("rollout", "update")) -> Plan:
    """Compiles every phase of these parts of the run for `config.topology`.

    Raises ConfigError for a topology, mesh or batch that does not fit together, and when XLA's plugin for the topology
    is not installed; DoesNotFit when the compiler refuses a phase.
    """
    chip, shape = _chip(config)
    return _plan(_mesh(config, chip, shape), chip, config, parts)


def plan_here(config: RunConfig) -> tuple[PlanConfig, Plan]:
    """Plan what training keeps on the devices of this process; no phase is compiled. Raises ConfigError."""
    mesh, platform = run_mesh(config), jax.default_backend()
    chip = Chip(platform=cast(Any, "cuda" if platform == "gpu" else platform), memory=free_memory() or 0)
    if not (config.model.path or config.model.random):
        raise UnknownSizesError("model.path is not given")
    values = config.model_dump(include=set(RunConfig.model_fields)) | {"memory_fraction": 1.0}
    run = PlanConfig.model_validate(values)
    return run, _plan(mesh, chip, run, ())


def _plan(mesh: Mesh, chip: Chip, config: PlanConfig, parts: Collection[Part]) -> Plan:
    model, num_tokens = model_shape(config)
    try:
        check_mesh(model, mesh)
        backend = attention_backend(config.model.attention, config.model.dtype, chip.platform)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // mesh.size
    memory = chip.memory or host
    allowed = int(memory * config.memory_fraction)
    run = _Run(config=config, model=model, num_tokens=num_tokens, mesh=mesh, backend=backend, allowed=allowed)
    phases = {"rollout": run.rollout_phases, "update": run.update_phases}
    return Plan(
        chip=chip,
        devices=mesh.size,
        backend=backend,
        memory=memory,
        allowed=allowed,
        resident=run.resident,
        phases=[phase for part in parts for phase in phases[part]()],
    )


def model_shape(config: PlanConfig) -> tuple[Qwen3Config, int]:
    """The sizes of `config.model`, and how many ids its tokenizer knows: of its folder, or as published."""
    shape = shape_of(config.model.path, config.model.random, config.model.ignore_fields)
    folder = Path(config.model.path)
    if not config.model.random and (folder / "config.json").exists():
        return shape, count_tokens(folder, shape.vocab_size)
    return shape, min(PUBLISHED_TOKENS, shape.vocab_size)


def shape_of(path: str, named: str = "", ignore_fields: Sequence[str] = ()) -> Qwen3Config:
    """The sizes of a model folder, of a published Qwen3 by its hub id, or of a shape by its name."""
    published = path.removeprefix("Qwen/Qwen3-").removesuffix("-Base").lower()
    if named or published in SHAPES:
        return named_shape(named or published)
    file = (cached_folder(path) or Path(path)) / "config.json"
    if not file.exists():
        raise UnknownSizesError(
            f"model.path {path!r} is neither a model folder nor one of Qwen/Qwen3-{{{','.join(SHAPES)}}}; give a "
            "folder with a config.json, or name the shape with model.random"
        )
    return Qwen3Config.from_hf(read_json(file), str(file), ignore_fields)


def _chip(config: PlanConfig) -> tuple[Chip, tuple[int, ...]]:
    try:
        return parse_topology(config.topology)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _mesh(config: PlanConfig, chip: Chip, shape: tuple[int, ...]) -> Mesh:
    """The run's mesh over devices that are only described."""
    name = config.topology.partition(":")[0]
    try:
        if chip.platform == "cuda":
            devices = topologies.get_topology_desc(
                platform="cuda", topology_name=name, topology=f"1x1x{np.prod(shape)}", target_config=chip.target
            ).devices
        elif chip.platform == "tpu":
            devices = topologies.get_topology_desc(
                platform="tpu", topology_name=f"{name}:{'x'.join(map(str, shape))}"
            ).devices
        else:
            devices = jax.devices("cpu")[: int(np.prod(shape))]
    except Exception as error:  # a plugin that is not there shows in many ways
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigError(
            f"cannot compile for {config.topology}: {reason}\nThis needs XLA's {chip.platform} plugin: "
            f"pip install -e '.[{_EXTRAS.get(chip.platform, 'test')}]' in the repository (no such device is needed)"
        ) from error
    if len(devices) != np.prod(shape):
        raise ConfigError(
            f"topology {config.topology} has {counted(int(np.prod(shape)), 'device')}, and {len(devices)} can "
            "be described"
        )
    sizes = config.mesh
    fsdp = sizes.fsdp or len(devices) // (sizes.replica * sizes.tensor)
    if sizes.replica * fsdp * sizes.tensor != len(devices):
        raise ConfigError(
            f"mesh.replica {sizes.replica} x mesh.fsdp {fsdp} x mesh.tensor {sizes.tensor} is not the {len(devices)} "
            f"devices of {config.topology}; change one of them"
        )
    grid: np.ndarray = np.asarray(devices).reshape(sizes.replica, fsdp, sizes.tensor)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * 3)


# ------------------------------------------------------------------------------------------------------------ phases


@dataclass(frozen=True, kw_only=True)
class _Run:
    """A run as abstract arrays on its mesh, and the phases that are compiled from them."""

    config: PlanConfig
    model: Qwen3Config
    num_tokens: int
    mesh: Mesh
    backend: Backend
    allowed: int  # bytes of a device that the run may take

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    @property
    def shards(self) -> int:
        """Parts that rows are split into."""
        return self.mesh.shape["replica"] * self.mesh.shape["fsdp"]

    @property
    def dtype(self) -> Any:
        return self.config.model.dtype

    @cached_property
    def costs(self) -> Arithmetic:
        return Arithmetic(self.model, jnp.dtype(self.dtype).itemsize, self.shards)

    @cached_property
    def programs(self) -> Programs:
        return compile_programs(self.config, self.model, self.num_tokens, self.backend)

    @cached_property
    def masters(self) -> Params:
        return _weights(self.model, jnp.float32, self.mesh)

    @cached_property
    def moments(self) -> Any:
        optimizer, masters = self.programs.optimizer, self.masters
        return _laid_out(jax.eval_shape(optimizer.init, masters), moment_shardings(optimizer, masters))

    @cached_property
    def reference(self) -> Params | None:
        return _weights(self.model, self.dtype, self.mesh) if self.config.grpo.kl_coefficient else None

    @cached_property
    def content_shape(self) -> Qwen3Config | None:
        """Sizes of the content model, None without one."""
        if not self.config.rewards.uses.content:
            return None
        return replace(shape_of(self.config.rewards.content.model), scalar_head=True)

    @cached_property
    def content(self) -> Params | None:
        return _weights(self.content_shape, self.dtype, self.mesh, "rollout") if self.content_shape else None

    @property
    def others(self) -> dict[str, Any]:
        reference = self.reference if self.config.grpo.reference_memory == "device" else None
        return {"reference": reference, "content model": self.content}

    @property
    def resting(self) -> dict[str, Any]:
        return {"moments": self.moments, **self.others}

    @property
    def training(self) -> dict[str, Any]:
        return {"weights": self.masters, **self.resting}

    @property
    def resident(self) -> dict[str, int]:
        """Bytes a device of what training keeps there all the time."""
        return {name: _device_bytes(tree) for name, tree in self.training.items() if tree is not None}

    @property
    def mean(self) -> int:
        """Tokens of a response that the times are for."""
        limit = self.config.sampling.max_new_tokens
        return min(self.config.response_tokens or limit, limit)

    @property
    def responses(self) -> int:
        """Responses of a step."""
        return self.config.grpo.prompts_per_step * self.config.sampling.group_size

    def array(self, shape: tuple[int, ...], kind: Any, spec: P = ROWS) -> Any:
        return jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(self.mesh, spec))

    def batch_of(self, prompts: int, n: int) -> BatchPlan:
        """The batch the engine would choose. If nothing fits, ignores memory so that the phases report the excess."""
        sampling, free = self.config.sampling, self.allowed - sum(self.resident.values())

        def chosen(memory: int) -> BatchPlan:
            engine = Engine(
                params={},
                config=self.model,
                num_tokens=self.num_tokens,
                dtype=self.dtype,
                backend=self.backend,
                max_rows=sampling.max_rows,
                memory=memory,
                platform=self.platform,
            )
            with jax.set_mesh(self.mesh):
                prompt = [0] * self.config.data.max_prompt_tokens
                return engine.plan([prompt] * prompts, SamplingParams(n=n, max_new_tokens=sampling.max_new_tokens))

        try:
            return chosen(int(free * USABLE))
        except ValueError:
            return chosen(1 << 60)

    @cached_property
    def of_step(self) -> BatchPlan:
        return self.batch_of(self.config.grpo.prompts_per_step, self.config.sampling.group_size)

    @cached_property
    def of_evaluation(self) -> BatchPlan:
        return self.batch_of(self.config.evaluation.questions, self.config.evaluation.samples)

    @property
    def largest(self) -> BatchPlan:
        """An evaluation's batch may be larger than a step's."""
        return max(self.of_step, self.of_evaluation, key=lambda batch: batch.rows)

    @property
    def width(self) -> int:
        """Tokens of the widest row, padding included."""
        return width_of(self.largest.width + self.largest.slots, 16 if self.platform == "cpu" else 128)

    def rollout_state(self, rows: int, slots: int) -> DecodeState:
        """The abstract state of a batch, where the compiler lays it."""
        with jax.set_mesh(self.mesh):
            lowered = empty_batch.lower(self.model, rows, slots, jnp.dtype(self.dtype), STOP_MULTIPLE)
        return _laid_out(lowered.out_info, lowered.compile().output_shardings)

    def prefixes(self, count: int, slots: int) -> list[LayerCache]:
        """Return the abstract caches of what rows share, where the compiler lays them."""
        with jax.set_mesh(self.mesh):
            lowered = empty_caches.lower(self.model, count, slots, jnp.dtype(self.dtype))
        return _laid_out(lowered.out_info, lowered.compile().output_shardings)

    def rollout_phases(self) -> Iterator[Phase]:
        """Compiles what samples and scores: new rollout weights, prefill, cache growth, decode, content scores."""
        config, model, mesh, dtype, costs = self.config, self.model, self.mesh, self.dtype, self.costs
        grpo, sampling, array, shards = config.grpo, config.sampling, self.array, self.shards
        stride, prompt, mean = slot_stride(self.platform), config.data.max_prompt_tokens, self.mean
        phase, compile_ = partial(_phase, part="rollout", mesh=mesh), partial(_compile_on, mesh, "rollout")
        of_step, largest = self.of_step, self.largest
        samples = sampling.group_size if largest is of_step else config.evaluation.samples
        rows, prompts, slots = largest.rows * shards, largest.prompts * shards, largest.slots
        calls = -(-self.responses // (of_step.rows * shards))  # full batches, one after another

        compiled, weights = compile_("reshard", reshard, self.masters, model, dtype)
        moved = Cost(0, costs.parameters * (4 + costs.itemsize * costs.copies))
        yield phase("reshard", compiled, beside=self.resting, cost=moved)

        decoding = self.rollout_state(rows, slots)
        prefixes = self.prefixes(largest.prefixes * shards, largest.width)
        placed = largest.prompts * min(samples, largest.rows) * shards
        fresh = self.rollout_state(placed, stride)._replace(caches=[])
        compiled, _ = compile_(
            "prefill",
            admit,
            self.masters,
            model,
            decoding,
            prefixes,
            array((prompts, largest.width), jnp.int32),
            *(array((size,), jnp.int32) for size in (prompts, prompts, placed)),
            fresh,
            dtype=jnp.dtype(dtype),
            backend=self.backend,
        )
        passes = -(-grpo.prompts_per_step // (of_step.prompts * shards))
        cost = costs.forward(grpo.prompts_per_step, prompt, 0, passes=passes)
        yield phase("prefill", compiled, beside=self.resting | {"rollout weights": weights}, cost=cost, calls=passes)

        before = self.prefixes(rows, max(stride, slots - stride))[0]
        compiled, _ = compile_("cache growth", take_rows, before, array((rows,), jnp.int32), slots=slots)
        kept = self.training | {"rollout weights": weights, "cache": (decoding.caches[1:], prefixes)}
        yield phase("cache growth", compiled, beside=kept, cost=Cost())

        compiled, _ = compile_(
            "decode",
            decode_segment,
            weights,
            model,
            decoding,
            prefixes,
            Sharing(
                array((largest.prefixes * shards,), jnp.int32),
                array((largest.prefixes * shards, largest.sharers), jnp.int32),
                array((rows,), jnp.int32),
            ),
            array((), jnp.int32, P()),
            steps=sampling.segment_tokens,
            num_tokens=self.num_tokens,
            blocks=product_blocks(self.platform, mesh.shape["tensor"]),
        )
        cost = costs.decode_step(self.responses / calls, mean / 2, prompt, sampling.group_size) * (mean * calls)
        segments = calls * -(-mean // sampling.segment_tokens)
        yield phase("decode", compiled, beside=self.training, cost=cost, calls=segments, steps=calls * mean)

        if self.content_shape is not None:
            width = self.width
            count = max(1, config.rewards.content.batch_tokens // width) * shards
            ints = array((count, width), jnp.int32)
            compiled, _ = compile_(
                "content scores",
                position_scores,
                self.content,
                self.content_shape,
                ints,
                array((count,), jnp.int32),
                dtype=dtype,
                backend=self.backend,
                segments=Segments(ints, ints, ints),
            )
            of_content = Arithmetic(self.content_shape, jnp.dtype(dtype).itemsize, shards)
            passes = max(1, -(-self.responses // count))
            cost = of_content.forward(self.responses, prompt + mean, 0, passes=passes)
            beside = {"weights": self.masters, "moments": self.moments, "reference": self.others["reference"]}
            yield phase("content scores", compiled, beside=beside, cost=cost, calls=passes)

    def update_phases(self) -> Iterator[Phase]:
        """Compiles the widest micro-batch: log-probs of reference and old policy, backward; then the optimizer."""
        config, costs, array, programs = self.config, self.costs, self.array, self.programs
        grpo, masters, reference, responses = config.grpo, self.masters, self.reference, self.responses
        prompt, mean, width = config.data.max_prompt_tokens, self.mean, self.width
        phase, compile_ = partial(_phase, part="update", mesh=self.mesh), partial(_compile_on, self.mesh, "update")
        count = max(1, grpo.micro_batch_tokens // width) * self.shards
        several = grpo.several_updates

        def batch(**extra: Any) -> Rows:
            ints, floats, flags = (array((count, width), kind) for kind in (jnp.int32, jnp.float32, jnp.bool_))
            return Rows(
                tokens_bt=ints,
                lengths_b=array((count,), jnp.int32),
                mask_bt=flags,
                segments=Segments(ints, ints, ints),
                advantages=floats,
                on_policy_bt=flags if several else None,
                **extra,
            )

        logp = array((count, width), jnp.float32)
        passes = max(1, round(responses * (prompt + mean) / (max(width, grpo.micro_batch_tokens) * self.shards)))
        cost = costs.forward(responses, prompt + mean, mean, passes=passes)
        if reference is not None:
            compiled, _ = compile_("reference log-probs", programs.logprobs, reference, batch())
            beside = {"weights": masters, "moments": self.moments, "content model": self.content}
            yield phase("reference log-probs", compiled, beside=beside, cost=cost, calls=passes)
        updates = grpo.prompts_per_step // grpo.mini_batch_prompts
        if several:  # all but the first update's rows
            compiled, _ = compile_("old log-probs", programs.logprobs, masters, batch())
            part, calls = (updates - 1) / updates, max(1, round(passes * (updates - 1) / updates))
            yield phase("old log-probs", compiled, beside=self.resting, cost=cost * part, calls=calls)

        extra = {"old_logp_bt": logp if several else None, "ref_logp_bt": None if reference is None else logp}
        rows = batch(**extra)
        _, (_, metrics) = jax.eval_shape(programs.update.loss_fn, masters, rows)
        names = ["loss", "denominator", *(name for name in metrics if not name.endswith("_bt"))]
        sums = Sums(masters, {name: array((), jnp.float32, P()) for name in names})
        compiled, _ = compile_("backward", programs.update.accumulate, masters, sums, rows)
        cost = costs.update(responses, prompt + mean, mean, passes, config.model.remat)
        yield phase("backward", compiled, beside=self.resting, cost=cost, calls=passes)
        state = TrainState(masters, self.moments, *(array((), jnp.int32, P()),) * 2)
        compiled, _ = compile_("optimizer", programs.update.apply, state, sums)
        yield phase("optimizer", compiled, beside=self.others, cost=costs.optimizer() * updates, calls=updates)


def _phase(
    name: str,
    compiled: Any,
    *,
    part: Part,
    mesh: Mesh,
    beside: dict[str, Any],
    cost: Cost,
    calls: int = 1,
    steps: int = 1,
) -> Phase:
    memory, text = compiled.memory_analysis(), compiled.as_text()
    return Phase(
        name=name,
        part=part,
        calls=calls,
        steps=steps,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        beside={key: _device_bytes(tree) for key, tree in beside.items() if tree is not None},
        cost=cost,
        kernels=attention_kernels(text),
        collectives=collectives(text, mesh.size),
    )


def _compile_on(mesh: Mesh, part: Part, name: str, function: Any, *args: Any, **static: Any) -> tuple[Any, Any]:
    """The compiled program and its results as abstract arrays, where the compiler lays them."""
    try:
        with jax.set_mesh(mesh):  # not around more: what computes at once would look for these devices
            lowered = function.lower(*args, **static)
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:  # a TPU's compiler refuses what does not fit
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0].removeprefix("RESOURCE_EXHAUSTED: ")
        raise DoesNotFit(f"{name} does not fit: {reason}", part) from error
    return compiled, _laid_out(lowered.out_info, compiled.output_shardings)


def _laid_out(arrays: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), arrays, shardings)


def _weights(model: Qwen3Config, dtype: Any, mesh: Mesh, layout: Layout = "train") -> Params:
    """The tree of abstract weights in a layout."""

    def one(weight: Weight, layers: int | None, _: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(weight.shape if layers is None else (layers, *weight.shape), dtype)

    shardings = jax.tree.map(lambda spec: NamedSharding(mesh, spec), weight_specs(model, layout))
    return _laid_out(map_weights(model, one), shardings)


def _device_bytes(tree: Any) -> int:
    """Bytes of the arrays of a tree on one device."""
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in jax.tree.leaves(tree))
