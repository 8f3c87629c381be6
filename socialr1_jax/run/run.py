"""Start, resume, save and stop a run in its folder; shared by GRPO and the reward model's trainer."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Protocol, Self

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from pydantic import BaseModel, Field, ValidationError

from socialr1_jax.config.loading import save_config
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.run import DistributedConfig, RunConfig
from socialr1_jax.config.sections import ConfigError, Count
from socialr1_jax.grpo.update import TrainState
from socialr1_jax.models.qwen3 import check_mesh
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.run.checkpoints import AWAY, CheckpointError, Checkpoints, first_fault
from socialr1_jax.run.console import console, shown_log
from socialr1_jax.run.folder import own_folder
from socialr1_jax.run.metrics import RunLog
from socialr1_jax.runtime.chips import Chip
from socialr1_jax.runtime.interrupt import Interrupted, Stop, stop_on_signal
from socialr1_jax.runtime.mesh import make_mesh, with_tensor
from socialr1_jax.runtime.processes import in_cluster, is_first, wait_for_all
from socialr1_jax.runtime.startup import memory_share, tune_compiler
from socialr1_jax.runtime.terminal import CommandEnded, counted, first_line
from socialr1_jax.sampling.batch import slot_stride
from socialr1_jax.sampling.memory import round_up
from socialr1_jax.sampling.split import fastest_split


class TrainingStopped(CommandEnded):
    """Raised when the run stops itself; the message gives the reason and where its state is stored."""

    word = "stopped"
    status = 1


class Saved(Protocol):
    """A part of a run that is saved in its checkpoints as JSON."""

    def get_state(self) -> Any:
        """Return the state."""

    def set_state(self, state: Any) -> None:
        """Restore the state that `get_state` returned. Raises ValueError or KeyError for anything else."""


class Counts(BaseModel):
    """Counters that are saved with a run."""

    finished: Count  # steps
    evaluated: Annotated[int, Field(strict=True, ge=-1)]  # the step of the last evaluation
    skipped_in_a_row: Count  # updates

    def get_state(self) -> dict[str, int]:
        return self.model_dump()

    def set_state(self, state: Mapping[str, int]) -> None:
        self.__dict__.update(Counts.model_validate(state))


@contextmanager
def running(config: RunConfig | RewardModelConfig) -> Iterator[Stop]:
    """Join the other processes, set the mesh and lock the folder; yield the `Stop` that a signal sets.

    Raises ConfigError if another program holds the folder or the mesh does not fit the devices, and TrainingStopped if
    a file of the run cannot be written.
    """
    join(config.distributed)
    console.quiet |= not is_first()
    mesh, folder = run_mesh(config), Path(config.output_dir)
    shown = (config.quiet, config.verbose) if isinstance(config, RunConfig) else ()
    written = [folder]
    if isinstance(config, RunConfig) and config.save_rollouts:
        written.append(Path(config.save_rollouts).parent)
    with jax.set_mesh(mesh), shown_log(*shown), own_folder(folder), stop_on_signal() as stop:
        try:
            yield stop
        except OSError as error:
            file = Path(error.filename or "/").absolute()
            if not error.filename or not any(file.is_relative_to(folder.absolute()) for folder in written):
                raise
            raise TrainingStopped(
                f"{error.filename}: {error.strerror}. Fix this and run the same command to resume from the last "
                "checkpoint"
            ) from error


def join(config: DistributedConfig, environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes of this run; call this before using a device.

    Under SLURM, Open MPI, GKE and on Cloud TPU, JAX detects address, count and number; elsewhere the configuration
    gives them. Raises ConfigError if the other processes do not connect within `config.timeout` seconds.
    """
    if not config.processes and not in_cluster(environment):
        return
    count = config.processes or None  # None: JAX asks the launcher, for the others, too
    address, number = (config.coordinator, config.process) if count else (None, None)
    try:
        jax.distributed.initialize(address, count, number, initialization_timeout=config.timeout)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(f"distributed: the processes did not find each other: {first_line(error)}") from error


def run_mesh(config: RunConfig | RewardModelConfig) -> Mesh:
    """Return the configured mesh over the devices, for which the compiler is set up.

    Raises ConfigError if the mesh does not divide the devices.
    """
    try:
        mesh = make_mesh(config.mesh.replica, config.mesh.fsdp or None, config.mesh.tensor)
    except ValueError as error:
        raise ConfigError(f"mesh: {error}") from error
    tune_compiler(float(getattr(jax.local_devices()[0], "compute_capability", 0)), mesh.size)
    return mesh


