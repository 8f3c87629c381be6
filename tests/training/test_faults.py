"""Runs that are killed, stopped, starved of disk and disturbed, as processes of their own.

    pytest -m slow tests/training/test_faults.py -n0

With FAULTS_TABLE=FILE each test adds what it measured to FILE; docs/reliability.md has such a table.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from faults import (
    CONFIG,
    ROOT,
    SCRIPT,
    SETTINGS,
    assert_same_metrics,
    assert_same_run,
    begin,
    completed,
    end,
    leave_out,
    reseal,
    run,
    small_disk,
    states_of,
    steps_saved,
    unmount,
)
from toys import lines

pytestmark = pytest.mark.slow

# (event, its number): where a run of six steps is killed. Checkpoints come after steps 2, 3, 4 and 6, evaluations
# after 0, 3 and 6, two updates are a step, three steps an epoch.
KILLS = {
    "start: before anything is there": "load@1",
    "start: tokenizer half made": "tokenizer@1",
    "start: checkpoints/ there, config.yaml not": "open@1",
    "evaluation before training": "response@9",
    "rollout of step 1": "segment@5",
    "scoring of step 2": "score@3",
    "log-probs of the old policy, step 2": "old@2",
    "mini-batches of step 2": "update@4",
    "save of step 2 asked for": "save@1",
    "save of step 2, threads at work": "saving@1",
    "save of step 2, no manifest yet": "manifest@1",
    "save of step 3, no name yet": "unnamed@2",
    "metrics.jsonl torn, step 3": "metrics@4:torn,metrics.jsonl",
    "rollouts.jsonl torn, step 4": "rollouts@6:torn,rollouts.jsonl",
    "evaluation after step 3": "response@70",
    "rollout of step 4, a new epoch": "segment@17",
    "mini-batches of step 5": "update@10",
    "save of step 4, an old checkpoint half deleted": "delete@3:half_deleted",
    "export": "export_written@1",
    "report": "report@1",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """A run that nothing happened to."""
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    completed(place / "run")
    return (place / "run").rename(place / "whole")


@pytest.fixture
def folder(place) -> Path:
    """Always the same one, for it is among the settings."""
    shutil.rmtree(place / "run", ignore_errors=True)
    return place / "run"


@pytest.fixture
def disk(tmp_path):
    """A file system of 24 MB; a run takes 12."""
    made = small_disk(tmp_path / "disk", "24m")
    yield made
    unmount(made)


@pytest.fixture
def table(request):
    """table(what came of it): a line of docs/reliability.md."""

    def add(*columns: object) -> None:
        if file := os.environ.get("FAULTS_TABLE"):
            with Path(file).open("a") as out:
                out.write(f"| {' | '.join(map(str, (request.node.name, *columns)))} |\n")

    return add


def resumed_after(text: str) -> int:
    found = re.search(r"resuming after step (\d+)|all (\d+) steps of this run are done", text)
    return int(found[1] or found[2]) if found else 0


def same_numbers(folder: Path, whole: Path) -> None:
    """Two runs into different folders: everything but the settings' paths."""
    for name in ("export/model.safetensors", "rollouts.jsonl", "kept.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    assert_same_metrics(folder, whole)


# ---------------------------------------------------------------------------------------------------------- kill -9


@pytest.mark.parametrize("moment", KILLS)
def test_kill(moment, folder, whole, table):
    plan = KILLS[moment] if ":" in KILLS[moment] else f"{KILLS[moment]}:kill"
    killed = run(folder, plan=(plan,))
    assert killed.code == -signal.SIGKILL, killed
    done = [row["step"] for row in lines_so_far(folder) if row["phase"] == "grpo"]
    ended = completed(folder)
    step = resumed_after(ended.text)
    table(f"from step {step}", f"{max(done, default=0) - step} steps done again", "0 bytes differ")
    assert_same_run(folder, whole)


def lines_so_far(folder: Path) -> list[dict]:
    file = folder / "metrics.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.split("\n")[:-1]]


@pytest.mark.parametrize("seed", range(4))
def test_kill_at_a_random_moment_again_and_again(seed, folder, whole, table):
    """Killed four times, once from the start on and three times after a first step; then left alone."""
    moments, steps = random.Random(seed), []
    for number in range(4):
        begun, process = time.time(), begin(folder)
        while number and process.poll() is None and not stepped(folder, begun):
            time.sleep(0.02)
        try:
            process.wait(moments.uniform(0, 2.5) if number else moments.uniform(2, 12))
        except subprocess.TimeoutExpired:
            process.kill()
        steps.append(resumed_after(end(process).text))
    steps.append(resumed_after(completed(folder).text))
    table(f"from steps {steps}", "", "0 bytes differ")
    assert_same_run(folder, whole)


def stepped(folder: Path, since: float) -> bool:
    file = folder / "metrics.jsonl"
    written = file.exists() and file.stat().st_mtime > since
    return written and any(row["phase"] == "grpo" for row in lines_so_far(folder))


# ---------------------------------------------------------------------------------------------------------- SIGTERM

STOPS = {
    "loading": "load@1",
    "evaluation": "response@9",
    "rollout": "segment@8",
    "scoring": "score@3",
    "old log-probs": "old@2",
    "reference log-probs": "reference@2",
    "mini-batches": "update@4",
    "first update, compiling": "update@1",
    "logging": "metrics@3",
    "saving": "saving@2",
    "evaluation in training": "response@70",
}


@pytest.mark.parametrize("phase", STOPS)
def test_sigterm(phase, folder, whole, table):
    stopped = run(folder, plan=(f"{STOPS[phase]}:term",))
    assert stopped.code == 75, stopped
    assert "interrupted and saved. Run the same command to resume" in stopped.text
    saved = steps_saved(folder)[-1]
    done = [row["step"] for row in lines_so_far(folder) if row["phase"] == "grpo"]
    assert saved == max(done, default=0)
    completed(folder)
    table(f"{stopped.since:.1f} s to exit 75", f"saved after step {saved}", "0 bytes differ")
    same_numbers(folder, whole)


@pytest.mark.parametrize("phase", ["export@1", "report@1"])
def test_sigterm_when_all_is_done(phase, folder, whole, table):
    """The weights are trained: the run ends, or what is missing of its files is made by the next call."""
    stopped = run(folder, plan=(f"{phase}:term",))
    table(f"{stopped.since:.1f} s to exit {stopped.code}", "", "0 bytes differ")
    if stopped.code:
        completed(folder)
    assert_same_run(folder, whole)
    assert (folder / "report.html").exists()
    assert stopped.code in (0, 75), stopped


def test_sigterm_before_the_program_listens(folder, whole, table):
    """While libraries are imported, the first seconds; the script itself, for nothing is done to it."""
    settings = [f"output_dir={folder}", f"save_rollouts={folder / 'kept.jsonl'}", *SETTINGS]
    process = subprocess.Popen([sys.executable, str(SCRIPT), "--config", str(CONFIG), *settings], cwd=ROOT)
    time.sleep(1.5)
    sent = time.monotonic()
    process.send_signal(signal.SIGTERM)
    code = process.wait(20)
    table(f"{time.monotonic() - sent:.1f} s to exit {code}", "nothing was there", "")
    assert not folder.exists()
    completed(folder)
    assert_same_run(folder, whole)
    assert code == 75


def test_second_signal(folder, whole, table):
    """While the main thread sleeps for a minute within a step."""
    stopped = run(folder, plan=("update@6:term_twice",))
    assert stopped.code == 128 + signal.SIGTERM, stopped
    assert stopped.since < 3
    step = resumed_after(completed(folder).text)
    table(f"{stopped.since:.1f} s to exit 143", f"from step {step}", "0 bytes differ")
    assert_same_run(folder, whole)


def test_queue_example_of_the_documentation(folder, whole, tmp_path, table):
    """The batch script of docs/reliability.md, with a scontrol that writes down what it is asked."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    script = text.partition("```bash\n#!/bin/bash")[2].partition("```")[0]
    settings = [f"output_dir={folder}", f"save_rollouts={folder / 'kept.jsonl'}", *SETTINGS]
    plain = "python scripts/train_grpo.py --config configs/mine.yaml"
    assert plain in script
    # The signal comes to the batch script, as with --signal=B:TERM, once the first step is there.
    command = f"python tests/faults.py update@5:sleep,3 -- --config {CONFIG} {' '.join(settings)}"
    (tmp_path / "job.sh").write_text("#!/bin/bash" + script.replace(plain, command))
    (tmp_path / "scontrol").write_text(f'#!/bin/bash\necho "$@" > {tmp_path / "asked"}\n')
    (tmp_path / "scontrol").chmod(0o755)
    mark = tmp_path / "mark"
    environment = os.environ | {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_JOB_ID": "17",
        "FAULTS_MARK": str(mark),
    }
    job = subprocess.Popen(["bash", str(tmp_path / "job.sh")], cwd=ROOT, env=environment)
    until = time.monotonic() + 120
    while not mark.exists() and time.monotonic() < until:
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(120) == 75
    assert (tmp_path / "asked").read_text() == "requeue 17\n"
    completed(folder)
    table("scontrol requeue was called", "", "0 bytes differ")
    same_numbers(folder, whole)


# --------------------------------------------------------------------------------------------------------- full disk


# A checkpoint has 1.4 MB. On a disk of its own it is begun; on the one disk the run sees before that there is no room.
WHERE = ["checkpoints on a disk of their own", "all on one disk"]


def on_disk(disk: Path, *arguments: str, plan: tuple[str, ...] = ()):
    return run(disk / "run", *arguments, plan=plan, timeout=150, FAULTS_DISK=str(disk))


@pytest.fixture(params=WHERE)
def filled(request, disk):
    """filled(settings, plan, full) runs into `disk`/run; the disk that is filled is the one of the checkpoints."""
    own = request.param == WHERE[0]
    checkpoints = disk / "run" / "checkpoints"

    def start(*arguments: str, plan: tuple[str, ...] = (), full: int = 0):
        """`full`: the number of the save that finds no room, on the one disk before it begins."""
        first = ("opening@1:own_disk,16m",) if own and not checkpoints.exists() else ()
        first += (f"{'writing' if own else 'save'}@{full}:fill,400000",) if full else ()
        return run(
            disk / "run", *arguments, plan=(*first, *plan), timeout=150, FAULTS_DISK=str(checkpoints if own else disk)
        )

    yield start
    if own:
        unmount(checkpoints)


def make_room(disk: Path) -> None:
    for ballast in (disk / "ballast", disk / "run" / "checkpoints" / "ballast"):
        ballast.unlink(missing_ok=True)


def test_full_disk_while_saving_does_not_stop(filled, disk, whole, table):
    """When step 4 is saved, and there is room again when step 6 is."""
    ended = filled(plan=("save@4:free",), full=3)
    make_room(disk)
    saved, code = steps_saved(disk / "run"), ended.code
    table(f"exit {code}", f"checkpoints {saved}", "")
    assert "a checkpoint could not be written (no space left on the device)" in ended.text
    assert "that of step 3 stays valid" in ended.text
    assert code == 0, ended
    same_numbers(disk / "run", whole)
    assert 6 in saved


def test_disk_full_while_saving_and_the_run_stops(filled, disk, whole, table):
    """Where that is asked for: before another step is trained in vain."""
    stopped = filled("checkpoint.on_failure=stop", full=2)
    done = max(row["step"] for row in lines_so_far(disk / "run") if row["phase"] == "grpo")
    make_room(disk)
    ended = filled("checkpoint.on_failure=stop")
    table(f"exit {stopped.code} in step {done + 1}", f"went on from {resumed_after(ended.text)}", "0 bytes differ")
    assert ended.code == 0, ended
    same_numbers(disk / "run", whole)
    assert stopped.code == 1, stopped
    assert "train_grpo.py: stopped: " in stopped.text, stopped
    assert "that of step 2 stays valid" in stopped.text


def test_disk_full_at_the_last_checkpoint(filled, disk, whole, table):
    stopped = filled(full=4)
    make_room(disk)
    ended = filled()
    table(f"exit {stopped.code}", f"went on from {resumed_after(ended.text)}", "0 bytes differ")
    assert ended.code == 0, ended
    same_numbers(disk / "run", whole)
    assert stopped.code == 1, stopped
    assert "train_grpo.py: stopped: " in stopped.text, stopped


@pytest.mark.parametrize("tensorboard", ["true", "false"])
def test_disk_full_while_metrics_are_written(disk, whole, table, tensorboard):
    """Nothing is left when step 3 is logged: a message, not a traceback nor a run that hangs; then it goes on."""
    stopped = on_disk(disk, f"tracking.tensorboard={tensorboard}", plan=("metrics@4:fill,0",))
    (disk / "ballast").unlink()
    ended = on_disk(disk)
    assert ended.code == 0, ended
    same_numbers(disk / "run", whole)
    table(f"exit {stopped.code}", f"went on from {resumed_after(ended.text)}", "0 bytes differ")
    assert stopped.code == 1, stopped
    assert "train_grpo.py: stopped: " in stopped.text
    assert "No space left on device" in stopped.text


def test_disk_full_while_exporting(disk, whole, table):
    stopped = on_disk(disk, plan=("export@1:fill,100000",))
    (disk / "ballast").unlink()
    ended = on_disk(disk)
    assert ended.code == 0, ended
    same_numbers(disk / "run", whole)
    table(f"exit {stopped.code}", f"went on from {resumed_after(ended.text)}", "0 bytes differ")
    assert stopped.code == 1, stopped
    assert "train_grpo.py: stopped: " in stopped.text, stopped


# --------------------------------------------------------------------------------------------------- the run folder


def test_folder_made_read_only(folder, whole, table):
    """While step 3 is logged: no file can be opened for writing any more, as on a file system that was remounted."""
    if subprocess.run(["chattr", "+i", str(whole / "config.yaml")], check=False, capture_output=True).returncode:
        pytest.skip("no attributes of files here")
    subprocess.run(["chattr", "-i", str(whole / "config.yaml")], check=True)
    try:
        stopped = run(folder, plan=("rollouts@4:frozen",))
        again = run(folder)
    finally:
        subprocess.run(["chattr", "-R", "-i", str(folder)], check=True)
    ended = completed(folder)
    table(f"exit {stopped.code}; started on it: {again.code}", f"went on from {resumed_after(ended.text)}", "")
    assert_same_run(folder, whole)
    assert stopped.code == 1, stopped
    assert "train_grpo.py: stopped: " in stopped.text, stopped
    assert "rollouts.jsonl: Operation not permitted" in stopped.text, stopped
    assert again.code == 2, again
    assert "cannot write to this folder" in again.text


def test_started_on_a_read_only_file_system(disk, whole, table):
    shutil.copytree(whole, disk / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    stopped = on_disk(disk)
    table(f"exit {stopped.code} with a message", "", "")
    assert stopped.code == 2, stopped
    assert "cannot write to this folder (Read-only file system)" in stopped.text


def test_two_processes_on_one_folder(folder, whole, table):
    first = begin(folder, plan=("update@3:sleep,15",))
    until = time.monotonic() + 100
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < until:
        time.sleep(0.1)
    second = subprocess.run(
        [sys.executable, "scripts/train_grpo.py", "--config", str(folder / "config.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert first.poll() is None, "the second one must come while the first is at work"
    assert second.returncode == 2, second.stderr
    assert f"process {first.pid} is at work in this folder" in " ".join(second.stderr.split())
    assert end(first).code == 0
    table("second: exit 2", "first: went on", "0 bytes differ")
    assert_same_run(folder, whole)


def test_clock_set_back(folder, whole, table):
    """Two days back in the middle of a run that is then killed; and the next one lives in the past altogether."""
    killed = run(folder, plan=("update@3:clock_back", "update@9:kill"))
    assert killed.code == -signal.SIGKILL, killed
    ended = run(folder, plan=("start:clock_back",))
    assert ended.code == 0, ended
    table("", f"went on from {resumed_after(ended.text)}", "0 bytes differ")
    assert_same_run(folder, whole)


@pytest.mark.parametrize("lost", ["one line", "all but one line", "all", "the file"])
def test_metrics_shorter_than_the_checkpoint_says(lost, folder, whole, table):
    shutil.copytree(whole, folder)
    shutil.rmtree(folder / "checkpoints" / "6")
    file = folder / "metrics.jsonl"
    rows = file.read_text().splitlines(keepends=True)
    before = [row for row in rows if json.loads(row)["step"] <= 4]
    left = {"one line": before[:-1], "all but one line": before[:1]}.get(lost, [])
    file.write_text("".join(left))
    if lost == "the file":
        file.unlink()
    ended = completed(folder)
    assert "has lost its last" in ended.text
    table("warned, exit 0", f"went on from {resumed_after(ended.text)}", f"{len(before) - len(left)} lines of metrics")
    assert (folder / "export" / "model.safetensors").read_bytes() == (whole / "export/model.safetensors").read_bytes()
    assert (folder / "rollouts.jsonl").read_bytes() == (whole / "rollouts.jsonl").read_bytes()


# ------------------------------------------------------------------------------------------------------ checkpoints


@pytest.mark.parametrize("harm", ["cut", "emptied", "flipped"])
def test_damaged_checkpoint(harm, folder, whole, table):
    """The largest file of the newest one; test_survival.py goes through all files."""
    shutil.copytree(whole, folder)
    file = folder / "checkpoints" / "6" / "state" / "opt_state.1.nu.embed_tokens" / "0.0"
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 16
    file.write_bytes({"cut": content[:-4096], "emptied": b"", "flipped": content}[harm])
    ended = completed(folder)
    assert "checkpoint 6 is damaged (state/opt_state.1.nu.embed_tokens/0.0 is cut or altered): set aside" in ended.text
    table("warned, exit 0", f"went on from {resumed_after(ended.text)}", "0 bytes differ")
    shutil.rmtree(folder / "checkpoints" / "6.damaged")
    assert_same_run(folder, whole)


def test_no_checkpoint_whole(folder, whole, table):
    shutil.copytree(whole, folder)
    for manifest in folder.glob("checkpoints/*/manifest.json"):
        manifest.write_bytes(b"")
    stopped = run(folder)
    assert stopped.code == 2, stopped
    assert "no checkpoint is whole (checkpoint 6: manifest.json" in stopped.text
    assert "Traceback" not in stopped.text
    again = run(folder)  # it must not begin anew, silently, over what was set aside
    table(f"exit 2 with a message; given again: exit {again.code}", "", "")
    assert again.code == 2, again


def fields(content: object, path: str = "") -> list[str]:
    """Every field of the run's part of a checkpoint, as a.b.c; lists and what is only kept for people left out."""
    found = []
    for name, value in content.items() if isinstance(content, dict) else ():
        inner = name not in ("about", "best", "files", "seen")
        found += [path + name, *(fields(value, f"{path}{name}.") if inner else [])]
    return found


def test_missing_fields(folder, whole, table):
    """Each field in its turn, as another version would have left it out."""
    checkpoint, wrong = folder / "checkpoints" / "6", []
    content = json.loads((whole / "checkpoints" / "6" / "run" / "metadata").read_text())
    for field in fields(content):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(whole, folder)
        changed = json.loads(json.dumps(content))
        leave_out(changed, field)
        (checkpoint / "run" / "metadata").write_text(json.dumps(changed))
        reseal(checkpoint)
        stopped = run(folder)
        if stopped.code != 2 or field.rpartition(".")[2] not in stopped.text or "Traceback" in stopped.text:
            wrong.append(f"{field}: exit {stopped.code}, {stopped.text[-120:]}")
    table(f"{len(fields(content)) - len(wrong)} of {len(fields(content))} fields: exit 2 with a message", "", "")
    assert wrong == []


@pytest.mark.parametrize("problem", ["newer schema", "another shape", "a weight missing"])
def test_foreign_checkpoint(problem, folder, whole, table):
    """config.yaml is that of the run, the checkpoint is not."""
    shutil.copytree(whole, folder)
    checkpoint = folder / "checkpoints" / "6"
    if problem == "newer schema":
        file = checkpoint / "run" / "metadata"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"schema": 99}))
        reseal(checkpoint)
        message = "has schema 99, this version reads 2: update socialr1_jax"
    elif problem == "another shape":
        other = folder.parent / "other"
        completed(other, "model.random=tiny", "steps=1", "data.eval=stories:heldout:2")
        shutil.rmtree(folder / "checkpoints")
        shutil.copytree(other / "checkpoints", folder / "checkpoints")
        message = "does not fit this run: "
    else:
        for name in ("_METADATA",):
            file = checkpoint / "state" / name
            content = json.loads(file.read_text())
            content["tree_metadata"] = {k: v for k, v in content["tree_metadata"].items() if "norm" not in k}
            file.write_text(json.dumps(content))
        reseal(checkpoint)
        message = "is missing"
    stopped = run(folder)
    table(f"exit {stopped.code} with a message", "", "")
    assert stopped.code == 2, stopped
    assert message in stopped.text
    assert "Traceback" not in stopped.text


