"""Choosing XLA flags by measurement: on simulated machines whose gains are known, and the file that comes of it."""

import itertools
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from socialr1_jax.config import ConfigError, RunConfig, load_config
from socialr1_jax.training.xla_flags import (
    CANDIDATES,
    BenchmarkFailed,
    Trial,
    candidates,
    measured,
    tune,
    write_settings,
)

ROOT = Path(__file__).parents[1]
FAST, SLOW, NOTHING, UNKNOWN = (f"--xla_{name}=true" for name in ("fast", "slow", "nothing", "unknown"))
FACTORS = {FAST: 1.2, SLOW: 0.8, NOTHING: 1.0}


def machine(drift=0.0, noise=0.0, seed=0):
    """flags -> seconds, of a machine that becomes slower with every run, by `drift`, and is noisy."""
    runs, draws = itertools.count(), random.Random(seed)

    def seconds(flags):
        if UNKNOWN in flags:
            raise BenchmarkFailed("Unknown flag in XLA_FLAGS: --xla_unknown=true")
        found = 10 * (1 + drift * next(runs)) * (1 + noise * draws.uniform(-1, 1))
        for flag in flags:
            found /= FACTORS.get(flag, 1.0)
        return found

    return seconds


def test_the_flag_that_gains_is_kept_and_its_gain_is_right():
    trials, again = tune(machine(drift=0.001), list(FACTORS), turns=3, least=1.02)
    assert again is not None
    assert again.flags == (FAST,)
    assert again.gains == pytest.approx([1.2] * 6, rel=0.01)
    assert [trial.worth(1.02) for trial in trials] == [True, False, False]
    assert [trial.gain for trial in trials] == pytest.approx(list(FACTORS.values()), rel=0.01)


def test_flags_that_do_nothing_are_seldom_kept_for_noise():
    """Eight of them at the defaults, every run off by up to 5 %: measured again, hardly one is left."""
    kept = 0
    for seed in range(200):
        trials, again = tune(machine(noise=0.05, seed=seed), [f"--xla_{i}=true" for i in range(8)], turns=3, least=1.02)
        assert len(trials) == 8
        kept += again is not None and again.worth(1.02)
    assert kept <= 0.06 * 200


def test_of_two_values_of_one_flag_the_better_is_taken():
    seconds = {"--xla_a=1": 9.0, "--xla_a=2": 8.0, "--xla_b=1": 9.0}
    _, again = tune(
        lambda flags: 10 * math.prod(seconds[flag] / 10 for flag in flags), list(seconds), turns=1, least=1.02
    )
    assert again is not None
    assert set(again.flags) == {"--xla_a=2", "--xla_b=1"}
    assert again.gain == pytest.approx(10 / 8 * 10 / 9)


def test_one_good_turn_of_three_is_not_enough():
    assert not Trial((FAST,), [1.3, 1.2, 0.99]).worth(1.02)
    assert Trial((FAST,), [1.3, 1.2, 1.01]).worth(1.02)


def test_a_flag_that_cannot_be_run_is_told_and_the_others_are_measured():
    said = []
    trials, again = tune(machine(), [UNKNOWN, FAST], turns=2, least=1.02, say=said.append)
    assert trials[0].failed.startswith("Unknown flag")
    assert trials[1].gains == pytest.approx([1.2, 1.2])
    assert said == [*trials, again]


@pytest.mark.parametrize(
    ("gains", "kept"), [([1.21, 1.2, 1.22], True), ([1.01, 1.0, 1.03], False), ([1.2, 0.9], False)]
)
def test_the_file_is_a_configuration_and_says_the_gains(tmp_path, gains, kept):
    trials = [Trial((FAST,), [1.1, 1.12]), Trial((NOTHING,), [1.0, 0.99]), Trial((UNKNOWN,), failed="Unknown flag")]
    file = tmp_path / "xla" / "chip.yaml"
    flags = write_settings(file, trials, Trial((FAST,), gains), least=1.02, command="python x", figure="grpo_step_s")
    assert flags == ((FAST,) if kept else ())
    assert load_config(RunConfig, file, ["model.random=true", "data.train=x.jsonl"]).xla_flags == flags
    text = file.read_text()
    for shown in (
        "1.110 (1.100, 1.120)",
        "0.995",
        "Unknown flag",
        "python x",
        f"jax {jax.__version__}",
        f"{gains[0]:.3f}",
    ):
        assert shown in text


def test_a_file_without_a_flag_is_a_configuration_too(tmp_path):
    file = tmp_path / "none.yaml"
    assert write_settings(file, [Trial((SLOW,), [0.8])], None, least=1.02, command="c", figure="f") == ()
    assert load_config(RunConfig, file, ["model.random=true", "data.train=x.jsonl"]).xla_flags == ()


@pytest.mark.parametrize("flag", ["xla_fast=true", "--fast=true", "--xla_fast", "--xla_a=1 --xla_b=2", "--xla_a= 1"])
def test_what_is_no_flag_is_told_before_anything_starts(flag):
    with pytest.raises(ConfigError, match=r"xla_flags.*--xla_name=value"):
        load_config(RunConfig, None, ["model.random=true", "data.train=x.jsonl", f"xla_flags=[{json.dumps(flag)}]"])


def test_the_committed_settings_can_be_read():
    files = list((ROOT / "configs" / "xla").glob("*.yaml"))
    assert files
    for file in files:
        load_config(RunConfig, file, ["model.random=true", "data.train=x.jsonl"])


def test_this_backend_has_candidates(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert candidates() == CANDIDATES["cpu"]


@pytest.mark.slow
def test_the_command_measures_writes_and_says_what_failed(tmp_path):
    """The real benchmark, as small as it can be; one flag does nothing, XLA does not know the other."""
    file = tmp_path / "cpu.yaml"
    done = subprocess.run(
        [
            sys.executable, str(ROOT / "scripts" / "tune_xla.py"), "--output", str(file), "--turns", "1", "--figure",
            "decode_tok_s", "--benchmark", "--shape tiny --rows 2 --prompt 8 --new 8 --update=false --repeats 1",
            "--flags", "[--xla_cpu_enable_fast_min_max=true, --xla_cpu_no_such_flag=1]", "--least", "1000",
        ],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["gain"] > 0
    assert "xla_cpu_no_such_flag" in lines[1]["failed"]
    assert "xla_flags: []" in file.read_text()
    assert "xla_cpu_no_such_flag" in file.read_text()


def test_a_benchmark_that_fails_without_any_flag_ends_the_command():
    with pytest.raises(BenchmarkFailed, match="unknown shape"):
        measured(["--shape", "huge"], "grpo_step_s")(())
