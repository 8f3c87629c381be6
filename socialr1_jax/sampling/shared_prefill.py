"""Prompts that begin alike, packed so that what they share is computed once: several questions about one story.

A completion may then differ in its rounding from the one of a prompt that is prefilled alone, so training does not use
it; evaluation does (`Engine.share_prefixes`).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from socialr1_jax.models.blockwise import Segments
from socialr1_jax.models.text_bins import Unit, fill_bins, lay_out
from socialr1_jax.sampling.memory import ladder

_WORTH = 0.8  # packed rows with more tokens than this share of the plain ones are not worth a program of their own
_LONGEST = 2  # units are at most so many times as long as the longest prompt
_STEP = 64  # widths of bins are multiples of it by the ladder: few programs
_WIDEST = 4  # bins are at most about so many times as wide as the longest unit
_ATTENTION = 2048  # width from which on attention costs more than the rest: 1,536 in `tiny`, 3,840 in 0.6b


class PackedPrompts(NamedTuple):
    """Bins [b, t] of packed prompts. Token t of a device's prompt p lies at `at_pt[p, t]` of its flattened bins."""

    tokens_bt: Any
    lengths_b: Any
    segments: Segments
    at_pt: Any


def pack_prompts(devices: Sequence[Sequence[Sequence[int]]], size: int, width: int) -> PackedPrompts | None:
    """The prompts of each device, at most `size` of at most `width` tokens; None where packing saves too little."""
    units = [units_of(prompts, _LONGEST * width) for prompts in devices]
    longest = max((unit.length for each in units for unit in each), default=1)
    cost, bins_width, count, filled = min(_ways(units, longest), key=lambda way: way[0])
    if cost > _WORTH * _cost(size, width):
        return None
    at_pt = np.zeros((len(devices) * size, width), np.int32)
    laid = []
    for device, bins in enumerate(filled):
        laid.append(lay_out(bins, bins_width, count))
        for at, each in enumerate(bins):
            start = at * bins_width
            for unit in each:
                shared = np.arange(start, start + len(unit.shared))
                start += len(unit.shared)
                for item, own in zip(unit.items, unit.own, strict=True):
                    places = np.concatenate([shared, np.arange(start, start + len(own))])
                    at_pt[device * size + item, : len(places)] = places
                    start += len(own)
    tokens_bt, lengths_b = (np.concatenate([getattr(one, name) for one in laid]) for name in ("tokens_bt", "lengths_b"))
    segments = Segments(*(np.concatenate(parts) for parts in zip(*(one.segments for one in laid), strict=True)))
    return PackedPrompts(tokens_bt, lengths_b, segments, at_pt)


def _ways(units: Sequence[Sequence[Unit]], longest: int) -> Iterator[tuple[float, int, int, list[list[list[Unit]]]]]:
    """(cost, width, number of bins on a device, the bins) for several widths from the longest unit's up."""
    least = -(-longest // _STEP)
    for steps in sorted({ladder(least * times) for times in range(1, _WIDEST + 1)}):
        filled = [fill_bins(each, steps * _STEP) for each in units]
        count = ladder(max(map(len, filled)))
        yield _cost(count, steps * _STEP), steps * _STEP, count, filled


def _cost(rows: int, width: int) -> float:
    """Tokens, dearer in wide rows, of which attention computes the whole square."""
    return rows * width * (1 + width / _ATTENTION)


def units_of(prompts: Sequence[Sequence[int]], most: int) -> list[Unit]:
    """Prompts in units of at most `most` tokens (or one prompt), neighbours in sorted order behind what they share.

    Of all ways to cut the sorted prompts into units the one with the fewest tokens.
    """
    order = sorted(range(len(prompts)), key=lambda i: list(prompts[i]))
    lengths = [len(prompts[i]) for i in order]
    common = [_common(prompts[i], prompts[j]) for i, j in pairwise(order)]
    fewest, begins = [0], []  # tokens of the first n prompts, and where the last unit of them begins
    shares: list[int] = []
    for end in range(1, len(order) + 1):
        shared, length, found = lengths[end - 1] - 1, 0, (sys.maxsize, 0, 0)
        for begin in range(end - 1, -1, -1):
            length += lengths[begin]
            if begin < end - 1:
                shared = min(shared, common[begin], lengths[begin] - 1)  # each has a token of its own
            size = length - (end - begin - 1) * shared
            if begin < end - 1 and size > most:
                break
            found = min(found, (fewest[begin] + size, begin, shared))
        fewest.append(found[0])
        begins.append(found[1])
        shares.append(found[2])
    units, end = [], len(order)
    while end:
        begin, shared = begins[end - 1], shares[end - 1]
        items = order[begin:end]
        units.append(Unit(items, list(prompts[items[0]][:shared]), [list(prompts[i][shared:]) for i in items]))
        end = begin
    return units[::-1]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that both begin with."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differ[0]) if differ.size else length
