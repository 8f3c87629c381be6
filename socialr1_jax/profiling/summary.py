"""The figures of a profile: where the wall time of each phase went, and what it could have been.

Seconds are means over the measured steps. `seconds` of a block, a kind or an op are wall time: an instant in which k
ops run counts 1/k for each, so they add up to the time in which any op runs, and with the idle time to the phase.
`thread_seconds` add up each op's own time on its thread or stream, and are more than wall time where ops overlap; the
threads that help with an op are not counted. An op's time never holds that of the ops inside it.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from socialr1_jax.models.arithmetic import Cost
from socialr1_jax.profiling.blocks import KINDS, NO_BLOCK
from socialr1_jax.profiling.instructions import Instruction, read_instructions
from socialr1_jax.profiling.peaks import Peaks
from socialr1_jax.profiling.programs import Program
from socialr1_jax.profiling.trace import Op, Span, Trace, cut, own_pieces, shared, union

STEP = "step"  # the annotation of a measured step
UNNAMED = "unnamed"  # ops of no named block
IDLE = "device idle"
_TOP_GAPS = 3
_UNKNOWN = Instruction(NO_BLOCK, "other", 0.0, 0.0, "")


@dataclass
class _Use:
    """Totals of one instruction in all measured steps of one phase."""

    instruction: Instruction
    runs: int = 0
    wall: float = 0.0  # nanoseconds, as the next
    thread: float = 0.0


def summarise(
    trace: Trace,
    programs: Mapping[tuple[str, int], Program],
    peaks: Peaks,
    phases: Sequence[str],
    costs: Mapping[str, Sequence[Cost]],
) -> dict[str, Any]:
    """{"step", "phases", "blocks", "kinds", "ops"} of the trace, ready for JSON."""
    steps = trace.spans(STEP)
    known = {key: read_instructions(program.text) for key, program in programs.items()}
    table: dict[tuple[tuple[str, int], str], int] = {}
    pieces: list[tuple[int, float, float]] = []
    ops: list[tuple[int, Op]] = []
    for line in trace.lines:
        keys = [table.setdefault((op.program, op.name), len(table)) for op in line]
        ops += zip(keys, line, strict=True)
        pieces += [(keys[piece.op], piece.start, piece.stop) for piece in own_pieces(line)]
    names = list(table)

    spans = {name: _inside(trace.spans(name), steps) for name in phases}
    uses: dict[str, dict[int, _Use]] = {}
    busy: dict[str, float] = {}
    for name in phases:
        uses[name], busy[name] = {}, 0.0
        for span in spans[name]:
            within = cut(pieces, span.start, span.stop)
            busy[name] += union((start, stop) for _, start, stop in within)
            for key, wall in shared(within).items():
                _use(uses[name], key, names, known).wall += wall
            for key, start, stop in within:
                uses[name][key].thread += stop - start
        for key, op in ops:
            if any(span.start <= op.start < span.stop for span in spans[name]) and key in uses[name]:
                uses[name][key].runs += 1
    count = len(steps)
    seconds = [step.seconds for step in steps]
    found = {
        name: _phase(spans[name], busy[name] / 1e9, uses[name], peaks, costs.get(name, ()), count) for name in phases
    }
    total: dict[int, _Use] = {}
    for of_phase in uses.values():
        for key, use in of_phase.items():
            summed = _use(total, key, names, known)
            summed.runs += use.runs
            summed.wall += use.wall
            summed.thread += use.thread
    wall = sum(seconds) / count
    return {
        "step": {
            "seconds": wall,
            "each": seconds,
            "phases_seconds": sum(one["seconds"] for one in found.values()),
            "idle_seconds": sum(one["idle_seconds"] for one in found.values()),
        },
        "phases": found,
        "blocks": _blocks(total, peaks, count),
        "kinds": _kinds(total, count),
        "ops": _ops(total, names, peaks, count),
        "ops_of_unknown_programs": sum(key not in known for key, _ in names),
    }


def _inside(spans: Sequence[Span], steps: Sequence[Span]) -> list[Span]:
    return [span for span in spans if any(step.start <= span.start and span.stop <= step.stop for step in steps)]


def _use(
    uses: dict[int, _Use],
    key: int,
    names: Sequence[tuple[tuple[str, int], str]],
    known: Mapping[tuple[str, int], Mapping[str, Instruction]],
) -> _Use:
    if key not in uses:
        program, name = names[key]
        uses[key] = _Use(known.get(program, {}).get(name, _UNKNOWN))
    return uses[key]


def _phase(
    spans: Sequence[Span], busy: float, uses: Mapping[int, _Use], peaks: Peaks, costs: Sequence[Cost], steps: int
) -> dict[str, Any]:
    seconds = sum(span.seconds for span in spans) / steps
    idle = seconds - busy / steps
    blocks = _blocks(uses, peaks, steps)
    bound = sum(peaks.bound(cost.flops, cost.bytes) for cost in costs)
    gaps = [(IDLE, idle, 0.0), *((name, one["seconds"], one["bound_seconds"]) for name, one in blocks.items())]
    gaps.sort(key=lambda gap: gap[2] - gap[1])
    return {
        "seconds": seconds,
        "busy_seconds": busy / steps,
        "idle_seconds": idle,
        "thread_seconds": sum(use.thread for use in uses.values()) / 1e9 / steps,
        "flops": sum(use.runs * use.instruction.flops for use in uses.values()) / steps,
        "needed_flops": sum(cost.flops for cost in costs),
        "needed_bytes": sum(cost.bytes for cost in costs),
        "bound_seconds": bound,
        "roofline_share": bound / seconds if seconds and costs else None,
        "kinds": _kinds(uses, steps),
        "blocks": blocks,
        "gaps": [
            {"what": what, "seconds": measured, "bound_seconds": least, "gap_seconds": measured - least}
            for what, measured, least in gaps[:_TOP_GAPS]
            if measured > least
        ],
    }


def _blocks(uses: Mapping[int, _Use], peaks: Peaks, steps: int) -> dict[str, dict[str, float]]:
    """By block, largest first. `bound_seconds` add up what each op needs by its own FLOP and bytes."""
    found: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for use in uses.values():
        one, block = use.instruction, found[use.instruction.block or UNNAMED]
        block["seconds"] += use.wall / 1e9 / steps
        block["thread_seconds"] += use.thread / 1e9 / steps
        block["bound_seconds"] += use.runs * peaks.bound(one.flops, one.bytes) / steps
        block["flops"] += use.runs * one.flops / steps
        block["bytes"] += use.runs * one.bytes / steps
    return {name: dict(found[name]) for name in sorted(found, key=lambda name: -found[name]["seconds"])}


def _kinds(uses: Mapping[int, _Use], steps: int) -> dict[str, float]:
    """Wall seconds of each kind of work."""
    found = dict.fromkeys(map(str, KINDS), 0.0)
    for use in uses.values():
        found[use.instruction.kind] += use.wall / 1e9 / steps
    return found


def _ops(
    uses: Mapping[int, _Use], names: Sequence[tuple[tuple[str, int], str]], peaks: Peaks, steps: int
) -> list[dict[str, Any]]:
    """All instructions, those that took most first; FLOP and bytes are those of all their runs in a step."""
    found = []
    for key in sorted(uses, key=lambda key: -uses[key].wall):
        use, ((module, number), name) = uses[key], names[key]
        one, seconds = use.instruction, use.wall / 1e9 / steps
        bound = use.runs * peaks.bound(one.flops, one.bytes) / steps
        found.append(
            {
                "op": name,
                "program": f"{module}.{number}",
                "op_name": one.op_name,
                "block": one.block or UNNAMED,
                "kind": one.kind,
                "runs": use.runs / steps,
                "seconds": seconds,
                "thread_seconds": use.thread / 1e9 / steps,
                "flops": use.runs * one.flops / steps,
                "bytes": use.runs * one.bytes / steps,
                "bound_seconds": bound,
                "roofline_share": bound / seconds if seconds else None,
            }
        )
    return found
