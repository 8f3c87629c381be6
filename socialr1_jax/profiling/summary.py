"""Compute the figures of a profile: the wall time of each phase by block and kind, and its lower bound.

Seconds are means over the measured steps. The seconds of a block, a kind or an op are wall time without nested ops, so
they add up to the time in which any op runs and, with the idle time, to the phase.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from socialr1_jax.benchmark.peaks import Peaks
from socialr1_jax.models.arithmetic import Cost
from socialr1_jax.profiling.programs import KINDS, Instruction, Program
from socialr1_jax.profiling.trace import Trace, own_pieces, wall_shares

IDLE = "device idle"
_PUT = "DevicePutWithSharding"  # the runtime's event for a transfer to a device, explicit or implicit

Costs = Sequence[Mapping[str, Cost]]  # sequential parts of a phase, each with the costs of its blocks
_Figures = Sequence[tuple[Instruction, float]]  # wall seconds


def summarise(
    trace: Trace,
    programs: Mapping[tuple[str, int], Program],
    peaks: Peaks,
    measured: str,
    phases: Sequence[str],
    costs: Mapping[str, Costs],
) -> dict[str, Any]:
    """Return {"step", "phases", "blocks", "kinds", "ops"} of the trace for JSON. Spans named `measured` are steps."""
    steps, ops = trace.spans(measured), [op for line in trace.lines for op in line]
    places = {key: i for i, key in enumerate(dict.fromkeys((op.program, op.name) for op in ops))}
    known = {key: program.instructions for key, program in programs.items()}
    instructions = [known.get(program, {}).get(name, Instruction()) for program, name in places]
    pieces = [(line[i], start, stop) for line in trace.lines for i, start, stop in own_pieces(line)]
    pieces_n2 = np.array([times for _, *times in pieces]).reshape(-1, 2)
    keys_n = np.array([places[op.program, op.name] for op, _, _ in pieces], int)
    starts_n, started_n = np.array([op.start for op in ops]), np.array([places[op.program, op.name] for op in ops], int)
    table, by_phase = np.zeros((2, len(places))), {}  # wall seconds and runs of each instruction in a step
    for phase in phases:
        spans, of_phase = trace.spans(phase, steps), np.zeros_like(table)
        for span in spans:
            seconds_n = wall_shares(pieces_n2, span.start, span.stop) / 1e9
            runs_n = started_n[(span.start <= starts_n) & (starts_n < span.stop)]
            of_phase += np.bincount(keys_n, seconds_n, len(places)), np.bincount(runs_n, minlength=len(places))
        table += of_phase / len(steps)
        seconds, puts = sum(span.stop - span.start for span in spans) / 1e9, len(trace.spans(_PUT, spans))
        figures = list(zip(instructions, (of_phase[0] / len(steps)).tolist(), strict=True))
        by_phase[phase] = _phase(seconds / len(steps), figures, peaks, costs.get(phase, ()))
        by_phase[phase]["puts"] = puts / len(steps)
    each, figures = [(step.stop - step.start) / 1e9 for step in steps], list(zip(instructions, table[0], strict=True))
    return {
        "step": {
            "seconds": sum(each) / len(steps),
            "each": each,
            "phases_seconds": sum(phase["seconds"] for phase in by_phase.values()),
            "idle_seconds": sum(phase["idle_seconds"] for phase in by_phase.values()),
        },
        "phases": by_phase,
        "blocks": _blocks(figures, peaks, [part for phase in phases for part in costs.get(phase, ())]),
        "kinds": _kinds(figures),
        "ops": [
            {"op": name, "program": f"{program[0]}.{program[1]}"}
            | instructions[i]._asdict()
            | {"runs": float(table[1, i]), "seconds": float(table[0, i])}
            for (program, name), i in sorted(places.items(), key=lambda item: -table[0, item[1]])
            if table[0, i]
        ],
        "ops_of_unknown_programs": sum(program not in known for program, _ in places),
    }


def _phase(seconds: float, figures: _Figures, peaks: Peaks, costs: Costs) -> dict[str, Any]:
    busy, needed = sum(wall for _, wall in figures), [sum(part.values(), Cost()) for part in costs]
    bound, blocks = sum(peaks.bound(cost) for cost in needed), _blocks(figures, peaks, costs)
    gaps = {IDLE: {"seconds": seconds - busy, "bound_seconds": 0.0}} | blocks
    return {
        "seconds": seconds,
        "busy_seconds": busy,
        "idle_seconds": seconds - busy,
        "needed_flops": sum(cost.flops for cost in needed),
        "needed_bytes": sum(cost.bytes for cost in needed),
        "bound_seconds": bound,
        "roofline_share": bound / seconds if seconds and costs else None,
        "kinds": _kinds(figures),
        "blocks": blocks,
        "gaps": [
            {"what": name, **gaps[name], "gap_seconds": gap}
            for gap, name in sorted(((g["seconds"] - g["bound_seconds"], n) for n, g in gaps.items()), reverse=True)
            if gap > 0
        ][:3],
    }


def _blocks(figures: _Figures, peaks: Peaks, costs: Costs) -> dict[str, dict[str, float]]:
    """Return the seconds and bounds by block, largest first. `bound_seconds` is 0 if the shapes set no bound."""
    blocks: dict[str, dict[str, float]] = {}
    for instruction, wall in figures:
        if wall:
            blocks.setdefault(instruction.block, {"seconds": 0.0, "bound_seconds": 0.0})["seconds"] += float(wall)
    for name, cost in (item for part in costs for item in part.items() if item[0] in blocks):
        blocks[name]["bound_seconds"] += peaks.bound(cost)
    return dict(sorted(blocks.items(), key=lambda item: -item[1]["seconds"]))


def _kinds(figures: _Figures) -> dict[str, float]:
    return {kind: float(sum(wall for instruction, wall in figures if instruction.kind == kind)) for kind in KINDS}
