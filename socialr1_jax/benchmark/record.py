"""Record benchmarks as JSON lines, and render them as a table in a Markdown file."""

from __future__ import annotations

import json
import os
import platform
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.benchmark.benchmark import benchmark
from socialr1_jax.benchmark.config import BenchmarkConfig
from socialr1_jax.benchmark.suite import arguments, run_suite
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.run.provenance import NOT_INSTALLED, commit, versions
from socialr1_jax.runtime.files import append, write_whole
from socialr1_jax.runtime.terminal import print_result

BEGIN, END = "<!-- benchmarks: made by scripts/benchmark.py, do not edit -->", "<!-- end of benchmarks -->"
_VERSIONS = ("jax", "transformers", "torch", "trl")
# Column: our figure and the peers'. They train on whole rows only.
_COLUMNS = {
    "prefill tokens/s": ("prefill_tok_s", "prefill_tok_s"),
    "decode tokens/s": ("decode_tok_s", "decode_tok_s"),
    "update tokens/s, prompts shared": ("update_tok_s", "update_tok_s"),
    "update tokens/s, whole rows": ("update_whole_tok_s", "update_tok_s"),
    "GRPO step s": ("grpo_step_s", "grpo_step_s"),
}
_ENVIRONMENT = ("XLA_FLAGS", "JAX_PLATFORMS", "GLIBC_TUNABLES")  # variables that change speeds


def record(file: Path, command: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Append a result with its provenance, and return the line: date, command, machine, versions, commit, result.

    Environment variables that change speeds precede the command.
    """
    settings = [f"{name}={shlex.quote(os.environ[name])}" for name in _ENVIRONMENT if os.environ.get(name)]
    line = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join([*settings, command]),
        "machine": machine(),
        "versions": {name: v for name, v in versions("torch", "trl").items() if v != NOT_INSTALLED},
        "commit": commit(),
        "result": dict(result),
    }
    append(file, [json.dumps(line) + "\n"])
    return line


def print_benchmark(config: BenchmarkConfig) -> int:
    """Run the benchmark or suite, record the result if `record` is set, print it as a JSON line, and return the status.

    Raises OSError or ValueError if it cannot be recorded, if possible before the minutes of measuring.
    """
    file = Path(config.record)
    page = file.with_name("performance.md") if config.record else file
    if config.record:
        around_table(page)
        if file.exists():
            read_record(file)
    if config.suite:
        return run_suite(config)
    result = {"shape": config.shape, **benchmark(named_shape(config.shape), config)}
    try:
        if config.record:
            record(file, shlex.join(["python", "scripts/benchmark.py", *arguments(config)]), result)
            render(page, read_record(file))
    finally:
        print_result(json.dumps(result))
    return 0


def read_record(file: Path) -> list[dict[str, Any]]:
    """Return the lines of a record. Raises ValueError naming the first invalid line."""
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            lines.append({name: line[name] for name in ("date", "command", "machine", "versions", "commit", "result")})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} line {number}: not a line of a record ({error!r})") from error
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a row for each line of the record.

    A cell has our figure, half its spread, and in brackets the peer's figure and our speed-up.
    """
    head = ["date, machine", "versions", *_COLUMNS, "command"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in lines:
        shown = ", ".join(f"{name} {line['versions'][name]}" for name in _VERSIONS if line["versions"].get(name))
        cells = [
            f"{line['date']}, {line['machine']}",
            shown,
            *(_cell(line["result"], *pair) for pair in _COLUMNS.values()),
        ]
        rows.append("| " + " | ".join([*cells, f"`{line['command']}`"]) + " |")
    return "\n".join(rows) + "\n"


def render(page: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Replace the table between the marks of a page. Raises ValueError if they are missing."""
    before, after = around_table(page)
    write_whole(page, f"{before}\n\n{table(lines)}\n{after}")


def around_table(page: Path) -> tuple[str, str]:
    """Return the page up to the mark before the table and from the mark after it. Raises ValueError without them."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} lacks the lines {BEGIN!r} and {END!r} around the table")
    return before + begin, end + after


def machine() -> str:
    """Return the accelerators, or the processor with its cores."""
    import jax

    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    name = next((line.partition(":")[2] for line in lines if line.startswith("model name")), platform.machine())
    return f"{' '.join(name.split())}, {os.cpu_count()} cores"


def _cell(result: Mapping[str, Any], name: str, of_peer: str) -> str:
    if name not in result:
        return ""
    own, peer = result[name], result.get("peers", {}).get(of_peer)
    phase = name.removesuffix("_s").removesuffix("_tok")
    low, middle, high = result["spread_s"][phase]
    shown = f"{own:,} ±{(high - low) / 2 / middle:.0%}"
    if share := result.get("of_peak", {}).get(phase):
        shown += f", {share:.0%} of peak"
    if peer is None:
        return shown
    return f"{shown} ({peer:,}: **{own / peer if name.endswith('tok_s') else peer / own:.2f}**)"
