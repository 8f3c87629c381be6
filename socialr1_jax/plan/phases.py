"""Compile the phases of a run from abstract arrays on a mesh of abstract devices."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from socialr1_jax.config.run import PlanConfig
from socialr1_jax.grpo.packing import MicroBatch, Rows, bin_count, width_of
from socialr1_jax.grpo.step import Programs, compile_programs, row_multiple, unmasked
from socialr1_jax.grpo.update import Sums, TrainState, moment_shardings, number_names, sum_replicas
from socialr1_jax.models.arithmetic import Arithmetic, Cost
from socialr1_jax.models.attention import Backend, decode_kernel
from socialr1_jax.models.blockwise import Segments
from socialr1_jax.models.kv_cache import LayerCache, Sharing
from socialr1_jax.models.qwen3 import Params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.reward_model import position_scores
from socialr1_jax.plan.hlo import attention_kernels
from socialr1_jax.plan.phase import ONCE, CompiledPhase, DoesNotFit, Part, Phase, Runs
from socialr1_jax.plan.schedule import read_schedule
from socialr1_jax.plan.shapes import abstract_weights, device_bytes, laid_out, per_replica, shape_of
from socialr1_jax.plan.work import Work, decode_lengths, packed_updates, response_lengths, work_of
from socialr1_jax.runtime.chips import Chip
from socialr1_jax.runtime.mesh import ROWS, P
from socialr1_jax.runtime.terminal import first_line
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.batch import STOP_MULTIPLE, product_blocks, slot_stride
from socialr1_jax.sampling.decode import DecodeState, admit, decode_segment, empty_batch, empty_caches, take_rows
from socialr1_jax.sampling.memory import USABLE, BatchPlan
from socialr1_jax.sampling.rollout_weights import reshard


@dataclass(frozen=True, kw_only=True)
class AbstractRun:
    """A run as abstract arrays on its mesh, from which its phases are compiled."""

    config: PlanConfig
    model: Qwen3Config
    num_tokens: int
    mesh: Mesh
    chip: Chip
    node: int  # devices of a node
    backend: Backend
    allowed: int  # bytes per device that the run may use
    trained: "AbstractRun | None" = None  # the run on its mesh, if this is the run on the rollout's other mesh

    def phases(self, part: Part, rollout_mesh: Mesh) -> Iterator[Phase]:
        """Compile the phases of a part of a step. Raises DoesNotFit if the compiler rejects one."""
        grpo = self.config.grpo
        if part == "rollout":
            rollout = self if rollout_mesh == self.mesh else replace(self, mesh=rollout_mesh, trained=self)
            yield rollout.reshard()
            yield rollout.prefill()
            yield rollout.cache_growth()
            yield rollout.decode()
            if self.content_shape is not None:
                yield self.content_scores(self.content_shape)
            return
        if self.reference is not None:
            yield self.reference_logprobs(self.reference)
        if grpo.old_pass:
            yield self.old_logprobs()
        yield self.backward()
        if self.mesh.shape["replica"] > 1:
            yield self.gradient_sum()
        yield self.optimizer()

    # ------------------------------------------------------------------------------------- resident memory

    @cached_property
    def programs(self) -> Programs:
        return compile_programs(self.config, self.model, self.num_tokens, self.backend)

    @cached_property
    def masters(self) -> Params:
        return abstract_weights(self.model, jnp.float32, self.mesh, "lent" if self.trained else "train")

    @cached_property
    def moments(self) -> Any:
        optimizer, masters = self.programs.optimizer, self.masters
        return laid_out(jax.eval_shape(optimizer.init, masters), moment_shardings(optimizer, masters))

    @cached_property
    def reference(self) -> Params | None:
        return abstract_weights(self.model, self.dtype, self.mesh) if self.config.grpo.kl_coefficient else None

    @cached_property
    def content_shape(self) -> Qwen3Config | None:
        """Sizes of the content model, or None without one."""
        if not self.config.rewards.uses.content:
            return None
        return replace(shape_of(self.config.rewards.content.model), scalar_head=True)

    @cached_property
    def content(self) -> Params | None:
        return abstract_weights(self.content_shape, self.dtype, self.mesh, "rollout") if self.content_shape else None

    @cached_property
    def hosted(self) -> dict[str, int]:
        """Bytes per device of arrays that are in the host's memory while no program needs them."""
        places = {"moments": self.config.optimizer.moments_memory, "reference": self.config.grpo.reference_memory}
        trees = {"moments": self.moments, "reference": self.reference}
        return {name: device_bytes(tree) for name, tree in trees.items() if tree and places[name] == "host"}

    @property
    def resting(self) -> dict[str, Any]:
        if self.trained:
            return self.trained.resting
        trees = {"moments": self.moments, "reference": self.reference, "content model": self.content}
        return {name: tree for name, tree in trees.items() if name not in self.hosted}

    @property
    def training(self) -> dict[str, Any]:
        return {"weights": self.masters, **self.resting}

    @property
    def resident(self) -> dict[str, int]:
        """Bytes per device that training keeps allocated throughout."""
        return {name: device_bytes(tree) for name, tree in self.training.items() if tree is not None}

    # ----------------------------------------------------------------------------------------------------- sizes

    @property
    def platform(self) -> str:
        return self.mesh.devices.flat[0].platform

    @property
    def shards(self) -> int:
        return self.mesh.shape["replica"] * self.mesh.shape["fsdp"]

    @property
    def dtype(self) -> Any:
        return self.config.model.dtype

    @cached_property
    def costs(self) -> Arithmetic:
        return Arithmetic(self.model, jnp.dtype(self.dtype).itemsize, self.shards, self.config.sampling.weights)

    @property
    def prompt(self) -> int:
        return self.config.data.max_prompt_tokens

    @cached_property
    def lengths_pg(self) -> np.ndarray:
        """Tokens of a step's responses, [prompts, group], that the times assume."""
        return response_lengths(self.config)

    @property
    def of_prefill(self) -> Backend:
        return "cudnn" if self.backend == "triton" else self.backend

    @cached_property
    def of_step(self) -> BatchPlan:
        return self.batch_of(self.config.grpo.prompts_per_step, self.config.sampling.group_size)

    @cached_property
    def of_evaluation(self) -> BatchPlan:
        return self.batch_of(self.config.evaluation.questions, self.config.evaluation.samples)

    @property
    def largest(self) -> BatchPlan:
        """The larger of the batches of a step and of an evaluation."""
        return max(self.of_step, self.of_evaluation, key=lambda batch: batch.rows)

    @property
    def width(self) -> int:
        """Tokens of the widest row, including padding."""
        return width_of(self.largest.width + self.largest.slots, row_multiple(self.platform))

    @cached_property
    def packed(self) -> list[list[MicroBatch]]:
        """The micro-batches of each update."""
        multiple = row_multiple(self.platform)
        with jax.set_mesh(self.mesh):
            return packed_updates(self.config, self.model, self.backend, self.programs, self.lengths_pg, multiple)

    @property
    def update_flops(self) -> float:
        """Model FLOP of a step's updates, as a run's MFU counts them."""
        return 3 * self.costs.flops(*self.work_of(self.packed).counts)

    def work_of(self, updates: list[list[MicroBatch]]) -> Work:
        count = bin_count(self.config.grpo.micro_batch_tokens, self.width, self.shards)
        return work_of(updates, count, self.width, self.shards, self.model.vocab_size, self.backend)

    @property
    def updates(self) -> int:
        return self.config.grpo.prompts_per_step // self.config.grpo.mini_batch_prompts

    def batch_of(self, prompts: int, n: int) -> BatchPlan:
        """Return the batch that the engine would choose. If none fits, ignore memory, so that phases report it."""
        sampling, free = self.config.sampling, self.allowed - sum(self.resident.values())

        def chosen(memory: int) -> BatchPlan:
            engine = Engine(
                params={},
                config=self.model,
                num_tokens=self.num_tokens,
                dtype=self.dtype,
                weights=sampling.weights,
                backend=self.of_prefill,
                max_rows=sampling.max_rows,
                memory=memory,
                platform=self.platform,
            )
            with jax.set_mesh(self.mesh):
                prompt = [0] * self.prompt
                return engine.plan([prompt] * prompts, SamplingParams(n=n, max_new_tokens=sampling.max_new_tokens))

        try:
            return chosen(int(free * USABLE))
        except ValueError:
            return chosen(1 << 60)

    # ---------------------------------------------------------------------------------------------- the rollout

    @cached_property
    def resharded(self) -> CompiledPhase:
        """The program that makes the rollout copy of the weights."""
        form = self.config.sampling.weights, product_blocks(self.platform, self.mesh.shape["tensor"]) == 1
        return self.compile("reshard", "rollout", reshard, self.masters, self.model, self.dtype, *form)

    @cached_property
    def decoding(self) -> DecodeState:
        return self.rollout_state(self.largest.rows * self.shards, self.largest.slots_each)

    def rollout_state(self, rows: int, slots: int) -> DecodeState:
        """Return the abstract state of a batch with the compiler's shardings."""
        sizes = self.model, rows, slots, jnp.dtype(self.dtype), STOP_MULTIPLE
        return self.compile("batch", "rollout", empty_batch, *sizes).results

    @cached_property
    def prefixes(self) -> list[LayerCache]:
        return self.caches(self.largest.prefixes * self.shards, self.largest.width)

    def caches(self, rows: int, slots: int) -> list[LayerCache]:
        """Return abstract caches with the compiler's shardings."""
        sizes = self.model, rows, slots, jnp.dtype(self.dtype)
        return self.compile("cache", "rollout", empty_caches, *sizes).results

    def reshard(self) -> Phase:
        cost = Cost(0, self.costs.parameters * 4 + self.costs.rollout_copy * self.costs.copies)
        return self.phase(self.resharded, beside=self.resting, cost=cost)

    def prefill(self) -> Phase:
        largest, shards, prompts_of_step = self.largest, self.shards, self.config.grpo.prompts_per_step
        group = self.config.sampling.group_size if largest is self.of_step else self.config.evaluation.samples
        prompts, placed = largest.prompts * shards, largest.prompts * min(group, largest.rows) * shards
        compiled = self.compile(
            "prefill",
            "rollout",
            admit,
            self.masters,
            self.model,
            self.decoding,
            self.prefixes,
            self.array((prompts, largest.width), jnp.int32),
            *(self.array((size,), jnp.int32) for size in (prompts, prompts, placed)),
            self.rollout_state(placed, slot_stride(self.platform))._replace(caches=[]),
            dtype=jnp.dtype(self.dtype),
            backend=self.of_prefill,
        )
        passes = -(-prompts_of_step // (self.of_step.prompts * shards))
        tokens = prompts_of_step * self.prompt
        cost = self.costs.forward(tokens, tokens * self.prompt / 2, 0, passes=passes)
        beside = self.resting | {"rollout weights": self.resharded.results}
        return self.phase(compiled, beside=beside, cost=cost, runs=Runs(passes))

    def cache_growth(self) -> Phase:
        rows, slots, stride = self.largest.rows * self.shards, self.largest.slots_each, slot_stride(self.platform)
        before = self.caches(rows, max(stride, slots - stride))[0]
        rows_taken = self.array((rows,), jnp.int32)
        compiled = self.compile("cache growth", "rollout", take_rows, before, rows_taken, slots=slots)
        cache = (self.decoding.caches[1:], self.prefixes)
        beside = self.training | {"rollout weights": self.resharded.results, "cache": cache}
        return self.phase(compiled, beside=beside, cost=Cost())

    def decode(self) -> Phase:
        sampling, largest = self.config.sampling, self.largest
        kernel = decode_kernel(sampling.attention, self.dtype, self.platform)
        segment, rows, prefixes = sampling.segment_tokens, largest.rows * self.shards, largest.prefixes * self.shards
        compiled = self.compile(
            "decode",
            "rollout",
            decode_segment,
            self.resharded.results,
            self.model,
            self.decoding,
            self.prefixes,
            Sharing(*(self.array(shape, jnp.int32) for shape in ((prefixes,), (prefixes, largest.sharers), (rows,)))),
            self.array((), jnp.int32, P()),
            steps=segment,
            num_tokens=self.num_tokens,
            blocks=product_blocks(self.platform, self.mesh.shape["tensor"]),
            kernel=kernel,
        )
        decoded = decode_lengths(
            self.lengths_pg,
            self.of_step,
            self.prompt,
            shards=self.shards,
            platform=self.platform,
            segment=segment,
            limit=sampling.max_new_tokens,
        )
        costs = self.costs
        flops = costs.decode_step(decoded.drawn, decoded.pairs / decoded.drawn).flops
        read = decoded.steps * costs.decode_step(0, 0).bytes + self.shards * decoded.filled * costs.cache_token
        tokens = largest.rows * largest.slots_each + largest.prefixes * largest.width
        unread = decoded.steps * tokens - (decoded.slots if kernel == "xla" else decoded.filled)
        runs = Runs(decoded.segments, decoded.steps)
        phase = self.phase(compiled, beside=self.training, cost=Cost(flops, read), runs=runs)
        return replace(phase, unread=unread * costs.cache_token / self.mesh.shape["tensor"])

    def content_scores(self, shape: Qwen3Config) -> Phase:
        width = self.width
        count = bin_count(self.config.rewards.content.batch_tokens, width, self.shards)
        ints = self.array((count, width), jnp.int32)
        compiled = self.compile(
            "content scores",
            "rollout",
            position_scores,
            self.content,
            shape,
            ints,
            self.array((count,), jnp.int32),
            dtype=self.dtype,
            backend=self.backend,
            segments=Segments(ints, ints, ints),
        )
        passes = max(1, -(-self.lengths_pg.size // count))
        costs = Arithmetic(shape, jnp.dtype(self.dtype).itemsize, self.shards)
        tokens = self.prompt + self.lengths_pg
        cost = costs.forward(tokens.sum(), (tokens**2 / 2).sum(), 0, passes=passes)
        beside = {name: tree for name, tree in self.training.items() if name != "content model"}
        return self.phase(compiled, beside=beside, cost=cost, runs=Runs(passes))

    # ----------------------------------------------------------------------- the update, on its widest micro-batch

    def micro_batch(self, old: bool = False, reference: bool = False) -> Rows:
        """Return the widest micro-batch, optionally with the log-probs of the old policy and of the reference."""
        width, grpo = self.width, self.config.grpo
        count = bin_count(grpo.micro_batch_tokens, width, self.shards)
        ints, floats, flags = (self.array((count, width), kind) for kind in (jnp.int32, jnp.float32, jnp.bool_))
        no_mask = all(unmasked(self.backend, batch) for update in self.packed for batch in update)
        return Rows(
            tokens_bt=ints,
            lengths_b=self.array((count,), jnp.int32),
            mask_bt=flags,
            segments=None if no_mask else Segments(ints, ints, ints),
            advantages=floats,
            on_policy_bt=flags if grpo.old_pass else None,
            old_logp_bt=floats if old else None,
            ref_logp_bt=floats if reference else None,
        )

    def logprobs_phase(self, name: str, params: Params, updates: list[list[MicroBatch]], beside: Any) -> Phase:
        work = self.work_of(updates)
        compiled = self.compile(name, "update", self.programs.logprobs, params, self.micro_batch())
        cost = self.costs.forward(*work.counts, passes=work.runs.calls)
        return self.phase(compiled, beside=beside, cost=cost, runs=work.runs)

    def reference_logprobs(self, reference: Params) -> Phase:
        phase = self.logprobs_phase("reference log-probs", reference, self.packed, self.training | {"reference": None})
        return replace(phase, host_bytes=self.hosted.get("reference", 0))

    def old_logprobs(self) -> Phase:
        """Plan the log-probs of the old policy for the rows of all updates but the first."""
        return self.logprobs_phase("old log-probs", self.masters, self.packed[1:], self.resting)

    @cached_property
    def scored(self) -> Rows:
        """A micro-batch with the log-probs that the loss needs."""
        grpo = self.config.grpo
        old = grpo.old_pass or grpo.old_logprobs == "sampler"
        return self.micro_batch(old=old, reference=self.reference is not None)

    @cached_property
    def sums(self) -> Sums:
        """The abstract sums over the rows of an update."""
        names = number_names(self.programs.update.loss_fn, self.masters, self.scored)
        return Sums(self.masters, {name: self.array((), jnp.float32, P()) for name in names})

    def backward(self) -> Phase:
        accumulate, work = self.programs.update.accumulate, self.work_of(self.packed)
        sums = per_replica(self.sums, self.mesh)
        compiled = self.compile("backward", "update", accumulate, self.masters, sums, self.scored)
        cost = self.costs.update(*work.counts, work.runs.calls, self.config.model.remat)
        # The logits of each chunk are computed in the forward and in the backward pass, in a loop of each.
        return self.phase(compiled, beside=self.resting, cost=cost, runs=work.runs)

    def gradient_sum(self) -> Phase:
        compiled = self.compile("gradient sum", "update", sum_replicas, per_replica(self.sums, self.mesh))
        return self.phase(compiled, beside=self.training, cost=Cost(), runs=Runs(self.updates))

    def optimizer(self) -> Phase:
        state = TrainState(self.masters, self.moments, *(self.array((), jnp.int32, P()),) * 2)
        compiled = self.compile("optimizer", "update", self.programs.update.apply, state, self.sums)
        cost = self.costs.optimizer() * self.updates
        phase = self.phase(compiled, beside=self.resting | {"moments": None}, cost=cost, runs=Runs(self.updates))
        return replace(phase, host_bytes=2 * self.updates * self.hosted.get("moments", 0))  # there and back

    # ------------------------------------------------------------------------------------------------ compiling

    def array(self, shape: tuple[int, ...], kind: Any, spec: P = ROWS) -> Any:
        return jax.ShapeDtypeStruct(shape, kind, sharding=NamedSharding(self.mesh, spec))

    def compile(self, name: str, part: Part, function: Any, *args: Any, **static: Any) -> CompiledPhase:
        """Compile a function for these abstract arrays. Raises DoesNotFit if the compiler rejects it."""
        try:
            with jax.set_mesh(self.mesh):  # only here: eager operations would look for the abstract devices
                lowered = function.lower(*args, **static)
                compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:  # the TPU compiler rejects programs that do not fit
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise DoesNotFit(
                f"{name} does not fit: {first_line(error).removeprefix('RESOURCE_EXHAUSTED: ')}", part
            ) from error
        return CompiledPhase(name, part, compiled, laid_out(lowered.out_info, compiled.output_shardings))

    def phase(self, compiled: CompiledPhase, *, beside: Any, cost: Cost, runs: Runs = ONCE) -> Phase:
        """Return the figures of a program; `beside` are the other trees on the devices while it runs."""
        memory, text = compiled.program.memory_analysis(), compiled.program.as_text()
        return Phase(
            name=compiled.name,
            part=compiled.part,
            runs=runs,
            arguments=memory.argument_size_in_bytes,
            outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
            temporaries=memory.temp_size_in_bytes,
            beside={key: device_bytes(tree) for key, tree in beside.items() if tree is not None},
            cost=cost,
            attention=attention_kernels(text),
            schedule=read_schedule(text, self.mesh.size, self.chip, self.node, runs.live),
        )
