"""Prompts that begin alike are computed once and answered as if each stood alone."""

import itertools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding

from socialr1_jax.models import attention
from socialr1_jax.models.attention import causal_attention
from socialr1_jax.models.blockwise import Prefix, Segments
from socialr1_jax.models.qwen3 import init_params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.runtime.mesh import P, make_mesh
from socialr1_jax.sampling import Engine, SamplingParams, shared_prefill
from socialr1_jax.sampling.memory import BatchPlan
from socialr1_jax.sampling.shared_prefill import cut_prompts, good_order, pack_prompts, shared_by, units_of
from socialr1_jax.weights.hf import random_model  # noqa: F401  (imports JAX before hypothesis measures time)

CONFIG = Qwen3Config(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    rope_theta=1e4,
    tie_word_embeddings=True,
)
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
def test_no_other_cut_of_prompts_is_shorter(prompts, most):
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


def plan_for(prompts, width):
    sizes = {"rows": 8, "tokens": 8 * width, "sharers": 4, "prefixes": 4, "weights": 0, "cache": 0, "temporaries": 0}
    return BatchPlan(prompts=prompts, width=width, slots=width, **sizes)


@given(st.lists(PROMPTS, min_size=1, max_size=2), st.integers(0, 40), st.sampled_from([2, 4, 16]))
def test_calls_hold_every_prompt_and_token_once(devices, instruction, most):
    """The pool as the programs fill it: what is shared, and behind it the bins."""
    plan = plan_for(most, 128)
    devices = [[[5] * instruction + prompt for prompt in prompts] for prompts in devices]
    for prompts in devices:
        ordered = sorted(prompts)
        sizes = cut_prompts(ordered, ordered[0][: instruction // 2], plan)
        assert sum(sizes) == len(prompts)
        assert min(sizes) > 0
    calls = [prompts[:most] for prompts in devices]
    lengths = [shared_by(prompts) for prompts in calls]
    size = max(map(len, calls))
    packed = pack_prompts(calls, lengths, size, 64, plan)
    assert packed.tokens_dbt[0].size <= plan.prompts * plan.width
    for device, (prompts, length) in enumerate(zip(calls, lengths, strict=True)):
        pool = np.concatenate([prompts[0][:length], packed.tokens_dbt[device].reshape(-1)])
        positions = np.concatenate([np.arange(length), packed.segments.positions_bt[device].reshape(-1)])
        for i, prompt in enumerate(prompts):
            at = packed.at_pt[device * size + i, : len(prompt)]
            assert pool[at].tolist() == prompt
            assert positions[at].tolist() == list(range(len(prompt)))


def test_a_call_shares_what_is_worth_a_program():
    draw = np.random.default_rng(0)
    instruction, *stories = draw.integers(0, 90, (5, 200)).tolist()

    def asked(questions, *texts, own=10):
        return [[*text, *draw.integers(0, 90, own).tolist()] for text in texts for _ in range(questions)]

    plan = plan_for(16, 512)
    cases = [
        (asked(16, instruction), [16]),
        (sorted(asked(2, *(instruction + story for story in stories))), [8]),  # units do
        (sorted(asked(16, stories[0], stories[1], own=50)), [16, 16]),  # nothing in common: each has its beginning
        (asked(40, instruction), None),  # more than a call may have
    ]
    for prompts, sizes in cases:
        found = cut_prompts(prompts, [], plan)
        assert sizes is None or found == sizes
        assert max(found) * 256 <= plan.prompts * plan.width


def test_short_prompts_come_first_and_families_stay_together():
    story, long = [1] * 100, [2] * 500
    prompts = [[*long, 3], [*story, 4], [*long, 5], [7], [*story, 6]]
    assert good_order(prompts, [16] * 5) == [3, 1, 4, 0, 2]
    assert good_order([], []) == []


@pytest.mark.parametrize(("bins", "width", "shared", "devices"), [(3, 40, 0, 2), (2, 7, 33, 1)])
def test_attention_behind_a_prefix_equals_the_whole(bins, width, shared, devices):
    """Both ways to compute it, where some slots of the prefix are empty, against one query after another."""
    draw = np.random.default_rng(2)
    b, heads = devices * bins, 4
    q, k, v = (draw.normal(size=(b, width, n, 8)).astype(np.float32) for n in (heads, 2, 2))
    before = [draw.normal(size=(devices, 64, 2, 8)).astype(np.float32) for _ in range(2)]
    lengths = np.array([shared, 40 - shared][:devices])
    for of, length in enumerate(lengths):
        before[1][of, length:] = np.nan  # of another prompt that failed
    one = np.ones((b, width), int)
    prefix, segments = Prefix(*before, lengths), Segments(one, one, one)
    want = np.zeros_like(q)
    for row, t, n in np.ndindex(b, width, heads):
        of, first = row // bins, lengths[row // bins]
        kk, vv = (
            np.concatenate([x[of, :first, n // 2], y[row, : t + 1, n // 2]])
            for x, y in zip(before, (k, v), strict=True)
        )
        powers = np.exp(kk @ q[row, t, n] / 8**0.5)
        want[row, t, n] = powers @ vv / powers.sum()
    blocks = jax.jit(lambda *args: causal_attention(*args[:3], None, "xla", *args[3:]))
    mask = jax.jit(lambda *args: attention._masked_attention(*args, "xla"))
    for name, found in (("blocks", blocks), ("mask", mask)):
        np.testing.assert_allclose(found(q, k, v, segments, prefix), want, atol=2e-5, err_msg=name)


@pytest.mark.parametrize("devices", [1, 4])
def test_completions_are_those_of_prompts_alone(devices, monkeypatch):
    """Greedy and sampled, three questions about each of seven stories, more than the batch holds at once."""
    if devices > len(jax.devices()):
        pytest.skip("one device")
    draw = np.random.default_rng(1)
    instruction, *stories = draw.integers(0, 90, (8, 90)).tolist()
    prompts = [
        instruction + story + draw.integers(0, 90, draw.integers(5, 30)).tolist() for story in stories for _ in range(3)
    ]
    behind = []
    real = shared_prefill.prefill_bins
    monkeypatch.setattr(shared_prefill, "prefill_bins", lambda *a, **k: behind.append(k["shared"]) or real(*a, **k))
    mesh = make_mesh(devices=jax.devices()[:devices])
    with jax.set_mesh(mesh):
        params = jax.device_put(init_params(CONFIG, jax.random.key(0)), NamedSharding(mesh, P()))
        found = []
        for share in (False, True):
            engine = Engine(params=params, config=CONFIG, num_tokens=96, max_rows=12, share_prefixes=share)
            sampling = [SamplingParams(n=2, max_new_tokens=9, temperature=i % 2) for i in range(len(prompts))]
            found.append(engine.sample(prompts, sampling))
            assert any(behind) == share
    for alone, shared in zip(*found, strict=True):
        assert [c.tokens for c in alone] == [c.tokens for c in shared]
        for one, other in zip(alone, shared, strict=True):
            np.testing.assert_allclose(one.logprobs, other.logprobs, atol=2e-5)
