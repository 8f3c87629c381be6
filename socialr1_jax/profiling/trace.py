"""A profiler's trace as numbers: spans of the host, ops of the devices, and how to count time only once.

Times are nanoseconds on the trace's own clock. Ops nest (a loop holds its body's) and run side by side on threads and
streams: `own_pieces` takes what lies inside an op out of it, `wall_shares` divides an instant among those that run.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.profiler import ProfileData

_RUNTIME = re.compile(r"::|^end: ")  # events of the runtime itself


class Op(NamedTuple):
    """One execution of one instruction. `program` is the module's name and id."""

    program: tuple[str, int]
    name: str
    start: float
    stop: float


class Span(NamedTuple):
    """An annotation or event of the host."""

    name: str
    start: float
    stop: float


class Trace(NamedTuple):
    """Content of a trace: ops by line (a thread or a stream), and the host's spans."""

    lines: list[list[Op]]
    host: list[Span]

    def spans(self, name: str, within: Sequence[Span] | None = None) -> list[Span]:
        """The host's spans of this name by start, or those that lie in one of `within`."""
        spans = sorted(span for span in self.host if span.name == name)
        return [s for s in spans if within is None or any(a <= s.start and s.stop <= b for _, a, b in within)]


def read_trace(folder: Path) -> Trace:
    """Reads the newest .xplane.pb below `folder`. Raises FileNotFoundError when there is none."""
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"{folder}: the profiler wrote no .xplane.pb")
    trace = Trace([], [])
    for line in (line for plane in ProfileData.from_file(str(files[-1])).planes for line in plane.lines):
        ops = []
        for event in line.events:
            if _RUNTIME.search(event.name):  # three in five, and reading an event's statistics takes long
                continue
            times, stats = (event.start_ns, event.start_ns + event.duration_ns), dict(event.stats)
            if module := stats.get("hlo_module"):
                key = (str(module), int(stats.get("program_id", -1))), str(stats.get("hlo_op", event.name))
                ops.append(Op(*key, *times))
            else:
                trace.host.append(Span(event.name, *times))
        trace.lines.extend([ops] if ops else [])
    return trace


def own_pieces(ops: Sequence[Op]) -> list[tuple[int, float, float]]:
    """(place of its op, start, stop) of the time of each op of one line without that of the ops inside it."""
    pieces, now = list[tuple[int, float, float]](), 0.0
    running: list[int] = []  # each inside the one before it
    order = sorted(range(len(ops)), key=lambda i: (ops[i].start, -ops[i].stop))
    for i, start in [*((i, ops[i].start) for i in order), (-1, math.inf)]:
        while running and now < start:
            innermost = running[-1]
            until = min(ops[innermost].stop, start)
            if until > now:
                pieces.append((innermost, now, until))
                now = until
            if ops[innermost].stop <= start:
                running.pop()
        now = max(now, start)
        running.append(i)
    return pieces


def wall_shares(pieces_n2: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Wall time of each of the pieces (float [n, 2]: start, stop) between `start` and `stop`.

    An instant in which k pieces run gives each of them 1/k of it, so they add up to the time in which any runs.
    """
    borders, places = np.unique(np.clip(pieces_n2, start, stop), return_inverse=True)
    begin_n, end_n = places.reshape(-1, 2).T
    running = np.cumsum(np.bincount(begin_n, minlength=len(borders)) - np.bincount(end_n, minlength=len(borders)))[:-1]
    shares = np.concatenate([[0.0], np.cumsum(np.diff(borders) / np.maximum(running, 1))])
    return shares[end_n] - shares[begin_n]