def rollout_mesh(
    config: RunConfig, model: Qwen3Config, mesh: Mesh, chip: Chip | None, memory: int | None
) -> tuple[Mesh, str]:
    """Return the mesh of the rollout, `mesh` with `sampling.tensor` devices for each row, and the reason for `auto`.

    `memory` are the bytes of a device that sampling may take. Without an NVIDIA GPU of known peaks, `auto` is the mesh
    of training. Raises ConfigError if the split does not divide the devices or the model.
    """
    tensor, why = config.sampling.tensor, ""
    try:
        if tensor == "auto":
            tensor, why = _automatic_split(config, model, mesh, chip, memory)
        rollout = with_tensor(mesh, tensor)
        check_mesh(model, rollout)
    except ValueError as error:
        raise ConfigError(f"sampling.tensor: {error}") from error
    return rollout, why


def _automatic_split(
    config: RunConfig, model: Qwen3Config, mesh: Mesh, chip: Chip | None, memory: int | None
) -> tuple[int, str]:
    splits, stride = [], slot_stride("gpu")
    for tensor in range(1, mesh.size + 1):
        with suppress(ValueError):
            check_mesh(model, with_tensor(mesh, tensor))
            splits.append(tensor)
    if chip is None or chip.platform != "cuda" or not chip.flops or len(splits) < 2:
        return mesh.shape["tensor"], ""
    sampling = config.sampling
    return fastest_split(
        model,
        chip,
        splits,
        devices=mesh.size,
        prompts=config.grpo.prompts_per_step,
        group=sampling.group_size,
        width=round_up(config.data.max_prompt_tokens, stride),
        slots=round_up(sampling.max_new_tokens, stride),
        max_rows=sampling.max_rows,
        itemsize=jnp.dtype(config.model.dtype).itemsize,
        weights=sampling.weights,
        memory=memory,
    )


def say_devices(attention: str) -> None:
    """Print the run's mesh, device kind, memory, kernels of attention and XLA's level; nothing for one CPU."""
    mesh = jax.sharding.get_mesh()
    if jax.default_backend() == "cpu" and mesh.size == 1:
        return
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    memory = f", {limit / 2**30:.1f} GiB of memory each ({memory_share():g} of it)" if limit else ""
    level = jax.config.jax_optimization_level  # type: ignore[attr-defined]
    level = f", JAX_OPTIMIZATION_LEVEL={level}" if level != "UNKNOWN" else ""
    console.print(f"mesh {dict(mesh.shape)} of {jax.devices()[0].device_kind}{memory}, attention {attention}{level}")


