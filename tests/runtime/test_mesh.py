"""A mesh changes where things are computed and nothing else: the same update and the same samples on any of them."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

WORKER = Path(__file__).with_name("mesh_worker.py")
MESHES = ("1x8x1", "2x2x2")


def work(arguments, devices):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process):
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output[-4000:]


@pytest.fixture(scope="module")
def results(tiny_models, tmp_path_factory):
    """mesh -> its arrays; "1x1x1" is the single device, "two processes" 2 x 4 devices as 1x8x1."""
    folder, out = tiny_models("tied_gqa2_3layers").folder, tmp_path_factory.mktemp("meshes")
    finished(work([folder, out, "1x1x1", *MESHES], devices=8))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    pair = [work([folder, out, "1x8x1", "--processes", 2, "--process", i, "--port", port], devices=4) for i in range(2)]
    for process in pair:
        finished(process)
    files = {name: out / f"{name}-1.npz" for name in ("1x1x1", *MESHES)} | {"two processes": out / "1x8x1-2.npz"}
    return {name: dict(np.load(file)) for name, file in files.items()}


@pytest.mark.parametrize("mesh", [*MESHES, "two processes"])
def test_an_update_is_the_same_on_every_mesh(results, mesh):
    for name, expected in results["1x1x1"].items():
        if name.startswith(("params", "metrics", "logp")) and name != "logprobs":
            np.testing.assert_allclose(results[mesh][name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("mesh", ["1x1x1", *MESHES, "two processes"])
def test_no_device_waits_for_another_with_rows(results, mesh):
    wall, longest, planned = results[mesh]["wall_steps"]
    assert wall == longest == planned


@pytest.mark.parametrize("mesh", [*MESHES, "two processes"])
def test_the_gradient_is_the_same_on_every_mesh(results, mesh):
    """1e-6 of its norm, in float32."""
    names = [name for name in results["1x1x1"] if name.startswith("gradient")]
    one, other = (np.concatenate([results[m][name].ravel() for name in names]) for m in ("1x1x1", mesh))
    assert np.linalg.norm(other - one) < 1e-6 * np.linalg.norm(one)


@pytest.mark.parametrize("mesh", [*MESHES, "two processes"])
def test_devices_sum_gradients_of_tables_in_float32(results, mesh):
    """In bfloat16 compute. Sums in bfloat16 differ by 4e-3; an axis `tensor` rounds the hidden states' gradient."""
    for name, within in (("bfloat16/lm_head", 1e-6), ("bfloat16/embed_tokens", 1e-3)):
        one, other = (results[m][name] for m in ("1x1x1", mesh))
        assert np.linalg.norm(other - one) < within * np.linalg.norm(one)


@pytest.mark.parametrize("mesh", [*MESHES, "two processes"])
def test_samples_are_the_same_on_every_mesh(results, mesh):
    np.testing.assert_array_equal(results[mesh]["tokens"], results["1x1x1"]["tokens"])
    np.testing.assert_array_equal(results[mesh]["refilled"], results["1x1x1"]["tokens"])
    np.testing.assert_array_equal(results[mesh]["int8"], results["1x1x1"]["int8"])
    np.testing.assert_allclose(results[mesh]["logprobs"], results["1x1x1"]["logprobs"], rtol=1e-5, atol=1e-5)
