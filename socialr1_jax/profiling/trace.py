"""Read a profiler's trace: host spans and device ops, with time counted only once.

Times are nanoseconds on the trace's clock. Ops nest (a loop contains its body's ops) and run concurrently on threads
and streams: `own_pieces` subtracts nested ops, and `wall_shares` divides time among concurrent ones.
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.profiler import ProfileData

_RUNTIME = re.compile(r"::|^end: ")  # internal events of the runtime


class Op(NamedTuple):
    """One execution of an instruction. `program` is the module's name and id."""

    program: tuple[str, int]
    name: str
    start: float
    stop: float


class Span(NamedTuple):
    """An annotation or event on the host."""

    name: str
    start: float
    stop: float


class Trace(NamedTuple):
    """Content of a trace: ops per line (a thread or a stream), and host spans."""

    lines: list[list[Op]]
    host: list[Span]

    def spans(self, name: str, within: Sequence[Span] | None = None) -> list[Span]:
        """Return the host spans of this name, sorted, optionally only those inside one of `within`."""
        spans = sorted(span for span in self.host if span.name == name)
        return [s for s in spans if within is None or any(a <= s.start and s.stop <= b for _, a, b in within)]


def read_trace(folder: Path) -> Trace:
    """Read the newest .xplane.pb below `folder`. Raises FileNotFoundError if there is none."""
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"{folder}: the profiler wrote no .xplane.pb")
    trace = Trace([], [])
    for line in (line for plane in ProfileData.from_file(str(files[-1])).planes for line in plane.lines):
        ops = []
        for event in line.events:
            if _RUNTIME.search(event.name):  # three in five events; reading their statistics is slow
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
    """Return (index of the op, start, stop) of each op's time in one line, without the ops nested in it."""
    pieces, now = list[tuple[int, float, float]](), 0.0
    running: list[int] = []  # the stack of nested ops
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
    """Return the wall time of each piece (float [n, 2]: start, stop) between `start` and `stop`.

    k concurrent pieces get 1/k of the time each, so all pieces add up to the time in which any runs.
    """
    borders, places = np.unique(np.clip(pieces_n2, start, stop), return_inverse=True)
    begin_n, end_n = places.reshape(-1, 2).T
    running = np.cumsum(np.bincount(begin_n, minlength=len(borders)) - np.bincount(end_n, minlength=len(borders)))[:-1]
    shares = np.concatenate([[0.0], np.cumsum(np.diff(borders) / np.maximum(running, 1))])
    return shares[end_n] - shares[begin_n]
