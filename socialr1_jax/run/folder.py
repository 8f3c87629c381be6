"""Own a run folder: one program at a time, one configuration."""

import contextlib
import fcntl
import os
import re
import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError, Section, flat_settings
from socialr1_jax.data.prompts import template_file
from socialr1_jax.rewards.extra import function_files
from socialr1_jax.run.metrics import RUN_FILES
from socialr1_jax.runtime.files import read_json, sha256, write_json
from socialr1_jax.runtime.ownership import open_own
from socialr1_jax.runtime.processes import any_of_all, is_first

# Settings that may change on resume because they do not affect the results: hardware, logging, timeouts, and when to
# evaluate or stop. Batch sizes on the devices change the rounding only.
_JUDGE = (
    *("base_url", "api_key_env", "concurrency", "requests_per_minute", "tokens_per_minute", "retries", "call_timeout"),
    *("deadline", "max_answer_bytes", "cache", "price_input", "price_output"),
)
_FREE = (
    *("output_dir", "save_rollouts", "quiet", "verbose", "xla_flags", "distributed", "mesh", "tracking", "checkpoint"),
    *("model.remat", "model.export_dtype", "model.ignore_fields", "data.train_on_evaluation_set"),
    *("sampling.max_rows", "sampling.segment_tokens", "sampling.tensor"),
    *("grpo.micro_batch_tokens", "batch.micro_batch_tokens", "grpo.reference_memory", "grpo.most_skipped"),
    *("optimizer.moments_memory", "evaluation.every", "evaluate_every"),
    *("rewards.content.batch_tokens", "rewards.most_unscorable", "rewards.unscorable_window"),
    *(f"rewards.structure.{name}" for name in _JUDGE),
)
# Files that a command overwrites, truncates or appends to, by the kind of its folder.
_OWN_FILES = "own_files.json"  # checksums of the user's files of code or text
_RUN = ("config.yaml", *RUN_FILES, "bad_rows.jsonl", "shortcuts.json", "summary.json", "report.html", _OWN_FILES)
_EVALUATION = ("results.json", "results.md", "results.html", "replies.jsonl", "samples_*.jsonl", "verdicts_*.jsonl")
_FILES = {
    "run": _RUN,
    "quickstart": (*_RUN, "quickstart.yaml", "questions/*", "tokenizer/*", "sft/*", "content_model/*"),
    "evaluation": _EVALUATION,
}
_LOCK = ".lock"
_MARK = "socialr1_jax"  # beginning of the lock; then process id, the folder's kinds, and the seconds of all sessions
_OURS = re.compile(rf"({_MARK} +(?P<process>[0-9]+)(?P<kinds>( [a-z]+)+) (?P<seconds>[0-9]+\.[0-9])\n)?")
_held: dict[Path, float] = {}  # folders locked by this process, since when (monotonic); makes `own_folder` re-entrant


