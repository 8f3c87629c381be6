"""Reads the files of a run folder, finished or not.

A run may have been stopped while writing, so every file may be missing or cut. Readers take what is whole and put one
plain sentence about the rest into `notes`; they never raise for bad content.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.command_line import ConfigError, parse_yaml
from socialr1_jax.intervals import interval

Row = dict[str, Any]
Metrics = dict[str, dict[int, dict[str, float]]]  # phase -> step -> key -> finite number

RUN_FILES = ("config.yaml", "metrics.jsonl", "rollouts.jsonl", "summary.json")
STATUSES = ("ok", "truncated", "malformed", "unscorable", "error")
_MOST_TEXT = 1 << 20  # bytes of config.yaml or summary.json


def missing_files(directory: Path) -> list[str]:
    """Which of RUN_FILES are not there. Raises FileNotFoundError when none is: then the folder is no run."""
    missing = [name for name in RUN_FILES if not (directory / name).is_file()]
    if len(missing) == len(RUN_FILES):
        raise FileNotFoundError(
            f"{directory}: no report written, it holds none of {', '.join(RUN_FILES)}; give the output_dir of a run"
        )
    return missing


def read_config(directory: Path, notes: list[str]) -> Mapping[str, Any]:
    """Returns the content of config.yaml; empty when it is missing or is not a YAML mapping."""
    try:
        config = parse_yaml(read_text(directory / "config.yaml")) or {}
    except ConfigError as error:
        notes.append(f"config.yaml cannot be read: {error}")
        return {}
    if not isinstance(config, dict):
        notes.append("config.yaml cannot be read: it does not hold key: value lines")
        return {}
    return config


def read_summary(directory: Path, notes: list[str]) -> dict[str, float]:
    """The finite numbers of summary.json."""
    path = directory / "summary.json"
    if not path.is_file():
        return {}
    try:
        summary = json.loads(read_text(path))
    except (ValueError, RecursionError):
        summary = None
    if isinstance(summary, dict):
        return {str(key): value for key in summary if (value := number(summary[key])) is not None}
    notes.append("summary.json is cut or unreadable")
    return {}


def read_metrics(directory: Path, notes: list[str]) -> Metrics:
    """The finite numbers of metrics.jsonl; where a resumed run wrote a step twice, the last line counts."""
    metrics: Metrics = {}
    for _, row in read_lines(directory / "metrics.jsonl", notes):
        numbers = {key: value for key in row if key != "step" and (value := number(row[key])) is not None}
        metrics.setdefault(str(row.get("phase")), {})[row["step"]] = numbers
    return metrics


def before_after(summary: Mapping[str, float], metrics: Metrics) -> list[Row]:
    """Held-out accuracy before and after GRPO, from summary.json, else from evaluations: label, value, low, high.

    The 95 % interval is the evaluation's own (accuracy_low, accuracy_high) or comes from its standard error where it
    has one (both know that samples of one question are not independent), else from the number of responses.
    """
    evaluations = [row for _, row in sorted(metrics.get("eval", {}).items()) if "accuracy" in row]
    points = []
    for label, key, found in (
        ("Before GRPO", "accuracy_sft", evaluations[:1]),
        ("After GRPO", "accuracy_grpo", evaluations[1:][-1:]),
    ):
        row = found[0] if found else {}
        value = summary.get(key, row.get("accuracy"))
        if value is not None:
            # the spread of another evaluation says nothing about this value
            same = row if math.isclose(row.get("accuracy", -1.0), value, abs_tol=1e-4) else {}
            if "accuracy_low" in same and "accuracy_high" in same:
                low, high = same["accuracy_low"], same["accuracy_high"]
            else:
                count = summary.get("heldout_responses", row.get("responses", 0.0))
                low, high = interval(value, same.get("accuracy_stderr"), count)
            points.append({"label": label, "value": value, "low": low, "high": high})
    return points


def number(value: Any) -> float | None:
    """A finite number as a float; None for everything else (null, NaN, text, true)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def reward_of(row: Row) -> float:
    """The reward of a rollout row; 0 where it is unscorable."""
    return number(row.get("reward")) or 0.0


def terms_of(row: Row) -> dict[str, float | None]:
    """The reward terms of a rollout row; None where a term could not be scored."""
    terms = row.get("terms")
    return {str(name): number(terms[name]) for name in terms} if isinstance(terms, dict) else {}


def is_right(row: Row) -> bool:
    """Whether the outcome term of a rollout row says that its answer equals the gold one."""
    return (terms_of(row).get("outcome") or 0.0) > 0.5


def status_of(row: Row) -> str:
    """How a response ended, one of STATUSES: as its row says, else (older rows) from finish_reason, reward, format."""
    if row.get("status") in STATUSES:
        return str(row["status"])
    if row.get("finish_reason") in ("length", "error"):
        return "truncated" if row["finish_reason"] == "length" else "error"
    if number(row.get("reward")) is None:
        return "unscorable"
    return "malformed" if (terms_of(row).get("format") or 0.0) < 1 else "ok"


def read_text(path: Path) -> str:
    """Returns the beginning of a file, at most 1 MiB, with U+FFFD for broken bytes; empty when there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(_MOST_TEXT).decode("utf-8", errors="replace")


def read_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, Row]]:
    """(the byte where it begins, row) of each whole JSON line with a step: rollouts.jsonl may hold gigabytes."""
    if not path.is_file():
        return
    bad: list[int] = []
    offset = 0
    with path.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            row = _parsed(line)
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield offset, row
            elif line.strip():
                bad.append(line_number)
            offset += len(line)
    if bad:
        what = "1 unreadable line" if len(bad) == 1 else f"{len(bad)} unreadable lines"
        notes.append(f"{path.name}: {what} left out, from line {bad[0]} (a stopped run cuts its last line)")


def read_rows(path: Path, offsets: list[int]) -> Iterator[Row]:
    """The rows that begin at bytes which `read_lines` gave, in the order asked for."""
    if not offsets:
        return
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            yield _parsed(file.readline())


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
