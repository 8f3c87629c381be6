"""From token lists to rows, and from rows to micro-batches of few shapes with little computed twice or for nothing.

Everything here is on the host. A micro-batch is a rectangle of bins of one width. A bin holds texts told apart by
`Segments`: the responses to one prompt lie behind one copy of it, other texts fill what is left. Widths come from a
ladder of few, so few programs are compiled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import jax
import numpy as np

from socialr1_jax.models.blockwise import Segments
from socialr1_jax.runtime.mesh import fetch, place


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Rows:
    """Right-padded rows: prompt then response. `mask_bt` marks the tokens that are trained on.

    In a micro-batch a row may hold several of them, told apart by `segments`, and advantages are [b, t]; elsewhere
    `segments` is None and advantages [b]. Log-probs are those of an update's old policy, of the reference and of the
    sampler; `on_policy_bt` marks tokens whose old log-probs are those that the update itself computes, so that the
    ratio is exactly 1. What an update does not need is None: in supervised training all but the first three.
    """

    tokens_bt: Any
    lengths_b: Any
    mask_bt: Any
    segments: Segments | None = None
    advantages: Any = None
    sampler_logp_bt: Any = None
    old_logp_bt: Any = None
    on_policy_bt: Any = None
    ref_logp_bt: Any = None

    def take(self, rows: Any) -> "Rows":
        return jax.tree.map(lambda x: x[rows], self)

    def placed(self) -> "Rows":
        """Return the rows on the devices, split over the context's mesh; arrays that are there already stay."""
        return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else place(x), self)


class TextPlace(NamedTuple):
    """Place of a text in a micro-batch: what all responses to a prompt share, or a row's own part behind it."""

    row: int  # of the mini-batch; of a shared part the first one that has it
    first: int  # position in the row of the part's first token
    length: int
    bin: int
    start: int  # position in the bin
    own: int  # number of the segment
    prefix: int  # number of the segment that it continues; its own for one that continues none

    @property
    def stop(self) -> int:
        return self.start + self.length

    @property
    def pairs(self) -> float:
        """Return the pairs of a query here and a key that it sees, the triangle as half a square."""
        return self.length * (self.first + self.length / 2)


@dataclass(frozen=True)
class MicroBatch:
    """Bins of one width, and what lies where in them."""

    rows: Rows
    places: list[TextPlace]

    def spread(self, x_bt: jax.Array | np.ndarray, out_bt: np.ndarray) -> None:
        """Writes per-token results of these bins to their rows in the mini-batch's array."""
        x_bt = fetch(x_bt) if isinstance(x_bt, jax.Array) else x_bt
        for row, first, length, at, start, *_ in self.places:
            out_bt[row, first : first + length] = x_bt[at, start : start + length]


