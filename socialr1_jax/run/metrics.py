"""Log of a run: metrics.jsonl and rollouts.jsonl, TensorBoard by default, wandb on request."""

import json
import logging
import math
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.config.run import TrackingConfig
from socialr1_jax.runtime.files import append, finite, flattened, write_whole
from socialr1_jax.runtime.ownership import open_own
from socialr1_jax.runtime.processes import is_first

RUN_FILES = ("metrics.jsonl", "rollouts.jsonl")
log = logging.getLogger(__name__)


class RunLog:
    """Append to the run folder's metrics.jsonl and rollouts.jsonl, and to the enabled trackers.

    `goes_on` is the state that `get_state` returned for the checkpoint: lines after it are removed, since those steps
    run again. None starts a new run: all lines except those of the phase "sft" are removed. `first_step` is the next
    step. Only process 0 writes.
    """

    def __init__(
        self,
        folder: Path,
        tracking: TrackingConfig,
        *,
        config: Mapping[str, Any],
        first_step: int = 0,
        goes_on: Mapping[str, int] | None = None,
    ) -> None:
        self._folder = folder
        self._tensorboard: _EventFile | None = None
        self._wandb: Any = None
        self._writes = is_first()
        if not self._writes:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for name in RUN_FILES:
            if goes_on is None:
                _keep_sft(folder / name)
            else:
                _cut(folder / name, goes_on.get(name, 0))
        if tracking.tensorboard:
            self._tensorboard = _EventFile(folder / "tensorboard", first_step)
        if tracking.wandb:
            import wandb

            self._wandb = wandb.init(project="socialr1_jax", dir=str(folder), config=dict(config), resume="allow")

    def get_state(self) -> dict[str, int]:
        """Return the length of each file in bytes."""
        files = (self._folder / name for name in RUN_FILES)
        return {file.name: file.stat().st_size if file.exists() else 0 for file in files}

    def metrics(self, phase: str, step: int, values: Mapping[str, Any]) -> None:
        """Write a line of numbers, texts, and mappings from names to numbers.

        Non-finite numbers are written as null. Trackers get the finite numbers only, those of a mapping separately
        (`accuracy_by_type` as accuracy/belief, ...).
        """
        if not self._writes:
            return
        _append(self._folder / "metrics.jsonl", [{"phase": phase, "step": step, **values}])
        numbers = {
            f"{phase}/{name}": value
            for name, value in flattened(values).items()
            if not isinstance(value, str) and math.isfinite(value)
        }
        if self._tensorboard:
            self._tensorboard.write(numbers, step)
        if self._wandb:
            self._wandb.log(numbers, step=step)

    def rollouts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write one line per response to rollouts.jsonl."""
        if self._writes:
            _append(self._folder / "rollouts.jsonl", rows)

    def close(self) -> None:
        if self._tensorboard:
            try:
                self._tensorboard.close()
            except OSError as error:  # the same error stops the run elsewhere
                log.warning("TensorBoard's files could not be written to their end: %s", error)
        if self._wandb:
            self._wandb.finish()


class _EventFile:
    """Write scalars for TensorBoard in this thread.

    tensorboardX's SummaryWriter has a thread with a bounded queue: a full disk ends the thread, and the run then waits
    for it for ever.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._file = EventsWriter(str(folder / "events"))
        if first_step:  # hides what an earlier session wrote of this step and later ones
            self._add(first_step, file_version="brain.Event:2")
            self._add(first_step, session_log={"status": "START"})

    def write(self, numbers: Mapping[str, float], step: int) -> None:
        """Write a step's numbers. Raises OSError that names the folder, even for a full disk."""
        from tensorboardX.summary import scalar

        try:
            for name, value in numbers.items():
                self._add(step, summary=scalar(name, value))
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._folder)) from error

    def close(self) -> None:
        self._file.close()

    def _add(self, step: int, **content: Any) -> None:
        from tensorboardX.proto.event_pb2 import Event

        self._file.write_event(Event(step=step, wall_time=time.time(), **content))


def _append(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    append(path, (json.dumps(finite(row), ensure_ascii=False) + "\n" for row in rows))


def _cut(path: Path, length: int) -> None:
    size = path.stat().st_size if path.exists() else 0
    if size < length:
        log.warning("%s has lost its last %d bytes since the checkpoint was made", path, length - size)
    if size:
        with open_own(path, "rb+") as file:  # of what is left of a cut file, keep whole lines
            file.truncate(length if size >= length else file.read().rfind(b"\n") + 1)


def _keep_sft(path: Path) -> None:
    if not path.exists():
        return
    sft_lines = []
    # Not splitlines(), which also splits at characters such as U+2028 inside a response.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            if json.loads(line)["phase"] == "sft":
                sft_lines.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # the end of the file, or a truncated line
            continue
    write_whole(path, "".join(sft_lines))
