"""Parse the text of a compiled program: its instructions, and the count and size of its collectives."""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute")
_WIDTH = {
    "pred": 1,
    "s4": 0.5,
    "u4": 0.5,
    "s8": 1,
    "u8": 1,
    "s16": 2,
    "u16": 2,
    "f16": 2,
    "bf16": 2,
    "s32": 4,
    "u32": 4,
    "f32": 4,
    "s64": 8,
    "u64": 8,
    "f64": 8,
    "c64": 8,
}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.$-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.$-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_COMMENT = re.compile(r"/\*index=\d+\*/")  # XLA numbers every fifth element of a long list
_ARRAY = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLS = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.$-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')


class Instruction(NamedTuple):
    """An instruction in the text; `rest` is everything after the opening bracket."""

    name: str
    type: str
    opcode: str
    rest: str
    root: bool


@dataclass(frozen=True)
class Collective:
    """A collective of a program and the number of its runs."""

    kind: str
    result_bytes: float  # on one device
    group: int  # participating devices
    times: int  # runs per call of the program; a loop without a static trip count counts once
    asynchronous: bool  # overlaps with other work between its start and its end
    in_open_loop: bool  # inside a loop whose trip count depends on the data, such as decoding

    @property
    def sent(self) -> float:
        """Bytes that one device must send (or receive) over all runs."""
        n, result = self.group, self.result_bytes
        share = {"all-reduce": 2 * (n - 1) / n, "reduce-scatter": n - 1, "collective-permute": 1}
        return self.times * result * share.get(self.kind, (n - 1) / n)


def collectives(text: str, devices: int) -> list[Collective]:
    """Return all collectives over more than one device in a compiled module's text (`compiled.as_text()`)."""
    bodies, entry = computations(text)
    runs: list[Collective] = []

    def walk(name: str, times: int, open_loop: bool, asynchronous: bool) -> None:
        groups = {}
        for instruction, kind, op, rest, _ in bodies.get(name, ()):
            base = op.removesuffix("-start").removesuffix("-done")
            if base in _KINDS:
                if not op.endswith("-done"):
                    groups[instruction] = _group(rest, devices)
                if not op.endswith("-start"):
                    group = groups[instruction] if base == op else groups.get(_operand(rest), devices)
                    runs.append(Collective(base, _bytes(kind), group, times, asynchronous or base != op, open_loop))
                continue
            trips = _trips(rest, bodies) if op == "while" else 1
            inner, endless = times * (trips or 1), open_loop or not trips
            branches = _BRANCHES.search(rest)
            called = _CALLS.findall(rest)
            called += re.findall(r"[\w.$-]+", branches[1]) if branches else []
            if op not in ("reduce", "sort", "scatter", "reduce-window", "map", "select-and-scatter"):
                for callee in called:
                    walk(callee, inner, endless, asynchronous or op == "async-start")

    walk(entry, 1, False, False)
    return _merged(run for run in runs if run.group > 1)


def _trips(rest: str, bodies: dict[str, list[Instruction]]) -> int:
    """Return a loop's trip count (stated in GPU texts, a constant bound in TPU texts), or 0 if it depends on data."""
    if known := _TRIPS.search(rest):
        return int(known[1])
    condition = re.search(r"condition=%?([\w.$-]+)", rest)
    instructions = bodies.get(condition[1], []) if condition else []
    constants = [
        int(rest.partition(")")[0]) for _, kind, op, rest, _ in instructions if op == "constant" and "s32" in kind
    ]
    counts = bool(instructions) and instructions[-1][2] == "compare" and "direction=LT" in instructions[-1][3]
    return constants[0] if counts and len(constants) == 1 else 0


def attention_kernels(text: str) -> list[str]:
    """Return the names of the fused attention kernels that the program calls."""
    return sorted(set(re.findall(r"__cudnn\$fmha\w*|__gpu\$xla\.gpu\.triton", text)))


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Return {computation: its instructions}, without comments between operands, and the entry's name."""
    bodies: dict[str, list[Instruction]] = defaultdict(list)
    entry = current = ""
    for line in _COMMENT.sub("", text).splitlines():
        if line.startswith((" ", "\t")):
            if match := _INSTRUCTION.match(line):
                bodies[current].append(Instruction(match[2], match[3], match[4], match[5], bool(match[1])))
        elif match := _COMPUTATION.match(line):
            current = match[2]
            entry = current if match[1] else entry
    return bodies, entry


def _operand(rest: str) -> str:
    """Return the name of the last operand in "type %name), attributes" or "%name), attributes"."""
    return rest.partition(")")[0].split(" ")[-1].removeprefix("%")


def _group(rest: str, devices: int) -> int:
    if match := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return len(match[1].split(","))
    if match := re.search(r"replica_groups=\[(\d+),(\d+)\]", rest):
        return int(match[2])
    return 2 if "source_target_pairs" in rest else devices


def _bytes(kind: str) -> float:
    total = 0.0
    for dtype, sizes in _ARRAY.findall(kind):
        count = _WIDTH.get(dtype, 0)
        for size in filter(None, sizes.split(",")):
            count *= int(size)
        total += count
    return total


def _merged(runs: Iterator[Collective]) -> list[Collective]:
    """Merge equal collectives and sort them, largest traffic first."""
    times: dict[Collective, int] = defaultdict(int)
    for run in runs:
        times[replace(run, times=0)] += run.times
    return sorted((replace(run, times=count) for run, count in times.items()), key=lambda run: -run.sent)
