"""Prefill prompts with a common prefix (an instruction, a story) only once, also across calls.

A device's pool keeps the keys and values of one beginning; later prompts reuse as much of it as they share. The rest of
the prompts follows, packed into bins, where the prompts of a unit again share a prefix.

Completions may differ by rounding from those of a prompt that is prefilled alone, so evaluation uses this
(`Engine.share_prefixes`) and training does not.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from socialr1_jax.models.blockwise import Segments
from socialr1_jax.models.kv_cache import LayerCache
from socialr1_jax.models.text_bins import Unit, fill_bins, lay_out
from socialr1_jax.runtime.compiles import told
from socialr1_jax.runtime.mesh import place
from socialr1_jax.sampling.decode import DecodeState, empty_pool, insert_from_pool, prefill_bins
from socialr1_jax.sampling.families import Prompts, Tokens, common
from socialr1_jax.sampling.memory import BatchPlan, ceiling, coarse, ladder, pool_slots, power, shared_slots

if TYPE_CHECKING:
    from socialr1_jax.sampling.batch import Seat
    from socialr1_jax.sampling.engine import Engine

_STEP = 64  # smallest width of a bin; the others are powers of two above it, for few programs
_SHORTEST = 256  # tokens that a unit may always have
_LONGEST = 2  # longest unit, as a multiple of the longest prompt's own part
_WIDER = 1, 2, 4  # candidate widths of bins, as multiples of the smallest possible one
_ATTENTION = 2048  # width above which attention costs more than the rest: 1,536 in `tiny`, 3,840 in 0.6b
_TOGETHER = 4  # bins in a program; the remaining ones run singly, for few programs
_EXTENSION = 512  # tokens of a beginning in one program
_KIN = 32  # neighbours that share this many tokens more than `_MANY` pairs do stay together
_MANY = 64
_PROGRAM = 128  # fixed cost of a program, in tokens


class PackedPrompts(NamedTuple):
    """Bins [d, b, t] of the tokens of each device's prompts after the beginning.

    Token t of a device's prompt p will be in slot `at_pt[p, t]` of its pool.
    """

    tokens_dbt: np.ndarray
    segments: Segments
    at_pt: np.ndarray


class SharedPrefill:
    """Prefills the prompts of a rollout. The pool of each device starts with the newest beginning."""

    def __init__(self, engine: Engine, plan: BatchPlan, devices: int) -> None:
        self._engine, self._plan = engine, plan
        self._beginnings: list[Tokens] = [[]] * devices
        dtype = jnp.dtype(engine.dtype)
        self._pool = empty_pool(engine.config, devices, pool_slots(plan.prompts, plan.width), dtype)

    def calls(self, devices: Sequence[Prompts]) -> list[list[list[int]]]:
        """Return the prompts that each device should admit together, as indices by call and device in sorted order."""
        cut = []
        for prompts, beginning in zip(devices, self._beginnings, strict=True):
            order = _sorted(prompts)
            ends = np.cumsum([0, *cut_prompts([prompts[i] for i in order], beginning, self._plan)])
            cut.append([order[a:b] for a, b in pairwise(ends)])
        return [[each[i] if i < len(each) else [] for each in cut] for i in range(max(map(len, cut)))]

    def admit(
        self,
        state: DecodeState,
        prefixes: list[LayerCache],
        seats: Sequence[Sequence[Seat]],
        size: int,
        width: int,
        rows_m: jax.Array,
        fresh: DecodeState,
    ) -> tuple[DecodeState, list[LayerCache]]:
        """Return state and prefixes with each device's prompts inserted, at most `size` of at most `width` tokens.

        `rows_m` and `fresh` are as in `decode.admit`.
        """
        devices = [[seat.group.prompt for seat in each] for each in seats]
        self._extend([prompts[0][: shared_by(prompts)] if prompts else [] for prompts in devices])
        lengths = [len(beginning) for beginning in self._beginnings]
        packed = pack_prompts(devices, lengths, size, width, self._plan)
        bin_width = packed.tokens_dbt.shape[2]
        filled = (packed.segments.own_bt > 0).sum(2).max(0)  # tokens of each bin on the fullest device
        for first, bins, used in _programs(filled.tolist(), bin_width):
            now = (slice(None), slice(first, first + bins), slice(used))
            self._prefill(
                packed.tokens_dbt[now],
                Segments(*(x[now] for x in packed.segments)),
                lengths,
                [length + first * bin_width for length in lengths],
            )
        slots, before, count = state.caches[0].slots, prefixes[0].slots, len(devices)
        first = max(1, *(sum(seat.first for seat in each) for each in seats))  # families on the fullest device
        entries_dp = np.full((count, coarse(first)), prefixes[0].rows)  # past the end: dropped
        shared_dps = np.full((*entries_dp.shape, before), -1, np.int32)
        own_dpgs = np.full((count, size, rows_m.size // (count * size), slots), -1, np.int32)
        for device, each in enumerate(seats):
            of = iter(range(first))
            for i, seat in enumerate(each):
                shared, own = np.split(packed.at_pt[device * size + i, : len(seat.group.prompt) - 1], [seat.shared])
                own_dpgs[device, i, :, : len(own)] = own
                if seat.first:
                    p = next(of)
                    entries_dp[device, p], shared_dps[device, p, : len(shared)] = seat.entry, shared
        with told(f"{entries_dp.shape[1]} prefixes put into caches of {before} slots"):
            at_ps, entries_p = place(shared_dps.reshape(-1, before)), place(entries_dp.reshape(-1))
            prefixes = insert_from_pool(prefixes, self._pool, at_ps, entries_p, None)
        with told(f"{size} prompts put into caches of {slots} slots"):
            state = insert_from_pool(state, self._pool, place(own_dpgs.reshape(-1, slots)), rows_m, fresh)
        return state, prefixes

    def _extend(self, beginnings: Prompts) -> None:
        """Make the pools start with these tokens."""
        there = [common(old, new) for old, new in zip(self._beginnings, beginnings, strict=True)]
        while left := max(len(new) - at for new, at in zip(beginnings, there, strict=True)):
            width = min(max(_STEP, ceiling(min(left, _EXTENSION))), self._plan.width)
            units = [Unit([0], [], [list(new[at : at + width])]) for new, at in zip(beginnings, there, strict=True)]
            tokens_dbt, segments, _ = _laid([[[unit]] for unit in units], there, width, 1)
            self._prefill(tokens_dbt, segments, there, there)
            there = [at + unit.length for at, unit in zip(there, units, strict=True)]
        self._beginnings = list(beginnings)

    def _prefill(self, tokens_dbt: np.ndarray, segments: Segments, lengths: Sequence[int], at: Sequence[int]) -> None:
        engine, (_, count, width) = self._engine, tokens_dbt.shape
        shared = shared_slots(max(lengths))
        rows = (place(x.reshape(-1, width)) for x in (tokens_dbt, *segments))
        with told(f"prefill of {count} bins of prompts x {width} tokens behind {shared}"):
            self._pool = prefill_bins(
                engine.params,
                engine.config,
                self._pool,
                next(rows),
                Segments(*rows),
                place(np.array(lengths, np.int32)),
                place(np.array(at, np.int32)),
                shared=shared,
                dtype=jnp.dtype(engine.dtype),
                backend=engine.backend,
            )


def _sorted(prompts: Prompts) -> list[int]:
    """Return the prompts' indices, sorted by their tokens: big-endian bytes sort alike and take a tenth of the time."""
    return sorted(range(len(prompts)), key=lambda i: np.asarray(prompts[i], ">u4").tobytes())


