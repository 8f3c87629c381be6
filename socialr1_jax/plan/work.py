"""Draw the lengths of a step's responses from a law, decode them by the engine's rules, and pack them into updates."""

from collections import deque
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from socialr1_jax.config.run import PlanConfig
from socialr1_jax.grpo.logprobs import chunk_length
from socialr1_jax.grpo.packing import MicroBatch, counts, pack_rows
from socialr1_jax.grpo.step import GrpoStep, Programs
from socialr1_jax.models.attention import Backend
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.models.segment_kernel import computed_pairs
from socialr1_jax.plan.phase import Runs
from socialr1_jax.sampling.batch import refilled_rows, slot_stride, smaller_batch, smallest_batch
from socialr1_jax.sampling.memory import BatchPlan, ladder

_SPREAD = np.log(2)  # variance of a lognormal length's logarithm: its standard deviation is its mean, as exponential


def response_lengths(config: PlanConfig) -> np.ndarray:
    """Return the tokens of a step's responses, [prompts, group]: evenly spaced quantiles of the law in random order."""
    limit, shape = config.sampling.max_new_tokens, (config.grpo.prompts_per_step, config.sampling.group_size)
    mean, count = config.response_tokens or limit, int(np.prod(shape))
    shares = (np.arange(count) + 0.5) / count
    if config.response_law == "exponential":
        lengths = -mean * np.log1p(-shares)
    elif config.response_law == "lognormal":
        normal = np.array([NormalDist().inv_cdf(share) for share in shares])
        lengths = mean * np.exp(np.sqrt(_SPREAD) * normal - _SPREAD / 2)
    else:
        lengths = np.full(count, mean)
    lengths = np.clip(np.ceil(lengths), 1, limit).astype(int)
    return np.random.default_rng(config.seed).permutation(lengths).reshape(shape)


@dataclass
class Decoding:
    """A decoded step, summed over its segments.

    steps: decode steps of the slowest device; filled: cached tokens that the fullest device reads; slots: those of its
    rows and prefixes, with the empty ones; drawn: tokens drawn on all devices; pairs: of these and the tokens they see.
    """

    segments: int = 0
    steps: int = 0
    filled: int = 0
    slots: int = 0
    drawn: int = 0
    pairs: int = 0


