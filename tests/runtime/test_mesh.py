"""A mesh changes where things are computed and nothing else: the same update and the same samples on any of them."""

import os
import re
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.run.run import rollout_mesh
from socialr1_jax.runtime.chips import CHIPS, Chip
from socialr1_jax.runtime.mesh import AXES

WORKER = Path(__file__).with_name("mesh_worker.py")
MESHES = ("1x8x1", "2x2x2")
UPDATED = ("2x2x2", "two processes")  # the processes' mesh is 1x8x1; of one device test_engine.py moves rows
KERNEL = "2x2x2 triton"  # attention by the kernel for GPUs, which the compiler cannot split
# Training mesh "by" devices that share a row of the rollout.
ROLLOUTS = ("1x8x1 by 8", "2x4x1 by 2", "two processes by 4")


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
    return output


@pytest.fixture(scope="module")
def results(tiny_models, tmp_path_factory):
    """mesh -> its arrays; "1x1x1" is one device, "two processes" a replica of 4 devices in each, "by 4" a rollout."""
    folder, out = tiny_models("tied_gqa2_3layers").folder, tmp_path_factory.mktemp("meshes")
    one = work([folder, out, "1x1x1", *MESHES, "--rollouts", "1x1x1 by 1", *ROLLOUTS[:2]], devices=8)
    output = finished(one)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    pair = [
        work(
            [folder, out, "2x4x1", "--rollouts", "1x8x1 by 4", "--processes", 2, "--process", i, "--port", port],
            devices=4,
        )
        for i in range(2)
    ]
    for process in pair:
        finished(process)
    two = {"two processes": out / "2x4x1-2.npz", "two processes by 4": out / "1x8x1 by 4-2.npz"}
    names = ("1x1x1", *MESHES, KERNEL, "1x1x1 by 1", *ROLLOUTS[:2])
    files = two | {name: out / f"{name}-1.npz" for name in names}
    arrays = {name: dict(np.load(file)) for name, file in files.items()}
    return arrays | {"output of rollouts": output.partition("end of rollouts")[0]}


