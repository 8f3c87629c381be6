"""Reads the files of a run folder, finished or not.

A run may have been stopped while writing, so every file may be missing or cut. Readers take what is whole and put one
plain sentence about the rest into `notes`; they never raise for bad content.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Row = dict[str, Any]
Metrics = dict[str, dict[int, dict[str, float]]]  # phase -> step -> key -> finite number


@dataclass
class Rollouts:
    """The responses that a page needs, kept while streaming: a long run's rollouts.jsonl holds gigabytes.

    `before`: (question id, sample) -> its row of the first evaluation (phase eval_sft, or eval at the first step of
    that phase); `after`: its row of the latest one (phase eval_grpo, or eval at a later step).
    `training`: step -> the first three rows of phase grpo, and the worst and the best of the rest.
    """

    before: dict[tuple[str, int], Row] = field(default_factory=dict)
    after: dict[tuple[str, int], Row] = field(default_factory=dict)
    training: dict[int, list[Row]] = field(default_factory=dict)


def read_config(directory: Path, notes: list[str]) -> Mapping[str, Any]:
    """The content of config.yaml; empty when it is missing or is not a YAML mapping."""
    try:
        config = yaml.safe_load(read_text(directory / "config.yaml")) or {}
    except (yaml.YAMLError, ValueError, RecursionError):
        config = None
    if isinstance(config, dict):
        return config
    notes.append("config.yaml cannot be read as YAML")
    return {}


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
    for row in _read_lines(directory / "metrics.jsonl", notes):
        numbers = {key: value for key in row if key != "step" and (value := number(row[key])) is not None}
        metrics.setdefault(str(row.get("phase")), {})[row["step"]] = numbers
    return metrics


def read_rollouts(directory: Path, notes: list[str]) -> Rollouts:
    """What `Rollouts` keeps of rollouts.jsonl."""
    kept, first = Rollouts(), None
    for row in _read_lines(directory / "rollouts.jsonl", notes):
        key = (str(row.get("id")), row["sample"] if isinstance(row.get("sample"), int) else 0)
        match row.get("phase"):
            case "eval_sft" | "eval_grpo" | "eval" as phase:
                first = row["step"] if first is None and phase == "eval" else first
                is_before = phase == "eval_sft" or (phase == "eval" and row["step"] == first)
                (kept.before if is_before else kept.after)[key] = row
            case "grpo":
                rows = kept.training.setdefault(row["step"], [])
                rows.append(row)
                if len(rows) > 5:
                    rows[3:] = [min(rows[3:], key=reward_of), max(rows[3:], key=reward_of)]
    return kept


def before_after(summary: Mapping[str, float], metrics: Metrics) -> list[Row]:
    """Held-out accuracy before and after GRPO, from summary.json, else from evaluations: label, value, low, high.

    The 95 % interval uses the evaluation's standard error where there is one (it knows that samples of one question
    are not independent), else the number of responses.
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
            # the standard error of another evaluation says nothing about this value
            same = math.isclose(row.get("accuracy", -1.0), value, abs_tol=1e-4)
            count = summary.get("heldout_responses", row.get("responses", 0.0))
            low, high = interval(value, row.get("accuracy_stderr") if same else None, count)
            points.append({"label": label, "value": value, "low": low, "high": high})
    return points


def interval(share: float, stderr: float | None, count: float) -> tuple[float, float]:
    """95 % interval of a share: normal with the given standard error, else Wilson's (1927) on `count` responses."""
    z = 1.959964
    if stderr:
        return max(0.0, share - z * stderr), min(1.0, share + z * stderr)
    if count <= 0 or not 0 <= share <= 1:
        return share, share
    centre = share + z * z / (2 * count)
    spread = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (centre - spread) / (1 + z * z / count)), min(1.0, (centre + spread) / (1 + z * z / count))


def number(value: Any) -> float | None:
    """A finite number as a float; None for everything else (null, NaN, text, true)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def reward_of(row: Row) -> float:
    """The reward of a rollout row; 0 where it is unscorable."""
    return number(row.get("reward")) or 0.0


def is_right(row: Row) -> bool:
    """Whether the outcome term of a rollout row says that its answer equals the gold one."""
    terms = row.get("terms")
    return isinstance(terms, dict) and (number(terms.get("outcome")) or 0.0) > 0.5


def read_text(path: Path) -> str:
    """The file's text, with U+FFFD for cut or broken bytes; empty when there is no file."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _read_lines(path: Path, notes: list[str]) -> Iterator[Row]:
    if not path.is_file():
        return
    bad: list[int] = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line_number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield row
            elif line.strip():
                bad.append(line_number)
    if bad:
        what = "1 unreadable line" if len(bad) == 1 else f"{len(bad)} unreadable lines"
        notes.append(f"{path.name}: {what} left out, from line {bad[0]} (a stopped run cuts its last line)")
