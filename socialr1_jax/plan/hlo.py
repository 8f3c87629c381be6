"""Parse the text of a compiled program: its instructions, their arrays, and the devices of its collectives."""

import math
import re
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_TYPES = {0.5: "s4 u4", 1: "pred s8 u8 f8e4m3fn", 2: "s16 u16 f16 bf16", 4: "s32 u32 f32", 8: "s64 u64 f64 c64"}
_WIDTH = {name: width for width, names in _TYPES.items() for name in names.split()}
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.$-]+) (?:\(.*\) -> .* )?\{$")
_INSTRUCTION = re.compile(r"^\s+(ROOT )?%?([\w.$-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
_COMMENT = re.compile(r"/\*index=\d+\*/")  # XLA numbers every fifth element of a long list
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,]*)\]")
_CALLS = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.$-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?:\s*\{\s*"?n"?:\s*"?(\d+)')
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\](?:, device_ids=\(([^)]*(?:\([^)]*\))?)\))? \{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")
_LISTS = re.compile(r"replica_groups=\{\{([\d,]+)\}")
_AXIS = re.compile(r"'([^']*)'(?:=(\d+)|:\((\d+)\)(\d+))?")


class Instruction(NamedTuple):
    """An instruction in the text; `rest` is everything after the opening bracket."""

    name: str
    type: str
    opcode: str
    rest: str
    root: bool

    @property
    def operands(self) -> list[str]:
        """The names of the operands, which stand before the bracket that closes the opening one."""
        depth = 1
        for end, letter in enumerate(self.rest):
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if not depth:
                return re.findall(r"%([\w.$-]+)", self.rest[:end])
        return []

    @property
    def called(self) -> list[str]:
        """The names of the computations that the instruction runs."""
        branches = _BRANCHES.search(self.rest)
        return _CALLS.findall(self.rest) + (re.findall(r"[\w.$-]+", branches[1]) if branches else [])

    def part(self, role: str) -> str:
        """Return the name of a loop's `body` or `condition`; "" if there is none."""
        match = re.search(rf"{role}=%?([\w.$-]+)", self.rest)
        return match[1] if match else ""


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Return {computation: its instructions as scheduled}, without comments between operands, and the entry's name."""
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


def trip_count(loop: Instruction, bodies: dict[str, list[Instruction]]) -> int:
    """Return a loop's trip count (stated in GPU texts, a constant bound in TPU texts), or 0 if it depends on data."""
    if known := _TRIPS.search(loop.rest):
        return int(known[1])
    lines = bodies.get(loop.part("condition"), [])
    bounds = [line.rest.partition(")")[0] for line in lines if line.opcode == "constant" and "s32" in line.type]
    counts = bool(lines) and lines[-1].opcode == "compare" and "direction=LT" in lines[-1].rest
    return int(bounds[0]) if counts and len(bounds) == 1 else 0


def attention_kernels(text: str) -> list[str]:
    """Return the names of the fused attention kernels that the program calls."""
    return sorted(set(re.findall(r"__cudnn\$fmha\w*|__gpu\$xla\.gpu\.triton", text)))


def first_group(rest: str, devices: int) -> list[int]:
    """Return the devices of a collective's first replica group; all devices if the attributes name none."""
    if match := _LISTS.search(rest):
        return [int(device) for device in match[1].split(",")]
    if match := _IOTA.search(rest):
        return _iota(match[3], match[4])[: int(match[2])].tolist()
    if match := _MESH.search(rest):
        return _mesh_group(*match.groups())
    return [0, 1] if "source_target_pairs" in rest else list(range(devices))


def _mesh_group(axes: str, device_ids: str | None, grouped: str) -> list[int]:
    """Return the first group of "mesh['a'=2,'b'=4], device_ids=(...) {'b'}"; 'a':(2)4 is a part of an axis."""
    sizes = {name: int(size) for name, size, _, _ in _AXIS.findall(axes)}
    places = np.zeros(1, int)
    for name, _, before, size in _AXIS.findall(grouped):
        names, count = list(sizes), int(size or sizes[name])
        stride = math.prod(list(sizes.values())[names.index(name) + 1 :]) * (sizes[name] // (int(before or 1) * count))
        places = (places[:, None] + stride * np.arange(count)).reshape(-1)
    if not device_ids:
        return places.tolist()
    iota = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", device_ids)
    ids = _iota(*iota.groups()) if iota else np.array([int(device) for device in device_ids.split(",")])
    return ids[places].tolist()


def _iota(sizes: str, order: str | None) -> np.ndarray:
    """Return the device ids of an array of these sizes, transposed to this order, as a list."""
    shape = [int(size) for size in sizes.split(",")]
    ids = np.arange(math.prod(shape)).reshape(shape)
    return (ids.transpose([int(axis) for axis in order.split(",")]) if order else ids).reshape(-1)


def arrays(kind: str) -> list[tuple[str, list[int]]]:
    """Return element type and sizes of every array in a type."""
    return [(dtype, [int(size) for size in sizes.split(",") if size]) for dtype, sizes in _ARRAY.findall(kind)]


def sizes_of(kind: str) -> Sequence[int]:
    """Return the sizes of the first array in a type."""
    return arrays(kind)[0][1]


def bytes_of(kind: str) -> float:
    """Return the bytes of all arrays in a type."""
    return sum(_WIDTH.get(dtype, 0) * math.prod(sizes) for dtype, sizes in arrays(kind))
