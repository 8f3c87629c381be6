"""A run folder belongs to one program at a time and to one configuration."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from socialr1_jax.config import ConfigError, Section, load_config
from socialr1_jax.processes import any_of_all, is_first

# What a run may go on with otherwise: who computes and where numbers go, not which numbers. Sizes of batches on the
# devices change the rounding.
_FREE = (
    "output_dir", "save_rollouts", "quiet", "xla_flags", "distributed", "mesh", "tracking", "checkpoint", "model.remat",
    "model.export_dtype", "model.ignore_fields",
    "sampling.max_rows", "sampling.segment_tokens", "grpo.micro_batch_tokens", "batch.micro_batch_tokens",
    "grpo.reference_memory",
)  # fmt: skip
_LOCK = ".lock"
_held: set[Path] = set()  # by this process, so that a program may use another's part in its own folder


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other programs out of it until the end, however this one ends.

    Raises ConfigError when another one is at work in it or the folder cannot be written to.
    """
    folder = folder.absolute()
    if folder in _held:
        yield
        return
    opened, problem = None, ""
    if is_first():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            opened = (folder / _LOCK).open("a+")
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened.truncate(0)
            opened.write(f"{os.getpid()}\n")
            opened.flush()
        except BlockingIOError:
            number = (folder / _LOCK).read_text().strip()
            problem = f"{folder}: process {number} is at work in this folder: wait for it, or give another output_dir"
        except OSError as error:
            problem = f"{folder}: cannot write to this folder ({error.strerror}): give another output_dir"
    if any_of_all(bool(problem)):
        raise ConfigError(problem or f"{folder}: the first process could not take this folder; it says why")
    _held.add(folder)
    try:
        yield
    finally:
        _held.discard(folder)
        if opened:
            if [path.name for path in folder.iterdir()] == [_LOCK]:  # bad input: leave nothing behind
                (folder / _LOCK).unlink()
                folder.rmdir()
            opened.close()


def refuse_another_run(config: Section, saved: Path) -> None:
    """Raises ConfigError listing every setting in which `saved`, the configuration of the run here, is not `config`.

    Settings that do not change what a run computes may differ. Without the file nothing was begun.
    """
    if not saved.exists():
        return
    before, now = _flat(load_config(type(config), saved).model_dump()), _flat(config.model_dump())
    differing = [
        f"{name} {before.get(name)!r} -> {now.get(name)!r}"
        for name in {**before, **now}
        if before.get(name) != now.get(name) and not any(f"{name}.".startswith(f"{free}.") for free in _FREE)
    ]
    if differing:
        raise ConfigError(
            f"{saved.parent} holds a run of another configuration ({', '.join(differing)}): "
            "give another output_dir, or remove the folder"
        )


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + name: value}
    return flat
