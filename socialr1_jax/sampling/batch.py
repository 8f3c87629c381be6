"""Continuous batching for one call of the engine, over segments of decode steps on the devices.

Each device holds a batch of rows. Between two segments the host collects finished rows, fills free rows with waiting
groups, shrinks the batch when few rows are left, and grows the caches. Batch and cache sizes come from short ladders,
so there are few programs to compile; each compilation is logged.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.models.attention_trial import working_decode_kernel
from socialr1_jax.models.kv_cache import LayerCache
from socialr1_jax.models.qwen3 import Params
from socialr1_jax.runtime.compiles import told
from socialr1_jax.runtime.mesh import fetch, place, row_shards, tensor_shards
from socialr1_jax.sampling.decode import (
    ERROR,
    LIVE,
    STOP,
    DecodeState,
    Drawn,
    admit,
    decode_segment,
    empty_batch,
    empty_caches,
    free_rows,
    resized,
    resized_caches,
    start_row,
)
from socialr1_jax.sampling.families import Family, Tokens, common, sharing, used_entries
from socialr1_jax.sampling.memory import BatchPlan, coarse, ladder, power, round_up
from socialr1_jax.sampling.params import FinishReason, SamplingParams
from socialr1_jax.sampling.parking import Parked, from_host, to_host
from socialr1_jax.sampling.rollout_weights import reshard
from socialr1_jax.sampling.shared_prefill import SharedPrefill
from socialr1_jax.sampling.text import StopStrings

if TYPE_CHECKING:
    from socialr1_jax.sampling.engine import Engine

log = logging.getLogger(__name__)
_REASONS: tuple[FinishReason | None, ...] = (None, "stop", "length", "error")  # of LIVE, STOP, LENGTH, ERROR
STOP_MULTIPLE = 4  # the stop tokens of a row are padded to a multiple, so another one needs no recompilation


def slot_stride(platform: str) -> int:
    """Return the multiple of cache and prompt lengths: 64 on a CPU, where slots cost time, else 128 for the kernels."""
    return 64 if platform == "cpu" else 128


def product_blocks(platform: str, tensor: int) -> int:
    """Return the `blocks` of `linear` in decoding: 4 on a CPU, else 1: other compilers split products themselves.

    Where it is 1, products with the same input are one.
    """
    return 4 if platform == "cpu" and tensor == 1 else 1


def smallest_batch(platform: str) -> int:
    """Return the smallest size of a batch that shrinks: 1 on a CPU, where rows cost time, else 16."""
    return 1 if platform == "cpu" else 16


def smaller_batch(size: int, smallest: int) -> int:
    """Return the next smaller size, a quarter, so that few programs are compiled; 0 if there is none."""
    quarter = round_up(-(-size // 4), smallest)
    return quarter if quarter < size else 0


def refilled_rows(size: int, group: int, waiting: int) -> int:
    """Return the number of free rows at which `waiting` groups of `group` rows fill a batch again.

    A refill has a fixed cost, so it waits for an eighth of the rows, or for 4 in a small batch.
    """
    return max(group, min(group * waiting, max(size // 8, min(size // 4, 4))))


@dataclass(frozen=True)
class Segment:
    """One row's part of a segment: new tokens with their log-probs, and the finish reason if the row has ended."""

    row: int
    tokens: list[int]
    logprobs: list[float]
    finish_reason: FinishReason | None = None
    stop: int | str | None = None
    raw_logprobs: list[float] | None = None


@dataclass(frozen=True)
class Group:
    """Samples of one prompt that are prefilled together."""

    index: int  # of the prompt
    prompt: Tokens
    params: SamplingParams
    keys: np.ndarray  # uint32 [samples, 2]
    rows: range  # of the call: first the samples of the first prompt, then those of the second...


class Seat(NamedTuple):
    """The rows of a device that a group gets; they share the first `shared` tokens of a prefix."""

    group: Group
    rows: list[int]
    entry: int  # of the prefix
    shared: int
    first: bool  # whether the group is the first of its family


