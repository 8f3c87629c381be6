"""The compiled programs that ran: their text, what memory they take, what XLA's cost model says of them."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jax

_MEMORY = ("argument", "output", "alias", "temp", "generated_code")


@dataclass(frozen=True)
class Program:
    """One compiled program, named as the trace names it. Sizes are bytes on one device, those of one call."""

    name: str
    number: int  # the module's id
    text: str
    memory: dict[str, int]
    cost: dict[str, float]  # {"flops", "bytes accessed"}, a loop's body counted once

    @property
    def file(self) -> str:
        return f"{self.name}.{self.number}.txt"


def loaded_programs(wanted: Collection[tuple[str, int]]) -> dict[tuple[str, int], Program]:
    """Those of the named (module, id) that the process holds; ids are unique among programs that it compiled."""
    found = {}
    for executable in jax.devices()[0].client.live_executables():
        for module in executable.hlo_modules():
            key = module.name, _module_id(module.as_serialized_hlo_module_proto())
            if key in wanted and key not in found:
                found[key] = Program(*key, module.to_string(), _memory(executable), _cost(executable))
    return found


def _memory(executable: Any) -> dict[str, int]:
    try:
        stats = executable.get_compiled_memory_stats()
    except jax.errors.JaxRuntimeError:  # not every backend has them
        return {}
    return {name: getattr(stats, f"{name}_size_in_bytes") for name in _MEMORY}


def _cost(executable: Any) -> dict[str, float]:
    try:
        analysis = executable.cost_analysis()
    except jax.errors.JaxRuntimeError:
        return {}
    return {name: float(analysis[name]) for name in ("flops", "bytes accessed") if name in analysis}


def _module_id(proto: bytes) -> int:
    """Field 5 of an HloModuleProto, read by the wire format alone: JAX gives the id in no other way."""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = proto[at]
            at, value, shift = at + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while at < len(proto):
        number, form = divmod(varint(), 8)
        if form == 0:
            value = varint()
            if number == 5:
                return value
        else:
            size = {1: 8, 5: 4}.get(form) or varint()  # before `at` is read: it moves on
            at += size
    return -1
