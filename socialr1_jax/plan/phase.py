"""A compiled program of a run in figures: what it takes on a device, what it sends, how long it takes at best."""

from dataclasses import dataclass, field
from typing import Literal

from socialr1_jax.models.arithmetic import Cost
from socialr1_jax.plan.hlo import Collective
from socialr1_jax.runtime.chips import Chip

Part = Literal["rollout", "update"]  # of a step; their phases do not share a device's memory at the same time
# What programs reach of a chip's peaks, for expected times. On one H200 (docs/performance.md) updates reached 0.30 to
# 0.36 of the FLOP/s and prefill 0.62, decode 0.57 to 0.60 of the bandwidth; links are assumed.
EFFICIENCY = {"compute": 0.4, "memory": 0.6, "links": 0.65}


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One compiled program of a run. Bytes are per device, cost and seconds per GRPO step."""

    name: str
    part: Part
    calls: int  # in a GRPO step
    steps: int  # of its open loop, in all calls together: decode steps
    arguments: int
    outputs: int  # new ones: results that take the place of arguments are not counted
    temporaries: int
    beside: dict[str, int]  # what else lies on the device while it runs
    cost: Cost
    kernels: list[str]  # fused attention kernels that it calls
    collectives: list[Collective] = field(repr=False)

    @property
    def peak(self) -> int:
        return self.arguments + self.outputs + self.temporaries + sum(self.beside.values())

    @property
    def sent(self) -> float:
        """Bytes that a device sends to others in a step."""
        return sum(one.sent * (self.steps if one.in_open_loop else self.calls) for one in self.collectives)

    def seconds(self, chip: Chip, devices: int) -> dict[str, float]:
        """Lower bounds of the step's time in this phase by compute, memory and links; the largest counts."""
        if not chip.flops:
            return {}
        return {
            "compute": self.cost.flops / devices / chip.flops,
            "memory": self.cost.bytes / devices / chip.bandwidth,
            "links": self.sent / chip.link,
        }

    def expected(self, chip: Chip, devices: int) -> float:
        """Seconds of the step in this phase at `EFFICIENCY`."""
        return max(seconds / EFFICIENCY[name] for name, seconds in self.seconds(chip, devices).items())


class DoesNotFit(Exception):
    """The compiler itself refused a phase of `part` for want of memory; the message names phase and excess."""

    def __init__(self, message: str, part: Part) -> None:
        super().__init__(message)
        self.part: Part = part
