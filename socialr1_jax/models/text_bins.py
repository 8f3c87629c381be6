"""Pack texts that get one score each into bins of one width, with shared beginnings and little padding.

Texts with a common beginning (thoughts about one question) follow one copy of it and are separated by `Segments`.
There are few widths and numbers of bins, because each pair of them is a program to compile.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from socialr1_jax.models.blockwise import Segments


class Unit(NamedTuple):
    """Texts with a shared beginning. `items` are their numbers; each has at least one token after it."""

    items: list[int]
    shared: list[int]
    own: list[list[int]]

    @property
    def length(self) -> int:
        return len(self.shared) + sum(map(len, self.own))


class Bins(NamedTuple):
    """Rows [b, t] of packed texts. The last token of text `items[n]` is at `ends[n]` of the flattened rows."""

    tokens_bt: np.ndarray
    lengths_b: np.ndarray
    segments: Segments
    items: list[int]
    ends: list[int]


def bin_width(longest: int) -> int:
    """Return the smallest width that holds a unit of this length: a power of two >= 64, or 3/2 of one."""
    power = max(64, 1 << (longest - 1).bit_length())
    return power * 3 // 4 if power > 64 and longest <= power * 3 // 4 else power


def fill_bins(units: Sequence[Unit], width: int) -> list[list[Unit]]:
    """Assign units to bins, longest first, each to the first bin that has room."""
    bins: list[list[Unit]] = []
    room: list[int] = []
    for unit in sorted(units, key=lambda unit: -unit.length):
        at = next((i for i, left in enumerate(room) if unit.length <= left), len(bins))
        if at == len(bins):
            bins.append([])
            room.append(width)
        bins[at].append(unit)
        room[at] -= unit.length
    return bins


def lay_out(bins: Sequence[Sequence[Unit]], width: int, count: int) -> Bins:
    """Return the arrays of these bins, padded with empty bins up to `count`."""
    tokens_bt, own_bt, prefix_bt, positions_bt = np.zeros((4, count, width), np.int32)
    lengths_b = np.zeros(count, np.int32)
    items: list[int] = []
    ends: list[int] = []
    for at, units in enumerate(bins):
        start, number = 0, 0
        for unit in units:
            prefix = number = number + 1
            for place, part in enumerate([unit.shared, *unit.own]):
                if place:
                    number += 1
                    items.append(unit.items[place - 1])
                    ends.append(at * width + start + len(part) - 1)
                first, here = len(unit.shared) if place else 0, (at, slice(start, start + len(part)))
                tokens_bt[here], own_bt[here], prefix_bt[here] = part, number, prefix
                positions_bt[here] = np.arange(first, first + len(part))
                start += len(part)
        lengths_b[at] = start
    return Bins(tokens_bt, lengths_b, Segments(own_bt, prefix_bt, positions_bt), items, ends)
