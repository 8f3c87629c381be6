"""A profiler's trace as numbers: spans of the host, ops of the devices, and how to count time only once.

Times are nanoseconds on the trace's own clock. Ops nest (a loop holds its body's) and run side by side on threads and
streams. `own_pieces` takes what lies inside an op out of it; `shared` divides every instant among the ops that run
then, so that what it gives adds up to wall time. `union` is the wall time in which anything runs.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jax.profiler import ProfileData

Interval = tuple[float, float]
_RUNTIME = re.compile(r"::|^end: ")  # what the runtime says of itself


@dataclass(frozen=True)
class Op:
    """One execution of one instruction. `program` is the module's name and id."""

    program: tuple[str, int]
    name: str
    start: float
    stop: float


@dataclass(frozen=True)
class Piece:
    """A stretch of time that belongs to one op and to none inside it; `op` is its place in the list of ops."""

    op: int
    start: float
    stop: float


@dataclass(frozen=True)
class Span:
    """An annotation of the host."""

    name: str
    start: float
    stop: float

    @property
    def seconds(self) -> float:
        return (self.stop - self.start) / 1e9


@dataclass(frozen=True)
class Trace:
    """Content of a trace: ops by line (a thread or a stream), and the host's annotations and events, by start."""

    lines: list[list[Op]]
    host: list[Span]

    def spans(self, name: str) -> list[Span]:
        """The host's spans of this name."""
        return [span for span in self.host if span.name == name]


def read_trace(folder: Path) -> Trace:
    """Reads the newest .xplane.pb below `folder`. Raises FileNotFoundError when there is none."""
    files = sorted(folder.rglob("*.xplane.pb"), key=lambda file: file.stat().st_mtime)
    if not files:
        raise FileNotFoundError(f"{folder}: the profiler wrote no .xplane.pb")
    lines: list[list[Op]] = []
    host: list[Span] = []
    for plane in ProfileData.from_file(str(files[-1])).planes:
        for line in plane.lines:
            ops = []
            for event in line.events:
                if _RUNTIME.search(event.name):  # three in five, and reading an event's statistics takes long
                    continue
                start, stop = event.start_ns, event.start_ns + event.duration_ns
                stats = dict(event.stats)
                if module := stats.get("hlo_module"):
                    name = str(stats.get("hlo_op", event.name))
                    ops.append(Op((str(module), int(stats.get("program_id", -1))), name, start, stop))
                else:
                    host.append(Span(event.name, start, stop))
            if ops:
                lines.append(ops)
    return Trace(lines, sorted(host, key=lambda span: span.start))


def own_pieces(ops: Sequence[Op]) -> list[Piece]:
    """The time of each op of one line without that of the ops inside it; the pieces do not overlap."""
    order = sorted(range(len(ops)), key=lambda i: (ops[i].start, -ops[i].stop))
    pieces: list[Piece] = []
    open_ones: list[int] = []
    now = 0.0

    def advance(to: float) -> None:
        nonlocal now
        if open_ones and to > now:
            pieces.append(Piece(open_ones[-1], now, to))
        now = max(now, to)

    for i in order:
        while open_ones and ops[open_ones[-1]].stop <= ops[i].start:
            advance(ops[open_ones[-1]].stop)
            open_ones.pop()
        advance(ops[i].start)
        open_ones.append(i)
    while open_ones:
        advance(ops[open_ones[-1]].stop)
        open_ones.pop()
    return pieces


def union(intervals: Iterable[Interval]) -> float:
    """The length of what the intervals cover together; where they overlap it counts once."""
    total, end = 0.0, float("-inf")
    for start, stop in sorted(intervals):
        if stop > end:
            total += stop - max(start, end)
            end = stop
    return total


def shared(pieces: Sequence[tuple[int, float, float]]) -> dict[int, float]:
    """The wall time of each key of (key, start, stop): an instant in which k pieces run gives each of them 1/k of it.

    The values add up to the union of all pieces.
    """
    borders = sorted(
        [(start, 1, i) for i, (_, start, _) in enumerate(pieces)]
        + [(stop, 0, i) for i, (_, _, stop) in enumerate(pieces)]
    )
    found: dict[int, float] = defaultdict(float)
    running: set[int] = set()
    now = 0.0
    for time, begins, i in borders:
        if time > now and running:
            for one in running:
                found[pieces[one][0]] += (time - now) / len(running)
        now = time
        if begins:
            running.add(i)
        else:
            running.discard(i)
    return dict(found)


def cut(pieces: Iterable[tuple[int, float, float]], start: float, stop: float) -> list[tuple[int, float, float]]:
    """Return the parts of the pieces between `start` and `stop`."""
    return [(key, max(a, start), min(b, stop)) for key, a, b in pieces if a < stop and b > start]
