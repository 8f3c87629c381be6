"""The computation of a GRPO step on its responses: pack them, compute the log-probs that the loss needs, update."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from socialr1_jax.config.run import RunConfig
from socialr1_jax.grpo.advantages import group_advantages
from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.grpo.losses import policy_loss
from socialr1_jax.grpo.mismatch import mismatch
from socialr1_jax.grpo.optimizer import make_optimizer, make_schedule
from socialr1_jax.grpo.packing import MicroBatch, Rows, bin_count, micro_batches, pack_rows
from socialr1_jax.grpo.rollouts import Phase, Rollouts, unmeasured
from socialr1_jax.grpo.update import TrainState, Update, make_update
from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3 import Params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.chips import chip_of
from socialr1_jax.runtime.host_memory import Memory, check_room, copied, moved
from socialr1_jax.runtime.mesh import fetch, row_shards

MFU_FORMULA = (
    "MFU = 3 x forward FLOP / (update seconds x devices x peak): attention at half its square, padding, remat and the "
    "second computation of the logits not counted"
)


class Programs(NamedTuple):
    """The jitted functions of a run."""

    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    update: Update
    logprobs: Any  # jitted (params, rows) -> float32 [b, t]


class Packed(NamedTuple):
    """The responses of a step, ready for its updates.

    rows: all responses in the sampler's order; the mask of an unscorable or excluded response is empty.
    updates: the micro-batches of each update.
    rewards_pg: float64 [prompts, group], shaped; NaN for an unscorable or excluded response.
    advantages_b: float64 [responses].
    """

    rows: Rows
    updates: list[list[MicroBatch]]
    rewards_pg: np.ndarray
    advantages_b: np.ndarray


class Updated(NamedTuple):
    """Metrics of each update as floats, and the "_bt" arrays of its micro-batches."""

    metrics: list[dict[str, float]]
    arrays: list[list[dict[str, jax.Array]]]


@dataclass(frozen=True, kw_only=True)
class GrpoStep:
    """A run's step: `reference` weights (None without a KL term); row widths are multiples of `multiple`."""

    config: RunConfig
    model: Qwen3Config
    backend: Backend
    programs: Programs
    reference: Params | None
    multiple: int

    def pack(self, rollouts: Rollouts) -> Packed:
        """Return the responses with their advantages, packed by length into the micro-batches of each update."""
        # NaN marks an unscorable or excluded response, which enters neither the baseline nor the loss.
        rewards_pg = rollouts.shaped_rewards(self.config)
        advantages_b = group_advantages(rewards_pg, self.config.grpo).reshape(-1)
        rows = pack_rows(  # the sampler's token ids: encoding the text again could give other tokens
            [prompt for prompt in rollouts.prompts for _ in range(rollouts.group)],
            [completion.tokens for completion in rollouts.completions],
            multiple=self.multiple,
            sampler_logprobs=[completion.logprobs for completion in rollouts.completions],
            advantages=advantages_b.astype(np.float32),
        )
        rows.mask_bt[~np.isfinite(rewards_pg).reshape(-1)] = False
        return Packed(rows, self.mini_batches(rows), rewards_pg, advantages_b)

    def log_probs(
        self, params: Params, updates: list[list[MicroBatch]], phase: Phase = unmeasured
    ) -> list[list[MicroBatch]]:
        """Return the micro-batches with the log-probs of the policy that sampled, `params`, and of the reference."""
        with phase("old"):
            updates = self._with_old(params, updates)
        with phase("reference"):
            return self._with_reference(updates)

    def update(self, state: TrainState, updates: list[list[MicroBatch]]) -> tuple[TrainState, Updated]:
        """Return the state after the updates. They donate the old state, so the step can no longer be abandoned."""
        metrics, arrays = [], []
        for batch in updates:
            state, of_update, of_rows = self.programs.update(state, [self.placed(part) for part in batch])
            metrics.append(of_update)
            arrays.append(of_rows)
        floats = [{name: float(fetch(x)) for name, x in of_update.items()} for of_update in metrics]
        return state, Updated(floats, arrays)

    def placed(self, batch: MicroBatch) -> Rows:
        """Return the rows on the devices, without segments where attention is faster so."""
        return (replace(batch.rows, segments=None) if unmasked(self.backend, batch) else batch.rows).placed()

    def mini_batches(self, rows: Rows) -> list[list[MicroBatch]]:
        """Return the micro-batches of each update of a step."""
        grpo = self.config.grpo
        if grpo.old_logprobs == "sampler":
            rows = replace(rows, old_logp_bt=rows.sampler_logp_bt)
        if grpo.importance_sampling == "none":
            rows = replace(rows, sampler_logp_bt=None)
        each = grpo.mini_batch_prompts * self.config.sampling.group_size
        count = len(rows.lengths_b)
        if grpo.old_pass:
            rows = replace(rows, on_policy_bt=np.broadcast_to((np.arange(count) < each)[:, None], rows.mask_bt.shape))
        return [self.micro_batches(rows.take(slice(start, start + each))) for start in range(0, count, each)]

    def micro_batches(self, rows: Rows) -> list[MicroBatch]:
        """Return the micro-batches of one update."""
        costs = Arithmetic(self.model, 4, 1)
        computed = 1.0 if self.backend == "cudnn" else 0.5  # of a bin's square: its mask hides, the others skip blocks
        square = computed * costs.attention_pair / (2 * costs.kernels)
        return micro_batches(rows, self.config.grpo.micro_batch_tokens, self.multiple, row_shards(), square)

    def warm_up(self, state: TrainState, width: int) -> None:
        """Run the backward pass of the run's widest micro-batch once, so that a lack of memory shows at the start."""
        count = bin_count(self.config.grpo.micro_batch_tokens, width, row_shards())
        prompts = [[i] * (width - 1) for i in range(count)]  # distinct: equal prompts would be shared
        extra: dict[str, Any] = {"advantages": np.zeros(count, np.float32), "sampler_logprobs": [[0.0]] * count}
        updates = self.mini_batches(pack_rows(prompts, [[0]] * count, multiple=1, **extra))
        rows = self.log_probs(state.params, updates[:1])[0][0].rows.placed()  # with segments: a mask takes memory, too
        update = self.programs.update
        jax.block_until_ready(update.accumulate(state.params, update.begin(state.params, rows), rows))

    def mismatch(
        self, rows: Rows, updates: list[list[MicroBatch]], arrays: list[list[dict[str, jax.Array]]]
    ) -> dict[str, float]:
        """Compare the sampler's log-probs of a step's rows with the trainer's at the weights that sampled.

        With `old_logprobs: sampler` the trainer computes these for the rows of the first update only.
        """
        count = len(updates) if self.config.grpo.old_logprobs == "recompute" else 1
        rows = rows.take(slice(len(rows.lengths_b) * count // len(updates)))
        trainer_bt = trainer_logprobs(updates[:count], arrays[:count], rows.tokens_bt.shape)
        return mismatch(trainer_bt, rows.sampler_logp_bt, rows.mask_bt)

    def throughput(self, batches: Sequence[MicroBatch], seconds: float) -> dict[str, float]:
        """Return `update_tflops`, model TFLOP/s of the updates over all devices, and `mfu` if the peak is known."""
        costs = Arithmetic(self.model, 4, 1)
        flops = 3 * sum(
            costs.flops(place.length, place.pairs, int(batch.rows.mask_bt[place.bin, place.start : place.stop].sum()))
            for batch in batches
            for place in batch.places
        )
        chip = chip_of(jax.devices()[0].device_kind)
        tflops = {"update_tflops": flops / seconds / 1e12}
        return tflops | ({"mfu": flops / seconds / jax.device_count() / chip.flops} if chip else {})

    def _with_old(self, params: Params, updates: list[list[MicroBatch]]) -> list[list[MicroBatch]]:
        if not self.config.grpo.old_pass:
            return updates
        # The first update computes its own old log-probs (`on_policy_bt`), so it needs no extra pass.
        first, *others = updates
        known = _with(first, lambda part: np.zeros(part.rows.tokens_bt.shape, np.float32), "old_logp_bt")
        return [known, *(_with(batch, partial(self._pass, params), "old_logp_bt") for batch in others)]

    def _with_reference(self, updates: list[list[MicroBatch]]) -> list[list[MicroBatch]]:
        if (reference := self.reference) is None:
            return updates
        if self.config.grpo.reference_memory == "host":
            reference = copied(reference, "device")
        return [_with(batch, partial(self._pass, reference), "ref_logp_bt") for batch in updates]

    def _pass(self, params: Params, batch: MicroBatch) -> jax.Array:
        rows = replace(batch.rows, old_logp_bt=None, ref_logp_bt=None)
        return self.programs.logprobs(params, self.placed(replace(batch, rows=rows)))


def unmasked(backend: Backend, batch: MicroBatch) -> bool:
    """Return whether attention takes no segments: cuDNN takes about half the time without a mask array."""
    return backend == "cudnn" and batch.one_row_each


def make_step(config: RunConfig, model: Qwen3Config, num_tokens: int, params: Params, backend: Backend) -> GrpoStep:
    """Return the step of a run that starts from the weights `params`, with a copy of them as its reference."""
    copied = config.grpo.kl_coefficient != 0
    return GrpoStep(
        config=config,
        model=model,
        backend=backend,
        programs=compile_programs(config, model, num_tokens, backend),
        reference=reference_weights(params, config.model.dtype, config.grpo.reference_memory) if copied else None,
        multiple=row_multiple(),
    )


def compile_programs(config: RunConfig, model: Qwen3Config, num_tokens: int, backend: Backend) -> Programs:
    """Return the jitted functions of a run; `num_tokens` is the number of ids that the tokenizer knows."""
    length = config.grpo.length_constant or config.sampling.max_new_tokens
    grpo = config.grpo.model_copy(update={"length_constant": length})

    def logprobs(params: Params, rows: Rows) -> tuple[jax.Array, jax.Array]:
        return row_logprobs(
            params,
            model,
            rows.tokens_bt,
            rows.lengths_b,
            config.sampling.temperature,
            num_tokens=num_tokens,
            dtype=config.model.dtype,
            wanted_bt=rows.mask_bt,
            backend=backend,
            remat=config.model.remat,
            segments=rows.segments,
        )

    def loss_fn(params: Params, rows: Rows) -> tuple[jax.Array, tuple[jax.Array, dict[str, jax.Array]]]:
        logp_bt, entropy_bt = logprobs(params, rows)
        still_bt = jax.lax.stop_gradient(logp_bt)
        old_bt = rows.old_logp_bt
        if rows.on_policy_bt is not None:
            old_bt = jnp.where(rows.on_policy_bt, still_bt, old_bt)
        total, denominator, metrics = policy_loss(
            logp_bt,
            old_bt,
            rows.ref_logp_bt,
            rows.advantages,
            rows.mask_bt,
            grpo,
            sampler_logp_bt=rows.sampler_logp_bt,
            entropy_bt=entropy_bt,
            segments_bt=None if rows.segments is None else rows.segments.own_bt,
        )
        bad = jnp.sum(rows.mask_bt & ~jnp.isfinite(still_bt)).astype(jnp.float32)
        return total, (denominator, metrics | {"nonfinite_count": bad, "logp_bt": still_bt})

    schedule = make_schedule(config.optimizer, config.updates)
    optimizer = make_optimizer(config.optimizer, schedule)
    logprobs_only = jax.jit(lambda params, rows: logprobs(params, rows)[0])
    return Programs(optimizer, schedule, make_update(loss_fn, optimizer), logprobs_only)


def reference_weights(params: Params, dtype: str, memory: Memory = "device") -> Params:
    """Return a copy of the starting weights in `dtype` with the same sharding, in the devices' or the host's memory."""
    reference = _cast(params, dtype)
    if memory == "host":
        check_room(reference, "grpo.reference_memory")
        reference = moved(reference, "host")
    return reference


@partial(jax.jit, static_argnums=1)
def _cast(params: Params, dtype: str) -> Params:
    return jax.tree.map(lambda x: jnp.array(x, dtype, copy=True), params)


def row_multiple(platform: str = "") -> int:
    """Return the multiple for row widths, which limits compiled programs: 128 (accelerators' tiles), 16 on a CPU."""
    return 16 if (platform or jax.default_backend()) == "cpu" else 128


def trainer_logprobs(
    updates: Sequence[Sequence[MicroBatch]], arrays: Sequence[Sequence[dict[str, jax.Array]]], shape: tuple[int, int]
) -> np.ndarray:
    """Return the trainer's log-probs of a step's rows at the weights that sampled, float32 [b, t], 0 elsewhere.

    For the rows of the first update these are its own log-probs, for later updates those of the old policy.
    """
    logp_nbt = np.zeros((len(updates), shape[0] // len(updates), shape[1]), np.float32)
    for number, (batch, of_batch) in enumerate(zip(updates, arrays, strict=True)):
        for part, of_rows in zip(batch, of_batch, strict=True):
            part.spread(part.rows.old_logp_bt if number else of_rows["logp_bt"], logp_nbt[number])
    return logp_nbt.reshape(shape)


def _with(batch: list[MicroBatch], compute: Callable[[MicroBatch], Any], name: str) -> list[MicroBatch]:
    # Block, so that the time is counted in this phase.
    arrays = jax.block_until_ready([compute(part) for part in batch])
    return [replace(part, rows=replace(part.rows, **{name: x})) for part, x in zip(batch, arrays, strict=True)]
