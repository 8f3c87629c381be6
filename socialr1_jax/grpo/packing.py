"""Pack token lists into rows, and rows into micro-batches with few shapes, shared prompts and little padding.

Everything here runs on the host. A micro-batch is a rectangle of bins of one width. A bin holds several texts, which
`Segments` separate: a prompt once with its responses after it, and other texts in the remaining room. Widths are
rounded to a few values, so few programs are compiled.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from socialr1_jax.models.blockwise import Segments
from socialr1_jax.runtime.mesh import fetch, place


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Rows:
    """Right-padded rows of prompt and response. `mask_bt` marks the tokens that are trained on.

    In a micro-batch a row may hold several texts, separated by `segments`, and advantages are [b, t]. Elsewhere
    `segments` is None and advantages are [b]. Log-probs are those of the sampler, of the update's old policy and of the
    reference. `on_policy_bt` marks tokens whose old log-probs the update computes itself, with a ratio of exactly 1.
    Fields that an update does not need are None; supervised training needs only the first three.
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
        """Return the rows on the devices, sharded over the context's mesh; device arrays are left as they are.

        Raises ValueError for segments in the wrong order, which attention would compute wrongly.
        """
        if self.segments is not None and not isinstance(self.segments.own_bt, jax.Array):
            self.segments.check()
        return jax.tree.map(lambda x: x if isinstance(x, jax.Array) else place(x), self)


class TextPlace(NamedTuple):
    """Place of a text in a micro-batch: the shared prefix of some responses, or the rest of one row after it."""

    row: int  # of the mini-batch; for a shared prefix, the first row that has it
    first: int  # position of the text's first token in the row
    length: int
    bin: int
    start: int  # position in the bin
    own: int  # segment number
    prefix: int  # segment number of its prefix; its own number without one

    @property
    def stop(self) -> int:
        return self.start + self.length

    @property
    def pairs(self) -> float:
        """Return the number of (query, key) pairs of its causal attention, the triangle as half a square."""
        return self.length * (self.first + self.length / 2)


@dataclass(frozen=True)
class MicroBatch:
    """Bins of one width, and the places of the texts in them."""

    rows: Rows
    places: list[TextPlace]

    @property
    def one_row_each(self) -> bool:
        """Return whether no bin holds parts of two rows: causal attention then needs no segments."""
        return len({place.bin for place in self.places}) == len({place.row for place in self.places})

    def spread(self, x_bt: jax.Array | np.ndarray, out_bt: np.ndarray) -> None:
        """Write the bins' per-token results to the rows of the mini-batch's array."""
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
    """Return right-padded int32 rows of prompt + response, their width a multiple of `multiple`.

    The mask marks the response. `sampler_logprobs` are the sampler's log-probs of the responses; `extra` sets further
    fields of the Rows.
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
    """Pack the rows into micro-batches of one shape with at most `tokens` tokens per device.

    If the longest row is longer than that, bins are as wide as that row. Rows without a token to train on are left out,
    but there is always at least one micro-batch, so an update always runs. Widths come from `width_of`; the number of
    bins is a multiple of `shards`. A token costs 1 + `square` x width. Of the widths that cost at most 1/20 more than
    the cheapest, the roundest is chosen, so a run compiles few shapes although each step decides by its rows alone.
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
    best = max(fair, key=lambda width: (width & -width) / width)  # prefers a power of two, then 3/2 of one, ...
    return [MicroBatch(_laid(rows, bins[best], best, places), places) for places in layouts[best]]


class _Unit(NamedTuple):
    """Some responses to one prompt, and their shared prefix."""

    rows: list[int]
    shared: int  # prompt tokens but the last, which predicts the response's first token and is copied for each
    length: int


class _Texts:
    """The rows of a mini-batch, grouped by prompt."""

    def __init__(self, rows: Rows, chosen: np.ndarray) -> None:
        self.lengths = np.asarray(rows.lengths_b)
        self.longest = int(self.lengths[chosen].max())
        self.groups: dict[bytes, list[int]] = {}
        self.shared: dict[int, int] = {}
        for row in sorted(chosen.tolist(), key=lambda row: -self.lengths[row]):
            shared = self.shared[row] = max(int(rows.mask_bt[row].argmax()) - 1, 0)
            self.groups.setdefault(rows.tokens_bt[row, :shared].tobytes(), []).append(row)

    def units(self, most: int) -> list[_Unit]:
        """Return units of at most `most` tokens, longest first."""
        units = []
        for group in self.groups.values():
            shared = self.shared[group[0]]
            open_units: list[_Unit] = []
            for row in group:
                own = int(self.lengths[row]) - shared
                at = next((i for i, unit in enumerate(open_units) if unit.length + own <= most), len(open_units))
                if at == len(open_units):
                    open_units.append(_Unit([], shared, shared))
                unit = open_units[at]
                open_units[at] = _Unit([*unit.rows, row], shared, unit.length + own)
            units += open_units
        return sorted(units, key=lambda unit: -unit.length)


def _layout(texts: _Texts, width: int, bins: int) -> list[list[TextPlace]]:
    left, batches = texts.units(width), []
    while left:
        places, left = _fill(texts, left, bins, width)
        batches.append(places)
    return batches


def _fill(texts: _Texts, left: list[_Unit], bins: int, width: int) -> tuple[list[TextPlace], list[_Unit]]:
    """Place the units (longest first) that fit, each in the fullest bin with room; return the places and the rest."""
    places: list[TextPlace] = []
    others, used, numbers = [], [0] * bins, [0] * bins
    for unit in left:
        open_bins = [at for at in range(bins) if used[at] + unit.length <= width]
        if not open_bins:
            others.append(unit)
            continue
        # Empty bins first: units are spread over all bins before any bin gets a second one.
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
    def lay(x: np.ndarray) -> np.ndarray:
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
    laid: Rows = jax.tree.map(lay, replace(rows, lengths_b=None))
    return replace(laid, lengths_b=lengths_b, segments=Segments(own_bt, prefix_bt, positions_bt))


def bin_count(tokens: int, width: int, shards: int) -> int:
    """Return the bins of a micro-batch of this width: `tokens` tokens on each of `shards` devices, at least one bin."""
    return max(1, tokens // width) * shards


def width_of(length: int, multiple: int) -> int:
    """Return the length rounded up to one of eight widths per power of two, all multiples of `multiple`."""
    step = max(multiple, (1 << max(length - 1, 1).bit_length() - 1) // 8)
    return -(-length // step) * step


def counts(batches: Sequence[MicroBatch]) -> tuple[int, float, int]:
    """Return the tokens, (query, key) pairs and predicted positions of micro-batches, as `Arithmetic` takes them."""
    places = [place for batch in batches for place in batch.places]
    predicted = sum(int(batch.rows.mask_bt.sum()) for batch in batches)
    return sum(place.length for place in places), sum(place.pairs for place in places), predicted


def padding_waste(batches: Sequence[MicroBatch]) -> float:
    """Return the share of padding in the micro-batches' tokens."""
    return 1.0 - _real_tokens(batches) / sum(batch.rows.tokens_bt.size for batch in batches)


def shared_prompts(batches: Sequence[MicroBatch], rows: Rows) -> float:
    """Return the share of the trained rows' tokens that are not computed, because another response has that prompt."""
    tokens = int(np.asarray(rows.lengths_b)[rows.mask_bt.any(axis=1)].sum())
    return 1.0 - _real_tokens(batches) / tokens if tokens else 0.0


def _real_tokens(batches: Sequence[MicroBatch]) -> int:
    return sum(int(batch.rows.lengths_b.sum()) for batch in batches)