@pytest.mark.parametrize("mesh", [*UPDATED, KERNEL])
def test_an_update_is_the_same_on_every_mesh(results, mesh):
    for name, expected in results["1x1x1"].items():
        if name.startswith(("params", "metrics", "logp")) and name != "logprobs":
            np.testing.assert_allclose(results[mesh][name], expected, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("rollout", ["1x1x1 by 1", *ROLLOUTS])
def test_no_device_waits_for_another_with_rows(results, rollout):
    wall, longest, planned = results[rollout]["wall_steps"]
    assert wall == longest == planned


@pytest.mark.parametrize("mesh", [*UPDATED, KERNEL])
def test_the_gradient_is_the_same_on_every_mesh(results, mesh):
    """1e-6 of its norm, in float32."""
    names = [name for name in results["1x1x1"] if name.startswith("gradient")]
    one, other = (np.concatenate([results[m][name].ravel() for name in names]) for m in ("1x1x1", mesh))
    assert np.linalg.norm(other - one) < 1e-6 * np.linalg.norm(one)


def test_replicas_exchange_sums_once_per_update(results):
    """Nothing in a micro-batch, and each array of the gradient, the loss and the metrics after the last one."""
    in_micro_batch, in_sum, arrays = results["2x2x2"]["between replicas"]
    assert (in_micro_batch, in_sum) == (0, arrays)


@pytest.mark.parametrize("mesh", MESHES)
def test_devices_sum_gradients_of_tables_in_float32(results, mesh):
    """In bfloat16 compute. Sums in bfloat16 differ by 4e-3; an axis `tensor` rounds the hidden states' gradient."""
    for name, within in (("bfloat16/lm_head", 1e-6), ("bfloat16/embed_tokens", 1e-3)):
        one, other = (results[m][name] for m in ("1x1x1", mesh))
        assert np.linalg.norm(other - one) < within * np.linalg.norm(one)


@pytest.mark.parametrize("mesh", MESHES)
def test_samples_are_the_same_on_every_mesh(results, mesh):
    one, other = results["1x1x1"], results[mesh]
    np.testing.assert_array_equal(other["tokens"], one["tokens"])
    np.testing.assert_allclose(other["logprobs"], one["logprobs"], rtol=1e-5, atol=1e-5)


def test_eight_bit_samples_are_equal_on_a_mesh(results):
    np.testing.assert_array_equal(results["2x2x2"]["int8"], results["1x1x1"]["int8"])


@pytest.mark.parametrize("mesh", UPDATED)
def test_moved_rows_are_the_same_on_every_mesh(results, mesh):
    one, other = results["1x1x1"], results[mesh]
    admissions, to_host, from_host = other["moves"]
    assert admissions > 1
    assert min(to_host, from_host) > 0
    np.testing.assert_array_equal(other["moved"], one["tokens"])
    np.testing.assert_allclose(other["moved/logprobs"], one["logprobs"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_a_rollout_on_another_mesh_samples_the_same(results, rollout):
    np.testing.assert_array_equal(results[rollout]["tokens"], results["1x1x1 by 1"]["tokens"])
    np.testing.assert_allclose(results[rollout]["logprobs"], results["1x1x1 by 1"]["logprobs"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rollout", ROLLOUTS)
def test_a_split_rollout_has_few_collectives(results, rollout):
    """Two all-reduces for the layer and one for the embedding, one exchange of the logits, gathers of what is drawn."""
    reduces, exchanges, gathers, total = results[rollout]["decode"]
    assert (reduces, exchanges) == (2 + 1, 1)
    assert gathers <= 4  # tokens, log-probs, raw ones, largest logits
    assert total == reduces + exchanges + gathers


@pytest.mark.parametrize(("rollout", "gathers"), [("1x8x1 by 8", 0), ("2x4x1 by 2", 4 + 1)])
def test_weights_reach_another_mesh_by_all_to_all(results, rollout, gathers):
    """One exchange for each stacked matrix and the embedding, and all-gathers of each layer's over what is left.

    Joint ones are gathered as one.
    """
    assert results[rollout]["reshard"].tolist() == [0, 8, gathers, 8 + gathers]


def test_no_weight_is_replicated_on_its_way(results):
    """XLA warns of a reshard that it can only make by way of a replicated array."""
    assert "rematerialization" not in results["output of rollouts"]


@dataclass(frozen=True)
class Device:
    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"
    client: None = None


def sixteen_devices(tensor=1):
    """Two replicas of eight devices, four to a process."""
    devices = np.empty((2, 8 // tensor, tensor), object)
    for number, i in enumerate(np.ndindex(devices.shape)):
        devices[i] = Device(number, process_index=number // 4)
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)


def configured(tensor):
    return RunConfig.model_validate(
        {"model": {"path": "given"}, "data": {"train": "given"}, "sampling": {"tensor": tensor, "max_rows": 40}}
    )


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (3, "3 does not divide the 8 devices of a replica: set a divisor"),
        (8, "8 devices are not on one host: set a divisor of the number of devices of a process"),
        (4, "this model does not fit this mesh: tensor=4 does not divide num_key_value_heads 2. Change the size of"),
    ],
)
def test_a_split_that_cannot_be_is_one_line(tensor, said):
    with pytest.raises(ConfigError) as caught:
        rollout_mesh(configured(tensor), named_shape("tiny"), sixteen_devices(), None, None)
    assert str(caught.value).startswith(f"sampling.tensor: {said}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("chip", "shape", "trained", "expected"),
    [
        ("a100-80gb", "8b", 1, 4),  # 8 would share rows between processes
        ("a100-80gb", "8b", 2, 4),
        ("a100-80gb", "0.6b", 1, 1),
        ("a100-80gb", "tiny", 1, 1),
        ("cpu", "8b", 1, 1),
        ("v5p", "8b", 2, 2),  # as in training
        ("an unknown GPU", "8b", 1, 1),
        (None, "8b", 1, 1),
    ],
)
def test_auto_splits_only_what_divides(chip, shape, trained, expected):
    mesh, model = sixteen_devices(trained), named_shape(shape)
    card = Chip(platform="cuda") if chip == "an unknown GPU" else CHIPS.get(chip)
    rollout, why = rollout_mesh(configured("auto"), model, mesh, card, None)
    assert rollout.shape["tensor"] == expected
    assert list(rollout.devices.flat) == list(mesh.devices.flat)
    tried = [int(size) for size in re.findall(r"ms with (\d+)", why)]
    assert tried == ([size for size in (1, 2, 4) if model.num_key_value_heads % size == 0] if why else [])
    assert bool(why) == (chip == "a100-80gb")
