"""Runs that something happens to, and what is left of them.

As a program: `python tests/faults.py EVENT@N:DEED ... -- arguments of train_grpo.py` is train_grpo.py with rewards that
differ, in which DEED is done when EVENT comes up for the N-th time.
"""

import importlib
import itertools
import json
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toys import lines, timeless

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "scripts" / "train_grpo.py"
CONFIG = ROOT / "configs" / "smoke.yaml"
# Three steps are an epoch: 4 to 6 are in the second one. Steps 2, 4 and 6 are saved because it is due, 3 because the
# evaluation has not been better before; it is no better after step 6.
SETTINGS = (
    "data.train=stories:12",
    "steps=6",
    "checkpoint.best=truncated",
    "cold_start=0",
    "sampling.max_new_tokens=24",
    "sampling.segment_tokens=8",
    "grpo.micro_batch_tokens=2048",
    "grpo.entropy_coefficient=0.01",
)

# name: (module, what is called there, whether the deed comes before or after the call)
EVENTS = {
    "load": ("socialr1_jax.training.grpo", "first_model", "before"),
    "tokenizer": ("socialr1_jax.training.start", "made_tokenizer", "after"),
    "opening": ("socialr1_jax.run.run", "Checkpoints.__init__", "before"),
    "open": ("socialr1_jax.run.run", "Checkpoints.__init__", "after"),
    "restored": ("socialr1_jax.run.run", "Checkpoints.restore", "after"),
    "evaluate": ("socialr1_jax.training.sampler", "evaluate_questions", "before"),
    "segment": ("socialr1_jax.sampling.batch", "Rollout._enough", "before"),
    "response": ("socialr1_jax.rewards.scorer", "Scorer.submit", "before"),
    "score": ("socialr1_jax.rewards.scorer", "Scorer.results", "before"),
    "kept": ("socialr1_jax.training.recording", "RolloutFile.append", "after"),
    "old": ("socialr1_jax.grpo.step", "GrpoStep._with_old", "before"),
    "reference": ("socialr1_jax.grpo.step", "GrpoStep._with_reference", "before"),
    "update": ("socialr1_jax.grpo.update", "Update.__call__", "before"),  # two a step
    "metrics": ("socialr1_jax.run.metrics", "RunLog.metrics", "before"),
    "rollouts": ("socialr1_jax.run.metrics", "RunLog.rollouts", "before"),
    "save": ("socialr1_jax.run.checkpoints", "Checkpoints.save", "before"),
    "writing": ("socialr1_jax.run.checkpoints", "Checkpoints._need_room", "after"),
    "saving": ("socialr1_jax.run.checkpoints", "Checkpoints.save", "after"),  # files are written by threads
    "manifest": ("socialr1_jax.run.checkpoints", "Checkpoints._write_manifests", "before"),
    "unnamed": ("socialr1_jax.run.checkpoints", "Checkpoints._write_manifests", "after"),
    "delete": ("orbax.checkpoint._src.path.deleter", "StandardCheckpointDeleter.delete_steps", "before"),
    "export": ("socialr1_jax.training.grpo", "save_hf", "before"),
    "export_written": ("socialr1_jax.weights.hf_export", "sync", "after"),
    "report": ("socialr1_jax.report", "write_report", "before"),
}


def when(patch: pytest.MonkeyPatch, event: str, number: int, deed: Callable[[], Any]) -> None:
    """Does the deed when the event comes up for the `number`-th time; 0 = each time."""
    module, name, side = EVENTS[event]
    *path, last = name.split(".")
    owner: Any = importlib.import_module(module)
    for part in path:
        owner = getattr(owner, part)
    real, calls = getattr(owner, last), itertools.count(1)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        here = next(calls) == number or number == 0
        if here and side == "before":
            deed()
        result = real(*args, **kwargs)
        if here and side == "after":
            deed()
        return result

    patch.setattr(owner, last, wrapped)


def lively(text: str, gold: str, *args: Any, **kwargs: Any) -> Any:
    """A reward that differs between responses and from step to step, so that a wrong step or order shows."""
    from socialr1_jax.rewards import RewardTerms

    step = args[2] if len(args) > 2 else kwargs["step"]
    weights = {"outcome": 1.0, "structure": 2.0 - step / 100, "content": 0.0, "tau": 1.0}
    return RewardTerms(len(set(text)) / 10 + step / 100, 1.0, 0.0, 0.5, float("nan"), 1.0, 1.0, weights)


# --------------------------------------------------------------------------------------------------- what is compared


