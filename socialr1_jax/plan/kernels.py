"""Count the FLOP and bytes of each kernel of a compiled program, and the share of a chip's peaks that it reaches."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from socialr1_jax.plan.hlo import Instruction, bytes_of, sizes_of
from socialr1_jax.runtime.chips import Chip

_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier", "domain"}
_FREE |= {"partition-id", "replica-id", "copy-start", "async-update"}
_VIEWS = {"bitcast", "convert", "copy", "reshape", "transpose"}  # computed for the elements that are read
_IN_PLACE = {"dynamic-update-slice": 1, "scatter": 2}  # and the operand that holds the new part
_PARTS = {"dynamic-slice", "slice", "gather"}
_GEMM = re.compile(r"__cublas|__cudnn\$gemm")
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:ension)?s"?[=:][{\[]([^}\]]*)')


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Shares of a chip's peaks that kernels reach, by kind, and seconds that each kernel and collective adds.

    A masked attention kernel is cuDNN's with a bias. Attention counts half the square as FLOP.
    """

    matmul: float  # of the FLOP/s, as the attention kernels
    attention: float
    attention_backward: float
    masked_attention: float
    masked_attention_backward: float
    memory: float  # of the bandwidth
    links: float  # of the bandwidth between devices
    host: float  # of the bandwidth to the host, which two GPUs of a node often share
    launch: float  # seconds between two kernels
    latency: float  # seconds of the smallest collective


# Hopper's kernels as measured on one H200 (docs/performance.md); all others, links and latencies are assumed.
RATES: Mapping[str, Rates] = {
    "ampere": Rates(
        matmul=0.8,
        attention=0.6,
        attention_backward=0.5,
        masked_attention=0.35,
        masked_attention_backward=0.3,
        memory=0.8,
        links=0.75,
        host=0.4,
        launch=2e-6,
        latency=25e-6,
    ),
    "hopper": Rates(
        matmul=0.65,
        attention=0.44,
        attention_backward=0.39,
        masked_attention=0.26,
        masked_attention_backward=0.19,
        memory=0.72,
        links=0.75,
        host=0.4,
        launch=2.3e-6,
        latency=15e-6,
    ),
    "tpu": Rates(
        matmul=0.65,
        attention=0.3,
        attention_backward=0.3,
        masked_attention=0.3,
        masked_attention_backward=0.3,
        memory=0.8,
        links=0.75,
        host=0.4,
        launch=0.5e-6,
        latency=5e-6,
    ),
}


class Kernel(NamedTuple):
    """The FLOP and bytes of one kernel; `kind` is a field of `Rates`."""

    kind: str
    flops: float
    bytes: float

    def seconds(self, chip: Chip) -> float:
        """Return the predicted seconds: the longer of its FLOP and its bytes, and the launch."""
        rates = RATES[chip.architecture]
        rate = math.inf if self.kind == "memory" else getattr(rates, self.kind) * chip.flops
        return max(self.flops / rate, self.bytes / (rates.memory * chip.bandwidth)) + rates.launch


@dataclass(frozen=True)
class Kernels:
    """The kernels of a compiled program."""

    bodies: dict[str, list[Instruction]]

    @cached_property
    def types(self) -> dict[str, str]:
        return {line.name: line.type for body in self.bodies.values() for line in body}

    def of(self, line: Instruction) -> Kernel | None:
        """Return the kernel of an instruction, or None if it takes no time of its own."""
        if line.opcode in _FREE or line.opcode.endswith("-done"):
            return None
        inside = list(self._inside(line))
        flops = sum(map(self._flops, inside))
        kind = "matmul" if flops else "memory"
        if "__cudnn$fmha" in line.rest:
            kind = "masked_attention" if "ScaleBias" in line.rest else "attention"
            kind += "_backward" if "SoftmaxBackward" in line.rest else ""
        return Kernel(kind, flops, self._moved(line))

    def _inside(self, line: Instruction) -> Iterable[Instruction]:
        yield line
        for name in line.called if line.opcode in ("fusion", "async-start") else ():
            for inner in self.bodies.get(name, ()):
                yield from self._inside(inner)

    def _flops(self, line: Instruction) -> float:
        if line.opcode == "dot" or (line.opcode == "custom-call" and _GEMM.search(line.rest)):
            contracted = _CONTRACTED.search(line.rest)
            left = sizes_of(self.types[line.operands[0]])
            axes = [int(axis.strip('" ')) for axis in contracted[1].split(",")] if contracted and contracted[1] else []
            return 2.0 * math.prod(sizes_of(line.type)) * math.prod(left[axis] for axis in axes)
        if line.opcode == "convolution":  # of a TPU's products
            right, labels = sizes_of(self.types[line.operands[1]]), re.search(r"dim_labels=\w+_(\w+)->", line.rest)
            outputs = right[labels[1].index("o")] if labels else 1
            return 2.0 * math.prod(sizes_of(line.type)) * math.prod(right) / outputs
        if "__cudnn$fmha" in line.rest and line.opcode == "custom-call":
            queries, keys = (sizes_of(self.types[name]) for name in line.operands[:2])  # [b, t, n, h], [b, s, k, h]
            causal = 0.5 if "CAUSAL" in line.rest else 1.0
            products = 5 if "SoftmaxBackward" in line.rest else 2
            return 2.0 * products * causal * math.prod(queries) * keys[1]
        return 0.0

    def _moved(self, line: Instruction) -> float:
        """Return the bytes that a kernel reads and writes: of a slice its part, of an update in place the new part."""
        body = self.bodies.get(line.called[0], []) if line.opcode == "fusion" and line.called else []
        if not body:
            return self._moved_alone(line)
        written = sum(self._written(body, name) for name in self._results(body))
        return written + sum(self._read(body, part) for part in body if part.opcode == "parameter")

    def _moved_alone(self, line: Instruction) -> float:
        result = bytes_of(line.type)
        if line.opcode in _PARTS:
            return 2 * result
        if at := _IN_PLACE.get(line.opcode):
            return 2 * bytes_of(self.types[line.operands[at]])
        return result + sum(bytes_of(self.types.get(name, "")) for name in line.operands)

    def _read(self, body: list[Instruction], line: Instruction) -> float:
        """Return the bytes that a fused computation reads of an operand."""
        whole, read = bytes_of(line.type), 0.0
        for user in body:
            if line.name not in user.operands:
                continue
            if user.opcode in _PARTS and user.operands[0] == line.name:
                read += bytes_of(user.type)
            elif user.opcode in _VIEWS:
                read += self._read(body, user)
            elif user.opcode not in _IN_PLACE or user.operands[0] != line.name:
                return whole
        return min(whole, read)

    def _results(self, body: list[Instruction]) -> list[str]:
        root = next(line for line in body if line.root)
        return root.operands if root.opcode == "tuple" else [root.name]

    def _written(self, body: list[Instruction], name: str) -> float:
        line = next(line for line in body if line.name == name)
        while line.opcode == "bitcast":
            line = next(part for part in body if part.name == line.operands[0])
        if at := _IN_PLACE.get(line.opcode):
            return bytes_of(self.types[line.operands[at]])
        return bytes_of(line.type)
