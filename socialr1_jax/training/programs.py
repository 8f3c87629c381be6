"""What is compiled for a GRPO run, and the micro-batches that it is called with."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from socialr1_jax.chips import chip_of
from socialr1_jax.config import ConfigError, RunConfig
from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.grpo.losses import policy_loss
from socialr1_jax.grpo.packing import MicroBatch, Rows, micro_batches, pack_rows
from socialr1_jax.grpo.update import TrainState, Update, make_update
from socialr1_jax.mesh import make_mesh, row_shards
from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3 import Params, Qwen3Config
from socialr1_jax.reward_model_config import RewardModelConfig
from socialr1_jax.training.optimizer import make_optimizer, make_schedule

MFU_FORMULA = (
    "MFU = 3 x forward FLOP / (update seconds x devices x peak): attention at half its square, padding, remat and the "
    "second computation of the logits not counted"
)


def about_devices(mesh: Mesh, backend: Backend) -> str:
    """Return the line of a run's console that names its devices, how they are meshed, and what they compute with."""
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    memory = f", {limit / 2**30:.1f} GiB of memory each" if limit else ""
    return f"mesh {dict(mesh.shape)} of {jax.devices()[0].device_kind}{memory}, attention {backend}"


class Programs(NamedTuple):
    """The jitted functions of a run, and how its rows are cut for them."""

    config: RunConfig
    model: Qwen3Config
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    update: Update
    logprobs: Any  # jitted (params, rows) -> float32 [b, t]

    @property
    def several_updates(self) -> bool:
        """Of one rollout; with one, the ratio is exactly 1 and no old-policy pass is made."""
        return self.config.grpo.mini_batch_prompts < self.config.grpo.prompts_per_step

    def mini_batches(self, rows: Rows) -> list[list[MicroBatch]]:
        """The micro-batches of each update of a step, ready for `old`, `reference` and the update."""
        grpo = self.config.grpo
        if grpo.importance_sampling == "none":
            rows = replace(rows, sampler_logp_bt=None)
        if self.several_updates:
            # The first update's old log-probs are those that it computes itself: no pass, and a ratio of exactly 1.
            first_b = np.arange(len(rows.lengths_b)) < self._rows
            rows = replace(rows, on_policy_bt=np.broadcast_to(first_b[:, None], rows.mask_bt.shape))
        parts = (rows.take(slice(start, start + self._rows)) for start in range(0, len(rows.lengths_b), self._rows))
        return [self.micro_batches(part) for part in parts]

    def micro_batches(self, rows: Rows) -> list[MicroBatch]:
        """The micro-batches of one update."""
        costs = Arithmetic(self.model, 4, 1)
        square = costs.attention_pair / 2 / (2 * costs.kernels)
        return micro_batches(rows, self.config.grpo.micro_batch_tokens, row_multiple(), row_shards(), square)

    def with_old(self, batches: list[list[MicroBatch]], params: Params) -> list[list[MicroBatch]]:
        """The micro-batches with the log-probs of the policy that sampled, from before the step's first update."""
        if not self.several_updates:
            return batches
        first, *others = batches
        known = [self._with(first, lambda rows: np.zeros(rows.tokens_bt.shape, np.float32), "old_logp_bt")]
        return known + [self._with(batch, partial(self._logprobs, params), "old_logp_bt") for batch in others]

    def with_reference(self, batches: list[list[MicroBatch]], reference: Params | None) -> list[list[MicroBatch]]:
        """The micro-batches with the log-probs of the reference; as they are where there is none."""
        if reference is None:
            return batches
        if self.config.grpo.reference_memory == "host":
            devices = jax.tree.map(lambda x: x.sharding.with_memory_kind("device"), reference)
            reference = jax.device_put(reference, devices)
        return [self._with(batch, partial(self._logprobs, reference), "ref_logp_bt") for batch in batches]

    def warm_up(self, state: TrainState, reference: Params | None, width: int) -> None:
        """Runs the backward pass of a run's widest micro-batch once: what does not fit shows now."""
        count = max(1, self.config.grpo.micro_batch_tokens // width) * row_shards()
        prompts = [[i] * (width - 1) for i in range(count)]  # different ones: equal prompts would be shared
        extra: dict[str, Any] = {"advantages": np.zeros(count, np.float32), "sampler_logprobs": [[0.0]] * count}
        batches = self.mini_batches(pack_rows(prompts, [[0]] * count, multiple=1, **extra))
        batches = self.with_reference(self.with_old(batches[:1], state.params), reference)
        rows = batches[0][0].rows.placed()
        jax.block_until_ready(self.update.accumulate(state.params, self.update.begin(state.params, rows), rows))

    def throughput(self, batches: Sequence[MicroBatch], seconds: float) -> dict[str, float]:
        """`update_tflops`, model TFLOP/s of the updates over all devices, and `mfu` where the chip's peak is known."""
        costs = Arithmetic(self.model, 4, 1)
        flops = 3 * sum(
            costs.flops(place.length, place.pairs, int(one.rows.mask_bt[place.bin, place.start : place.stop].sum()))
            for one in batches
            for place in one.places
        )
        chip = chip_of(jax.devices()[0].device_kind)
        found = {"update_tflops": flops / seconds / 1e12}
        return found | ({"mfu": flops / seconds / jax.device_count() / chip.flops} if chip else {})

    @property
    def _rows(self) -> int:
        return self.config.grpo.mini_batch_prompts * self.config.sampling.group_size

    def _logprobs(self, params: Params, rows: Rows) -> jax.Array:
        return self.logprobs(params, replace(rows, old_logp_bt=None, ref_logp_bt=None).placed())

    @staticmethod
    def _with(batch: list[MicroBatch], compute: Callable[[Rows], Any], name: str) -> list[MicroBatch]:
        # Waited for, so that each phase of a step has its own seconds.
        found = jax.block_until_ready([compute(one.rows) for one in batch])
        return [MicroBatch(replace(one.rows, **{name: x}), one.places) for one, x in zip(batch, found, strict=True)]


def compile_programs(config: RunConfig, model: Qwen3Config, num_tokens: int, backend: Backend) -> Programs:
    """The jitted functions of a run; `num_tokens` are the ids that the tokenizer knows."""
    grpo = config.grpo.model_copy(
        update={"length_constant": config.grpo.length_constant or config.sampling.max_new_tokens}
    )

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
    return Programs(
        config,
        model,
        optimizer,
        schedule,
        make_update(loss_fn, optimizer),
        jax.jit(lambda params, rows: logprobs(params, rows)[0]),
    )


def reference_weights(params: Params, dtype: str, memory: str = "device") -> Params:
    """A copy of the starting weights in the computation's dtype, laid out like them, on device or host."""
    copy = _copied(params, dtype)
    if memory == "device":
        return copy
    return jax.device_put(copy, jax.tree.map(lambda x: x.sharding.with_memory_kind("pinned_host"), copy))


@partial(jax.jit, static_argnums=1)
def _copied(params: Params, dtype: str) -> Params:
    return jax.tree.map(lambda x: jnp.array(x, dtype, copy=True), params)


def row_multiple() -> int:
    """Widths of rows are multiples of this, so that few programs are compiled: 128 suits accelerators' tiles."""
    return 16 if jax.default_backend() == "cpu" else 128


def run_mesh(config: RunConfig | RewardModelConfig) -> Mesh:
    """The mesh of the configuration over the devices present; ConfigError when it does not divide."""
    try:
        return make_mesh(config.mesh.replica, config.mesh.fsdp or None, config.mesh.tensor)
    except ValueError as error:
        raise ConfigError(f"mesh: {error}") from error


def trainer_logprobs(
    batches: Sequence[Sequence[MicroBatch]], computed: Sequence[Sequence[dict[str, jax.Array]]], shape: tuple[int, int]
) -> np.ndarray:
    """float32 [b, t] of a step's rows: log-probs at the weights that sampled, by the trainer; 0 where none are wanted.

    Of the first update those that it computed, of later ones the old policy's.
    """
    logp_nbt = np.zeros((len(batches), shape[0] // len(batches), shape[1]), np.float32)
    for number, (batch, arrays) in enumerate(zip(batches, computed, strict=True)):
        for one, of_rows in zip(batch, arrays, strict=True):
            one.spread(one.rows.old_logp_bt if number else of_rows["logp_bt"], logp_nbt[number])
    return logp_nbt.reshape(shape)
