"""Group prompts with a common prefix into families, and assign their rows to the prefixes.

A family's prefix is stored once and read once in a decode step. Without `Engine.share_prefixes` each prompt is one
family, whose samples share all but its last token, so a row's arithmetic depends on its prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from socialr1_jax.models.kv_cache import Sharing

Tokens = Sequence[int] | np.ndarray
Prompts = Sequence[Tokens]
SHARERS = 4  # rows that share a prefix of several prompts; on a CPU more rows cost as much compute as they save reads


class Family:
    """Prompts with a common prefix of `length` tokens, shared by `rows` rows."""

    def __init__(self, length: int, rows: int) -> None:
        self.length, self.rows, self._longest = length - 1, rows, length

    def takes(self, length: int, same: int, rows: int, most: int) -> bool:
        """Add a prompt of `length` tokens and its rows if that pays; return whether it was added.

        `same` is the number of tokens that it shares with the last prompt. At most a quarter of a prompt is not shared,
        and the others do not lose more shared tokens than remain.
        """
        shared, longest = min(self.length, same, length - 1), max(self._longest, length)
        if self.rows + rows > most or 4 * (longest - shared) > longest or self.rows * (self.length - shared) > shared:
            return False
        self.length, self._longest, self.rows = shared, longest, self.rows + rows
        return True


def mean_rows(prompts: Prompts, counts: Sequence[int]) -> float:
    """Return the mean number of rows per prefix. counts: samples of each prompt."""
    most, families, before = max(SHARERS, *counts), list[Family](), np.zeros(0)
    for prompt, rows in zip(map(np.asarray, prompts), counts, strict=True):
        if not families or not families[-1].takes(len(prompt), common(before, prompt), rows, most):
            families.append(Family(len(prompt), rows))
        before = prompt
    return sum(counts) / len(families)


def sharing(rows: np.ndarray, entries: np.ndarray, lengths: np.ndarray, most: int) -> Sharing:
    """Return the `Sharing` of a batch in NumPy.

    rows, entries [d, b]: -1 for a free row, and the index of each row's prefix. lengths: of the prefixes, [d, e].
    """
    shards, count = lengths.shape
    rows_dem, places_db = np.zeros((shards, count, most), np.int32), np.zeros_like(rows, np.int32)
    for device in range(shards):
        live = np.flatnonzero(rows[device] >= 0)
        live = live[np.argsort(entries[device, live], kind="stable")]
        entry = entries[device, live]
        place = np.arange(len(live)) - np.searchsorted(entry, entry)
        rows_dem[device, entry, place], places_db[device, live] = live, entry * most + place
    return Sharing(lengths.reshape(-1).astype(np.int32), rows_dem.reshape(-1, most), places_db.reshape(-1))


def used_entries(rows: np.ndarray, entries: np.ndarray, count: int) -> np.ndarray:
    """Return which of each device's `count` prefixes are used by a live row: boolean [d, e]."""
    used = np.zeros((len(rows), count), bool)
    device, at = np.nonzero(rows >= 0)
    used[device, entries[device, at]] = True
    return used


def common(first: Tokens, second: Tokens) -> int:
    """Return the length of the common prefix."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differ[0]) if differ.size else length