def states_of(folder: Path, step: int | str = "*") -> dict[str, bytes]:
    """The arrays of every checkpoint of a run, or of one, as the bytes of their files."""
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted((folder / "checkpoints").glob(f"{step}/state/*/*"))
        if file.parent.name != "array_metadatas"
    }


def standing_of(folder: Path) -> dict[str, Any]:
    """Where the run stands, by each checkpoint; without the lengths of files that hold seconds."""
    found = {}
    for file in (folder / "checkpoints").glob("*/run/metadata"):
        content = json.loads(file.read_text())
        content["run"].pop("files")
        content["about"].pop("commit")  # somebody may be at work in the repository
        found[file.parts[-3]] = content
    return found


def assert_same_run(run: Path, whole: Path) -> None:
    """Weights, moments, batches, rollouts, log-probs and metrics of two folders, bit for bit."""
    for name in ("export/model.safetensors", "rollouts.jsonl", "kept.jsonl", "config.yaml"):
        assert (run / name).read_bytes() == (whole / name).read_bytes(), name
    assert_same_metrics(run, whole)
    mine, theirs = states_of(run), states_of(whole)
    assert sorted(mine) == sorted(theirs)
    assert [name for name in theirs if mine[name] != theirs[name]] == []
    assert standing_of(run) == standing_of(whole)


def assert_same_metrics(run: Path, whole: Path) -> None:
    for mine, theirs in zip(*(map(timeless, lines(one / "metrics.jsonl")) for one in (run, whole)), strict=True):
        assert mine == theirs


def steps_saved(folder: Path) -> list[int]:
    """Checkpoints that have their names and manifests."""
    named = (path.parent.name for path in (folder / "checkpoints").glob("*/manifest.json"))
    return sorted(int(name) for name in named if name.isdigit())


def leave_out(content: dict[str, Any], field: str) -> None:
    """Removes the field a.b.c."""
    *path, last = field.split(".")
    for name in path:
        content = content[name]
    del content[last]


def reseal(checkpoint: Path) -> None:
    """Writes the manifest of a changed checkpoint anew, as the program that wrote the change would have."""
    from socialr1_jax.run.checkpoints import _sums

    manifest = json.loads((checkpoint / "manifest.json").read_text())
    sums = {name: {"bytes": size, "xxh3": xxh3} for name, size, xxh3 in _sums(checkpoint, list(manifest["files"]))}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest | {"files": sums}))


# ------------------------------------------------------------------------------------------------- other processes


class Ended:
    """How a process ended: exit status, everything it printed on one line, seconds in all and since its deed."""

    def __init__(self, process: subprocess.Popen, output: str, seconds: float, since: float | None) -> None:
        self.code, self.output, self.seconds, self.since = process.returncode, output, seconds, since
        self.text = " ".join(output.split())  # the console breaks lines

    def __repr__(self) -> str:
        return f"exit {self.code} after {self.seconds:.1f} s\n{self.output[-6000:]}"


def begin(folder: Path, *arguments: str, plan: tuple[str, ...] = (), **environment: str) -> subprocess.Popen:
    """Starts a run into `folder` in which the deeds of `plan` are done."""
    os.environ.setdefault("FAULTS_MARK", str(Path(tempfile.gettempdir()) / f"mark-{os.getpid()}"))
    Path(os.environ["FAULTS_MARK"]).unlink(missing_ok=True)
    settings = [f"output_dir={folder}", f"save_rollouts={folder / 'kept.jsonl'}", *SETTINGS]
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), *plan, "--", "--config", str(CONFIG), *settings, *arguments],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def end(process: subprocess.Popen, timeout: float = 240) -> Ended:
    """Waits for it; one that hangs is killed and fails the test."""
    begun = time.monotonic()
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        pytest.fail(f"still there after {timeout} s; it had printed:\n{output[-6000:]}")
    now, mark = time.monotonic(), Path(os.environ["FAULTS_MARK"])
    return Ended(process, output, now - begun, now - float(mark.read_text()) if mark.exists() else None)


def run(folder: Path, *arguments: str, plan: tuple[str, ...] = (), timeout: float = 240, **environment: str) -> Ended:
    return end(begin(folder, *arguments, plan=plan, **environment), timeout)


def completed(folder: Path, *arguments: str, **environment: str) -> Ended:
    ended = run(folder, *arguments, **environment)
    assert ended.code == 0, ended
    return ended


# ------------------------------------------------------------------------------------------- deeds, within the process


def _mark() -> None:
    Path(os.environ["FAULTS_MARK"]).write_text(str(time.monotonic()))


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _term() -> None:
    _mark()
    os.kill(os.getpid(), signal.SIGTERM)


