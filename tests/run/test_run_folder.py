"""What a run may be resumed with, setting by setting, and how long all its sessions have taken."""

import os
import re

import pytest

from socialr1_jax.config.loading import load_config, save_config
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.run.epochs import in_steps, steps_of
from socialr1_jax.run.folder import (
    forget_functions,
    own_folder,
    refuse_another_run,
    refuse_other_settings,
    save_own_files,
    wall_seconds,
)
from socialr1_jax.runtime.files import read_json

RUN = (
    "model.path=m",
    "data.train=q.jsonl",
    "rewards.preset=full",
    "rewards.content.model=c",
    "rewards.structure.judge=endpoint",
    "rewards.structure.model=judge",
    "rewards.structure.base_url=http://one:8000/v1",
    "steps=10",
)
JUDGE = "rewards.structure."
# (the setting that changes, whether the run goes on)
CASES = [
    ("output_dir=elsewhere", True),
    ("quiet=true", True),
    ("tracking.tensorboard=false", True),
    ("tracking.responses=3", True),
    ("checkpoint.every=7", True),
    ("checkpoint.keep=9", True),
    ("checkpoint.best=", True),
    ("mesh.tensor=2", True),
    ("sampling.tensor=2", True),
    ("grpo.micro_batch_tokens=2048", True),
    ("grpo.most_skipped=50", True),
    ("evaluation.every=3", True),
    ("rewards.most_unscorable=0.9", True),
    ("rewards.unscorable_window=2", True),
    ("rewards.content.batch_tokens=99", True),
    (f"{JUDGE}base_url=http://two:9000/v1", True),
    (f"{JUDGE}api_key_env=OTHER_KEY", True),
    (f"{JUDGE}concurrency=2", True),
    (f"{JUDGE}requests_per_minute=60", True),
    (f"{JUDGE}tokens_per_minute=100000", True),
    (f"{JUDGE}retries=9", True),
    (f"{JUDGE}call_timeout=5", True),
    (f"{JUDGE}deadline=5", True),
    (f"{JUDGE}cache=answers", True),
    (f"{JUDGE}price_input=1", True),
    ("steps=11", True),
    (f"{JUDGE}model=another", False),
    (f"{JUDGE}temperature=0.5", False),
    (f"{JUDGE}max_tokens=99", False),
    (f"{JUDGE}options.reasoning_effort=low", False),
    ("steps=9", False),
    ("seed=1", False),
    ("model.path=n", False),
    ("model.dtype=bfloat16", False),
    ("data.train=r.jsonl", False),
    ("data.max_prompt_tokens=99", False),
    ("sampling.temperature=0.5", False),
    ("grpo.prompts_per_step=16", False),
    ("evaluation.samples=8", False),
    ("optimizer.learning_rate=1e-5", False),
    ("optimizer.schedule=cosine", False),
    ("rewards.structure_weight.steps=7", False),
    ("rewards.content.model=d", False),
    ("rewards.preset=no_length", False),
]


@pytest.mark.parametrize(("setting", "allowed"), CASES, ids=[case[0] for case in CASES])
def test_what_changes_no_number_may_change_on_resume(setting, allowed, tmp_path):
    save_config(load_config(RunConfig, None, list(RUN)), tmp_path / "config.yaml")
    now = load_config(RunConfig, None, [*RUN, setting])
    if allowed:
        refuse_other_settings(now, tmp_path / "config.yaml")
        return
    with pytest.raises(ConfigError) as refused:
        refuse_other_settings(now, tmp_path / "config.yaml")
    message = str(refused.value)
    assert f"({setting.partition('=')[0]} " in message  # this setting, and no other one
    assert "\n" not in message


FILES = {
    "my.py": "rewards.extra.own.function",
    "beside.py": "rewards.extra.other.function",
    "rubric.txt": "rewards.structure.rubric",
    "prompt.j2": "data.prompt",
}


