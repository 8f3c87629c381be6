"""Names that TRL and verl give to settings, and ours or none: for "did you mean" and the tables of `docs/settings.md`.

TRL's are those of its GRPOConfig, ModelConfig and ScriptArguments (1.16), with a few of earlier releases; verl's those
of `verl/trainer/config/ppo_trainer.yaml`. The tables are the two CSV files here, with blanks between names.
"""

import csv
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import NamedTuple


class Names(NamedTuple):
    """Names of one of our settings elsewhere. other: short names in use; note: how the value differs."""

    ours: str
    trl: list[str]
    verl: list[str]
    other: list[str]
    note: str


def _table(name: str) -> list[list[str]]:
    """Return the rows of a CSV file of this folder, without its header."""
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))[1:]


NAMES = [
    Names(ours, trl.split(), verl.split(), other.split(), note)
    for ours, trl, verl, other, note in _table("setting_names.csv")
]
# (names without a counterpart here, why). Behind sections of verl, too; * stands for any text.
ABSENT = [(names.split(), why) for names, why in _table("absent_settings.csv")]


def absent_reason(key: str) -> str:
    """Return why a setting of TRL or verl has no counterpart here; "" for a name that is not in `ABSENT`.

    Sections before a name make no difference.
    """
    key = _plain(key)
    ends = (key, *_ends(key))
    return next((why for names, why in ABSENT for name in names if any(fnmatchcase(end, name) for end in ends)), "")


def known_name(key: str) -> str | None:
    """Return our dotted name of a setting that TRL, verl or a habit calls `key`; None for a name that is not known.

    Taken as verl's are also ends of its names (`rollout.n`), and behind one of our sections the last part alone
    (`optimizer.lr`), if that leads into this section.
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
    found = {name: one.ours for one in NAMES for name in (*one.trl, *one.verl, *one.other)}
    ends: dict[str, set[str]] = {}
    for one in NAMES:
        for end in (end for name in one.verl for end in _ends(name)):
            ends.setdefault(end, set()).add(one.ours)
    return {end: next(iter(ours)) for end, ours in ends.items() if len(ours) == 1} | found


def _ends(name: str) -> Iterator[str]:
    """Yield what is left of a dotted name without its first parts."""
    while "." in name:
        name = name.partition(".")[2]
        yield name
