"""The kept record of benchmarks: a JSON line each, and the table made of them in a Markdown file."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.files import append, write_whole
from socialr1_jax.training.provenance import NOT_INSTALLED, commit, versions

BEGIN, END = "<!-- benchmarks: made by scripts/benchmark.py, do not edit -->", "<!-- end of benchmarks -->"
_VERSIONS = ("jax", "transformers", "torch", "trl")
_COLUMNS = ("prefill_tok_s", "decode_tok_s", "update_tok_s", "grpo_step_s")
_TITLES = ("prefill tokens/s", "decode tokens/s", "update tokens/s", "GRPO step s")


def record(file: Path, command: str, result: Mapping[str, Any]) -> dict[str, Any]:
    """Appends a result with what made it, and returns the line: date, command, machine, versions, commit, result."""
    line = {
        "date": time.strftime("%Y-%m-%d"),
        "command": command,
        "machine": machine(),
        "versions": {name: one for name, one in versions("torch", "trl").items() if one != NOT_INSTALLED},
        "commit": commit(),
        "result": dict(result),
    }
    append(file, [json.dumps(line) + "\n"])
    return line


def read_record(file: Path) -> list[dict[str, Any]]:
    """The lines of a record. Raises ValueError naming the line that is none."""
    lines = []
    for number, text in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        try:
            line = json.loads(text)
            lines.append({name: line[name] for name in ("date", "command", "machine", "versions", "commit", "result")})
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file} line {number}: no line of a record ({error!r})") from error
    return lines


def table(lines: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each line of the record; after a figure the peer's, and how many times faster ours is."""
    head = ["date, machine", "versions", *_TITLES, "command"]
    rows = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for line in lines:
        shown = ", ".join(f"{name} {line['versions'][name]}" for name in _VERSIONS if line["versions"].get(name))
        cells = [f"{line['date']}, {line['machine']}", shown, *(_cell(line["result"], name) for name in _COLUMNS)]
        rows.append("| " + " | ".join([*cells, f"`{line['command']}`"]) + " |")
    return "\n".join(rows) + "\n"


def render(page: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Replaces the table between the marks of a page. Raises ValueError where they are missing."""
    text = page.read_text(encoding="utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN!r} and {END!r} to put the table between")
    write_whole(page, f"{before}{begin}\n\n{table(lines)}\n{end}{after}")


def machine() -> str:
    """The accelerator, or the processor with its cores."""
    import jax

    devices = jax.devices()
    if devices[0].platform != "cpu":
        return f"{len(devices)} x {devices[0].device_kind}"
    listed = Path("/proc/cpuinfo")
    names = (
        [line.partition(":")[2] for line in listed.read_text().splitlines() if line.startswith("model name")]
        if (listed.exists())
        else []
    )
    return f"{' '.join((names or [platform.machine()])[0].split())}, {os.cpu_count()} cores"


def _cell(result: Mapping[str, Any], name: str) -> str:
    if name not in result:
        return ""
    own, peer = result[name], result.get("peers", {}).get(name)
    if peer is None:
        return f"{own:,}"
    faster = peer / own if name.endswith("_s") and not name.endswith("tok_s") else own / peer
    return f"{own:,} ({peer:,}: **{faster:.2f}**)"
