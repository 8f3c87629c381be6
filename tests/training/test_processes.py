"""Two processes of two devices each train as one: the same numbers, files written once, and a bound on every wait."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import assert_same_metrics, states_of
from safetensors.numpy import load_file
from toys import changed, lines

from socialr1_jax.config.loading import save_config
from socialr1_jax.config.run import DistributedConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.run.run import join
from socialr1_jax.runtime.processes import in_cluster
from socialr1_jax.training.grpo import train_grpo

ROOT = Path(__file__).resolve().parents[2]
# Without PyTorch, which transformers would import for a second: most users have none, and no test here needs it.
TRAIN = "import runpy, sys; sys.modules['torch'] = None; runpy.run_path('scripts/train_grpo.py', run_name='__main__')"


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def train(config, *arguments, devices=2):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, "--config", str(config), *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-4000:]
    return output


@pytest.fixture(scope="module")
def runs(start, tmp_path_factory):
    """The folders of one run on one device and of the same run by two processes, and what the processes printed.

    The toy earns no reward, so that weights move by their decay and the KL term alone: that updates are the same on
    two processes is shown by test_mesh.py, here it is the whole program.
    """
    folder = tmp_path_factory.mktemp("processes")
    # Another number of rows on a device rounds otherwise, so a draw may fall on the other side of a border between
    # two tokens (about one in 10,000 here): a seed where none does. Adam's epsilon is above the rounding of gradients,
    # or it would turn noise around 0 into steps of the full size.
    config = changed(start, folder / "one", seed=1, steps=2, optimizer={"epsilon": 1e-3})
    save_config(config, folder / "run.yaml")
    assert train_grpo(config)
    return folder / "one", folder / "two", by_two_processes(folder / "run.yaml", folder / "two")


def test_deterministic_runs_end_with_the_same_bytes(runs):
    """On eight devices, in bfloat16."""
    folder = runs[0].parent
    again = [folder / "first", folder / "second"]
    for out in again:
        same = f"output_dir={out}", "steps=1", "deterministic=true", "model.dtype=bfloat16"
        ended(train(folder / "run.yaml", *same, devices=8))
    for name in ("export/model.safetensors", "rollouts.jsonl"):
        first, second = ((out / name).read_bytes() for out in again)
        assert first == second, name
    assert states_of(again[0]) == states_of(again[1])
    assert_same_metrics(*again)


def by_two_processes(config, folder):
    """What each of two processes printed that ran the configuration together, into `folder`."""
    address = f"localhost:{free_port()}"
    pair = [
        train(
            config,
            f"output_dir={folder}",
            "optimizer.moments_memory=host",
            "distributed.processes=2",
            f"distributed.process={i}",
            f"distributed.coordinator={address}",
            "distributed.timeout=120",
        )
        for i in range(2)
    ]
    return [ended(process) for process in pair]


def test_the_numbers_are_those_of_one_device(runs):
    one, two, _ = runs
    for mine, theirs in zip(lines(one / "metrics.jsonl"), lines(two / "metrics.jsonl"), strict=True):
        assert (mine["phase"], mine["step"]) == (theirs["phase"], theirs["step"])
        for name in {"accuracy", "reward/total", "loss", "entropy", "kl", "grad_norm", "response_tokens"} & set(mine):
            assert theirs[name] == pytest.approx(mine[name], rel=1e-4, abs=1e-5), name
    weights = [load_file(folder / "export" / "model.safetensors") for folder in (one, two)]
    for name, expected in weights[0].items():
        np.testing.assert_allclose(weights[1][name], expected, rtol=0, atol=1e-5, err_msg=name)


def test_responses_and_their_rewards_are_the_same(runs):
    one, two, _ = runs
    mine, theirs = lines(one / "rollouts.jsonl"), lines(two / "rollouts.jsonl")
    assert [row["response"] for row in mine] == [row["response"] for row in theirs]
    assert [row["reward"] for row in mine] == [row["reward"] for row in theirs]


def test_only_the_first_process_speaks_and_writes(runs):
    _, two, (first, second) = runs
    assert "trained weights: " in first
    assert "heldout accuracy" in first
    assert "heldout accuracy" not in second
    assert "trained weights" not in second
    assert {file.name for file in two.iterdir()} >= {"config.yaml", "summary.json", "report.html", "export"}
    assert len(list((two / "tensorboard").glob("events*"))) == 1


def test_two_processes_resume_under_another_address(runs):
    """The saved configuration holds the first process's number and the address of its day."""
    _, two, _ = runs
    first, _ = by_two_processes(two.parent / "run.yaml", two)
    assert "all 2 steps of this run are done" in first


def test_waiting_for_a_missing_process_ends():
    program = (
        "from socialr1_jax.config.run import DistributedConfig as C; from socialr1_jax.run.run import join; "
        f"join(C(processes=2, process=0, coordinator='localhost:{free_port()}', timeout=3))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode != 0


def test_launchers_are_recognised():
    assert in_cluster({"SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    assert in_cluster({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
    assert in_cluster({"TPU_WORKER_HOSTNAMES": "a,b"})
    assert not in_cluster({"SLURM_PROCID": "0", "SLURM_NTASKS": "1"})
    assert not in_cluster({"SLURM_NTASKS": "4"})  # an allocation, not a step of it
    assert not in_cluster({})
    join(DistributedConfig(), {})  # nothing to join


def test_half_an_address_is_refused():
    with pytest.raises((ConfigError, ValueError), match="needs coordinator"):
        DistributedConfig(processes=2)
