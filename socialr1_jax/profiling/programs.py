"""Read the compiled programs that ran: the named block and kind of each instruction, memory, and XLA's cost."""

import re
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import jax
from google.protobuf.empty_pb2 import Empty
from google.protobuf.unknown_fields import UnknownFieldSet

# Every jax.named_scope of the package (tests/test_profile.py compares them with the source).
BLOCKS = {"attend", "attention", "cache_write", "draw", "embed", "filters", "final_norm", "gradient_norm", "lm_head"}
BLOCKS |= {"gradient_sum", "insert", "logprobs", "mlp", "optimizer", "policy_loss", "resize", "rope", "score"}
UNNAMED = "unnamed"  # the block of instructions without a named one
KINDS = ("matmul", "attention", "collective", "other")
_COLLECTIVES = ("kAllGather", "kAllReduce", "kAllToAll", "kCollective", "kRaggedAllToAll", "kReduceScatter")
_GEMM = re.compile(r"__cublas|__onednn\$matmul|__cudnn\$gemm")  # custom calls
_OP_NAME = re.compile(r'op_name="([^"]*)"')
_FUSED = re.compile(r"calls=%?([\w.$-]+)")  # the computation of a fusion
# A name in the path, other than a function's, jit(...), or a transformation's, jvp(...).
_FUNCTION, _NAME = re.compile(r"jit\([^()]*\)"), re.compile(r"[\w.-]+(?![\w.-]*\()")
_MEMORY = ("argument", "output", "alias", "temp", "generated_code")


class Instruction(NamedTuple):
    """Origin of an instruction; `op_name` is "" if the compiler added it."""

    block: str = UNNAMED
    kind: str = "other"
    op_name: str = ""


class Program(NamedTuple):
    """A compiled program, named as in the trace. Sizes are bytes of one call on one device."""

    name: str
    number: int  # the module's id
    text: str
    instructions: dict[str, Instruction]
    memory: dict[str, int]
    cost: dict[str, float]  # {"flops", "bytes accessed"}, with loop bodies counted once

    @property
    def file(self) -> str:
        return f"{self.name}.{self.number}.txt"


def loaded_programs(wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], Program]:
    """Return the wanted programs, by (module, id), that the process holds; ids are unique among those it compiled."""
    programs: dict[tuple[str, int], Program] = {}
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            key = module.name, _module_id(module)
            if key in wanted and key not in programs:
                stats, cost = _known(executable.get_compiled_memory_stats), _known(executable.cost_analysis) or {}
                memory = {name: getattr(stats, f"{name}_size_in_bytes", 0) for name in _MEMORY}
                cost = {name: float(cost[name]) for name in ("flops", "bytes accessed") if name in cost}
                programs[key] = Program(*key, module.to_string(), read_instructions(module), memory, cost)
    return programs


def _known(analysis: Callable[[], Any]) -> Any:
    try:
        return analysis()
    except jax.errors.JaxRuntimeError:  # not supported by every backend
        return None


def _module_id(module: Any) -> int:
    """Return the module's id, field 5 of the HloModuleProto; JAX does not expose it otherwise."""
    fields = UnknownFieldSet(Empty.FromString(module.as_serialized_hlo_module_proto()))
    return next((field.data for field in fields if field.field_number == 5), -1)


def read_instructions(module: Any) -> dict[str, Instruction]:
    """Return the instructions of an HloModule by their names, which are unique in a module.

    A fusion whose op_name has no block gets the most frequent block inside it. An instruction without an op_name gets
    the block of its first operand that has one, else of its first user.
    """
    bodies = {body.name: body.instructions() for body in module.computations()}
    every = [line for body in bodies.values() for line in body]
    texts = {line.name: line.to_string() for line in every}
    op_names = {name: match[1] if (match := _OP_NAME.search(text)) else "" for name, text in texts.items()}
    lines = []  # each instruction with those inside it
    for line in every:
        started, fused = line.async_wrapped_root(), _FUSED.search(texts[line.name])
        lines.append((line, [started] if started else bodies[fused[1]] if fused else []))
    blocks = {}
    for line, inner in lines:
        of_inner = Counter(filter(None, (block_of(op_names[part.name]) for part in inner)))
        blocks[line.name] = block_of(op_names[line.name]) or next(iter(dict(of_inner.most_common(1))), "")
    instructions = {}
    for line, inner in lines:
        named = any(op_names[part.name] for part in (line, *inner))
        candidates = (line,) if named else (line, *line.operands(), *line.users())
        block = next(filter(None, (blocks[other.name] for other in candidates)), UNNAMED)
        kind = kind_of({part.opcode.name for part in (line, *inner)}, block, texts[line.name])
        instructions[line.name] = Instruction(block, kind, op_names[line.name])
    return instructions


def block_of(op_name: str) -> str:
    """Return the innermost named block of an op_name: rope in "jit(f)/transpose(jvp(attention))/rope/mul"; or ""."""
    return next((name for name in reversed(_NAME.findall(_FUNCTION.sub("", op_name))) if name in BLOCKS), "")


def kind_of(opcodes: set[str], block: str, text: str) -> str:
    """Return the kind of an instruction from its text and its opcodes, including those inside a fusion.

    Collectives take precedence, then the core of attention (scores, softmax, values) with its matrix products.
    """
    if any(opcode.startswith(_COLLECTIVES) for opcode in opcodes):
        return "collective"
    if block == "attend" or "__cudnn$fmha" in text:
        return "attention"
    return "matmul" if any(opcode.endswith("Dot") for opcode in opcodes) or _GEMM.search(text) else "other"
