"""Read the instructions of a compiled program: block and kind, FLOP of matrix products, bytes.

Read from the text of the optimised module, since the trace says nothing but the instruction's name. FLOP are those of
matrix products alone. Bytes are those of operands and results, each read or written once; of an operand that is only
sliced, or of a result that is updated in place, those of the slice. So both are what one execution cannot do without.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from socialr1_jax.plan.hlo import Line, computations
from socialr1_jax.profiling.blocks import Kind, block_of, kind_of

_ARRAY = re.compile(r"\b([a-z]++)(\d*+)\w*+\[([\d,]*)\]")
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_TARGET = re.compile(r'custom_call_target="([^"]*)"')
_CALLED = re.compile(r"(?:calls|to_apply)=%?([\w.$-]+)")
_CONTRACTED = re.compile(r'lhs_contracting_dim(?:s=\{|ensions":\[)([\d",]*)')
_WORKSPACE = re.compile(r"\b[su]8\[[\d,]*\]")  # a library's, behind its results
_GEMM = re.compile(r"__cublas|__onednn\$matmul|__cudnn\$gemm")
# Their bodies' instructions are in the trace themselves.
_CONTROL = ("while", "call", "conditional", "async-start", "async-done", "async-update")
_SLICES = ("dynamic-slice", "gather", "slice")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a program; `flops` and `bytes` are of one execution."""

    block: str
    kind: Kind
    flops: float
    bytes: float
    op_name: str


@dataclass(frozen=True)
class _Line:
    """An instruction as the text has it. `operands` are names, `rest` is all behind the opening bracket."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool


_Bodies = Mapping[str, Mapping[str, _Line]]  # computation -> name -> instruction


def read_instructions(text: str) -> dict[str, Instruction]:
    """Every instruction of a module's text (`module.to_string()`) by its name, which is unique in a module.

    What the compiler made without an op_name takes the block of what it computes with, first operand first, or else of
    what uses it.
    """
    bodies = _bodies(text)
    found = {}
    for body in bodies.values():
        names = {line.name: _op_name(line, bodies) for line in body.values()}
        users = defaultdict(list)
        for line in body.values():
            for operand in line.operands:
                users[operand].append(line.name)
        for line in body.values():
            around = (names.get(name, "") for name in (*line.operands, *users[line.name]))
            op_name = names[line.name] or next(filter(block_of, around), "")
            found[line.name] = _instruction(line, body, bodies, op_name)
    return found


def _bodies(text: str) -> dict[str, dict[str, _Line]]:
    return {name: {line.name: _with_operands(line) for line in lines} for name, lines in computations(text)[0].items()}


def _with_operands(line: Line) -> _Line:
    inside = line.rest.partition(")")[0]
    operands = tuple(part.split()[-1].lstrip("%") for part in inside.split(", ") if part.split())
    return _Line(line.name, line.type, line.opcode, operands, line.rest, line.root)


def _fused(line: _Line, bodies: _Bodies) -> Mapping[str, _Line]:
    """Return the instructions inside a fusion or an asynchronous start; none for any other instruction."""
    called = _CALLED.search(line.rest) if line.opcode in ("fusion", "async-start") else None
    return bodies.get(called[1], {}) if called else {}


def _op_name(line: _Line, bodies: _Bodies) -> str:
    """The instruction's own, or, where that names no block, the last one in a fusion that does."""
    lines = (line, *reversed(list(_fused(line, bodies).values())))
    names = [found[1] for one in lines if (found := _OP_NAME.search(one.rest))]
    return next(filter(block_of, names), names[0] if names else "")


def _instruction(line: _Line, body: Mapping[str, _Line], bodies: _Bodies, op_name: str) -> Instruction:
    inner, target = _fused(line, bodies), _TARGET.search(line.rest)
    flops = sum((_flops(one, inner) for one in inner.values()), _flops(line, body))
    block = block_of(op_name)
    opcodes = [one.opcode for one in inner.values() if one.root] if line.opcode == "async-start" else [line.opcode]
    kind = kind_of(opcodes[0] if opcodes else "", block, target[1] if target else "", flops)
    return Instruction(block, kind, flops, _bytes(line, body, inner), op_name)


def _flops(line: _Line, body: Mapping[str, _Line]) -> float:
    """Return the FLOP of a matrix product, two for each multiplication; 0 for anything else."""
    if line.opcode != "dot" and not (line.opcode == "custom-call" and _GEMM.search(line.rest)):
        return 0.0
    left = body.get(line.operands[0]) if line.operands else None
    contracted = _CONTRACTED.search(line.rest)
    if left is None or contracted is None:
        return 0.0
    sizes = _arrays(left.type)[0][1]
    depth = math.prod(sizes[int(axis)] for axis in contracted[1].replace('"', "").split(",") if axis)
    return 2.0 * math.prod(_arrays(line.type)[0][1]) * depth


def _bytes(line: _Line, body: Mapping[str, _Line], inner: Mapping[str, _Line]) -> float:
    if line.opcode in _CONTROL:
        return 0.0
    types = [body[name].type if name in body else "" for name in line.operands]
    if not inner:
        if line.opcode in _SLICES:
            return 2 * _size(line.type)
        if line.opcode == "dynamic-update-slice":
            return 2 * _size(types[1])
        if line.opcode == "custom-call":
            return _size(_WORKSPACE.sub("", line.type)) + sum(map(_size, types))
        return _size(line.type) + sum(map(_size, types))
    users: dict[str, list[tuple[_Line, int]]] = defaultdict(list)
    for one in inner.values():
        for place, name in enumerate(one.operands):
            users[name].append((one, place))
    total = 0.0
    for one in inner.values():
        if one.opcode == "parameter":
            total += min(_size(one.type), sum(_read(*use, inner) for use in _uses(one.name, users)))
        elif one.root:
            total += _written(one, inner)
    return total


def _uses(name: str, users: Mapping[str, Sequence[tuple[_Line, int]]]) -> list[tuple[_Line, int]]:
    """Return the users of a value, looking through bitcasts."""
    found = []
    for one, place in users[name]:
        found += _uses(one.name, users) if one.opcode == "bitcast" else [(one, place)]
    return found


def _read(one: _Line, place: int, inner: Mapping[str, _Line]) -> float:
    """Bytes that an instruction of a fusion reads of its operand at `place`."""
    if one.opcode in _SLICES and place == 0:
        return _size(one.type)
    if one.opcode in ("dynamic-update-slice", "scatter") and place == 0:  # in place
        return 0.0
    return _size(inner[one.operands[place]].type)


def _written(one: _Line, inner: Mapping[str, _Line]) -> float:
    """Bytes that a fusion writes as its root."""
    if one.opcode == "bitcast":
        return _written(inner[one.operands[0]], inner)
    if one.opcode == "tuple":
        return sum(_written(inner[name], inner) for name in one.operands)
    if one.opcode in ("dynamic-update-slice", "scatter"):
        return _size(inner[one.operands[1 if one.opcode == "dynamic-update-slice" else -1]].type)
    return _size(one.type)


def _arrays(text: str) -> list[tuple[float, list[int]]]:
    """(bytes of a number, sizes) of each array in a type."""
    found = []
    for _, bits, sizes in _ARRAY.findall(text):
        width = int(bits) / 8 if bits else 1.0  # pred
        found.append((width, [int(size) for size in sizes.split(",") if size]))
    return found or [(0.0, [])]


def _size(text: str) -> float:
    return sum(width * math.prod(sizes) for width, sizes in _arrays(text))
