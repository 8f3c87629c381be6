"""Exact resume and refusals, fast. What a kill leaves is a copy of the run folder at that moment; real ones, full disks
and the like are in test_faults.py.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from faults import CONFIG, SCRIPT, SETTINGS, assert_same_run, leave_out, lively, reseal, steps_saved, when
from judge_server import JudgeServer
from toys import lines

from socialr1_jax import load_hf
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import CheckpointConfig, RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.grpo.update import TrainState
from socialr1_jax.report.metric_lines import metric_line
from socialr1_jax.rewards import ParsedResponse, scorer
from socialr1_jax.run import checkpoints as checkpoints_module
from socialr1_jax.run.checkpoints import CheckpointError, Checkpoints, fault
from socialr1_jax.run.weights import find_checkpoint, load_policy
from socialr1_jax.runtime.files import flattened, whole_folder
from socialr1_jax.training.grpo import train_grpo

pytestmark = pytest.mark.usefixtures("programs_once", "one_layer")

# Moments at which the whole run's folder is copied, as a kill would leave it: event, its number, the step that the run
# must go on from. Steps 4 to 6 are the second epoch; updates are two a step.
MOMENTS = {
    "between the mini-batches of step 2": ("update", 4, 0),
    "files of the first checkpoint written, no name yet": ("unnamed", 1, 0),
    "metrics of step 3 written, rollouts not": ("rollouts", 4, 2),
    "behind the epoch's end, within a rollout": ("segment", 17, 3),
    "export written, not renamed": ("export_written", 1, 6),
}


@pytest.fixture(scope="module", autouse=True)
def rewards_differ():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer, "social_r1_reward", lively)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("survival")


def config_of(folder: Path, *settings: str) -> RunConfig:
    values = [f"output_dir={folder}", f"save_rollouts={folder / 'kept.jsonl'}", *SETTINGS, *settings]
    return load_config(RunConfig, CONFIG, values)


@pytest.fixture(scope="module")
def whole(place) -> Path:
    """A run that nothing happened to; beside it a copy of its folder at each of MOMENTS."""

    def copy(name: str) -> None:
        end = time.monotonic() + 20
        while MOMENTS[name][0] != "unnamed" and list(place.glob("run/checkpoints/*tmp*")) and time.monotonic() < end:
            time.sleep(0.01)  # what is being written would be whole at one time and not at another
        shutil.copytree(place / "run", place / name)

    with pytest.MonkeyPatch.context() as patch:
        for name, (event, number, _) in MOMENTS.items():
            when(patch, event, number, partial(copy, name))
        assert train_grpo(config_of(place / "run"))
    return (place / "run").rename(place / "whole")


@pytest.fixture
def run(place, whole) -> Path:
    """The folder of the run, to be filled by the test; always the same, for it is among the settings."""
    shutil.rmtree(place / "run", ignore_errors=True)
    return place / "run"


def script_of(path: Path) -> ModuleType:
    spec = spec_from_file_location(f"script_{path.stem}", path)
    script = module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


# ------------------------------------------------------------------------------------------------------- exact resume


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_run_resumes_to_the_same_bytes(moment, place, whole, run, capsys):
    step = MOMENTS[moment][2]
    (place / moment).rename(run)
    assert train_grpo(config_of(run))
    text = said(capsys)
    assert {0: "model: ", 6: "all 6 steps of this run are done"}.get(step, f"resuming after step {step} of 6") in text
    assert ("resuming" in text) == (0 < step < 6)
    assert_same_run(run, whole)


def test_twice_resumed_run_ends_with_equal_bytes(place, whole, run):
    """Interrupted in the rollout of step 2 and again, by what the first resume left, between updates of step 5."""
    stages = []
    for event, number in (("segment", 8), ("update", 6)):
        with pytest.MonkeyPatch.context() as patch:
            when(patch, event, number, lambda: os.kill(os.getpid(), signal.SIGTERM))
            assert not train_grpo(config_of(run))
        stages.append(steps_saved(run)[-1])
    assert stages == [1, 4]
    assert train_grpo(config_of(run))
    # 1 and 4 are saved beside those that are due, which changes nothing else
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(whole / "checkpoints", run / "checkpoints")
    assert_same_run(run, whole)


def test_a_finished_run_given_again_changes_nothing(whole, run):
    shutil.copytree(whole, run)
    assert train_grpo(config_of(run))
    assert_same_run(run, whole)


def test_folder_without_configuration_can_be_used(whole, run):
    """A kill during start-up, when checkpoints/ is there and config.yaml not yet."""
    (run / "checkpoints").mkdir(parents=True)
    (run / "tokenizer").symlink_to(whole / "tokenizer")
    with pytest.MonkeyPatch.context() as patch:
        when(patch, "evaluate", 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert not train_grpo(config_of(run))


def test_leftover_export_of_equal_process_number_is_ignored(tmp_path):
    """In a container a program has the same process number each time."""
    (tmp_path / f".export.partial-{os.getpid()}").mkdir()
    with whole_folder(tmp_path / "export", marker="config.json") as partial:
        (partial / "config.json").write_text("{}")
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_more_steps_end_with_equal_bytes(whole, run):
    """A run of five steps, asked for a sixth: the bytes of one that was asked for six at once."""
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "6")
    text = (run / "config.yaml").read_text()
    assert "\nsteps: 6\n" in text
    (run / "config.yaml").write_text(text.replace("\nsteps: 6\n", "\nsteps: 5\n"))
    assert train_grpo(config_of(run))
    assert_same_run(run, whole)


def test_every_written_metric_is_explained(whole):
    rows = [(row["phase"], flattened(row)) for row in lines(whole / "metrics.jsonl")]
    names = {(phase, name) for phase, row in rows for name in row} - {
        (p, n) for p, _ in rows for n in ("phase", "step")
    }
    assert len(names) > 60
    assert [name for name in sorted(names) if not metric_line(*name)] == []


# ------------------------------------------------------------------------------------------------------------ refusals


def test_another_configuration_is_refused_by_key(whole, run):
    shutil.copytree(whole, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(ConfigError) as refused:
        train_grpo(config_of(run, "seed=7", "optimizer.learning_rate=0.5", "grpo.clip_low=0.1"))
    for part in ("seed 0 -> 7", "optimizer.learning_rate 0.0003 -> 0.5", "grpo.clip_low 0.2 -> 0.1"):
        assert part in str(refused.value)
    assert "steps" not in str(refused.value)
    assert {path: path.read_bytes() for path in before} == before


def test_moved_and_renamed_run_folder_resumes(place, whole, tmp_path, monkeypatch):
    """The same folder by a relative path, and elsewhere: where it lies is not what it computes."""
    moved = Path(shutil.copytree(whole, tmp_path / "moved"))
    monkeypatch.chdir(tmp_path)
    config = load_config(RunConfig, moved / "config.yaml", ["output_dir=moved", "save_rollouts=moved/kept.jsonl"])
    assert train_grpo(config)


def test_settings_that_change_no_numbers_may_differ(whole, run):
    shutil.copytree(whole, run)
    free = ("quiet=true", "tracking.tensorboard=false", "checkpoint.keep=5", "checkpoint.on_failure=stop")
    free += ("rewards.unscorable_window=2", "grpo.most_skipped=9")
    assert train_grpo(config_of(run, *free))


# --------------------------------------------------------------------------------------------------------- checkpoints


def small_state(value: float = 0.0) -> TrainState:
    params = {"w": jnp.full((4, 3), value)}
    return TrainState(params, {"mu": params}, jnp.int32(value), jnp.int32(0))


def some_checkpoints(folder: Path, *steps: int, **settings: object) -> Checkpoints:
    made = Checkpoints(folder, CheckpointConfig(**{"keep": 9} | settings), {"config": {}})
    for step in steps:
        made.save(step, small_state(step), {"counts": step})
        made.finish()
    return made


def files_of(checkpoint: Path) -> list[str]:
    return sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("*") if path.is_file())


def load_w(folder: Path, step: int) -> float:
    """A weight of the newest checkpoint, which is that of `step`."""
    again = opened(folder)
    state, run = again.restore(small_state(), ["counts"])
    again.close()
    assert run["counts"] == step
    return float(state.params["w"][0, 0])


def cut(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def flipped(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# Notes of orbax's about the checkpoint itself, written when the sums are made already: nothing there is used.
UNUSED = ("_CHECKPOINT_METADATA", "commit_success.txt")
HARM = {"cut": cut, "emptied": emptied, "flipped": flipped, "removed": Path.unlink}


@pytest.mark.parametrize("harm", HARM)
def test_harmed_checkpoint_falls_back_to_the_previous(harm, tmp_path, caplog):
    some_checkpoints(tmp_path / "made", 1, 2).close()
    wrong = []
    for name in files_of(tmp_path / "made" / "2"):
        folder = Path(shutil.copytree(tmp_path / "made", tmp_path / "harmed"))
        HARM[harm](folder / "2" / name)
        expected = 2 if name in UNUSED else 1
        caplog.clear()
        again = opened(folder)
        state, run = again.restore(small_state(), ["counts"])
        if (float(state.params["w"][0, 0]), run["counts"]) != (expected, expected):
            wrong.append(f"{name}: {run['counts']} was read")
        if ("checkpoint 2 is damaged" in caplog.text) != (expected == 1):
            wrong.append(f"{name}: said {caplog.text!r}")
        step = expected + 1  # the run goes on: the step whose checkpoint was harmed is saved again
        again.save(step, small_state(step), {"counts": step})
        again.finish()
        if fault(folder / str(step)):
            wrong.append(f"{name}: step {step} was not saved: {fault(folder / str(step))}")
        again.close()
        shutil.rmtree(folder)
    assert wrong == []


def opened(folder: Path) -> Checkpoints:
    return Checkpoints(folder, CheckpointConfig(keep=9), {"config": {}})


def test_flipped_bit_in_a_large_file_is_found(tmp_path, caplog):
    """Files above a MiB are compared while they are read."""

    def large(value: float) -> TrainState:
        params = {"w": jnp.full((600, 600), value)}
        return TrainState(params, {"mu": params}, jnp.int32(value), jnp.int32(0))

    made = opened(tmp_path)
    for step in (1, 2, 3):
        made.save(step, large(step), {"counts": step})
        made.finish()
    made.close()
    for step in (2, 3):
        file = tmp_path / str(step) / "state" / "opt_state.mu.w" / "0.0"
        assert file.stat().st_size > 1 << 20
        flipped(file)
    state, run = opened(tmp_path).restore(large(0), ["counts"])
    assert (run["counts"], float(state.params["w"][300, 300]), float(state.opt_state["mu"]["w"].max())) == (1, 1.0, 1.0)
    assert all(f"checkpoint {step} is damaged (state/opt_state.mu.w/0.0" in caplog.text for step in (2, 3))


def test_error_names_every_damaged_checkpoint(tmp_path):
    some_checkpoints(tmp_path, 1, 2).close()
    for step in (1, 2):
        flipped(tmp_path / str(step) / "state" / "params.w" / "0.0")
    with pytest.raises(CheckpointError, match=r"no checkpoint is whole \(checkpoint 2: .*params.w/0.0.*checkpoint 1: "):
        opened(tmp_path).restore(small_state(), ["counts"])


def changed_run(checkpoint: Path, change) -> None:
    file = checkpoint / "run" / "metadata"
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))
    reseal(checkpoint)


def test_a_newer_schema_is_told(whole, run):
    shutil.copytree(whole, run)
    changed_run(run / "checkpoints" / "6", lambda content: content.update(schema=99))
    with pytest.raises(CheckpointError, match="schema 99, this version reads 2: update socialr1_jax"):
        train_grpo(config_of(run))


@pytest.mark.parametrize(
    "field", ["finished", "about", "best", "run", "run.counts", "run.prompts", "run.counts.evaluated"]
)
def test_a_missing_field_is_told_by_name(field, whole, run):
    """As a version that did not know it would have left it out; test_faults.py has them all."""
    shutil.copytree(whole, run)
    changed_run(run / "checkpoints" / "6", partial(leave_out, field=field))
    with pytest.raises(CheckpointError, match=field.rpartition(".")[2]):
        train_grpo(config_of(run))


def test_checkpoint_of_another_shape_names_the_weight(tmp_path):
    some_checkpoints(tmp_path, 1).close()
    wide = {"w": jnp.zeros((4, 5)), "b": jnp.zeros(2)}
    with pytest.raises(CheckpointError, match=r"params/b is missing.*params/w has shape \(4, 3\), .* \(4, 5\)"):
        opened(tmp_path).restore(TrainState(wide, {"mu": wide}, jnp.int32(0), jnp.int32(0)), ["counts"])


def test_best_checkpoint_outlives_newer_ones(tmp_path):
    made = some_checkpoints(tmp_path / "checkpoints", keep=1)
    for step, value in ((1, 0.5), (2, 0.9), (3, 0.4), (4, None), (5, 0.9)):
        made.save(step, small_state(step), {"counts": step}, value)
        made.finish()
    made.close()
    assert steps_saved(tmp_path) == [2, 5]
    assert find_checkpoint(tmp_path, "best").name == "2"


def test_unwritten_best_checkpoint_keeps_the_previous(tmp_path, monkeypatch):
    """The disk is full when the new best is written: the old one stays the best."""
    folder = tmp_path / "checkpoints"
    made = some_checkpoints(folder, keep=1)
    made.save(1, small_state(1), {"counts": 1}, 0.5)
    made.finish()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "write_json", no_space)
        made.save(2, small_state(2), {"counts": 2}, 0.9)
        with pytest.raises(CheckpointError, match="no space left"):
            made.finish()
    for step, value in ((3, 0.3), (4, 0.2)):
        made.save(step, small_state(step), {"counts": step}, value)
        made.finish()
    made.close()
    assert find_checkpoint(tmp_path, "best") == folder / "1"
    assert steps_saved(tmp_path) == [1, 4]


def no_space(*args: object, **kwargs: object) -> None:
    raise OSError(28, "No space left on device")


def failed_save(folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Checkpoints:
    """The checkpoint of step 1 is there, that of step 2 found the disk full; there is room again."""
    made = some_checkpoints(folder, 1, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module, "write_json", no_space)
        made.save(2, small_state(2), {"counts": 2})
        end = time.monotonic() + 20
        while made._manager.is_saving_in_progress() and time.monotonic() < end:
            time.sleep(0.02)
    return made


def test_failed_save_is_reported_at_the_next_check(tmp_path, monkeypatch, caplog):
    made = failed_save(tmp_path, monkeypatch)
    made.check()
    assert "could not be written (no space left on the device); that of step 1 stays valid" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["1"]
    made.close()


def test_full_disk_is_seen_before_the_save(tmp_path, monkeypatch, caplog):
    made = some_checkpoints(tmp_path, 1)
    usage = checkpoints_module.shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints_module.shutil, "disk_usage", lambda path: usage._replace(free=1000))
        made.save(2, small_state(2), {"counts": 2})
        assert "could not be written (no space left on the device); that of step 1 stays valid" in caplog.text
        assert [path.name for path in tmp_path.iterdir()] == ["1"]
        made.save(3, small_state(3), {"counts": 3})
        with pytest.raises(CheckpointError, match="no space left on the device"):  # the last one of a run must be there
            made.finish()
    made.save(3, small_state(3), {"counts": 3})
    made.finish()
    made.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "3"]


def test_failed_save_stops_a_run_on_request(tmp_path, monkeypatch):
    made = failed_save(tmp_path, monkeypatch, on_failure="stop")
    with pytest.raises(CheckpointError, match="step 1 stays valid"):
        made.check()


@pytest.mark.parametrize("step", [2, 3])
def test_the_save_after_a_failed_one_is_written(tmp_path, monkeypatch, step):
    """The next that is due; or the same step once more, at the end of a run."""
    made = failed_save(tmp_path, monkeypatch)
    made.check()
    made.save(step, small_state(step), {"counts": step})
    made.close()
    assert load_w(tmp_path, step) == step


# --------------------------------------------------------------------------------------------------- files of the run


def test_torn_last_line_is_written_again(place, whole, run):
    """Before the first checkpoint, and behind one."""
    source = place / "whole"
    shutil.copytree(source, run)
    shutil.rmtree(run / "checkpoints" / "6")
    for name in ("metrics.jsonl", "rollouts.jsonl", "kept.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"phase": "grpo", "step": 7, "loss": 0.')
    assert train_grpo(config_of(run))
    assert_same_run(run, whole)


def test_short_metrics_are_reported_and_the_run_resumes(whole, run, capsys):
    left = 3
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "6")
    rows = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(rows[:left]) + rows[left][:40])
    assert train_grpo(config_of(run))
    assert "has lost its last" in said(capsys)
    found = [(row["phase"], row["step"]) for row in lines(run / "metrics.jsonl")]
    expected = [(row["phase"], row["step"]) for row in lines(whole / "metrics.jsonl")]
    assert found == expected[:left] + expected[expected.index(("grpo", 5)) :]
    assert (run / "export" / "model.safetensors").read_bytes() == (whole / "export" / "model.safetensors").read_bytes()


def test_finished_run_without_metrics_ends_in_words(whole, run):
    """Given again, the script writes summary and report from what is left."""
    shutil.copytree(whole, run)
    (run / "metrics.jsonl").unlink()
    assert script_of(SCRIPT).main(["--config", str(run / "config.yaml")]) in (0, 2)


# ------------------------------------------------------------------------------------------------------------- signals


def test_sigterm_is_handled_while_waiting_for_judges(place, whole, run, monkeypatch):
    """A judge that takes a minute for each answer; the run is told to stop as soon as it has been asked."""
    monkeypatch.setattr(scorer, "parse_response", lambda text, mode: ParsedResponse(text, "A", ()))
    with JudgeServer(plan=("ok",), faults={"hang": 1.0}, hang=60.0) as server:  # the first is the sample before the run
        told = []

        def stop() -> None:
            while server.count() < 16:
                time.sleep(0.05)
            time.sleep(1.0)
            told.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

        threading.Thread(target=stop, daemon=True).start()
        judged = (
            "rewards.structure.judge=endpoint",
            "rewards.structure.model=m",
            f"rewards.structure.base_url={server.base_url}",
        )
        assert not train_grpo(config_of(run, *judged))
        seconds = time.monotonic() - told[0]
    assert seconds < 10
    assert steps_saved(run) == [0]


def test_a_second_signal_ends_the_program_at_once():
    """Also while the main thread is deep in a computation."""
    program = """
