"""Report invalid rows of question files."""

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from socialr1_jax.data.tables import BadRow
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.terminal import counted

_REASONS_SHOWN = 10
_ROWS_SHOWN = 10  # of one reason
# The parts of a message that differ between rows with the same fault: quoted texts, brackets, numbers.
_PARTICULAR = re.compile(r"""\([^)]*\)?|'[^']*'|"[^"]*"|\b\d+\b""")


def report(bad: Collection[BadRow], total: int, fix: str) -> str:
    """Return a report: the number of bad rows out of `total`, the first ones with their reasons, and the fix."""
    by_reason: dict[tuple[str, str], list[int]] = {}
    for row in bad:
        by_reason.setdefault((row.source, row.reason), []).append(row.row)
    lines = [f"{len(bad):,} of {counted(total, 'row')} cannot be used:"]
    for (source, reason), rows in list(by_reason.items())[:_REASONS_SHOWN]:
        numbers = ", ".join(map(str, rows[:_ROWS_SHOWN]))
        more = f" and {len(rows) - _ROWS_SHOWN:,} more" if len(rows) > _ROWS_SHOWN else ""
        lines.append(f"  {source} row{'s' if len(rows) > 1 else ''} {numbers}{more}: {reason}")
    if left := sum(len(rows) for rows in list(by_reason.values())[_REASONS_SHOWN:]):
        lines.append(f"  ... and {counted(left, 'more row')}")
    return "\n".join([*lines, fix])


def summary(bad: Iterable[BadRow]) -> str:
    """Return one line with the count and the first row of each kind of fault, most frequent first."""
    firsts: dict[str, BadRow] = {}
    kinds = Counter[str]()
    for row in bad:
        kinds[kind := _PARTICULAR.sub("...", row.reason)] += 1
        firsts.setdefault(kind, row)
    common = kinds.most_common(_REASONS_SHOWN)
    named = [f"{count:,} such as {firsts[kind]}" if count > 1 else str(firsts[kind]) for kind, count in common]
    if left := kinds.total() - sum(count for _, count in common):
        named.append(f"and {counted(left, 'more row')}")
    return re.sub(r"\s+", " ", "; ".join(named))


def write_bad_rows(path: str | Path, bad: Iterable[BadRow]) -> None:
    """Write the rows as JSON lines with source, row and reason."""
    write_whole(path, "".join(json.dumps(row._asdict()) + "\n" for row in bad))