def good_order(prompts: Prompts, new: Sequence[int]) -> list[int]:
    """Return the prompts' indices in an order that needs little computing and reading.

    Prompts with a common prefix are neighbours. Families are sorted by the slots of their longest prompt with its first
    `new` tokens, so that decoding of short prompts does not read the slots of long ones. A prefix that nearly all
    prompts of a benchmark share does not make a family.
    """
    order = _sorted(prompts)
    arrays = [np.asarray(prompts[i]) for i in order]
    same = np.array([common(first, second) for first, second in pairwise(arrays)], int)
    families = np.cumsum([0, *(same < _shared_by_many(same) + _KIN)])[: len(order)]
    longest = np.zeros(len(order), int)
    np.maximum.at(longest, families, [len(prompts[i]) + new[i] for i in order])
    sizes = [ladder(int(length), _STEP) for length in longest[families]]
    return [order[i] for i in sorted(range(len(order)), key=lambda i: sizes[i])]


def _shared_by_many(same: np.ndarray) -> np.ndarray:
    """Return for each pair of neighbours the number of tokens that it shares with `_MANY` pairs around it."""
    if len(same) < _MANY:
        return np.zeros_like(same)
    least = np.lib.stride_tricks.sliding_window_view(same, _MANY).min(-1)
    padded = np.pad(least, _MANY - 1)
    return np.lib.stride_tricks.sliding_window_view(padded, _MANY).max(-1)