import time
from socialr1_jax.runtime.interrupt import stop_on_signal
with stop_on_signal() as stop:
    print("ready", flush=True)
    total = sum(i * i for i in range(10**10))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.stderr.readline().startswith("stopping, then saving")
    assert process.poll() is None
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert time.monotonic() - begun < 5
    process.stdout.close()
    process.stderr.close()


def test_exit_status_75_asks_to_be_queued_again(place, whole, run, monkeypatch, capsys):
    when(monkeypatch, "update", 3, lambda: os.kill(os.getpid(), signal.SIGTERM))
    arguments = ["--config", str(CONFIG), f"output_dir={run}", *SETTINGS, f"save_rollouts={run / 'kept.jsonl'}"]
    assert script_of(SCRIPT).main(arguments) == 75
    text = said(capsys)
    assert "saved after step 2 of 6" in text
    assert "interrupted and saved. Run the same command to resume" in text
    assert script_of(SCRIPT).main(arguments) == 0
    assert (run / "export" / "model.safetensors").read_bytes() == (whole / "export" / "model.safetensors").read_bytes()


# --------------------------------------------------------------------------------------------------------- the best one


def test_best_latest_and_a_step_export_equal(whole, tmp_path, capsys):
    steps, convert = steps_saved(whole), script_of(CONFIG.parents[1] / "convert" / "orbax_to_hf.py")
    best = json.loads((whole / "checkpoints" / str(steps[-1]) / "run" / "metadata").read_text())["best"]["step"]
    assert best != steps[-1], "a best one that is not the latest shows more"
    for which, step in (("best", best), ("latest", steps[-1]), (str(steps[-2]), steps[-2])):
        assert convert.main(["--src", str(whole), "--step", which, "--dst", str(tmp_path / which), "--verify"]) == 0
        assert f"the checkpoint is {whole / 'checkpoints' / str(step)}\n" in capsys.readouterr().out
        loaded, kept = load_hf(tmp_path / which), load_policy(find_checkpoint(whole, str(step)))
        jax.tree.map(np.testing.assert_array_equal, loaded.params, kept.params)
        state = whole / "checkpoints" / str(step) / "state"
        stored = np.fromfile(state / "params.embed_tokens" / "0.0", "<f4")
        np.testing.assert_array_equal(np.asarray(loaded.params["embed_tokens"]).ravel(), stored)
    exported = [folder / "model.safetensors" for folder in (tmp_path / "latest", whole / "export")]
    assert exported[0].read_bytes() == exported[1].read_bytes()
    with pytest.raises(CheckpointError, match="has no checkpoint 99; it has"):
        find_checkpoint(whole, "99")
    with pytest.raises(CheckpointError, match=r"has no checkpoint 0; .*its starting weights are its model.path"):
        find_checkpoint(whole, "0")
