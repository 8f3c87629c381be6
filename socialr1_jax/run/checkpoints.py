"""Checkpoints of a run through orbax: arrays and where the run stands, written beside the training.

A checkpoint is a folder named by the count of finished steps. `manifest.json` in it, written last, has the size and the
XXH3 sum of every other file, so that a cut or altered one is found before it is used.
"""

from __future__ import annotations

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

from socialr1_jax.config.command_line import Count
from socialr1_jax.config.run import CheckpointConfig
from socialr1_jax.grpo.update import TrainState
from socialr1_jax.runtime.files import finite, read_json, write_json
from socialr1_jax.runtime.processes import any_of_all, is_first
from socialr1_jax.runtime.terminal import printable

MANIFEST = "manifest.json"
_SCHEMA = 2  # of a checkpoint
_CHANGES = "_CHECKPOINT_METADATA"  # orbax writes the time into it afterwards; nothing here reads it
_TEMPORARY = "*.orbax-checkpoint-tmp*"
_SMALL = 1 << 20  # bytes; orbax's own files are smaller
_DAMAGED = ".damaged"
AWAY = "move it away, and the run resumes from the one before"
_SLOWEST_SAVE = 3600  # seconds
log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """No checkpoint could be read, or none be written; the message says why."""


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
    """Part of a run's state that every trainer saves; each checks the rest itself."""

    files: Annotated[dict[Literal["metrics.jsonl", "rollouts.jsonl"], Count], Field(min_length=2)] = {}


def first_fault(error: ValidationError) -> str:
    """Returns the first field that is wrong, and why, on one line."""
    fault = error.errors(include_url=False)[0]
    reason = fault["msg"].partition(" or instance of ")[0]
    given = "" if fault["type"] == "missing" else f", not {printable(repr(fault['input']), 100)}"
    return printable(": ".join([*filter(None, [".".join(map(str, fault["loc"]))]), reason + given]), 500)