def _term_twice() -> None:
    """While the main thread is busy for long."""

    def later() -> None:
        time.sleep(1.0)
        _term()

    os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=later, daemon=True).start()
    time.sleep(60)


def _fill(left: int) -> None:
    """Leaves `left` bytes free on the small file system at FAULTS_DISK."""
    free = os.statvfs(os.environ["FAULTS_DISK"])
    with (Path(os.environ["FAULTS_DISK"]) / "ballast").open("ab", buffering=0) as file:
        file.write(bytes(max(0, free.f_bavail * free.f_frsize - left)))


def _own_disk(size: str) -> None:
    """The checkpoints of this run lie on a small disk of their own."""
    folder = Path(os.environ["FAULTS_RUN"]) / "checkpoints"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)


def _half_deleted() -> None:
    """What a kill in the middle of a deletion leaves: of the oldest checkpoint every second file is gone."""
    folder = Path(os.environ["FAULTS_RUN"]) / "checkpoints"
    oldest = min((path for path in folder.iterdir() if path.name.isdigit()), key=lambda path: int(path.name))
    for file in sorted(path for path in oldest.rglob("*") if path.is_file())[::2]:
        file.unlink()
    _kill()


def _clock_back() -> None:
    """From now on it is two days ago, for Python."""
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() - 2 * 86_400
    time.time_ns = lambda: now_ns() - 2 * 86_400 * 10**9


def _torn(name: str) -> None:
    """The next line of that file is written by half, then the process is killed."""
    from socialr1_jax.run import metrics

    def half(path: Path, rows: Any) -> None:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        with path.open("a", encoding="utf-8") as file:
            file.write(text[: len(text) // 2])
        if path.name == name:
            _kill()

    metrics._append = half


def _keep_restored(file: Path) -> None:
    """Writes the arrays that are restored into a NumPy file."""
    import jax
    import numpy as np

    from socialr1_jax.run.checkpoints import Checkpoints
    from socialr1_jax.runtime.mesh import fetch

    real = Checkpoints.restore

    def restore(self: Checkpoints, state: Any, needs: Any) -> Any:
        found = real(self, state, needs)
        assert found is not None
        leaves = jax.tree_util.tree_leaves_with_path(found[0]._asdict())
        keep = {jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(fetch(x)) for path, x in leaves}
        spread = max(len(x.sharding.device_set) for _, x in leaves)
        np.savez(file, devices=spread, split=sum(not x.is_fully_replicated for _, x in leaves), **keep)
        return found

    Checkpoints.restore = restore  # type: ignore[method-assign]


DEEDS: dict[str, Callable[..., Any]] = {
    "kill": _kill,
    "term": _term,
    "term_twice": _term_twice,
    "fill": lambda left="0": _fill(int(left)),
    "free": lambda: (Path(os.environ["FAULTS_DISK"]) / "ballast").unlink(missing_ok=True),
    "own_disk": _own_disk,
    "frozen": lambda: subprocess.run(["chattr", "-R", "+i", os.environ["FAULTS_RUN"]], check=True),
    "half_deleted": _half_deleted,
    "clock_back": _clock_back,
    "torn": _torn,
    "sleep": lambda seconds: (_mark(), time.sleep(float(seconds))),
}


def main(plan: list[str], arguments: list[str]) -> None:
    os.environ["FAULTS_RUN"] = next(one.partition("=")[2] for one in arguments if one.startswith("output_dir="))
    patch, at_once = pytest.MonkeyPatch(), "start"
    for one in plan:
        place, _, deed = one.partition(":")
        event, _, number = place.partition("@")
        name, *values = deed.split(",")
        if event == at_once:
            DEEDS[name](*values)
            continue
        when(patch, event, int(number or 1), lambda name=name, values=values: DEEDS[name](*values))
    if keep := os.environ.get("FAULTS_KEEP_RESTORED"):
        _keep_restored(Path(keep))
    patch.setattr(importlib.import_module("socialr1_jax.rewards.scorer"), "social_r1_reward", lively)
    sys.argv = [str(SCRIPT), *arguments]
    runpy.run_path(str(SCRIPT), run_name="__main__")


def small_disk(folder: Path, size: str) -> Path:
    """A file system of that size, as root; skips the test where none can be had. `unmount` it."""
    folder.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=False)
    if not done or done.returncode:
        pytest.skip("no file system can be mounted here")
    return folder


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=False)


if __name__ == "__main__":
    here = sys.argv.index("--")
    main(sys.argv[1:here], sys.argv[here + 1 :])