def cut_prompts(prompts: Prompts, beginning: Tokens, plan: BatchPlan) -> list[int]:
    """Return the number of sorted prompts to admit in each call, for the smallest total cost.

    `beginning` is the current beginning of the pool.
    """
    arrays = [np.asarray(prompt) for prompt in prompts]
    same = [common(first, second) for first, second in pairwise(arrays)]

    def cut(start: int, stop: int, beginning: Tokens) -> tuple[float, list[int]]:
        """Return the cost of a range of the prompts and the sizes of its calls."""
        part = arrays[start:stop]
        shared = min([len(prompt) - 1 for prompt in part] + same[start : stop - 1])
        tokens = sum(map(len, part)) - sum(same[start : stop - 1]) - common(beginning, part[0][:shared])
        cost = math.inf
        if len(part) <= _most(max(map(len, part)), plan):
            cost = _cost_of_call(part, shared, beginning, plan)
        if len(part) == 1 or cost < tokens + 2 * _PROGRAM:  # two calls cannot cost less
            return cost, [len(part)]
        at = min(range(start, stop - 1), key=lambda i: (same[i], abs(2 * i + 2 - start - stop)))
        left, sizes = cut(start, at + 1, beginning)
        last = arrays[at + 1 - sizes[-1] : at + 1]
        right, others = cut(at + 1, stop, last[0][: shared_by(last)])
        return min((cost, [len(part)]), (left + right, sizes + others))

    return cut(0, len(arrays), beginning)[1] if arrays else []


