"""Show a profile as a summary on the console and as a self-contained page without network access or scripts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from socialr1_jax.profiling.programs import KINDS
from socialr1_jax.report.page import render_page
from socialr1_jax.run.console import console
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.terminal import amount_text, counted, percent_text, seconds_text

_TRIES = {  # by what takes most of the longest phase
    "matmul": "model.dtype=bfloat16, or a larger grpo.micro_batch_tokens",
    "attention": "shorter prompts and responses, or on a GPU model.attention=cudnn",
    "collective": "a mesh with fewer parts, where memory allows",
    "other": "the largest ops of the table",
    "idle": "a faster judge or larger sampling.segment_tokens: the device waits for the host",
}


def conclusion(summary: Mapping[str, Any]) -> list[str]:
    """Return three sentences: what takes the time of a step, what bounds it, what to try."""
    name, phase = max(summary["phases"].items(), key=lambda item: item[1]["seconds"])
    seconds, share = phase["seconds"], phase["roofline_share"]
    parts = {**phase["kinds"], "idle": phase["idle_seconds"]}
    largest = max(parts, key=parts.__getitem__)
    bound = f"needs at least {seconds_text(phase['bound_seconds'])} and reaches {percent_text(share)} of its roofline"
    return [
        f"The {name} takes {seconds_text(seconds)}, {percent_text(seconds / summary['step']['seconds'])} of a step; "
        f"{percent_text(parts[largest] / seconds)} of it is {largest}.",
        f"It {bound if share else 'has no bound by arithmetic'}; most above its bound: {gaps_text(phase['gaps'])}.",
        f"Try: {_TRIES[largest]}.",
    ]


def write_page(summary: Mapping[str, Any], path: Path) -> Path:
    """Write the page of a profile.json, in the style of the run report."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    texts = {"seconds": seconds_text, "amount": amount_text, "percent": percent_text}
    values = {**summary, "conclusion": conclusion(summary)}
    return write_whole(path, render_page(template, values, **texts, gaps=gaps_text, counted=counted))


def say_summary(summary: Mapping[str, Any]) -> None:
    """Print the phases with the largest gaps to their bounds, and the compilations."""
    step, peaks, compiled = summary["step"], summary["peaks"], summary["compiled_in_untraced"]
    console.print(
        f"{summary['device']}: at most {amount_text(peaks['flops'])}FLOP/s in {summary['dtype']}, "
        f"{amount_text(peaks['bytes_per_second'])}B/s; a step took {seconds_text(step['seconds'])}, "
        f"untraced {seconds_text(summary['untraced_seconds'])}"
        + (f" with {counted(compiled, 'program')} compiled in it: do not compare the two" if compiled else "")
    )
    table = Table(title=f"wall time of a step, mean of {summary['steps']}")
    for heading in ("phase", "time", "share", *KINDS, "idle", "bound", "of roofline", "puts"):
        table.add_column(heading, justify="left" if heading == "phase" else "right")
    for name, phase in summary["phases"].items():
        kinds = [phase["kinds"][kind] for kind in KINDS]
        first, *others = map(seconds_text, (phase["seconds"], *kinds, phase["idle_seconds"], phase["bound_seconds"]))
        share, roofline = percent_text(phase["seconds"] / step["seconds"]), percent_text(phase["roofline_share"])
        table.add_row(name, first, share, *others, roofline, f"{phase['puts']:.0f}")
    console.print(table)
    console.print("\n".join(conclusion(summary)))
    for name, phase in summary["phases"].items():
        console.print(f"{name}: most above its bound: {gaps_text(phase['gaps'])}")
    for compilation in summary["compilations"]:
        about = f"{compilation['function']}, {compilation['seconds']:.2f} s: {compilation['cause']}"
        console.print(f"compiled in {compilation['phase']}: {about}", soft_wrap=True)


def gaps_text(gaps: list[Mapping[str, Any]]) -> str:
    return ", ".join(f"{gap['what']} {seconds_text(gap['gap_seconds'])}" for gap in gaps)
