"""Read the files of a run folder, finished or not.

A run may have been stopped while writing, so every file may be missing or cut. Readers return the valid part and add a
sentence about the rest to `notes`; they never raise for bad content.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.config.sections import ConfigError
from socialr1_jax.config.yaml_text import parse_yaml
from socialr1_jax.questions.audit import SHORTCUTS, strong_shortcuts
from socialr1_jax.questions.intervals import interval
from socialr1_jax.runtime.files import flattened

Row = dict[str, Any]
Metrics = dict[str, dict[int, dict[str, float]]]  # phase -> step -> key -> finite number

RUN_FILES = ("config.yaml", "metrics.jsonl", "rollouts.jsonl", "summary.json")
STATUSES = ("ok", "truncated", "malformed", "unscorable", "error")
_MOST_TEXT = 1 << 20  # bytes of config.yaml or summary.json


def missing_files(directory: Path) -> list[str]:
    """Return the missing ones of RUN_FILES. Raises FileNotFoundError if all are missing: the folder is not a run."""
    missing = [name for name in RUN_FILES if not (directory / name).is_file()]
    if len(missing) == len(RUN_FILES):
        raise FileNotFoundError(
            f"{directory}: no report written, it holds none of {', '.join(RUN_FILES)}; give the output_dir of a run"
        )
    return missing


def read_config(directory: Path, notes: list[str]) -> Mapping[str, Any]:
    """Return the content of config.yaml, or {} if it is missing or not a YAML mapping."""
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
    """Return the finite numbers of summary.json."""
    path = directory / "summary.json"
    if not path.is_file():
        return {}
    summary = _parsed(read_text(path))
    if isinstance(summary, dict):
        return {str(key): value for key in summary if (value := number(summary[key])) is not None}
    notes.append("summary.json is cut or unreadable")
    return {}


def read_metrics(directory: Path, notes: list[str]) -> Metrics:
    """Return the finite numbers of metrics.jsonl, with nested names as in `files.flattened`.

    If a resumed run wrote a step twice, the last line is used.
    """
    metrics: Metrics = {}
    for _, row in read_lines(directory / "metrics.jsonl", notes):
        values = flattened(row).items()
        numbers = {key: value for key, held in values if key != "step" and (value := number(held)) is not None}
        metrics.setdefault(str(row.get("phase")), {})[row["step"]] = numbers
    return metrics


def before_after(summary: Mapping[str, float], metrics: Metrics, name: str = "accuracy") -> list[Row]:
    """Return a held-out figure before and after GRPO as rows of label, value, low, high.

    The value comes from summary.json, else from evaluations. The 95 % interval is the evaluation's (accuracy_low,
    accuracy_high), or is computed from its standard error (both account for correlated samples of a question), else
    from the number of responses.

    Args:
        name: accuracy, pair_accuracy or accuracy/TYPE.
    """
    evaluations = [row for _, row in sorted(metrics.get("eval", {}).items()) if name in row]
    points = []
    for label, key, candidates in (
        ("Before GRPO", f"{name}_sft", evaluations[:1]),
        ("After GRPO", f"{name}_grpo", evaluations[1:][-1:]),
    ):
        row = candidates[0] if candidates else {}
        value = summary.get(key, row.get(name))
        if value is not None:
            # use the spread only if it belongs to this value
            same = row if math.isclose(row.get(name, -1.0), value, abs_tol=1e-4) else {}
            if f"{name}_low" in same and f"{name}_high" in same:
                low, high = same[f"{name}_low"], same[f"{name}_high"]
            else:
                count = summary.get("heldout_responses", row.get("responses", 0.0))
                low, high = interval(value, same.get(f"{name}_stderr"), count)
            points.append({"label": label, "value": value, "low": low, "high": high})
    return points


def accuracies(summary: Mapping[str, float], metrics: Metrics) -> list[Row]:
    """Return the rows of the page's table of held-out accuracies: label, before, after, chance, rule (None if unknown).

    The order is all questions, groups of twins, then each type.
    """
    known = last_evaluation(metrics)
    types = {key for row in metrics.get("eval", {}).values() for key in row if key.startswith("accuracy/")}
    rows = []
    for label, name, chance, rule in (
        ("All questions", "accuracy", "chance", "best_rule_accuracy"),
        ("Groups of twins, all right", "pair_accuracy", "", "best_rule_pair_accuracy"),
        *((key.removeprefix("accuracy/"), key, "", f"best_rule_{key}") for key in sorted(types)),
    ):
        values = {point["label"]: point["value"] for point in before_after(summary, metrics, name)}
        if values:
            before, after = values.get("Before GRPO"), values.get("After GRPO")
            row = {"label": label, "before": before, "after": after}
            rows.append(row | {"chance": known.get(chance), "rule": known.get(rule)})
    return rows


def last_evaluation(metrics: Metrics) -> Mapping[str, float]:
    """Return the figures of the last evaluation, or {} if there is none."""
    evaluations = metrics.get("eval", {})
    return evaluations[max(evaluations)] if evaluations else {}


def best_rule(directory: Path) -> str:
    """Return the name of the best rule in the last evaluation of metrics.jsonl, or "" if it names none."""
    name = ""
    for _, row in read_lines(directory / "metrics.jsonl", []):
        if isinstance(row.get("best_rule"), str):
            name = row["best_rule"]
    return name


def shortcuts(directory: Path) -> list[str]:
    """Return the strong shortcuts in the questions that the run trained on; see `audit.strong_shortcuts`."""
    path = directory / SHORTCUTS
    try:
        return strong_shortcuts(json.loads(read_text(path))) if path.is_file() else []
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return ["shortcuts.json is cut or unreadable"]


def number(value: Any) -> float | None:
    """Return a finite number as a float, and None for everything else (null, NaN, text, true)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
        return None
    return float(value)


