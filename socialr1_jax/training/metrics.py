"""Where a run's numbers go: metrics.jsonl always, TensorBoard by default, wandb when asked for; rollouts.jsonl."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.config import TrackingConfig
from socialr1_jax.files import finite, write_whole
from socialr1_jax.processes import is_first


class RunLog:
    """Appends to the run folder's metrics.jsonl and rollouts.jsonl, and to the trackers that are switched on.

    `first_step` is 0 for a new run. A resumed one drops what it wrote at and after that step, which will come again.
    With several processes the first one writes.
    """

    def __init__(self, folder: Path, tracking: TrackingConfig, *, first_step: int, config: Mapping[str, Any]) -> None:
        self._metrics, self._rollouts = folder / "metrics.jsonl", folder / "rollouts.jsonl"
        self._tensorboard: Any = None
        self._wandb: Any = None
        self._writes = is_first()
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for file in (self._metrics, self._rollouts):
            _keep_before(file, first_step)
        if tracking.tensorboard:
            from tensorboardX import SummaryWriter

            self._tensorboard = SummaryWriter(str(folder / "tensorboard"), purge_step=first_step or None)
        if tracking.wandb:
            import wandb

            self._wandb = wandb.init(project="socialr1_jax", dir=str(folder), config=dict(config), resume="allow")

    def metrics(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One line of numbers; a value that is not finite is written as null, and trackers do not get it."""
        if not self._writes:
            return
        _append(self._metrics, [{"phase": phase, "step": step, **values}])
        values = {name: value for name, value in values.items() if math.isfinite(value)}
        if self._tensorboard:
            for name, value in values.items():
                self._tensorboard.add_scalar(f"{phase}/{name}", value, step)
        if self._wandb:
            self._wandb.log({f"{phase}/{name}": value for name, value in values.items()}, step=step)

    def rollouts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """One line a response."""
        if self._writes:
            _append(self._rollouts, rows)

    def close(self) -> None:
        if self._tensorboard:
            self._tensorboard.close()
        if self._wandb:
            self._wandb.finish()


def _append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows)


def _keep_before(path: Path, first_step: int) -> None:
    if not path.exists():
        return
    kept = []
    # Not splitlines(): it also cuts at characters such as U+2028 that stand inside a response.
    for line in path.read_text(encoding="utf-8").split("\n"):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # the end of the file, or the line that a kill cut
            break
        if row["phase"] == "sft" or row["step"] < first_step:
            kept.append(line + "\n")
    write_whole(path, "".join(kept))