class Run:
    """The state of a run, its counters, log and checkpoints. Use as a context manager.

    If there is a checkpoint in its folder, the run resumes from it. If the context is left by `Interrupted` or one of
    `halting`, the finished steps are saved and the unfinished one is repeated on resume. `Interrupted` is suppressed.

    Args:
        state: weights and moments of a new run; the Run takes ownership.
        parts: further states to save, by name.
        about: configuration, versions and commit, stored in every checkpoint.

    Raises CheckpointError if there are checkpoints but none is usable.
    """

    def __init__(
        self,
        config: RunConfig | RewardModelConfig,
        state: TrainState,
        parts: Mapping[str, Saved],
        about: Mapping[str, Any],
        stop: Stop,
        halting: tuple[type[Exception], ...] = (),
    ) -> None:
        self.config, self.state, self.stop = config, state, stop
        self.folder = Path(config.output_dir)
        self.counts, self.complete = Counts(finished=0, evaluated=-1, skipped_in_a_row=0), False
        self._halting = halting
        self._parts: dict[str, Saved] = {"counts": self.counts, **parts}
        self._checkpoints = Checkpoints(self.folder / "checkpoints", config.checkpoint, about)
        files = self._restore()
        self.log = RunLog(
            self.folder,
            config.tracking,
            config=config.model_dump(),
            first_step=0 if files is None else self.counts.finished + 1,
            goes_on=files,
        )
        if is_first():
            save_config(config, self.folder / "config.yaml")
        self._last = self._standing()

    def steps(self, evaluate: Callable[[int], float | None] | None, every: int) -> Iterator[int]:
        """Yield the number of each remaining step, from 0; the caller runs it and counts it as finished.

        Between steps, evaluates (at the start, at the end and every `every` steps), saves checkpoints that are due, and
        raises Interrupted if the run must stop. `evaluate`: finished steps -> metric that selects the best checkpoint.
        """
        counts, steps = self.counts, self.config.steps
        while True:
            self.stop.check()
            finished, kept = counts.finished, self._last["counts"]["finished"] == counts.finished
            value = None
            if evaluate and counts.evaluated != finished and (finished in (0, steps) or due(finished, every)):
                value = evaluate(finished)
            if kept:
                self.keep()
            if kept and finished and (self._checkpoints.is_best(value) or due(finished, self.config.checkpoint.every)):
                self._checkpoints.save(finished, self.state, self._last, value)
            self._checkpoints.check()
            if finished == steps:
                return
            yield finished

    def keep(self) -> None:
        """Mark the current state as the one to save. Steps that changed no weights are not marked and run again."""
        self._last = self._standing()

    def finish(self) -> None:
        """Save the final state and wait until it is written. Raises TrainingStopped if writing fails."""
        self.keep()
        self._save()
        self.complete = True

    def halted(self, reason: str) -> TrainingStopped:
        """Save the run and return the error that stops it."""
        try:
            self._save()
        except TrainingStopped as error:
            return TrainingStopped(f"{reason}. {error}")
        step = self._last["counts"]["finished"]
        return TrainingStopped(f"{reason}. {self.folder} was saved after step {step}. Run the same command to resume")

    def reset(self, part: str, state: Any) -> None:
        """Save `state` as the state of a part with which a resumed run starts."""
        self._last[part] = state

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        try:
            if isinstance(error, Interrupted):
                self._save()
                console.print(f"saved after step {self._last['counts']['finished']} of {self.config.steps}")
            elif isinstance(error, self._halting):
                raise self.halted(str(error)) from error
            elif isinstance(error, CheckpointError):  # checkpoint.on_failure is stop
                raise TrainingStopped(str(error)) from error
        finally:
            self._checkpoints.close()
            self.log.close()
        if error is not None and not isinstance(error, Interrupted):
            return False
        wait_for_all(f"end of {self.config.output_dir}", self.config.distributed.timeout)
        return True

    def _standing(self) -> dict[str, Any]:
        return {name: part.get_state() for name, part in self._parts.items()} | {"files": self.log.get_state()}

    def _save(self) -> None:
        try:
            self._checkpoints.save(self._last["counts"]["finished"], self.state, self._last)
            self._checkpoints.finish()
        except CheckpointError as error:
            raise TrainingStopped(str(error)) from error

    def _restore(self) -> Mapping[str, int] | None:
        """Restore the newest intact checkpoint; return the lengths of the log's files, None for a new run."""
        restored = self._checkpoints.restore(self.state, (*self._parts, "files"))
        if not restored:
            return None
        self.state, before = restored
        saved = self.folder / "checkpoints" / str(self._checkpoints.latest)
        for name, part in self._parts.items():
            try:
                part.set_state(before[name])
            except (KeyError, ValueError) as error:
                reason = first_fault(error) if isinstance(error, ValidationError) else error
                raise CheckpointError(f"{saved}: the state of {name} cannot be used ({reason}): {AWAY}") from error
        counts = self.counts
        if not counts.evaluated <= counts.finished == int(saved.name) <= self.config.steps:
            raise CheckpointError(f"{saved} holds the run after step {counts.finished} of {self.config.steps}: {AWAY}")
        steps = counted(self.config.steps, "step")
        all_done = f"all {steps} of this run are done; for more raise steps, or give another output_dir"
        resumed = f"resuming after step {counts.finished} of {self.config.steps}"
        console.print(resumed if counts.finished < self.config.steps else all_done)
        return before["files"]


class Laps:
    """Wall seconds of the phases of a step and between steps. A repeated phase accumulates."""

    def __init__(self) -> None:
        self.begun = self._last = self._ended = time.perf_counter()
        self._between = 0.0
        self._laps: dict[str, float] = {}

    def begin(self, phases: tuple[str, ...]) -> None:
        self.begun = self._last = time.perf_counter()
        self._between = self.begun - self._ended
        self._laps = dict.fromkeys(phases, 0.0)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """End phase `name` on exit; it gets the time since the end of the previous phase."""
        yield
        self.end(name)

    def end(self, name: str) -> None:
        now = self._ended = time.perf_counter()
        self._laps[name] += now - self._last
        self._last = now

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """Exclude the time of this block from the seconds between steps."""
        begun = time.perf_counter()
        yield
        self._ended += time.perf_counter() - begun

    @property
    def total(self) -> float:
        """Seconds of the step until the end of its last phase."""
        return self._last - self.begun

    @property
    def seconds(self) -> dict[str, float]:
        """Return the metrics of the step and its phases."""
        each = {f"seconds/{name}": seconds for name, seconds in self._laps.items()}
        return {"seconds": self.total} | each | {"seconds/between": self._between}


def due(step: int, every: int) -> bool:
    """Return True if an event every `every` steps is due after this step; 0 = never."""
    return every > 0 and step % every == 0
