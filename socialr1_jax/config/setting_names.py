"""Translate setting names of TRL and verl into ours, for "did you mean" and the tables of `docs/settings.md`.

TRL's names are from GRPOConfig, ModelConfig and ScriptArguments (1.16), with a few from earlier releases; verl's are
from `verl/trainer/config/ppo_trainer.yaml`. The tables are the two CSV files here, with spaces between names.
"""

import csv
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Names(NamedTuple):
    """Names of one of our settings in TRL and verl, other common names, and a note if the value differs."""

    ours: str
    trl: list[str]
    verl: list[str]
    other: list[str]
    note: str


def _table(name: str) -> list[list[str]]:
    """Return the rows of a CSV file in this folder, without its header."""
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


NAMES = [
    Names(ours, trl.split(), verl.split(), other.split(), note)
    for ours, trl, verl, other, note in _table("setting_names.csv")
]
# (names without a counterpart here, reason); * matches any text.
ABSENT = [(names.split(), why) for names, why in _table("absent_settings.csv")]


def absent_reason(key: str) -> str:
    """Return why a setting of TRL or verl has no counterpart here; "" if the name is not in `ABSENT`.

    Sections in front of a name are ignored.
    """
    key = _plain(key)
    ends = (key, *_ends(key))
    return next((why for names, why in ABSENT for name in names if any(fnmatchcase(end, name) for end in ends)), "")


def known_name(key: str) -> str | None:
    """Return our dotted name of a setting that is known elsewhere as `key`; None if the name is unknown.

    Unique suffixes of verl's names are accepted (`rollout.n`), and so is one of our sections with a foreign last part
    (`optimizer.lr`) if the setting is in that section.
    """
    key = _plain(key)
    names = _by_name()
    section, _, last = key.rpartition(".")
    within = names.get(last, "")
    return names.get(key) or (within if section and within.startswith(f"{section}.") else None)


def _plain(key: str) -> str:
    return key.lstrip("-+").replace("-", "_").lower()


@cache
def _by_name() -> Mapping[str, str]:
    whole = {name: entry.ours for entry in NAMES for name in (*entry.trl, *entry.verl, *entry.other)}
    ends: dict[str, set[str]] = {}
    for entry in NAMES:
        for end in (end for name in entry.verl for end in _ends(name)):
            ends.setdefault(end, set()).add(entry.ours)
    return {end: next(iter(ours)) for end, ours in ends.items() if len(ours) == 1} | whole


def _ends(name: str) -> Iterator[str]:
    """Yield the proper suffixes of a dotted name, longest first."""
    while "." in name:
        name = name.partition(".")[2]
        yield name
