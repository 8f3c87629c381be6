"""The doctor's checks of packages, accelerators and the host's memory, on machines that are not here."""

import sys
from importlib import metadata

import pytest

from socialr1_jax.models import attention_trial
from socialr1_jax.training.doctor import DoctorConfig, devices, examine, memory, runner


@pytest.mark.parametrize(
    ("versions", "name", "found", "fix"),
    [
        ({"flax": "0.8.1"}, "packages", "flax 0.8.1, but >=0.12.8 is needed", "pip install -U 'flax>=0.12.8'"),
        ({"optax": None}, "packages", "optax is missing", "pip install -U 'optax>=0.2.5'"),
        ({"jax-cuda12-plugin": "0.4.30"}, "jaxlib", "jax-cuda12-plugin 0.4.30 with jaxlib", "'jax[cuda12]=="),
        ({"jax-cuda13-plugin": "0.4.30"}, "jaxlib", "jax-cuda13-plugin 0.4.30 with jaxlib", "'jax[cuda13]=="),
        ({"wandb": None}, "extras", "wandb is missing, for tracking.wandb", "pip install -U -e '.[wandb]'"),
        ({"wandb": "0.1"}, "extras", "wandb 0.1, but >=0.19 is needed", "pip install -U -e '.[wandb]'"),
        ({"pyarrow": None}, "extras", "pyarrow is missing, for q.parquet", "pip install -U -e '.[parquet]'"),
        ({"openai": None}, "extras", "openai is missing, for rewards.structure.judge", "'.[judge]'"),
    ],
)
def test_versions(versions, name, found, fix, monkeypatch):
    real = metadata.version

    def version(asked):
        if asked in versions and versions[asked] is None:
            raise metadata.PackageNotFoundError(asked)
        return versions.get(asked) or real(asked)

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(runner, "CHECKS", {"packages": runner.CHECKS["packages"]})
    structure = {"judge": "endpoint", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    config = DoctorConfig(tracking={"wandb": True}, data={"train": "q.parquet"}, rewards={"structure": structure})
    bad = [line for line in examine(config) if line.status == "problem" and line.name == name and found in line.found]
    assert fix in bad[0].fix


def test_an_old_python(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 2, "final", 0))
    first = next(examine(DoctorConfig()))
    assert first.status == "problem"
    assert "Python 3.10.2, >=3.11" in first.found
    assert "virtual environment" in first.fix


@pytest.mark.parametrize(
    ("extra", "platforms", "plugin", "status", "fix"),
    [
        ("cuda12", "", None, "problem", "pip install -e '.[cuda12]'"),
        ("cuda12", "", None, "problem", "'.[cuda13]'"),
        ("cuda12", "", "0.10.2", "problem", "JAX_PLATFORMS=cuda python -c"),
        ("cuda12", "cpu", None, "warning", "unset JAX_PLATFORMS"),
        ("tpu", "", None, "problem", "pip install -e '.[tpu]'"),
    ],
)
def test_an_accelerator_that_jax_does_not_see(extra, platforms, plugin, status, fix, monkeypatch):
    monkeypatch.setattr(devices, "accelerator", lambda: (extra, "an accelerator"))
    monkeypatch.setattr(devices, "installed", lambda name: plugin)
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    (line,) = devices.check_devices(DoctorConfig())
    assert line.status == status
    assert "although there is an accelerator" in line.found
    assert fix in line.fix


def test_attention_of_a_gpu(monkeypatch):
    monkeypatch.setattr(devices, "platform", lambda: "gpu")
    monkeypatch.setattr(attention_trial, "cudnn_fault", lambda dtype: "")
    found = [next(devices.check_attention(DoctorConfig(model={"dtype": dtype}))) for dtype in ("float32", "bfloat16")]
    assert [(line.status, line.found[:5]) for line in found] == [("warning", "xla: "), ("ok", "cudnn")]
    assert "model.dtype=bfloat16" in found[0].fix
    monkeypatch.setattr(attention_trial, "cudnn_fault", lambda dtype: "no plan")
    for asked, status in (("auto", "warning"), ("cudnn", "problem")):
        line = next(devices.check_attention(DoctorConfig(model={"dtype": "bfloat16", "attention": asked})))
        assert (line.status, line.found) == (status, "xla: cuDNN does not compute here: no plan")


def test_the_host_beside_accelerators(monkeypatch):
    monkeypatch.setattr(memory, "platform", lambda: "gpu")
    monkeypatch.setattr(memory, "parameters", lambda shape: 8 << 30)
    config = DoctorConfig(model={"random": "8b"}, grpo={"reference_memory": "host"})
    for free, status in ((100, "problem"), (130, "ok")):
        monkeypatch.setattr(memory, "host_memory", lambda free=free: free << 30)
        device, host = memory.check_memory(config)
        assert "reference" not in device.found
        assert (device.name, host.name, host.status) == ("device memory", "host memory", status)
        assert "a checkpoint while it is written 96.0 GiB, reference 32.0 GiB" in host.found