def decode_lengths(
    lengths_pg: np.ndarray, plan: BatchPlan, prompt: int, *, shards: int, platform: str, segment: int, limit: int
) -> Decoding:
    """Decode responses of these lengths by the rules of `sampling.batch.Rollout`, without computing anything."""
    result, group = Decoding(), min(lengths_pg.shape[1], plan.rows)
    waiting = deque(part for row in lengths_pg for part in np.split(row, range(group, len(row), group)))
    left = np.zeros((shards, plan.rows), int)  # tokens to come of each row; 0 is a free row
    taken = np.zeros_like(left)
    entries = np.full_like(left, -1)  # the prompt of each row
    parked = [deque[tuple[int, int, int]]() for _ in range(shards)]  # rows in host memory: left, taken, prompt
    slots, prompts, stride, smallest = 0, 0, slot_stride(platform), smallest_batch(platform)
    while waiting or left.any() or any(parked):
        for device, rows in enumerate(parked):
            for at in np.flatnonzero(left[device] == 0)[: len(rows)]:
                left[device, at], taken[device, at], entries[device, at] = rows.popleft()
        free = (left == 0).sum(axis=1)
        used = [set(row[live]) for row, live in zip(entries, left > 0, strict=True)]
        used = [prompts.union(row[2] for row in rows) for prompts, rows in zip(used, parked, strict=True)]
        room = plan.prefixes - np.array([len(prompts) for prompts in used])
        while waiting and (open_rows := np.where(room > 0, free, 0)).max() >= len(waiting[0]):
            device, new = int(open_rows.argmax()), waiting.popleft()
            at = np.flatnonzero(left[device] == 0)[: len(new)]
            left[device, at], taken[device, at], entries[device, at] = new, 0, prompts
            free[device], room[device], prompts = free[device] - len(new), room[device] - 1, prompts + 1
        live = left > 0
        needed = int((taken + np.minimum(limit - taken, segment))[live].max())
        slots = max(slots, min(ladder(needed, stride), plan.slots))
        size, most = left.shape[1], int(live.sum(axis=1).max())
        lasts = limit - taken[live].min() > segment  # otherwise all rows end within a segment
        while lasts and not (waiting or any(parked)) and (smaller := smaller_batch(size, smallest)) and most <= smaller:
            size = smaller
        if size * slots > plan.tokens:
            size = plan.rows_of(slots, group)
            for device, longest in enumerate(np.argsort(np.where(live, -taken, 1), axis=1, kind="stable")):
                at = device, longest[size : live[device].sum()]
                parked[device] += zip(left[at], taken[at], entries[at], strict=True)
                left[at] = 0
        order = np.argsort(left == 0, axis=1, kind="stable")[:, :size]
        left, taken, entries = (np.take_along_axis(x, order, axis=1) for x in (left, taken, entries))
        wanted = len(waiting[0]) if waiting else int(any(parked))
        enough = smaller_batch(size, smallest) if lasts and shards == 1 else 0
        if wanted:
            enough = size - refilled_rows(size, wanted, len(waiting) or max(map(len, parked)))
        if wanted and (left == 0).sum(axis=1).max() >= wanted:
            enough = 0  # rows are free, but no prefix is, or none of the device's rows is in host memory
        steps = np.minimum(segment, -np.sort(-left, axis=1)[:, enough])  # until `enough` rows are live
        each = np.minimum(left, steps[:, None])
        read = np.array([len(set(row[live])) for row, live in zip(entries, left > 0, strict=True)])
        own = (each * taken + each * (each + 1) // 2).sum(axis=1)
        result.segments += 1
        result.steps += int(steps.max())
        result.filled += int((own + steps * read * (prompt - 1)).max())
        result.slots += int((steps * (size * slots + read * plan.width)).max())
        result.drawn += int(each.sum())
        result.pairs += int(own.sum() + each.sum() * (prompt - 1))
        left, taken = left - each, taken + each
    return result


class Work(NamedTuple):
    """The work of some updates as `counts` returns it, and the runs of their programs and loops."""

    counts: tuple[int, float, int]
    runs: Runs


def packed_updates(
    config: PlanConfig,
    model: Qwen3Config,
    backend: Backend,
    programs: Programs,
    lengths_pg: np.ndarray,
    multiple: int,
) -> list[list[MicroBatch]]:
    """Return the micro-batches of each update for responses of these lengths to prompts of the maximum length."""
    prompts, group = lengths_pg.shape
    rows = [[number] * config.data.max_prompt_tokens for number in range(prompts) for _ in range(group)]
    responses = [[0] * length for length in lengths_pg.reshape(-1)]
    extra: dict[str, Any] = {"advantages": np.zeros(len(rows), np.float32), "sampler_logprobs": responses}
    step = GrpoStep(config=config, model=model, backend=backend, programs=programs, reference=None, multiple=multiple)
    return step.mini_batches(pack_rows(rows, responses, multiple=1, **extra))


def work_of(
    updates: list[list[MicroBatch]], rows: int, width: int, shards: int, vocabulary: int, backend: Backend
) -> Work:
    """Return the work of these updates on all shards, for programs compiled for micro-batches of [rows, width]."""
    batches = [batch for update in updates for batch in update]
    wanted = [batch.rows.mask_bt.reshape(shards, -1).sum(axis=1).max() for batch in batches]  # of the busiest device
    chunk, compiled = chunk_length(rows * width // shards, vocabulary), len(batches) * rows * width
    return Work(
        counts=counts(batches),
        runs=Runs(
            calls=len(batches),
            steps=sum(-(-int(count) // chunk) for count in wanted),
            filled=sum(batch.rows.tokens_bt.size for batch in batches) / compiled,
            square=_squares(batches) / (compiled * width),
            live=_live(batches) if backend == "triton" else 0.5,
        ),
    )


def _live(batches: list[MicroBatch]) -> float:
    pairs = 0
    for rows in (batch.rows for batch in batches):
        assert rows.segments is not None
        pairs += computed_pairs(rows.lengths_b, rows.segments)
    return pairs / _squares(batches)


def _squares(batches: list[MicroBatch]) -> int:
    return sum(batch.rows.tokens_bt.size * batch.rows.tokens_bt.shape[1] for batch in batches)
