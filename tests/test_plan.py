"""scripts/plan.py: phases, memory and traffic of a run on devices that are only described."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "socialr1_8b_a100x8.yaml"
SMALL = (
    "model.path=none", "model.random=tiny", "data.max_prompt_tokens=100", "sampling.max_new_tokens=100",
    "grpo.prompts_per_step=16", "grpo.mini_batch_prompts=8",
)  # fmt: skip
PHASES = (
    "reshard",
    "prefill",
    "cache growth",
    "decode",
    "reference log-probs",
    "old log-probs",
    "backward",
    "optimizer",
)


def plan(*arguments, config=CONFIG):
    return subprocess.run(
        [sys.executable, "scripts/plan.py", "--config", str(config), *arguments],
        cwd=ROOT, env=os.environ | {"COLUMNS": "150"}, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def rows(output, phase):
    """The cells of every line of the tables that begins with the phase."""
    lines = [line.strip("│┃ ").split("│") for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line] for line in lines if line[0].strip() == phase]


@pytest.fixture(scope="module")
def small():
    done = plan("--topology", "cpu:8", "model.dtype=float32", *SMALL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_phase_is_planned(small):
    for phase in PHASES:
        (first, *_) = rows(small, phase)
        assert float(first[-1]) > 0  # peak
    assert "model.random" not in small


def test_decoding_says_nothing_to_other_devices_and_the_update_does(small):
    assert [cells[2] for cells in rows(small, "decode")[1:]] == ["none"]
    kinds = {cells[2] for cells in rows(small, "backward")[1:]}
    assert "all-gather" in kinds
    assert kinds & {"all-reduce", "reduce-scatter"}


def test_what_does_not_fit_exits_1_and_names_phase_and_excess():
    done = plan("--topology", "cpu:8", "model.dtype=float32", *SMALL, "--memory_fraction", "1e-6")
    assert done.returncode == 1
    for phase in ("backward", "decode"):
        assert f"plan.py: {phase} does not fit: " in done.stderr
    assert "GiB more than the 0.00 GiB that it may take; lower grpo.micro_batch_tokens" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--topology", "b200:8"), "unknown chip 'b200'"),
        (("--topology", "cpu:8", "mesh.fsdp=3"), "is not the 8 devices"),
        (("--topology", "cpu:6", *SMALL[:2]), "fsdp=6 does not"),
        (("--topology", "cpu:8", "model.path=nowhere"), "neither a model folder nor one of Qwen/Qwen3-"),
    ],
)
def test_what_does_not_fit_together_is_one_error(arguments, message):
    done = plan("model.dtype=float32", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(find_spec("jax_cuda12_plugin") is not None, reason="the plugin is installed")
def test_a_missing_plugin_names_the_extra():
    done = plan("--topology", "a100-80gb:8", *SMALL)
    assert done.returncode == 2
    assert "pip install 'socialr1_jax[cuda12]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(find_spec("jax_cuda12_plugin") is None, reason="needs pip install 'socialr1_jax[cuda12]'")
@pytest.mark.parametrize("size", ["4b", "8b"])
def test_the_cards_recipes_fit_eight_a100(size):
    done = plan("--topology", "a100-80gb:8", config=ROOT / "configs" / f"socialr1_{size}_a100x8.yaml")
    assert done.returncode == 0, done.stderr
    for phase in PHASES:
        assert float(rows(done.stdout, phase)[0][-1]) <= 72
    assert "fmhaScaleBiasSoftmaxBackward" in rows(done.stdout, "backward")[1][1]  # the bias: packed rows' mask
    assert "fmhaSoftmax" in rows(done.stdout, "prefill")[1][1]
    assert [cells[2] for cells in rows(done.stdout, "decode")[1:-1]] == ["none"]
    gathers = [cells[2] for cells in rows(done.stdout, "backward")[1:-1] if "all-gather" in cells[2]]
    assert gathers
    assert all(name.startswith("async") for name in gathers)
