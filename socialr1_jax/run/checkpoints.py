"""Checkpoints of a run through orbax: arrays and the run's state, written asynchronously.

A checkpoint is a folder named by the number of finished steps. Its `manifest.json`, written last, holds size and XXH3
checksum of every other file, to detect truncated and altered files before use.
"""

import errno
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import jax
import orbax.checkpoint as ocp
import xxhash
from pydantic import BaseModel, Field, ValidationError

from socialr1_jax.config.run import CheckpointConfig
from socialr1_jax.config.sections import Count
from socialr1_jax.grpo.update import TrainState
from socialr1_jax.runtime.files import finite, read_json, write_json
from socialr1_jax.runtime.model_files import first_few
from socialr1_jax.runtime.processes import any_of_all, is_first
from socialr1_jax.runtime.terminal import first_line, printable

MANIFEST = "manifest.json"
_SCHEMA = 2
_CHANGES = "_CHECKPOINT_METADATA"  # left out of the manifest: orbax adds a timestamp after it is written
_TEMPORARY = "*.orbax-checkpoint-tmp*"
_SMALL = 1 << 20  # bytes; orbax's own files are smaller
_DAMAGED = ".damaged"
AWAY = "move it away, and the run resumes from the one before"
_SLOWEST_SAVE = 3600  # seconds
log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """Raised when no checkpoint can be read or written; the message gives the reason."""


class _File(BaseModel):
    bytes: Count
    xxh3: str


class _Manifest(BaseModel):
    files: Annotated[dict[str, _File], Field(min_length=1)]


class _Content(BaseModel):
    finished: Count
    best: dict[Literal["step", "value"], Annotated[float, Field(strict=True, allow_inf_nan=False)]]
    about: dict[str, Any]
    run: dict[str, Any]


class _Run(BaseModel):
    """The part of a run's state that every trainer saves; each trainer validates the rest itself."""

    files: Annotated[dict[Literal["metrics.jsonl", "rollouts.jsonl"], Count], Field(min_length=2)] = {}


def first_fault(error: ValidationError) -> str:
    """Return the first invalid field and the reason, on one line."""
    fault = error.errors(include_url=False)[0]
    reason = fault["msg"].partition(" or instance of ")[0]
    value = "" if fault["type"] == "missing" else f", not {printable(repr(fault['input']), 100)}"
    return printable(": ".join([*filter(None, [".".join(map(str, fault["loc"]))]), reason + value]), 500)


