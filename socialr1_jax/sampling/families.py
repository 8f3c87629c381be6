"""Rows that share a prefix: which prompts belong together, and which row has which place behind it.

A family's prefix is stored once and read once in a decode step. Without `Engine.share_prefixes` each prompt is a family
of its own, whose samples share all of it but the last token: then a row's arithmetic depends on its prompt alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from socialr1_jax.models.kv_cache import Sharing

Tokens = Sequence[int] | np.ndarray
SHARERS = 4  # rows behind a prefix of several prompts: on a CPU more cost as much arithmetic as they save reading


class Family:
    """Prompts that begin alike: `length` tokens are shared, and `rows` rows share them."""

    def __init__(self, length: int, rows: int) -> None:
        self.length, self.rows, self._longest = length - 1, rows, length

    def takes(self, length: int, same: int, rows: int, most: int) -> bool:
        """Take a prompt of `length` tokens with its rows, if that pays, and return whether it did.

        `same` is what it shares with the prompt that was taken last. At most a quarter of a prompt is not shared, and
        what the others can no longer share is not more than what is.
        """
        shared, longest = min(self.length, same, length - 1), max(self._longest, length)
        if self.rows + rows > most or 4 * (longest - shared) > longest or self.rows * (self.length - shared) > shared:
            return False
        self.length, self._longest, self.rows = shared, longest, self.rows + rows
        return True


def mean_rows(prompts: Sequence[Tokens], counts: Sequence[int]) -> float:
    """Return how many rows share a prefix in the mean. counts: samples of each prompt."""
    most, families, before = max(SHARERS, *counts), list[Family](), np.zeros(0)
    for prompt, rows in zip(map(np.asarray, prompts), counts, strict=True):
        if not families or not families[-1].takes(len(prompt), common(before, prompt), rows, most):
            families.append(Family(len(prompt), rows))
        before = prompt
    return sum(counts) / len(families)


def sharing(rows: np.ndarray, entries: np.ndarray, lengths: np.ndarray, most: int) -> Sharing:
    """Return the places of a batch in NumPy. rows, entries [d, b]: -1 for a free row; a row's prefix, of [d, e]."""
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
    """Return which of a device's `count` prefixes a live row shares: boolean [d, e]."""
    used = np.zeros((len(rows), count), bool)
    device, at = np.nonzero(rows >= 0)
    used[device, entries[device, at]] = True
    return used


def common(first: Tokens, second: Tokens) -> int:
    """Return the number of tokens that both begin with."""
    length = min(len(first), len(second))
    differ = np.flatnonzero(np.asarray(first[:length]) != np.asarray(second[:length]))
    return int(differ[0]) if differ.size else length
