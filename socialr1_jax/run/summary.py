"""Write summary.json, the results of a finished run."""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import jax

from socialr1_jax.run.folder import wall_seconds
from socialr1_jax.runtime.files import write_json


def write_summary(folder: Path, *, start: str, **more: Any) -> dict[str, Any]:
    """Write and return the summary of the run in `folder`, from the first and last evaluation in its metrics.

    `start` names the weights before GRPO: the keys are accuracy_<start>, accuracy_grpo and so on. accuracy_by_type is
    {type: [<start>, grpo]}; chance and the best rule's figures have one key each. A replay has no evaluation and none
    of these keys. dropped_prompts counts prompts that were too long, once per epoch. wall_seconds covers all sessions.
    """
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").split("\n")
    rows = list(map(json.loads, filter(None, lines)))
    evaluations = [row for row in rows if row["phase"] == "eval"]
    summary: dict[str, Any] = {}
    if evaluations:
        first, last = evaluations[0], evaluations[-1]
        summary = {f"{name}_{start}": first[name] for name in _KEPT} | {f"{name}_grpo": last[name] for name in _KEPT}
        summary["heldout_responses"] = last["responses"]
        if "pair_accuracy" in first and "pair_accuracy" in last:
            summary |= {f"pair_accuracy_{start}": first["pair_accuracy"], "pair_accuracy_grpo": last["pair_accuracy"]}
        before, after = (row.get("accuracy_by_type", {}) for row in (first, last))
        if both := [name for name in after if name in before]:
            summary["accuracy_by_type"] = {name: [before[name], after[name]] for name in both}
        summary |= {name: last[name] for name in _BASELINES if name in last}
    dropped = [row["dropped_prompts"] for row in rows if "dropped_prompts" in row]
    summary |= {"dropped_prompts": dropped[-1]} if dropped else {}
    summary |= {
        "steps": max((row["step"] for row in rows if row["phase"] in ("eval", "grpo")), default=0),
        "wall_seconds": round(wall_seconds(folder), 1),
        "peak_rss_bytes": peak_rss_bytes(),
        **more,
    }
    write_json(folder / "summary.json", summary)
    return summary


_BASELINES = ("chance", "best_rule", "best_rule_accuracy", "best_rule_accuracy_by_type", "best_rule_pair_accuracy")
_KEPT = ("accuracy", "accuracy_stderr", "format_rate", "reward", "response_tokens")


def peak_bytes() -> int:
    """Return the peak memory of this process' first device, or of this process if the device reports none."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return int(stats.get("peak_bytes_in_use", 0)) or peak_rss_bytes()


def peak_rss_bytes() -> int:
    """Return the peak resident memory of this process in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