class Checkpoints:
    """Saves and restores a TrainState with the run's own state, a JSON object.

    `config.keep` newest ones and the best are kept. `about` goes into every one: configuration, versions, commit.
    """

    def __init__(self, folder: Path, config: CheckpointConfig, about: Mapping[str, Any]) -> None:
        self._folder, self._config, self._about = folder.absolute(), config, dict(about)
        self._best: dict[str, Any] = {}  # {"step": ..., "value": ...}
        self._best_before: dict[str, Any] = {}  # the last save, which may fail
        self._lost: CheckpointError | None = None  # why the last save failed
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
        """Steps finished at the newest checkpoint, whole or being written; None when there is none."""
        return self._manager.latest_step()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Return which checkpoints orbax keeps: the newest and the best."""
        newest = len(checkpoints) - self._config.keep
        return [i >= newest or one.step == self._best.get("step") for i, one in enumerate(checkpoints)]

    def is_best(self, value: float | None) -> bool:
        """Return whether this value of the validation metric is above those of all checkpoints so far."""
        return value is not None and value > self._best.get("value", float("-inf"))

    def save(self, finished: int, state: TrainState, run: Mapping[str, Any], value: float | None = None) -> None:
        """Copies the state and returns; files are written while the training goes on.

        `value` is the validation metric at this step. Raises CheckpointError when this or the save before failed and
        `config.on_failure` is stop; otherwise that is a warning.
        """
        self._wait()  # for the save before
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
        """Tells of a save that has failed since. Raises CheckpointError when `config.on_failure` is stop."""
        if self._manager.is_saving_in_progress():
            return
        self._wait()  # which has the error, and forgets the step

    def finish(self) -> None:
        """Waits until the last save is whole. Raises CheckpointError when it failed, whatever the setting."""
        self._wait(always=True)
        if self._lost:
            raise self._lost

    def restore(self, state: TrainState, needs: Sequence[str]) -> tuple[TrainState, dict[str, Any]] | None:
        """(arrays laid out as `state`, whose values are not used; the run's state) of the newest whole checkpoint.

        One that is cut or altered is set aside with a warning, and the one before it is read. None when there is none
        at all; CheckpointError when none is whole, when it is of other shapes or a newer schema, or when the run's
        state lacks one of `needs`.
        """
        names = [path.name for path in self._folder.iterdir()]
        steps = sorted(map(int, filter(_is_step, names)), reverse=True)
        problems = [] if steps else [name for name in names if name.endswith(_DAMAGED)]
        for step in steps:
            folder = self._folder / str(step)
            problem = fault(folder, up_to=_SMALL) if is_first() else ""
            if not any_of_all(bool(problem)):
                # The large files are checked while they are read, so that the disk gives them once.
                with ThreadPoolExecutor(1) as pool:
                    checked = pool.submit(fault, folder, above=_SMALL) if is_first() else None
                    found = self._read(step, state, needs)
                    problem = checked.result() if checked else ""
                if not any_of_all(bool(problem)):
                    return found
                del found
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
        """Waits for pending writes and stops the threads."""
        self._lost = None  # has been told
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
        found = self._manager.item_metadata(step)["state"].tree
        if problems := differences(abstract, found):
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
        """Raises OSError when the disk cannot hold a checkpoint: half of one could take the room of the run's log."""
        wanted = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _SMALL
        if any_of_all(is_first() and shutil.disk_usage(self._folder).free < wanted):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def _failed(self, error: Exception, *, always: bool = False) -> None:
        self._best = self._best_before
        if is_first():
            for left in self._folder.glob(_TEMPORARY):  # they may be what fills the disk
                shutil.rmtree(left, ignore_errors=True)
        kept = max(whole_steps(self._folder), default=None)
        valid = "there is no earlier one" if kept is None else f"that of step {kept} stays valid"
        text = f"{self._folder}: a checkpoint could not be written ({_reason(error)}); {valid}"
        self._lost = CheckpointError(text)
        if always or self._config.on_failure == "stop":
            raise self._lost from error
        log.warning("%s. The run continues and saves again when the next one is due", text)

    def _write_manifests(self) -> None:
        """Called by orbax when all files are written and the folder has not got its name yet."""
        if not is_first():
            return
        for partial in self._folder.glob(_TEMPORARY):
            if partial.is_dir() and not (partial / MANIFEST).exists():
                written = (file.relative_to(partial).as_posix() for file in partial.rglob("*") if file.is_file())
                files = sorted(name for name in written if name != _CHANGES)
                sums = {name: {"bytes": size, "xxh3": digest} for name, size, digest in _sums(partial, files)}
                write_json(partial / MANIFEST, {"schema": _SCHEMA, "files": sums})


def whole_steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint with its manifest."""
    found = folder.iterdir() if folder.is_dir() else ()
    return [int(path.name) for path in found if _is_step(path.name) and (path / MANIFEST).is_file()]


def _is_step(name: str) -> bool:
    return re.fullmatch("0|[1-9][0-9]*", name) is not None


def fault(checkpoint: Path, *, above: float = -1, up_to: float = float("inf")) -> str:
    """Returns which files are absent, cut, altered or not listed; "" when all are as they were written.

    The contents of files of more than `above` bytes, and at most `up_to`, are compared.
    """
    try:
        listed = _Manifest.model_validate(read_json(checkpoint / MANIFEST)).files
    except ValidationError as error:
        return f"{MANIFEST}: {first_fault(error)}"
    except (OSError, ValueError) as error:
        return printable(f"{MANIFEST}: {error}", 500)
    if outside := [name for name in listed if {"/", ".."} & set(PurePosixPath(name).parts)]:
        return f"{MANIFEST} lists files outside the checkpoint: {_few(outside)}"
    files = (file for part in ("run", "state") for file in (checkpoint / part).rglob("*") if file.is_file())
    if unknown := {file.relative_to(checkpoint).as_posix() for file in files} - set(listed):
        return f"{MANIFEST} does not list {_few(sorted(unknown))}"
    written = {name: (one.bytes, one.xxh3) for name, one in listed.items()}
    absent = [name for name in written if not os.path.isfile(checkpoint / name)]
    there = [name for name in written if name not in absent]
    wrong = [name for name in there if (checkpoint / name).stat().st_size != written[name][0]]
    read = [name for name in there if name not in wrong and above < written[name][0] <= up_to]
    wrong += [name for name, size, digest in _sums(checkpoint, read) if written[name] != (size, digest)]
    return _few([f"{name} is absent" for name in absent] + [f"{name} is cut or altered" for name in wrong])


def read_run(checkpoint: Path) -> dict[str, Any]:
    """Returns what a checkpoint holds beside arrays: finished, best, about, run. Raises CheckpointError."""
    file = checkpoint / "run" / "metadata"
    try:
        content = read_json(file)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from error
    schema = content.get("schema")
    if schema != _SCHEMA:
        schema = printable(repr(schema), 100)
        raise CheckpointError(f"{checkpoint} has schema {schema}, this version reads {_SCHEMA}: update socialr1_jax")
    if missing := [name for name in ("finished", "best", "about", "run") if name not in content]:
        raise CheckpointError(f"{file} has no {', '.join(missing)}: another version wrote it")
    try:
        _Content.model_validate(content)
    except ValidationError as error:
        raise CheckpointError(f"{file} cannot be used ({first_fault(error)}): {AWAY}") from None
    return content


def _sums(folder: Path, names: Sequence[str]) -> list[tuple[str, int, str]]:
    """(name, bytes, XXH3-128) of files."""
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
    """Returns what of one tree of shapes is not in the other, or is of another shape; "" for nothing."""
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
    return _few(problems)


def _few(problems: Sequence[str], most: int = 5) -> str:
    """Returns the first of many problems on one line."""
    more = [f"and {len(problems) - most} more"] if len(problems) > most else []
    return "; ".join([printable(problem, 300) for problem in problems[:most]] + more)


def _reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    if "No space left on device" in str(error):
        return "no space left on the device"
    return text[0][:200] if text else type(error).__name__