@pytest.mark.parametrize("changed", [*FILES, None, "gone", "no record", "damaged"])
def test_changed_file_is_refused_on_resume(changed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in FILES:
        (tmp_path / name).write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "run"
    config = load_config(
        RunConfig,
        None,
        [
            *RUN,
            f"output_dir={folder}",
            "rewards.extra.own.function=my.py:f",
            "rewards.extra.other.function=beside:f",
            "rewards.extra.built_in.function=sys:intern",
            "rewards.extra.missing.function=not_there.at_all:f",
            f"{JUDGE}rubric=rubric.txt",
            f"data.prompt={tmp_path / 'prompt.j2'}",
        ],
    )
    save_config(config, folder / "config.yaml")
    save_own_files(config)
    (folder / "metrics.jsonl").write_text('{"phase": "grpo"}\n')
    assert sorted(read_json(folder / "own_files.json")) == sorted(FILES.values())
    if changed in FILES:
        (tmp_path / changed).write_text("X = 2\n")
        message = f"run with another content of {tmp_path / changed} of {FILES[changed]}: restore"
        with pytest.raises(ConfigError, match=re.escape(message)):
            refuse_another_run(config, folder / "config.yaml")
        forget_functions(folder)  # as a run does that stops at a fault of one
        if FILES[changed].startswith("rewards.extra."):
            refuse_another_run(config, folder / "config.yaml")
        else:
            with pytest.raises(ConfigError, match=re.escape(message)):
                refuse_another_run(config, folder / "config.yaml")
        return
    if changed == "damaged":
        (folder / "own_files.json").write_text("[1]")
        with pytest.raises(ValueError, match=r"own_files\.json"):
            refuse_another_run(config, folder / "config.yaml")
        return
    if changed:  # a missing file is named when it is read
        (tmp_path / "my.py" if changed == "gone" else folder / "own_files.json").unlink()
    refuse_another_run(config, folder / "config.yaml")


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
@pytest.mark.parametrize(
    ("kind", "given"),
    [(RunConfig, RUN[:2]), (QuickstartConfig, ()), (RewardModelConfig, ("model.path=m", "data.pairs=p.jsonl"))],
)
def test_more_steps_resume_with_a_constant_rate(kind, given, schedule, tmp_path):
    settings = [*given, f"optimizer.schedule={schedule}"]
    save_config(load_config(kind, None, [*settings, "steps=100"]), tmp_path / "config.yaml")
    more = load_config(kind, None, [*settings, "steps=101"])
    if schedule == "constant":
        refuse_other_settings(more, tmp_path / "config.yaml")
    else:
        with pytest.raises(ConfigError, match=f"steps 100 -> 101, on which optimizer.schedule {schedule} depends"):
            refuse_other_settings(more, tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="steps 100 -> 99: can only be raised"):
        refuse_other_settings(load_config(kind, None, [*settings, "steps=99"]), tmp_path / "config.yaml")


@pytest.mark.parametrize(
    ("epochs", "count", "each", "steps"),
    [
        (1, 64, 64, 1),
        (2, 100, 64, 4),
        (0.5, 100, 64, 1),
        (0.1, 30, 1, 3),
        (1e-9, 3, 64, 1),
        (3, 1, 64, 1),
        (1.1, 10, 1, 11),
        (100, 18_000, 64, 28_125),
    ],
)
def test_steps_of_epochs(epochs, count, each, steps):
    assert steps_of(float(epochs), count, each) == steps


@pytest.mark.parametrize(
    ("kind", "given"),
    [(RunConfig, RUN[:2]), (QuickstartConfig, ()), (RewardModelConfig, ("model.path=m", "data.pairs=p.jsonl"))],
)
def test_epochs_are_saved_as_steps(kind, given, tmp_path):
    config, count, each, steps = load_config(kind, None, [*given, "epochs=1.5"]), 3000, 64, 71
    run, (line,) = in_steps(config, count, each)
    assert line == "epochs 1.5: 3,000 x 1.5 / 64 = 71 steps"
    assert run == config.model_copy(update={"steps": steps, "epochs": 0.0})
    save_config(run, tmp_path / "config.yaml")
    assert load_config(kind, tmp_path / "config.yaml") == run
    assert in_steps(run, 7, 7) == (run, [])
    # the same command, and that of the message for an interrupted run
    for again in (config, load_config(kind, tmp_path / "config.yaml")):
        refuse_other_settings(in_steps(again, count, each)[0], tmp_path / "config.yaml")


# (schedule, epochs of the resumed run, what is said; "" = it goes on)
@pytest.mark.parametrize(
    ("schedule", "epochs", "message"),
    [
        ("constant", 3, ""),
        ("constant", 1, "steps 40 -> 20: can only be raised"),
        ("cosine", 3, "steps 40 -> 60, on which optimizer.schedule cosine depends"),
        ("cosine", 2, ""),
    ],
)
def test_more_epochs_are_more_steps(schedule, epochs, message, tmp_path):
    saved = tmp_path / "config.yaml"
    first = load_config(RunConfig, None, [*RUN[:2], f"optimizer.schedule={schedule}", "epochs=2"])
    save_config(in_steps(first, 200, 10)[0], saved)
    more, _ = in_steps(load_config(RunConfig, saved, [f"epochs={epochs}"]), 200, 10)
    if not message:
        refuse_other_settings(more, saved)
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        refuse_other_settings(more, saved)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optimizer.warmup_steps=4", "optimizer.warmup_steps 4 leaves none of the run's 4 updates"),
        ("epochs=1e9", "steps must be less than 2147483648, not 50000000000"),
    ],
)
def test_settings_beyond_the_epochs_steps_are_reported(setting, message):
    config = load_config(RunConfig, None, [*RUN[:2], *(["epochs=0.02"] if "epochs" not in setting else []), setting])
    with pytest.raises(ConfigError, match=message) as refused:
        in_steps(config, 50, 1)
    assert "\n" not in str(refused.value)


def test_wall_seconds_are_those_of_all_sessions(tmp_path, monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("socialr1_jax.run.folder.time.monotonic", lambda: clock[0])
    lock, metrics = tmp_path / ".lock", tmp_path / "metrics.jsonl"

    def session(seconds: float) -> None:
        with own_folder(tmp_path):
            metrics.write_text("{}\n")
            clock[0] += seconds
            told.append(wall_seconds(tmp_path))
        os.utime(metrics, (5000, 5000))
        os.utime(lock, (5001, 5001))  # the lock is written last

    told: list[float] = []
    session(20.0)
    session(300.5)
    assert told == [20.0, 320.5]
    assert wall_seconds(tmp_path) == 320.5
    # A kill leaves the lock as the session's start wrote it; the last line of metrics came 70 seconds later.
    os.utime(metrics, (5071, 5071))
    session(1.0)
    assert told[-1] == 391.5
    lock.write_text("socialr1_jax       1234 run 0.0\n")
    os.utime(lock, (9000, 9000))  # the clock was set back
    session(2.0)
    assert told[-1] == 2.0