def pack_rows(
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
    *,
    multiple: int,
    sampler_logprobs: Sequence[Sequence[float]] | None = None,
    **extra: Any,
) -> Rows:
    """Right-padded int32 rows of prompt + response, width a multiple of `multiple`; the mask marks the response.

    `sampler_logprobs` are the responses' log-probs as they were sampled; `extra` goes into the Rows as it is.
    """
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    width = -(-max(lengths) // multiple) * multiple
    tokens_bt = np.zeros((len(lengths), width), np.int32)
    mask_bt = np.zeros((len(lengths), width), bool)
    for i, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        tokens_bt[i, : lengths[i]] = [*prompt, *response]
        mask_bt[i, len(prompt) : lengths[i]] = True
    if sampler_logprobs is not None:
        extra["sampler_logp_bt"] = logp_bt = np.zeros((len(lengths), width), np.float32)
        for i, (prompt, values) in enumerate(zip(prompts, sampler_logprobs, strict=True)):
            logp_bt[i, len(prompt) : lengths[i]] = values
    return Rows(tokens_bt=tokens_bt, lengths_b=np.asarray(lengths, np.int32), mask_bt=mask_bt, **extra)


def micro_batches(rows: Rows, tokens: int, multiple: int, shards: int = 1, square: float = 0.0) -> list[MicroBatch]:
    """The rows in micro-batches of one shape; a device's part of each has at most `tokens` tokens.

    Where the longest row has more, bins are as wide as that. A row without a token to train on goes nowhere. The width
    is one of `width_of`; the number of bins divides over the `shards` devices that share them. Of all widths that could
    be taken the roundest is that computes at most 1/20 more than the best, a token costing 1 + `square` x the width: so
    a run chooses few shapes, each step by its rows alone. There is always one micro-batch, and an update always runs.
    """
    trained = np.flatnonzero(rows.mask_bt.any(axis=1))
    texts = _Texts(rows, trained if trained.size else np.arange(1))
    width = width_of(texts.longest, multiple)
    layouts: dict[int, list[list[TextPlace]]] = {}
    while not layouts or width <= tokens:
        layouts[width] = _layout(texts, width, bin_count(tokens, width, shards))
        width = width_of(width + 1, multiple)
    bins = {width: bin_count(tokens, width, shards) for width in layouts}
    cost = {width: len(parts) * bins[width] * width * (1 + square * width) for width, parts in layouts.items()}
    fair = [width for width in layouts if cost[width] <= 1.05 * min(cost.values())]
    best = max(fair, key=lambda width: (width & -width) / width)  # a power of two before 3/2 of one, and so on
    return [MicroBatch(_laid(rows, bins[best], best, places), places) for places in layouts[best]]


class _Unit(NamedTuple):
    """Some responses to one prompt, with what they share of it."""

    rows: list[int]
    shared: int  # tokens of the prompt but its last: that one predicts a response's first token, so each has its own
    length: int


class _Texts:
    """The rows of a mini-batch by prompt."""

    def __init__(self, rows: Rows, chosen: np.ndarray) -> None:
        self.lengths = np.asarray(rows.lengths_b)
        self.longest = int(self.lengths[chosen].max())
        self.groups: dict[bytes, list[int]] = {}
        self.shared: dict[int, int] = {}
        for row in sorted(chosen.tolist(), key=lambda row: -self.lengths[row]):
            shared = self.shared[row] = max(int(rows.mask_bt[row].argmax()) - 1, 0)
            self.groups.setdefault(rows.tokens_bt[row, :shared].tobytes(), []).append(row)

    def units(self, most: int) -> list[_Unit]:
        """Units of at most `most` tokens, the longest first."""
        units = []
        for group in self.groups.values():
            shared = self.shared[group[0]]
            open_units: list[_Unit] = []
            for row in group:
                own = int(self.lengths[row]) - shared
                fits = [i for i, unit in enumerate(open_units) if unit.length + own <= most]
                if fits:
                    unit = open_units[fits[0]]
                    open_units[fits[0]] = _Unit([*unit.rows, row], shared, unit.length + own)
                else:
                    open_units.append(_Unit([row], shared, shared + own))
            units += open_units
        return sorted(units, key=lambda unit: -unit.length)


def _layout(texts: _Texts, width: int, bins: int) -> list[list[TextPlace]]:
    """The places of each micro-batch, of so many bins of this width."""
    left, batches = texts.units(width), []
    while left:
        places, left = _fill(texts, left, bins, width)
        batches.append(places)
    return batches


def _fill(texts: _Texts, left: list[_Unit], bins: int, width: int) -> tuple[list[TextPlace], list[_Unit]]:
    """Places for as many of the units (longest first) as fit, each in the fullest bin that has room; and the others."""
    places: list[TextPlace] = []
    others, used, numbers = [], [0] * bins, [0] * bins
    for unit in left:
        open_bins = [at for at in range(bins) if used[at] + unit.length <= width]
        if not open_bins:
            others.append(unit)
            continue
        # An empty bin first: units are spread before they are put beside each other.
        at = next((at for at in open_bins if not used[at]), max(open_bins, key=used.__getitem__))
        prefix = 0
        if unit.shared:
            prefix = numbers[at] = numbers[at] + 1
            places.append(TextPlace(unit.rows[0], 0, unit.shared, at, used[at], prefix, prefix))
            used[at] += unit.shared
        for row in unit.rows:
            numbers[at] += 1
            own = int(texts.lengths[row]) - unit.shared
            places.append(TextPlace(row, unit.shared, own, at, used[at], numbers[at], prefix or numbers[at]))
            used[at] += own
    return places, others


def _laid(rows: Rows, bins: int, width: int, places: list[TextPlace]) -> Rows:
    """The arrays of a micro-batch."""

    def lay(x: np.ndarray | None) -> np.ndarray | None:
        if x is None:
            return None
        out_bt = np.zeros((bins, width), x.dtype)
        for row, first, length, at, start, *_ in places:
            out_bt[at, start : start + length] = x[row] if x.ndim == 1 else x[row, first : first + length]
        return out_bt

    own_bt, prefix_bt, positions_bt = np.zeros((3, bins, width), np.int32)
    lengths_b = np.zeros(bins, np.int32)
    for _, first, length, at, start, own, prefix in places:
        part = at, slice(start, start + length)
        own_bt[part], prefix_bt[part], positions_bt[part] = own, prefix, np.arange(first, first + length)
        lengths_b[at] += length
    laid = {f.name: lay(getattr(rows, f.name)) for f in fields(rows) if f.name not in ("lengths_b", "segments")}
    return Rows(lengths_b=lengths_b, segments=Segments(own_bt, prefix_bt, positions_bt), **laid)


def bin_count(tokens: int, width: int, shards: int) -> int:
    """Bins of a micro-batch of this width: `tokens` tokens on each of `shards` devices, one bin at least."""
    return max(1, tokens // width) * shards


def width_of(length: int, multiple: int) -> int:
    """The width for a row of this length: eight steps from a power of two to the next, all multiples of `multiple`."""
    step = max(multiple, (1 << max(length - 1, 1).bit_length() - 1) // 8)
    return -(-length // step) * step


def padding_waste(batches: Sequence[MicroBatch]) -> float:
    """The share of the micro-batches' tokens that belong to no text."""
    return 1.0 - sum(int(one.rows.lengths_b.sum()) for one in batches) / sum(one.rows.tokens_bt.size for one in batches)


def shared_prompts(batches: Sequence[MicroBatch], rows: Rows) -> float:
    """The share of the trained rows' tokens that need no computing, as another response's prompt is the same."""
    there = int(np.asarray(rows.lengths_b)[rows.mask_bt.any(axis=1)].sum())
    return 1.0 - sum(int(one.rows.lengths_b.sum()) for one in batches) / there if there else 0.0