class Rollout:
    """One call of the engine: the waiting groups, the batch on the devices, and the host's view of its rows."""

    def __init__(self, engine: "Engine", plan: BatchPlan, groups: list[Group], each: Sequence[SamplingParams]) -> None:
        self.engine, self.plan, self.waiting = engine, plan, deque[Group]()
        platform = engine.platform
        self.stride, self.smallest = slot_stride(platform), smallest_batch(platform)
        self.shards = row_shards()
        self.group = max((len(group.rows) for group in groups), default=1)
        self.stops = round_up(max(1, *(len(set(params.stop_token_ids)) for params in each)), STOP_MULTIPLE)
        self.penalised = any(params.repetition_penalty != 1 for params in each)
        self.blocks = product_blocks(platform, tensor_shards())
        self.run_segment = partial(
            decode_segment,
            steps=engine.segment_tokens,
            num_tokens=engine.num_tokens,
            filters=frozenset().union(*(params.filters for params in each)),
            raw=any(params.raw_logprobs for params in each),
            blocks=self.blocks,
            kernel=working_decode_kernel(engine.attention, engine.config, engine.dtype),
        )
        self.of_row: dict[int, Group] = {}
        self.strings: dict[int, StopStrings] = {}
        # The host's view of the batch, [devices x rows]: the call's row or -1; its tokens after the prefix, without the
        # newest; tokens that it may still get.
        self.rows = np.full((self.shards, plan.rows), -1)
        self.positions = np.zeros_like(self.rows)
        self.left = np.zeros_like(self.rows)
        self.entries = np.zeros_like(self.rows)  # the prefix of each row
        self.lengths = np.zeros((self.shards, 0), int)  # of the prefixes
        self.slots = self.prefix_slots = 0
        self.wall_steps = 0  # decode steps of the slowest device, summed over the segments
        self.state: DecodeState  # from the first group on
        self.prefixes: list[LayerCache] = []
        self.parked: list[Parked] = []  # rows in host memory; they keep their prefixes
        self.shared: SharedPrefill | None = None
        self.weights: Params | None = None  # the copy that decoding reads
        self.wait(groups)

    def wait(self, groups: Sequence[Group]) -> None:
        """Queue groups for free rows; may be called while `steps` runs."""
        self.waiting += groups
        self.of_row |= {row: group for group in groups for row in group.rows}

    def forget(self, row: int) -> None:
        """Forget a finished row, which endless streams need."""
        del self.of_row[row]
        self.strings.pop(row, None)

    def steps(self) -> Iterator[list[Segment]]:
        """Yield the rows' parts of each segment while the next one runs, until no row is waiting or live."""
        engine = self.engine
        if self.weights is None:
            with told("the copy of the weights for decoding"):
                self.weights = reshard(engine.params, engine.config, engine.dtype, engine.weights, self.blocks == 1)
        parts: list[Segment] = []
        while self.waiting or self.parked or (self.rows >= 0).any():
            engine.poll()
            self._unpark()
            self._refill()
            self._fit()
            places = jax.tree.map(place, sharing(self.rows, self.entries, self.lengths, self.plan.sharers))
            sizes = f"{self.slots} slots behind {self.lengths.shape[1]} prefixes of {self.prefix_slots}"
            with told(f"decode of {self.rows.shape[1]} rows x {sizes}"):
                state, prefixes, enough = self.state, self.prefixes, jnp.int32(self._enough())
                self.state, drawn = self.run_segment(self.weights, engine.config, state, prefixes, places, enough)
            yield parts
            parts = self._collect(drawn)
        yield parts

    # ---------------------------------------------------------------------------------------- before a segment

    def _refill(self) -> None:
        """Admit waiting groups to the devices with enough free rows and prefixes, the emptiest device first."""
        dealt: list[list[tuple[Family, list[Group]]]] = [[] for _ in range(self.shards)]
        free = (self.rows < 0).sum(axis=1)
        used = self._used(self.plan.prefixes)
        prefixes = self.plan.prefixes - used.sum(axis=1)
        while self.waiting and (room := np.where(prefixes > 0, free, 0)).max() >= len(self.waiting[0].rows):
            device, group = int(room.argmax()), self.waiting.popleft()
            free[device] -= len(group.rows)
            alone = not (self.engine.share_prefixes and dealt[device])
            if alone or not self._joins(*dealt[device][-1], group):
                dealt[device].append((Family(len(group.prompt), len(group.rows)), [group]))
                prefixes[device] -= 1
        if any(dealt):
            most = ladder(int((self.plan.prefixes - prefixes).max()))
            self._grow_prefixes(min(most, self.plan.prefixes), 0)
        seats = [self._seated(device, families, ~used[device]) for device, families in enumerate(dealt)]
        if self.engine.share_prefixes:
            self.shared = self.shared or SharedPrefill(self.engine, self.plan, self.shards)
            for call in self.shared.calls([[seat.group.prompt for seat in each] for each in seats]):
                most = max(map(len, call))
                self._admit([[each[i] for i in at] for each, at in zip(seats, call, strict=True)], coarse(most))
            return
        while any(seats):
            most = max(map(len, seats))
            size = power(most) if most < 0.75 * 2 * power(most) else 2 * power(most)  # at most a quarter is padding
            size = min(size, self.plan.prompts)
            self._admit([each[:size] for each in seats], size)
            seats = [each[size:] for each in seats]

    def _joins(self, family: Family, groups: list[Group], group: Group) -> bool:
        """Add the group to a family of groups if that pays; return whether it was added."""
        same = common(groups[-1].prompt, group.prompt)
        joins = family.takes(len(group.prompt), same, len(group.rows), self.plan.sharers)
        if joins:
            groups.append(group)
        return joins

    def _seated(self, device: int, families: list[tuple[Family, list[Group]]], free: np.ndarray) -> list[Seat]:
        """Assign free prefixes of a device to the families, and free rows to their groups."""
        seats = []
        rows = iter(np.flatnonzero(self.rows[device] < 0).tolist())
        for (family, groups), entry in zip(families, np.flatnonzero(free).tolist(), strict=False):
            self.lengths[device, entry] = family.length
            for group in groups:
                at = [next(rows) for _ in group.rows]
                self.rows[device, at], self.entries[device, at] = group.rows, entry
                self.positions[device, at] = len(group.prompt) - 1 - family.length
                self.left[device, at] = group.params.max_new_tokens
                seats.append(Seat(group, at, entry, family.length, group is groups[0]))
        return seats

    def _admit(self, dealt: list[list[Seat]], size: int) -> None:
        """Prefill at most `size` groups on each device and insert them into their rows."""
        engine, entries = self.engine, size * self.group
        seats = [seat for seats in dealt for seat in seats]
        width = self._ladder(max(len(seat.group.prompt) for seat in seats), self.plan.width)
        behind = width
        if self.shared is not None:
            behind = self._ladder(max(1, *(seat.shared for seat in seats)), self.plan.width)
        self._grow_prefixes(self.lengths.shape[1], behind)
        # Grow to the need of the next segment now, so that new rows are not copied into a larger cache right after.
        steps = engine.segment_tokens
        ahead = (len(s.group.prompt) - 1 - s.shared + min(s.group.params.max_new_tokens, steps) for s in seats)
        self._grow(self._ladder(max(ahead), self.plan.slots))
        tokens_pt = np.zeros((self.shards * size, width), np.int32)
        lengths_p = np.ones(self.shards * size, np.int32)
        entries_p = np.full(self.shards * size, self.lengths.shape[1])  # past the end: dropped
        rows_m = np.full(self.shards * entries, self.rows.shape[1])
        vocabulary = engine.config.vocab_size if self.penalised else 0
        fresh = jax.tree.map(np.copy, free_rows(np, self.shards * entries, self.stops, vocabulary))
        for device, each in enumerate(dealt):
            for i, (group, rows, entry, _, first) in enumerate(each, device * size):
                prompt, params = group.prompt, group.params
                tokens_pt[i, : len(prompt)] = prompt
                lengths_p[i] = len(prompt)
                if first:
                    entries_p[i] = entry
                for sample, (row, at, key) in enumerate(zip(group.rows, rows, group.keys, strict=True), i * self.group):
                    rows_m[sample] = at
                    start_row(fresh, sample, prompt, params, key)
                    if params.stop:
                        assert engine.decode is not None
                        self.strings[row] = StopStrings(params.stop, engine.decode)
        places, others = place(rows_m), jax.tree.map(place, fresh)
        if self.shared is not None:
            self.state, self.prefixes = self.shared.admit(self.state, self.prefixes, dealt, size, width, places, others)
            return
        with told(f"prefill of {size} prompts x {width} tokens for {self.rows.shape[1]} rows x {self.slots} slots"):
            self.state, self.prefixes = admit(
                engine.params,
                engine.config,
                self.state,
                self.prefixes,
                place(tokens_pt),
                place(lengths_p),
                place(entries_p),
                places,
                others,
                dtype=jnp.dtype(engine.dtype),
                backend=engine.backend,
            )

    def _grow(self, slots: int) -> None:
        if not self.slots:
            self.slots = slots
            with told(f"an empty batch of {self.rows.shape[1]} rows x {slots} slots"):
                config, dtype = self.engine.config, jnp.dtype(self.engine.dtype)
                self.state = empty_batch(config, self.rows.size, slots, dtype, self.stops, self.penalised)
        elif slots > self.slots:
            self._take(np.tile(np.arange(self.rows.shape[1]), (self.shards, 1)), slots)

    def _grow_prefixes(self, count: int, slots: int) -> None:
        """Grow the prefix caches to at least `count` prefixes on each device, with at least `slots` slots each."""
        before, slots = self.lengths.shape[1], max(slots, self.prefix_slots)
        count = max(count, before)
        if self.prefixes and (count, slots) != (before, self.prefix_slots):
            # New entries are copies of the first one; they are filled before they are read.
            numbers = np.pad(np.arange(before), (0, count - before))
            self._take_prefixes(np.tile(numbers, (self.shards, 1)), slots)
        self.lengths = np.pad(self.lengths, ((0, 0), (0, count - before)))
        self.prefix_slots = slots
        if not self.prefixes and slots:
            config, dtype = self.engine.config, jnp.dtype(self.engine.dtype)
            self.prefixes = empty_caches(config, self.lengths.size, slots, dtype)

    def _fit(self) -> None:
        """Shrink the batch to its live rows, and grow the caches for the next segment."""
        live = self.rows >= 0
        # A row's last token needs no slot, and a row takes no more steps than it has tokens left.
        steps = np.minimum(self.left, self.engine.segment_tokens)
        needed = int((self.positions + steps)[live].max())
        slots = max(self.slots, self._ladder(needed, self.plan.slots))
        size, most = self.rows.shape[1], int(live.sum(axis=1).max())
        while not (self.waiting or self.parked) and (smaller := self._smaller(size)) and most <= smaller:
            size = smaller
        if size * slots > self.plan.tokens:
            size = self.plan.rows_of(slots, self.group)
            live = self._park(size)
        if size < self.rows.shape[1]:
            self._take(np.argsort(~live, axis=1, kind="stable")[:, :size], slots)
        else:
            self._grow(slots)

    def _park(self, size: int) -> np.ndarray:
        """Move each device's live rows but the `size` longest to host memory; return which rows are still live."""
        order = np.argsort(np.where(self.rows >= 0, -self.positions, 1), axis=1, kind="stable")
        for number in range(size, int((self.rows >= 0).sum(axis=1).max())):
            at = np.arange(self.shards), order[:, number]
            with told(f"a row of {self.slots} slots moved to host memory"):
                state = to_host(self.state, at[1])
            self.parked.append(Parked(self.rows[at], self.positions[at], self.left[at], self.entries[at], state))
            self.rows[at] = -1
        return self.rows >= 0

    def _unpark(self) -> None:
        """Move rows from host memory to free rows of their devices."""
        for parked in self.parked:
            free = self.rows < 0
            fits = (parked.rows >= 0) & free.any(axis=1)
            if not fits.any():
                continue
            rows = np.where(fits, free.argmax(axis=1), self.rows.shape[1])
            with told(f"a row moved from host memory to one of {self.rows.shape[1]} rows x {self.slots} slots"):
                self.state = from_host(self.state, rows, parked.state)
            at = np.flatnonzero(fits), rows[fits]
            for here, there in zip((self.rows, self.positions, self.left, self.entries), parked[:4], strict=True):
                here[at] = there[fits]
            parked.rows[fits] = -1
        self.parked = [parked for parked in self.parked if (parked.rows >= 0).any()]

    def _used(self, count: int) -> np.ndarray:
        """Return which of each device's first `count` prefixes a row uses, here or in host memory."""
        rows = np.column_stack([self.rows, *(parked.rows for parked in self.parked)])
        entries = np.column_stack([self.entries, *(parked.entries for parked in self.parked)])
        return used_entries(rows, entries, count)

    def _ladder(self, needed: int, most: int) -> int:
        """Return the size of a cache or prompt, at most `most`, that holds `needed` tokens."""
        return min(ladder(needed, self.stride), most)

    def _smaller(self, size: int) -> int:
        """Return the next smaller size, or 0 if it would not pay: all rows end within a segment."""
        lasts = self.left[self.rows >= 0].max(initial=0) > self.engine.segment_tokens
        return smaller_batch(size, self.smallest) if lasts else 0

    def _take(self, order: np.ndarray, slots: int) -> None:
        """Reduce the batch to the given rows of each device, with `slots` slots."""
        with told(f"change to {order.shape[1]} rows x {slots} slots"):
            self.state = resized(self.state, place(order.reshape(-1)), slots)
        self.rows, self.positions, self.left, self.entries = (
            np.take_along_axis(x, order, axis=1) for x in (self.rows, self.positions, self.left, self.entries)
        )
        self.slots = slots
        used = self._used(self.lengths.shape[1])
        if (count := max(order.shape[1], used.sum(axis=1).max())) < used.shape[1]:  # at most as many prefixes as rows
            moved = np.argsort(~used, axis=1, kind="stable")
            places = np.argsort(moved, axis=1)
            self.entries = np.take_along_axis(places, self.entries, axis=1)
            for parked in self.parked:
                parked.entries[:] = places[np.arange(self.shards), parked.entries]
            self.lengths = np.take_along_axis(self.lengths, moved[:, :count], axis=1)
            self._take_prefixes(moved[:, :count], self.prefix_slots)

    def _take_prefixes(self, order: np.ndarray, slots: int) -> None:
        with told(f"change to {order.shape[1]} prefixes of {slots} slots"):
            self.prefixes = resized_caches(self.prefixes, place(order.reshape(-1)), slots)

    def _enough(self) -> int:
        """Return the number of live rows at which a device ends its segment to admit waiting rows or shrink the batch.

        Several devices never stop early to shrink: one that already has fewer live rows would take no steps.
        """
        size, waiting = self.rows.shape[1], len(self.waiting) or len(self.parked)
        group = len(self.waiting[0].rows) if self.waiting else min(waiting, 1)
        if group and (self.rows < 0).sum(axis=1).max() >= group:
            return 0  # rows are free, but no prefix is, or none of the device's rows is in host memory
        if group:
            return size - refilled_rows(size, group, waiting)
        return self._smaller(size) if self.shards == 1 else 0

    # ----------------------------------------------------------------------------------------- after a segment

    def _collect(self, drawn: Drawn) -> list[Segment]:
        """Return the rows' parts of the segment, and free the rows that have ended."""
        shape = self.rows.shape
        ended = np.array(fetch(self.state.ended_b)).reshape(shape)
        left = np.array(fetch(self.state.left_b)).reshape(shape)
        fetched = jax.tree.map(lambda x: fetch(x).reshape(*shape, -1), drawn)
        parts, cut = [], False
        for at in zip(*np.nonzero(self.rows >= 0), strict=True):
            row, count = int(self.rows[at]), int(self.left[at] - left[at])
            new, reason = fetched.tokens[at][:count].tolist(), _REASONS[ended[at]]
            stop: int | str | None = new[-1] if reason == "stop" else None
            if row in self.strings and (match := self.strings[row].look(new)):
                count, stop = match
                new, reason, cut = new[:count], "stop", cut or reason is None
                ended[at] = STOP
            raw = fetched.raw[at][:count].tolist() if self.of_row[row].params.raw_logprobs else None
            parts.append(Segment(row, new, fetched.logprobs[at][:count].tolist(), reason, stop, raw))
        taken = self.left - left
        self.wall_steps += int(taken.max())
        self.positions += taken
        self.left = left
        if cut:  # rows that ended at a stop string are still live on the devices
            self.state = self.state._replace(ended_b=place(ended.reshape(-1)))
        for row in self.rows[(ended == ERROR) & (self.rows >= 0)].tolist():
            log.warning("prompt %d: logits are not finite, a response ends with an error", self.of_row[row].index)
        self.rows = np.where(ended == LIVE, self.rows, -1)
        return parts