def terms_of(row: Row) -> dict[str, float | None]:
    """Return the reward terms of a rollout row; None for a term that could not be scored."""
    terms = row.get("terms")
    return {str(name): number(terms[name]) for name in terms} if isinstance(terms, dict) else {}


def is_right(row: Row) -> bool:
    """Return whether a rollout row's answer equals the gold one, according to its outcome term."""
    return (terms_of(row).get("outcome") or 0.0) > 0.5


def status_of(row: Row) -> str:
    """Return the status of a response, one of STATUSES; ok if the row has none."""
    return next((status for status in STATUSES if row.get("status") == status), "ok")


def read_text(path: Path) -> str:
    """Return the first 1 MiB of a file, with U+FFFD for invalid bytes, or "" if there is no file."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return file.read(_MOST_TEXT).decode("utf-8", errors="replace")


def read_lines(path: Path, notes: list[str]) -> Iterator[tuple[int, Row]]:
    """Yield (byte offset, row) of each valid JSON line with a step, one by one: rollouts.jsonl may have gigabytes."""
    if not path.is_file():
        return
    bad: list[int] = []
    offset = 0
    with path.open("rb") as lines:
        for line_number, line in enumerate(lines, start=1):
            row = _parsed(line.decode("utf-8", "replace"))
            if isinstance(row, dict) and isinstance(row.get("step"), int):
                yield offset, row
            elif line.strip():
                bad.append(line_number)
            offset += len(line)
    if bad:
        what = "1 unreadable line" if len(bad) == 1 else f"{len(bad)} unreadable lines"
        notes.append(f"{path.name}: {what} left out, from line {bad[0]} (a stopped run cuts its last line)")


def read_rows(path: Path, offsets: list[int]) -> Iterator[Row]:
    """Yield the rows at the given offsets of `read_lines`, in that order."""
    if not offsets:
        return
    with path.open("rb") as file:
        for offset in offsets:
            file.seek(offset)
            yield _parsed(file.readline().decode("utf-8", "replace"))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