class Checkpoints:
    """Save and restore a TrainState with the run's state, a JSON object.

    The `config.keep` newest checkpoints and the best are kept. `about` (configuration, versions, commit) is stored in
    each checkpoint.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, about: Mapping[str, Any]) -> None:
        self._folder, self._config, self._about = folder.absolute(), config, dict(about)
        self._best: dict[str, Any] = {}  # {"step": ..., "value": ...}
        self._best_before: dict[str, Any] = {}  # `_best` before the pending save, restored if it fails
        self._lost: CheckpointError | None = None  # error of the last save, if it failed
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self,
                cleanup_tmp_directories=True,
                async_options=ocp.AsyncOptions(
                    timeout_secs=_SLOWEST_SAVE, post_finalization_callback=self._write_manifests
                ),
            ),
            # Plain files: compressing floats saves 7 % and makes reading 1.5 x slower.
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(use_ocdbt=False, use_compression=False),
                "run": ocp.JsonCheckpointHandler(),
            },
        )

    @property
    def latest(self) -> int | None:
        """Finished steps of the newest checkpoint, complete or being written; None if there is none."""
        return self._manager.latest_step()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Return a mask of the checkpoints that orbax keeps: the newest and the best."""
        newest = len(checkpoints) - self._config.keep
        return [i >= newest or saved.step == self._best.get("step") for i, saved in enumerate(checkpoints)]

    def is_best(self, value: float | None) -> bool:
        """Return True if this value of the validation metric exceeds those of all checkpoints so far."""
        return value is not None and value > self._best.get("value", float("-inf"))

    def save(self, finished: int, state: TrainState, run: Mapping[str, Any], value: float | None = None) -> None:
        """Copy the state and return; the files are written in the background.

        `value` is the validation metric at this step. If this save or the previous one failed, raises CheckpointError
        when `config.on_failure` is stop and logs a warning otherwise.
        """
        self._wait()  # for the previous save
        if finished == self.latest:
            return
        self._best_before = self._best
        self._best = {"step": finished, "value": value} if self.is_best(value) else self._best
        content = {"schema": _SCHEMA, "finished": finished, "best": self._best, "about": self._about, "run": dict(run)}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state._asdict()), run=ocp.args.JsonSave(finite(content)))
        try:
            self._need_room(state)
            self._manager.save(finished, args=args)
            self._lost = None
        except (OSError, ValueError, RuntimeError) as error:
            self._failed(error)

    def check(self) -> None:
        """Report a save that failed in the background. Raises CheckpointError if `config.on_failure` is stop."""
        if not self._manager.is_saving_in_progress():
            self._wait()  # raises the error of the save, and orbax forgets the step

    def finish(self) -> None:
        """Wait for the last save. Raises CheckpointError if it failed, whatever `config.on_failure` is."""
        self._wait(always=True)
        if self._lost:
            raise self._lost

    def restore(self, state: TrainState, needs: Sequence[str]) -> tuple[TrainState, dict[str, Any]] | None:
        """Restore the newest intact checkpoint: arrays sharded like `state`, whose values are not used, and run state.

        A damaged checkpoint is renamed with a warning, and the previous one is read. Returns None if there is no
        checkpoint. Raises CheckpointError if none is intact, if shapes or schema do not fit, or if the run's state
        lacks one of `needs`.
        """
        names = [path.name for path in self._folder.iterdir()]
        steps = sorted(map(int, filter(_is_step, names)), reverse=True)
        problems = [] if steps else [name for name in names if name.endswith(_DAMAGED)]
        for step in steps:
            folder = self._folder / str(step)
            problem = fault(folder, up_to=_SMALL) if is_first() else ""
            if not any_of_all(bool(problem)):
                # Check the large files while they are restored, so that the disk reads them once.
                with ThreadPoolExecutor(1) as pool:
                    checked = pool.submit(fault, folder, above=_SMALL) if is_first() else None
                    restored = self._read(step, state, needs)
                    problem = checked.result() if checked else ""
                if not any_of_all(bool(problem)):
                    return restored
                del restored
            problems.append(f"checkpoint {step}: {problem}")
            if is_first():
                aside = self._folder / f"{step}{_DAMAGED}"
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
                log.warning("checkpoint %d is damaged (%s): set aside as %s", step, problem, aside)
        if problems:
            raise CheckpointError(f"{self._folder}: no checkpoint is whole ({'; '.join(problems)})")
        self._manager.reload()
        return None

    def close(self) -> None:
        """Wait for pending writes and stop the worker threads."""
        self._lost = None  # already reported
        try:
            self.finish()
        except CheckpointError as error:
            log.warning("%s", error)
        self._manager.close()

    def _read(self, step: int, state: TrainState, needs: Sequence[str]) -> tuple[TrainState, dict[str, Any]]:
        self._manager.reload()
        folder = self._folder / str(step)
        content = read_run(folder)
        if missing := [name for name in needs if name not in content["run"]]:
            raise CheckpointError(f"{folder}: the run's state has no {', '.join(missing)}: another version wrote it")
        try:
            _Run.model_validate(content["run"])
        except ValidationError as error:
            raise CheckpointError(f"{folder}: the run's state cannot be used ({first_fault(error)}): {AWAY}") from None
        if content["finished"] != step:
            raise CheckpointError(f"{folder} holds the run after step {content['finished']}, not {step}: {AWAY}")
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state._asdict())
        stored = self._manager.item_metadata(step)["state"].tree
        if problems := differences(abstract, stored):
            raise CheckpointError(f"{folder} does not fit this run: {problems}")
        restore = ocp.args.PyTreeRestore(abstract, restore_args=ocp.checkpoint_utils.construct_restore_args(abstract))
        arrays = self._manager.restore(step, args=ocp.args.Composite(state=restore))["state"]
        self._best = content["best"]
        return TrainState(**arrays), content["run"]

    def _wait(self, *, always: bool = False) -> None:
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError, RuntimeError) as error:
            self._failed(error, always=always)

    def _need_room(self, state: TrainState) -> None:
        """Raise OSError if the disk has no room for a checkpoint: a partial one could leave none for the run's log."""
        wanted = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SMALL
        if any_of_all(is_first() and shutil.disk_usage(self._folder).free < wanted):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def _failed(self, error: Exception, *, always: bool = False) -> None:
        self._best = self._best_before
        if is_first():
            for partial in self._folder.glob(_TEMPORARY):  # free the disk, which may be full
                shutil.rmtree(partial, ignore_errors=True)
        newest = max(whole_steps(self._folder), default=None)
        valid = "there is no earlier one" if newest is None else f"that of step {newest} stays valid"
        reason = "no space left on the device" if "No space left on device" in str(error) else first_line(error)
        text = f"{self._folder}: a checkpoint could not be written ({reason}); {valid}"
        self._lost = CheckpointError(text)
        if always or self._config.on_failure == "stop":
            raise self._lost from error
        log.warning("%s. The run continues and saves again when the next one is due", text)

    def _write_manifests(self) -> None:
        """Write the manifest; orbax calls this after writing all files and before renaming the folder."""
        if not is_first():
            return
        for partial in self._folder.glob(_TEMPORARY):
            if partial.is_dir() and not (partial / MANIFEST).exists():
                written = (file.relative_to(partial).as_posix() for file in partial.rglob("*") if file.is_file())
                files = sorted(name for name in written if name != _CHANGES)
                sums = {name: {"bytes": size, "xxh3": digest} for name, size, digest in _sums(partial, files)}
                write_json(partial / MANIFEST, {"schema": _SCHEMA, "files": sums})


