"""Figures of a compiled program: its memory on a device, its traffic, and lower bounds of its time."""

from dataclasses import dataclass, field
from typing import Literal

from socialr1_jax.models.arithmetic import Cost
from socialr1_jax.plan.hlo import Collective
from socialr1_jax.runtime.chips import Chip

Part = Literal["rollout", "update"]  # of a step; their phases are never in a device's memory at the same time
# Share of a chip's peaks that programs reach, for expected times. On one H200 (docs/performance.md) updates reached
# 0.30 to 0.36 of the FLOP/s and prefill 0.62, decode 0.57 to 0.60 of the bandwidth; links are assumed.
EFFICIENCY = {"compute": 0.4, "memory": 0.6, "links": 0.65}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One compiled program of a run. Bytes are per device, cost and seconds per GRPO step."""

    name: str
    part: Part
    calls: int  # per GRPO step
    steps: int  # decode steps, over all calls
    arguments: int
    outputs: int  # without results that reuse the memory of donated arguments
    temporaries: int
    beside: dict[str, int]  # other arrays on the device while it runs
    cost: Cost
    kernels: list[str]  # fused attention kernels that it calls
    collectives: list[Collective] = field(repr=False)

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs + self.temporaries + sum(self.beside.values())

    @property
    def sent(self) -> float:
        """Bytes that a device sends in a step."""
        return sum(c.sent * (self.steps if c.in_open_loop else self.calls) for c in self.collectives)

    def seconds(self, chip: Chip, devices: int) -> dict[str, float]:
        """Return lower bounds of the step's time in this phase by compute, memory and links; the largest is binding."""
        if not chip.flops:
            return {}
        return {
            "compute": self.cost.flops / devices / chip.flops,
            "memory": self.cost.bytes / devices / chip.bandwidth,
            "links": self.sent / chip.link,
        }

    def expected(self, chip: Chip, devices: int) -> float:
        """Return the seconds of the step in this phase at `EFFICIENCY`."""
        return max(seconds / EFFICIENCY[name] for name, seconds in self.seconds(chip, devices).items())


class DoesNotFit(Exception):
    """Raised when the compiler rejects a phase of `part` for lack of memory; the message names phase and excess."""

    def __init__(self, message: str, part: Part) -> None:
        super().__init__(message)
        self.part: Part = part