@contextlib.contextmanager
def own_folder(folder: Path, kind: str = "run") -> Iterator[None]:
    """Create the folder and lock it. The lock is released when the process exits, even on a crash.

    `kind` is run, quickstart or evaluation and determines which files the caller may overwrite.

    Raises ConfigError if another program holds the lock, if the folder is not writable, or if one of those files exists
    and was not written by this program.
    """
    folder = folder.absolute()
    if folder in _held:
        yield
        return
    opened, problem, created, before = None, "", not folder.exists(), set[str]()
    begun, mark, before_seconds = time.monotonic(), "", 0.0
    if is_first():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            before = set(os.listdir(folder))
            refuse_foreign_files(folder, kind)
            opened = open_own(folder / _LOCK, "a+")
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Overwrite in one write, so that a kill leaves the mark intact.
            fcntl.fcntl(opened, fcntl.F_SETFL, fcntl.fcntl(opened, fcntl.F_GETFL) & ~os.O_APPEND)
            kinds = sorted({*_lock(folder)["kinds"].split(), kind, *(["run"] if kind == "quickstart" else [])})
            before_seconds = wall_seconds(folder) + _since_lock(folder)
            mark = f"{_MARK} {os.getpid():>10} {' '.join(kinds)}"
            os.pwrite(opened.fileno(), f"{mark} {before_seconds:.1f}\n".encode(), 0)
        except ConfigError as error:
            problem = str(error)
        except BlockingIOError:
            number = _lock(folder)["process"] or "another"
            problem = f"{folder}: process {number} is at work in this folder: wait for it, or give another output_dir"
        except OSError as error:
            problem = f"{folder}: cannot write to this folder ({error.strerror}): give another output_dir"
    if any_of_all(bool(problem)):
        raise ConfigError(problem or f"{folder}: process 0 could not lock this folder; see its log")
    _held[folder] = begun
    try:
        yield
    finally:
        del _held[folder]
        if opened:
            with contextlib.suppress(OSError):  # a read-only disk is already reported by the error that ended the run
                os.pwrite(opened.fileno(), f"{mark} {before_seconds + time.monotonic() - begun:.1f}\n".encode(), 0)
            if set(os.listdir(folder)) - before == {_LOCK}:  # bad input: leave nothing behind
                (folder / _LOCK).unlink()
                if created:
                    folder.rmdir()
            opened.close()


def refuse_foreign_files(folder: Path, kind: str) -> None:
    """Raise ConfigError if the folder holds a file that this kind of command would overwrite but never wrote."""
    paths = [path for pattern in _FILES[kind] for path in sorted(folder.glob(pattern))]
    links = [path for path in (folder / _LOCK, *paths) if path.is_symlink()]
    if links:
        raise ConfigError(f"{links[0]} is a link, and this program does not write through links: remove it")
    if kind in _lock(folder)["kinds"].split() or _has_checkpoint(folder):
        return
    paths += [path for path in (folder / "checkpoints").glob("*") if re.fullmatch("[0-9]+", path.name)]
    if paths:
        raise ConfigError(
            f"{paths[0]} is there and this program did not write it: give another output folder, or move it away"
        )


def wall_seconds(folder: Path) -> float:
    """Return the seconds for which programs have held this folder, over all sessions including the current one.

    A killed session counts until its last line of metrics or rollouts.
    """
    folder = folder.absolute()
    current = time.monotonic() - _held[folder] if folder in _held else 0.0
    return float(_lock(folder)["seconds"] or 0) + current


def _since_lock(folder: Path) -> float:
    """Return the seconds from the last write to the lock to the last write to the run's files, at least 0.

    A session writes its lock first and, unless it is killed, last.
    """
    written = [(folder / name).stat().st_mtime for name in RUN_FILES if (folder / name).exists()]
    return max(0.0, max(written, default=0.0) - (folder / _LOCK).stat().st_mtime)


def _lock(folder: Path) -> dict[str, str]:
    """Return process, kinds and seconds from the folder's lock, each "" without one. Raises ConfigError."""
    lock, match = folder / _LOCK, _OURS.fullmatch("")
    if lock.exists():
        whole = lock.is_file() and lock.stat().st_size < 100
        match = _OURS.fullmatch(lock.read_text(encoding="utf-8", errors="replace")) if whole else None
    if not match:
        raise ConfigError(f"{lock} is not a lock of this program: give another output folder, or move it away")
    return match.groupdict("")


def _has_checkpoint(folder: Path) -> bool:
    for manifest in folder.glob("checkpoints/[0-9]*/manifest.json"):
        with contextlib.suppress(OSError, ValueError):
            if {"schema", "files"} <= read_json(manifest).keys():
                return True
    return False


