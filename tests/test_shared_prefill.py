"""Prompts that begin alike are computed once and answered as if each stood alone."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from socialr1_jax.hf import random_model  # noqa: F401  (imports JAX before hypothesis measures time)
from socialr1_jax.models.qwen3 import Qwen3Config, init_params
from socialr1_jax.sampling import Engine, SamplingParams, decode
from socialr1_jax.sampling.shared_prefill import units_of

CONFIG = Qwen3Config(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, head_dim=8, rope_theta=1e4, tie_word_embeddings=True,
)  # fmt: skip
PROMPTS = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), min_size=1, max_size=12)


@given(PROMPTS, st.integers(12, 30))
def test_units_hold_every_prompt_once_and_whole(prompts, most):
    units = units_of(prompts, most)
    assert sorted(item for unit in units for item in unit.items) == list(range(len(prompts)))
    for unit in units:
        assert unit.length <= most
        for item, own in zip(unit.items, unit.own, strict=True):
            assert unit.shared + own == prompts[item]
            assert own


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=8), min_size=1, max_size=7), st.integers(8, 20))
def test_no_other_cut_of_the_sorted_prompts_has_fewer_tokens(prompts, most):
    def tokens(part):
        shared = len(part[0]) - 1
        for prompt in part[1:]:
            same = next((i for i, (a, b) in enumerate(zip(part[0], prompt, strict=False)) if a != b), None)
            shared = min(shared, len(prompt) - 1, len(part[0]) if same is None else same)
        return shared + sum(len(prompt) - shared for prompt in part)

    ordered, least = sorted(prompts), []
    for cuts in itertools.product([False, True], repeat=len(prompts) - 1):
        edges = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(prompts)]
        sizes = [tokens(ordered[a:b]) for a, b in itertools.pairwise(edges)]
        if all(size <= most or b - a == 1 for size, (a, b) in zip(sizes, itertools.pairwise(edges), strict=True)):
            least.append(sum(sizes))
    assert sum(unit.length for unit in units_of(prompts, most)) == min(least)


@pytest.mark.parametrize("devices", [1, 4])
def test_completions_are_those_of_prompts_alone(devices, monkeypatch):
    """Greedy and sampled, three questions about each of seven stories, more than the batch holds at once."""
    if devices > len(jax.devices()):
        pytest.skip("one device")
    draw = np.random.default_rng(1)
    stories = draw.integers(0, 90, (7, 90)).tolist()
    prompts = [story + draw.integers(0, 90, draw.integers(5, 30)).tolist() for story in stories for _ in range(3)]
    params = init_params(CONFIG, jax.random.key(0))
    packed = []
    real = decode.forward
    monkeypatch.setattr(
        decode, "forward", lambda *a, **k: packed.append(k.get("segments") is not None) or real(*a, **k)
    )
    found = []
    for share in (False, True):
        engine = Engine(params=params, config=CONFIG, num_tokens=96, max_rows=12, share_prefixes=share)
        sampling = [SamplingParams(n=2, max_new_tokens=9, temperature=i % 2) for i in range(len(prompts))]
        found.append(engine.sample(prompts, sampling))
        assert any(packed) == share
    for alone, shared in zip(*found, strict=True):
        assert [c.tokens for c in alone] == [c.tokens for c in shared]
        for one, other in zip(alone, shared, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)
