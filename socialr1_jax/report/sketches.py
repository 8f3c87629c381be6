"""Deterministic sketches of long streams in constant memory: an even draw, and a map of counts."""

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Item = TypeVar("Item")
Key = TypeVar("Key", bound=Hashable)
_GOLDEN = 2_654_435_769  # 2^32 / golden ratio: multiples of it, modulo 2^32, fill the range evenly
_COLUMNS, _ROWS = 128, 64


class EvenDraw(Generic[Item]):
    """Draws at most `size` items from a stream of unknown length, spread evenly over it.

    Item i has priority i * golden ratio modulo 1, and the lowest priorities are kept. For every length of the stream
    they are almost equally spaced (three-distance theorem) and never aliased with the batch size.
    """

    def __init__(self, size: int) -> None:
        self._size, self._seen = size, 0
        self._heap: list[tuple[int, int, Item]] = []  # highest priority first

    def offer(self, item: Item) -> None:
        entry = (-(self._seen * _GOLDEN % 2**32), self._seen, item)
        self._seen += 1
        if len(self._heap) < self._size:
            heapq.heappush(self._heap, entry)
        elif entry > self._heap[0]:
            heapq.heapreplace(self._heap, entry)

    def items(self) -> list[Item]:
        """Return the items by priority, so that any prefix is spread as evenly as all."""
        return [item for _, _, item in sorted(self._heap, key=lambda entry: -entry[0])]


class LengthMap:
    """Counts of responses by step and length, in at most 128 columns of steps and 64 rows of lengths.

    A column has `stride` steps (counted from 1), a row `width` units of length; when there are too many, pairs are
    merged.
    """

    def __init__(self) -> None:
        self.stride, self.width, self.responses = 1, 1, 0
        self.cells: Counter[tuple[int, int]] = Counter()  # (column, row) -> responses
        self.truncated: Counter[int] = Counter()  # column -> responses
        self._first, self._last = sys.maxsize, -sys.maxsize  # columns so far

    def add(self, step: int, length: int, truncated: bool) -> None:
        column = (step - 1) // self.stride
        self._first, self._last = min(self._first, column), max(self._last, column)
        self.responses += 1
        while self._last - self._first >= _COLUMNS:
            self.stride *= 2
            self._first, self._last, column = self._first // 2, self._last // 2, column // 2
            self.cells = _merged(self.cells, lambda cell: (cell[0] // 2, cell[1]))
            self.truncated = _merged(self.truncated, lambda at: at // 2)
        while length // self.width >= _ROWS:
            self.width *= 2
            self.cells = _merged(self.cells, lambda cell: (cell[0], cell[1] // 2))
        self.cells[column, length // self.width] += 1
        if truncated:
            self.truncated[column] += 1

    def columns(self) -> list[tuple[int, int, list[tuple[int, int]]]]:
        """Return (column, truncated responses, [(row, responses), ...]) of every non-empty column, in order."""
        rows: dict[int, list[tuple[int, int]]] = {}
        for (column, row), count in sorted(self.cells.items()):
            rows.setdefault(column, []).append((row, count))
        return [(column, self.truncated[column], cells) for column, cells in rows.items()]


def _merged(counts: Counter[Key], place: Callable[[Key], Key]) -> Counter[Key]:
    merged: Counter[Key] = Counter()
    for key, count in counts.items():
        merged[place(key)] += count
    return merged
