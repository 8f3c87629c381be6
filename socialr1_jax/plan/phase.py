"""Figures of a compiled program: its memory on a device, its traffic, and lower and predicted times."""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from socialr1_jax.models.arithmetic import Cost
from socialr1_jax.plan.schedule import Collective, KernelSum, Schedule
from socialr1_jax.runtime.chips import RATES, Chip

Part = Literal["rollout", "update"]  # of a step; their phases are never in a device's memory at the same time


class CompiledPhase(NamedTuple):
    """A phase's program, and its results as abstract arrays with the compiler's shardings."""

    name: str
    part: Part
    program: Any
    results: Any


class Runs(NamedTuple):
    """Runs of a program in a GRPO step.

    steps: over all calls, of the loops whose trip count depends on the data: tokens, chunks of logits. filled, square:
    tokens and pairs of tokens of a row in a call, as mean shares of those of the compiled batch. live: share of the
    pairs that is computed by attention that skips blocks.
    """

    calls: int = 1
    steps: int = 1
    filled: float = 1.0
    square: float = 1.0
    live: float = 0.5

    def of(self, kernel: KernelSum) -> float:
        """Return how often a GRPO step runs the kernels of this sum, in parts of their compiled size."""
        if kernel.in_open_loop:
            return self.steps
        return self.calls * (self.square if "attention" in kernel.kind else self.filled)


ONCE = Runs()


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One compiled program of a run. Bytes are per device, cost and seconds per GRPO step."""

    name: str
    part: Part
    arguments: int
    outputs: int  # without results that reuse the memory of donated arguments
    temporaries: int
    beside: dict[str, int]  # other arrays on the device while it runs
    cost: Cost
    runs: Runs = ONCE
    unread: float = 0.0  # bytes per device that the program reads at its sizes, but the run does not
    host_bytes: float = 0.0  # between a device and its host, while nothing is computed
    attention: list[str] = field(default_factory=list)  # fused attention kernels that it calls
    schedule: Schedule = field(default_factory=Schedule, repr=False)

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs + self.temporaries + sum(self.beside.values())

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        return sum(c.sent * self.times(c) for c in self.schedule.collectives)

    @property
    def exposed(self) -> float:
        """Predicted seconds of a step in which a device waits for a collective and computes nothing."""
        return sum(c.exposed * self.times(c) for c in self.schedule.collectives)

    def times(self, collective: Collective) -> int:
        """Return how often a GRPO step runs a collective that the schedule has once."""
        return self.runs.steps if collective.in_open_loop else self.runs.calls

    def bounds(self, chip: Chip, devices: int) -> dict[str, float]:
        """Return lower bounds of the phase's time by compute, memory, links and host; the largest is binding."""
        if not chip.flops:
            return {}
        return {
            "compute": self.cost.flops / devices / chip.flops,
            "memory": self.cost.bytes / devices / chip.bandwidth,
            "links": sum(c.sent / c.link * self.times(c) for c in self.schedule.collectives),
            "host": self.host_bytes / chip.host,
        }

    def predicted(self, chip: Chip, devices: int) -> float:
        """Return the seconds of the step in this phase: its kernels at the shares of `RATES`, and what they wait for.

        These are exposed collectives, in every call as in the compiled one, and the host's link. The seconds are never
        below the lower bound.
        """
        rates = RATES[chip.architecture]
        kernels = sum(kernel.seconds * self.runs.of(kernel) for kernel in self.schedule.kernels)
        unread = self.unread / (rates.memory * chip.bandwidth)
        host = self.host_bytes / (rates.host * chip.host)
        return max(*self.bounds(chip, devices).values(), kernels - unread + self.exposed + host)

    def record(self, chip: Chip, devices: int) -> dict[str, Any]:
        """Return the figures as `plan.py --json` writes them."""
        seconds: dict[str, float] = {}
        if chip.flops:
            bounds = self.bounds(chip, devices)
            seconds = bounds | {"bound": max(bounds.values()), "predicted": self.predicted(chip, devices)}
        sizes = {"arguments": self.arguments, "results": self.outputs, "temporaries": self.temporaries}
        return {
            "name": self.name,
            "part": self.part,
            "calls": self.runs.calls,
            "loop_steps": self.runs.steps,
            "bytes": {**sizes, "beside": self.beside, "peak": self.peak},
            "flops": self.cost.flops,
            "bytes_moved": self.cost.bytes,
            "bytes_sent": self.sent,
            "bytes_host": self.host_bytes,
            "seconds": seconds | {"exposed": self.exposed},
            "attention": self.attention,
            "kernels": [vars(kernel) for kernel in self.schedule.kernels],
            "collectives": [vars(c) | {"sent": c.sent} for c in self.schedule.collectives],
        }


class DoesNotFit(Exception):
    """Raised when the compiler rejects a phase of `part` for lack of memory; the message names phase and excess."""

    def __init__(self, message: str, part: Part) -> None:
        super().__init__(message)
        self.part: Part = part