def _most(longest: int, plan: BatchPlan) -> int:
    """Return the largest number of prompts of at most `longest` tokens in a call."""
    return power(max(1, plan.prompts * plan.width // min(ladder(longest, _STEP), plan.width)))


def _cost_of_call(prompts: Prompts, shared: int, beginning: Tokens, plan: BatchPlan) -> float:
    """Return the cost of a call: its tokens, weighted by the width of attention, and the fixed cost of its programs."""
    more = shared - common(beginning, prompts[0][:shared])
    own = [prompt[shared:] for prompt in prompts]
    units = units_of(own, _longest_unit(own, plan))
    # First-fit fills all bins but one more than half, so these fit into the pool.
    if len(prompts) > 1 and 2 * sum(unit.length for unit in units) > (plan.prompts - 1) * plan.width:
        return math.inf
    cost = more * (1 + shared / _ATTENTION) + _PROGRAM * (1 + (more > 0))
    return cost + sum(unit.length * (1 + (unit.length + 2 * shared) / _ATTENTION) for unit in units)


def _longest_unit(own: Prompts, plan: BatchPlan) -> int:
    return min(max(_SHORTEST, _LONGEST * max(map(len, own), default=1)), plan.width)


def shared_by(prompts: Prompts) -> int:
    """Return the length of the prefix that all prompts share, which leaves each at least one token."""
    arrays = [np.asarray(prompt) for prompt in prompts]
    return min([len(prompt) - 1 for prompt in arrays] + [common(arrays[0], other) for other in arrays[1:]])


def pack_prompts(
    devices: Sequence[Prompts], lengths: Sequence[int], size: int, width: int, plan: BatchPlan
) -> PackedPrompts:
    """Pack each device's prompts without their first `lengths` tokens into the bins with the smallest cost.

    A device has at most `size` prompts of at most `width` tokens. In the pool the bins follow those first tokens.
    """
    owns = [[prompt[length:] for prompt in prompts] for prompts, length in zip(devices, lengths, strict=True)]
    units = [units_of(own, _longest_unit(own, plan)) for own in owns]
    longest = max(unit.length for each in units for unit in each)
    ways = [way for way in _ways(units, longest, plan.width) if way[1] * way[2] <= plan.prompts * plan.width]
    _, bin_width, count, filled = min(ways, key=lambda way: way[0])
    tokens_dbt, segments, places = _laid(filled, lengths, bin_width, count)
    at_pt = np.zeros((len(devices) * size, width), np.int32)
    for device, (length, slots) in enumerate(zip(lengths, places, strict=True)):
        for item, own in slots.items():
            at_pt[device * size + item, : length + len(own)] = [*range(length), *(own + length)]
    return PackedPrompts(tokens_dbt, segments, at_pt)


def _ways(
    units: Sequence[Sequence[Unit]], longest: int, most: int
) -> Iterator[tuple[float, int, int, list[list[list[Unit]]]]]:
    """Yield (cost, width, number of bins on a device, the bins) for several widths from the longest unit's up."""
    least = max(_STEP, ceiling(longest))
    for width in sorted({min(least * times, most) for times in _WIDER}):
        filled = [fill_bins(each, width) for each in units]
        count = max(map(len, filled))
        tokens = np.zeros(count, int)
        for bins in filled:
            used = [sum(unit.length for unit in units) for units in bins]
            tokens[: len(used)] = np.maximum(tokens[: len(used)], used)
        parts = _programs(tokens.tolist(), width)
        cost = sum(bins * used * (1 + used / _ATTENTION) + _PROGRAM for _, bins, used in parts)
        yield cost, width, count, filled


def _programs(filled: Sequence[int], width: int) -> Iterator[tuple[int, int, int]]:
    """Yield (first bin, number of bins, width) of each program. filled: the tokens of each bin.

    A bin that runs alone is only as wide as necessary.
    """
    first = 0
    while first < len(filled):
        bins = _TOGETHER if len(filled) - first >= _TOGETHER else 1
        yield first, bins, width if bins > 1 else min(width, max(_STEP, ceiling(filled[first])))
        first += bins


def _laid(
    filled: Sequence[Sequence[Sequence[Unit]]], lengths: Sequence[int], width: int, count: int
) -> tuple[np.ndarray, Segments, list[dict[int, np.ndarray]]]:
    """Return tokens and segments [d, b, t] of each device's bins, and the places of each item's tokens in them."""
    laid = [lay_out(bins, width, count) for bins in filled]
    segments = Segments(*(np.stack(parts) for parts in zip(*(rows.segments for rows in laid), strict=True)))
    positions_dbt = segments.positions_bt + np.array(lengths, np.int32)[:, None, None]
    places = []
    for rows in laid:
        at_t = {}
        for item, (at, t) in zip(rows.items, (divmod(end, width) for end in rows.ends), strict=True):
            own_t, prefix = rows.segments.own_bt[at], rows.segments.prefix_bt[at, t]
            at_t[item] = at * width + np.flatnonzero((own_t == own_t[t]) | (own_t == prefix))
        places.append(at_t)
    return np.stack([rows.tokens_bt for rows in laid]), segments._replace(positions_bt=positions_dbt), places


def units_of(prompts: Prompts, most: int) -> list[Unit]:
    """Group prompts into units of at most `most` tokens (or one prompt) with a shared prefix.

    Units are runs of the sorted prompts, cut so that the total number of tokens is smallest.
    """
    order = _sorted(prompts)
    lengths = [len(prompts[i]) for i in order]
    same = [common(prompts[i], prompts[j]) for i, j in pairwise(order)]
    cuts = [(0, 0, 0)]  # of the first n prompts: fewest tokens, and start and shared prefix of their last unit
    for end in range(1, len(order) + 1):
        shared, length, best = lengths[end - 1] - 1, 0, (sys.maxsize, 0, 0)
        for begin in range(end - 1, -1, -1):
            length += lengths[begin]
            if begin < end - 1:
                shared = min(shared, same[begin], lengths[begin] - 1)  # each keeps at least one own token
            size = length - (end - begin - 1) * shared
            if begin < end - 1 and size > most:
                break
            best = min(best, (cuts[begin][0] + size, begin, shared))
        cuts.append(best)
    units, end = [], len(order)
    while end:
        _, begin, shared = cuts[end]
        items = order[begin:end]
        units.append(Unit(items, list(prompts[items[0]][:shared]), [list(prompts[i][shared:]) for i in items]))
        end = begin
    return units[::-1]