def whole_steps(folder: Path) -> list[int]:
    """Return the steps of the checkpoints that have a manifest."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return [int(path.name) for path in paths if _is_step(path.name) and (path / MANIFEST).is_file()]


def _is_step(name: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]*", name) is not None


def fault(checkpoint: Path, *, above: float = -1, up_to: float = float("inf")) -> str:
    """Return which files are absent, truncated, altered or not in the manifest; "" if the checkpoint is intact.

    Contents are compared for files of more than `above` and at most `up_to` bytes.
    """
    try:
        listed = _Manifest.model_validate(read_json(checkpoint / MANIFEST)).files
    except ValidationError as error:
        return f"{MANIFEST}: {first_fault(error)}"
    except (OSError, ValueError) as error:
        return printable(f"{MANIFEST}: {error}", 500)
    if outside := [name for name in listed if {"/", ".."} & set(PurePosixPath(name).parts)]:
        return f"{MANIFEST} lists files outside the checkpoint: {first_few(outside, most=5)}"
    files = (file for part in ("run", "state") for file in (checkpoint / part).rglob("*") if file.is_file())
    if unknown := {file.relative_to(checkpoint).as_posix() for file in files} - set(listed):
        return f"{MANIFEST} does not list {first_few(sorted(unknown), most=5)}"
    written = {name: (entry.bytes, entry.xxh3) for name, entry in listed.items()}
    absent = [name for name in written if not os.path.isfile(checkpoint / name)]
    present = [name for name in written if name not in absent]
    wrong = [name for name in present if (checkpoint / name).stat().st_size != written[name][0]]
    read = [name for name in present if name not in wrong and above < written[name][0] <= up_to]
    wrong += [name for name, size, digest in _sums(checkpoint, read) if written[name] != (size, digest)]
    problems = [f"{name} is absent" for name in absent] + [f"{name} is cut or altered" for name in wrong]
    return first_few(problems, most=5)


def read_run(checkpoint: Path) -> dict[str, Any]:
    """Return the JSON part of a checkpoint: finished, best, about, run. Raises CheckpointError if it is unusable."""
    file = checkpoint / "run" / "metadata"
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    schema = content.get("schema")
    if schema != _SCHEMA:
        found = printable(repr(schema), 100)
        raise CheckpointError(f"{checkpoint} has schema {found}, this version reads {_SCHEMA}: update socialr1_jax")
    if missing := [name for name in ("finished", "best", "about", "run") if name not in content]:
        raise CheckpointError(f"{file} has no {', '.join(missing)}: another version wrote it")
    try:
        _Content.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{file} cannot be used ({first_fault(error)}): {AWAY}") from None
    return content


def _sums(folder: Path, names: Sequence[str]) -> list[tuple[str, int, str]]:
    """Return (name, bytes, XXH3-128) of each file."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return list(pool.map(lambda name: (name, *_sum(folder / name)), names))


def _sum(file: Path) -> tuple[int, str]:
    digest, buffer, size = xxhash.xxh3_128(), memoryview(bytearray(4 << 20)), 0
    with file.open("rb", buffering=0) as opened:
        while count := opened.readinto(buffer):
            digest.update(buffer[:count])
            size += count
    return size, digest.hexdigest()


def differences(wanted: Any, found: Any) -> str:
    """Return the missing and unknown leaves of two trees and those of another shape, "" if the trees match."""
    wanted, found = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}
        for leaves in (jax.tree_util.tree_leaves_with_path(tree) for tree in (wanted, found))
    )
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in wanted]
    problems += [
        f"{name} has shape {found[name]}, the run's model {shape}"
        for name, shape in wanted.items()
        if found.get(name, shape) != shape
    ]
    return first_few(problems, most=5)