def refuse_another_run(config: Section, saved: Path) -> None:
    """Raise ConfigError if the folder of `saved`, a run's configuration, holds results that `config` would overwrite.

    Results are checkpoints, an export, and lines of metrics or rollouts of any phase but "sft". With the same
    configuration a run resumes from its checkpoint, or starts over if it has none and did not finish.
    """
    folder = saved.parent
    finished = (folder / "export").exists() or (folder / "summary.json").exists()
    lines = any(_has_results(folder / name) for name in RUN_FILES)
    if not finished and not lines and not _has_checkpoint(folder):
        return
    if not saved.exists():
        raise ConfigError(f"{folder} holds results of a run but no {saved.name}: give another output_dir, or move them")
    refuse_other_settings(config, saved)
    if isinstance(config, RunConfig):
        _refuse_changed_files(config, folder)
    if finished and not any((folder / "checkpoints").glob("*")):
        raise ConfigError(
            f"{folder} holds a finished run without its checkpoints: give another output_dir, or remove the folder"
        )


def save_own_files(config: RunConfig) -> None:
    """Write the SHA-256 of the user's files that affect the results, by setting, if there are any."""
    if sums := {name: sha256(file) for name, file in _own_files(config).items()}:
        write_json(Path(config.output_dir) / _OWN_FILES, sums)


def forget_functions(folder: Path) -> None:
    """Remove the reward functions from the checksums, so that the run can resume with a corrected function."""
    if (file := folder / _OWN_FILES).exists():
        sums = read_json(file)
        write_json(file, {name: sums[name] for name in sums if not name.startswith("rewards.extra.")})


def _refuse_changed_files(config: RunConfig, folder: Path) -> None:
    if not (folder / _OWN_FILES).exists():
        return
    before = read_json(folder / _OWN_FILES)
    files = _own_files(config).items()
    changed = [f"{file} of {name}" for name, file in files if before.get(name, "") not in ("", sha256(file))]
    if changed:
        raise ConfigError(
            f"{folder} holds a run with another content of {', '.join(changed)}: "
            "restore the original content, give another output_dir, or remove "
            f"{folder / _OWN_FILES} to resume with different results"
        )


def _own_files(config: RunConfig) -> dict[str, Path]:
    """Return the user's files of code and text by setting; a replay uses none."""
    if config.replay_rollouts:
        return {}
    extras = {f"rewards.extra.{name}.function": file for name, file in function_files(config.rewards).items()}
    rubric = config.rewards.structure.rubric
    texts = {
        "rewards.structure.rubric": Path(rubric) if rubric else None,
        "data.prompt": template_file(config.data.prompt),
    }
    return extras | {name: file.absolute() for name, file in texts.items() if file and os.path.isfile(file)}


def refuse_other_settings(config: Section, saved: Path) -> None:
    """Raise ConfigError listing every setting that differs from the file `saved` and affects the results.

    `steps` may be raised if the learning rate does not depend on it (optimizer.schedule constant).
    """
    before, now = (
        {name: value for name, value in flat_settings(settings.model_dump()).items() if value != {}}
        for settings in (load_config(type(config), saved), config)
    )
    differing = []
    for name in {**before, **now}:
        old: Any = before.get(name)
        new: Any = now.get(name)
        reason = ""
        if old == new or any(f"{name}.".startswith(f"{free}.") for free in _FREE):
            continue
        if name == "steps":
            schedule = before["optimizer.schedule"]
            if new > old and schedule == "constant":
                continue
            reason = f", on which optimizer.schedule {schedule} depends" if new > old else ": can only be raised"
        differing.append(f"{name} {old!r} -> {new!r}{reason}")
    if differing:
        raise ConfigError(
            f"{saved.parent} holds a run of another configuration ({', '.join(differing)}): "
            f"give another output_dir, resume that run (--config {shlex.quote(str(saved))} alone), or remove the folder"
        )


def _has_results(file: Path) -> bool:
    """Return True if a JSONL file has a line of a phase other than "sft"."""
    if not file.exists():
        return False
    with file.open("rb") as lines:
        return any(b'"phase": "sft"' not in line for line in lines if line.strip())
