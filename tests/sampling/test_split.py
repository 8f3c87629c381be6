"""The split of a rollout that `sampling.tensor: auto` chooses."""

import jax
import pytest

from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import RunConfig
from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.runtime.chips import CHIPS
from socialr1_jax.runtime.mesh import make_mesh
from socialr1_jax.sampling.memory import plan_batch
from socialr1_jax.sampling.split import fastest_split
from socialr1_jax.training import sampler

RECIPE = {"prompts": 64, "group": 5, "width": 1024, "slots": 3072, "max_rows": 40, "itemsize": 2}

HOST = ["grpo.reference_memory=host"]


@pytest.mark.parametrize(
    ("size", "chip", "devices", "splits", "weights", "expected"),
    [
        ("8b", "a100-80gb", 8, (1, 2, 4, 8), "dtype", 8),  # weights take most of a step
        ("8b", "a100-80gb", 8, (1, 2), "dtype", 2),  # two processes of two devices, or heads that no more divide
        ("8b", "a100-80gb", 8, (1, 2, 4, 8), "float8", 4),
        ("0.6b", "a100-80gb", 8, (1, 2, 4, 8), "dtype", 1),  # waiting for other devices does
        ("0.6b", "h100-80gb", 1, (1,), "dtype", 1),
        ("32b", "a100-80gb", 8, (1, 2, 4, 8), "dtype", 8),  # the others fit no row, or fewer
        ("32b", "a100-80gb", 8, (1, 2), "dtype", 2),  # nothing fits: the least memory
    ],
)
def test_the_fastest_split_that_fits_is_taken(size, chip, devices, splits, weights, expected):
    model, card = named_shape(size), CHIPS[chip]
    free = int(0.9 * (0.92 * card.memory - 14 * Arithmetic(model, 2, 1).parameters / devices))
    split, why = fastest_split(model, card, splits, devices=devices, weights=weights, memory=free, **RECIPE)
    assert split == expected
    assert why.startswith(f"sampling.tensor auto is {expected}; a decode step by the chip's peaks: ")
    for tensor in splits:
        shards = devices // tensor
        sizes = {"rows": 1, "group": 5, "prompts": 1, "width": 1024, "slots": 3072, "backend": "cudnn"}
        try:
            plan_batch(model, 2, **sizes, tensor=tensor, weights=weights, memory=free)
            assert f" ms with {tensor}" in why, shards
        except ValueError:
            assert f"{tensor} does not fit" in why


def test_a_step_takes_its_bytes_and_collectives():
    """8B on one and on eight A100, by hand: bytes at 0.8 of 2.039 TB/s, 74 collectives of 25 us and their bytes."""
    _, why = fastest_split(
        named_shape("8b"), CHIPS["a100-80gb"], (1, 8), devices=8, weights="dtype", memory=None, **RECIPE
    )
    kernels, output, token = 36 * 4096 * (2 * 128 * 40 + 3 * 12288), 151_936 * 4096, 2 * 36 * 8 * 128 * 2
    filled = 40 * (1536 + 1024 / 5) * token
    alone = (2 * (kernels + output) + filled) / (0.8 * 2.039e12)
    sent = 7 / 8 * (73 * 2 * 320 * 4096 * 2 + 40 * 151_936 * 4) / (0.75 * 300e9)
    split = (2 * (kernels + output) / 8 + filled) / (0.8 * 2.039e12) + sent + 74 * 25e-6
    assert why.endswith(f"peaks: {1000 * alone:.1f} ms with 1, {1000 * split:.1f} ms with 8")


@pytest.mark.parametrize(("settings", "each"), [([], 14), (["grpo.kl_coefficient=0"], 12), (HOST, 12)])
def test_memory_is_what_training_will_leave(tiny_jax, monkeypatch, settings, each):
    """Bytes of a weight beside sampling, less the 4 that are loaded: master, two moments, reference in bfloat16."""
    monkeypatch.setattr(sampler, "free_memory", lambda: 10**9)
    config = load_config(RunConfig, None, ["model.path=m", "data.train=q", "model.dtype=bfloat16", *settings])
    weights = sum(x.size for x in jax.tree.leaves(tiny_jax.params))
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        assert sampler._memory(config, tiny_jax) == 10**9 - weights * (each - 4)
        monkeypatch.setattr(sampler, "free_memory", lambda: None)
        assert sampler._memory(config, tiny_jax) is None
