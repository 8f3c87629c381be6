"""Read a compiled program's schedule: its kernels, and its collectives with the time that no kernel hides."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from socialr1_jax.plan.hlo import Instruction, bytes_of, computations, first_group, trip_count
from socialr1_jax.plan.kernels import Kernels
from socialr1_jax.runtime.chips import RATES, Chip

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_NO_CALLS = ("reduce", "sort", "scatter", "reduce-window", "map", "select-and-scatter", "fusion")


@dataclass
class Collective:
    """A collective of a program, with the sums over its runs."""

    kind: str
    result_bytes: float  # on one device
    group: int  # participating devices
    asynchronous: bool  # overlaps with other work between its start and its end
    in_open_loop: bool  # inside a loop whose trip count depends on the data, such as decoding
    link: float = 0.0  # peak bytes/s of a device to the others of its group; 0 = unknown
    times: int = 0  # runs per call of the program; a loop without a static trip count counts once
    seconds: float = 0.0  # at the chip's expected speed, as `exposed`
    exposed: float = 0.0  # seconds in which no kernel runs

    @property
    def sent(self) -> float:
        """Bytes that one device must send (or receive) over all runs."""
        return self.sent_in(self.times)

    def sent_in(self, runs: int) -> float:
        """Return the bytes that one device must send (or receive) in some runs."""
        n = self.group
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
        return runs * self.result_bytes * share.get(self.kind, (n - 1) / n)


@dataclass
class KernelSum:
    """All kernels of one kind of a program, in or outside loops whose trip count depends on the data."""

    kind: str
    in_open_loop: bool
    count: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    seconds: float = 0.0


@dataclass
class Schedule:
    """The work of a device in one call of a program; a loop without a static trip count runs once."""

    kernels: list[KernelSum] = field(default_factory=list)
    collectives: list[Collective] = field(default_factory=list)


@dataclass
class _Clock:
    """The time in a computation, and when the link to other devices is free."""

    now: float = 0.0
    link_free: float = 0.0
    ends: dict[str, tuple[Collective, float]] = field(default_factory=dict)  # of started collectives, by name


def read_schedule(text: str, devices: int, chip: Chip, node: int = 0, live: float = 0.5) -> Schedule:
    """Return kernels and collectives of a compiled module's text (`compiled.as_text()`), each kind summed.

    Kernels run one after another, and so do collectives, beside the kernels between their start and their end. A
    collective over several nodes of `node` devices (0: all devices are one) uses the network of its devices. Seconds
    are 0 for a chip without known peaks. live: as in `Kernels`.
    """
    bodies, entry = computations(text)
    reader = _Reader(bodies, devices, chip, node or devices, Kernels(bodies, live))
    reader.walk(entry, 1, False)
    return Schedule(
        sorted(reader.kernels.values(), key=lambda kernel: -kernel.seconds),
        sorted(reader.collectives.values(), key=lambda collective: -collective.sent),
    )


@dataclass
class _Reader:
    bodies: dict[str, list[Instruction]]
    devices: int
    chip: Chip
    node: int
    work: Kernels
    kernels: dict[tuple[Any, ...], KernelSum] = field(default_factory=dict)  # by their fields without sums
    collectives: dict[tuple[Any, ...], Collective] = field(default_factory=dict)

    def walk(self, name: str, times: int, open_loop: bool) -> float:
        """Add the kernels and collectives of a computation that runs `times` times; return the seconds of one run."""
        clock = _Clock()
        for line in self.bodies.get(name, ()):
            kind = line.opcode.removesuffix("-start").removesuffix("-done")
            if inner := self._collective_in(line):
                self._start(clock, line, inner, open_loop, times)
            elif line.opcode.endswith("-done") and (begun := clock.ends.pop(next(iter(line.operands), ""), None)):
                self._wait(clock, *begun, times)
            elif kind == "while":
                trips = trip_count(line, self.bodies)
                clock.now += trips * self.walk(line.part("body"), times * (trips or 1), open_loop or not trips)
            elif line.opcode not in _NO_CALLS and line.called and line.opcode != "custom-call":
                each = [self.walk(part, times, open_loop) for part in line.called]
                clock.now += max(each) if kind == "conditional" else sum(each)
            else:
                self._run(clock, line, open_loop, times)
        for begun in clock.ends.values():  # ends in another computation
            self._wait(clock, *begun, times)
        return clock.now

    def _run(self, clock: _Clock, line: Instruction, open_loop: bool, times: int) -> None:
        if kernel := self.work.of(line):
            seconds = kernel.seconds(self.chip) if self.chip.flops else 0.0
            clock.now += seconds
            key = kernel.kind, open_loop
            total = self.kernels.setdefault(key, KernelSum(*key))
            total.count += times
            total.flops += times * kernel.flops
            total.bytes += times * kernel.bytes
            total.seconds += times * seconds

    def _collective_in(self, line: Instruction) -> Instruction | None:
        """Return the collective that an instruction starts or runs, itself or wrapped in an asynchronous call."""
        if line.opcode.removesuffix("-start") in _KINDS:
            return line
        wrapped: Iterable[str] = line.called if line.opcode in ("async-start", "fusion") else ()
        inside = (inner for name in wrapped for inner in self.bodies.get(name, ()))
        return next((inner for inner in inside if inner.opcode.removesuffix("-start") in _KINDS), None)

    def _start(self, clock: _Clock, line: Instruction, inner: Instruction, open_loop: bool, times: int) -> None:
        group = first_group(inner.rest, self.devices)
        if len(group) == 1:
            return
        asynchronous = line.opcode.endswith("-start") and '"is_sync":true' not in line.rest
        kind, result = inner.opcode.removesuffix("-start"), bytes_of(self._result_type(inner))
        key = kind, result, len(group), asynchronous, open_loop, self._link(group)
        collective = self.collectives.setdefault(key, Collective(*key))
        seconds = self._seconds(collective)
        clock.link_free = max(clock.now, clock.link_free) + seconds
        collective.times += times
        collective.seconds += times * seconds
        if asynchronous:
            clock.ends[line.name] = collective, clock.link_free
            return
        if line.opcode == "fusion":  # a TPU's kernel that computes while it sends
            self._run(clock, line, open_loop, times)
        self._wait(clock, collective, clock.link_free, times)

    def _wait(self, clock: _Clock, collective: Collective, end: float, times: int) -> None:
        exposed = max(0.0, end - clock.now)
        clock.now += exposed
        collective.exposed += times * exposed

    def _result_type(self, line: Instruction) -> str:
        """Return the type of a collective's result; that of an asynchronous start is in its end."""
        if not line.opcode.endswith("-start"):
            return line.type
        ends = (end for body in self.bodies.values() for end in body if end.opcode == line.opcode[:-5] + "done")
        return next((end.type for end in ends if line.name in end.operands), line.type)

    def _link(self, group: list[int]) -> float:
        """Return the bytes/s of a ring through all devices of a group, over every network card of a node's devices."""
        inside = sum(device // self.node == group[0] // self.node for device in group)
        return self.chip.link if inside == len(group) else min(self.chip.link, inside * self.chip.network)

    def _seconds(self, collective: Collective) -> float:
        """Return the seconds of one run."""
        if not collective.link:
            return 0.0
        rates = RATES[self.chip.architecture]
        return collective.sent_in(1) / (rates.links * collective.link) + rates.latency