# ------------------------------------------------------------------------------------------------------ other devices


# nano's one head of keys and values cannot be split.
SPLIT = ("model.random=tiny", "steps=4")


@pytest.mark.parametrize("mesh", ["1x2x2", "2x2x1", "1x1x2"])
def test_resumed_on_another_mesh(mesh, folder, tmp_path, table):
    """From one device to replica x fsdp x tensor (2x2x1: with two devices for a row), to the end there; and back."""
    replica, fsdp, tensor = map(int, mesh.split("x"))
    killed = run(folder, *SPLIT, plan=("update@7:kill",))  # in step 4
    assert killed.code == -signal.SIGKILL, killed
    saved = steps_saved(folder)[-1]
    stored = {name.split("/")[3]: content for name, content in states_of(folder, saved).items()}
    back = Path(shutil.copytree(folder, tmp_path / "begun"))
    devices = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={replica * fsdp * tensor}"}
    shape = (f"mesh.replica={replica}", f"mesh.fsdp={fsdp}", f"mesh.tensor={tensor}")
    shape += ("sampling.tensor=2",) if mesh == "2x2x1" else ()
    keep = {"FAULTS_KEEP_RESTORED": str(tmp_path / "restored.npz")}
    ended = completed(folder, *SPLIT, *shape, **devices, **keep)
    assert f"resuming after step {saved} of 4" in ended.text
    restored = np.load(tmp_path / "restored.npz")
    assert int(restored["devices"]) == replica * fsdp * tensor
    assert int(restored["split"]) > 0
    assert set(stored) == set(restored.files) - {"devices", "split"}
    assert [name for name, content in stored.items() if restored[name].tobytes() != content] == []
    trained = [row for row in lines(folder / "metrics.jsonl") if row["phase"] == "grpo"]
    assert [row["step"] for row in trained] == [1, 2, 3, 4]
    assert max(row["mismatch/max"] for row in trained) < 1e-4  # of log-probs by sampler and trainer
    # Stopped on the mesh, and back on one device.
    shutil.rmtree(folder)
    back.rename(folder)
    stopped = run(folder, *SPLIT, *shape, plan=("update@1:term",), **devices)
    assert stopped.code == 75, stopped
    ended = completed(folder, *SPLIT)
    assert [row["step"] for row in lines(folder / "metrics.jsonl") if row["phase"] == "grpo"] == [1, 2, 3, 4]
    table(f"restored bit for bit after step {saved}", f"back on one device after step {resumed_after(ended.text)}", "")


def test_begun_on_four_devices_and_ended_on_four(folder, place, table):
    """The same mesh all along: bit for bit, as on one device."""
    four = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4"}
    shape = (*SPLIT, "mesh.fsdp=2", "mesh.tensor=2")
    completed(folder, *shape, **four)
    undisturbed = folder.rename(place / "four")
    killed = run(folder, *shape, plan=("update@6:kill",), **four)
    assert killed.code == -signal.SIGKILL, killed
    ended = completed(folder, *shape, **four)
    table("", f"went on from {resumed_after(ended.text)}", "0 bytes differ")
    same_numbers(folder, undisturbed)
    shutil.rmtree(undisturbed)
