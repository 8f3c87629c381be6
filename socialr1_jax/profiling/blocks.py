"""Which named block of the source an instruction belongs to, from its op_name, and which kind of work it is."""

import re
from typing import Literal

# Every jax.named_scope of the package (tests/profiling/test_profile.py compares them with the source).
BLOCKS = frozenset(
    (
        "attend",
        "attention",
        "cache_write",
        "draw",
        "embed",
        "filters",
        "final_norm",
        "gradient_norm",
        "gradient_sum",
        "insert",
        "lm_head",
        "logprobs",
        "mlp",
        "optimizer",
        "policy_loss",
        "resize",
        "rope",
        "score",
    )
)
NO_BLOCK = ""

Kind = Literal["collective", "attention", "matmul", "other"]
KINDS: tuple[Kind, ...] = ("matmul", "attention", "collective", "other")
_COLLECTIVES = re.compile(r"(all-gather|all-reduce|reduce-scatter|all-to-all|collective-(permute|broadcast))")
_ATTENTION_KERNEL = re.compile(r"__cudnn\$fmha")
# A name of the path that is not that of a function, jit(...), or of a transformation, jvp(...).
_FUNCTION = re.compile(r"jit\([^()]*\)")
_NAME = re.compile(r"[\w.-]+(?![\w.-]*\()")


def block_of(op_name: str) -> str:
    """The innermost named block of "jit(f)/transpose(jvp(attention))/rope/mul", here rope; "" for none.

    What XLA has fused carries one op_name, so a fusion over the border of two blocks counts in one of them.
    """
    return next((name for name in reversed(_NAME.findall(_FUNCTION.sub("", op_name))) if name in BLOCKS), NO_BLOCK)


def kind_of(opcode: str, block: str, target: str, flops: float) -> Kind:
    """Return the kind of an instruction with its custom call's `target` ("" for none) and its matrix FLOP.

    Each has one kind: a collective first; then the core of attention (block "attend": scores, softmax, values), its
    matrix products included; then other matrix products.
    """
    if _COLLECTIVES.match(opcode):
        return "collective"
    if block == "attend" or _ATTENTION_KERNEL.match(target):
        return "attention"
    return "matmul" if flops else "other"
