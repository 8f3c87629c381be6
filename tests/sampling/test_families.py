"""Rows that share a prefix: attention over it is computed once, and every row finds its own part of it."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import decode_by_length

from socialr1_jax.models.attention import decode_attention
from socialr1_jax.models.decode_kernel import attention_by_length
from socialr1_jax.models.kv_cache import LayerCache
from socialr1_jax.models.qwen3 import init_params
from socialr1_jax.models.qwen3_config import Qwen3Config
from socialr1_jax.sampling import Engine, SamplingParams
from socialr1_jax.sampling.batch import Rollout
from socialr1_jax.sampling.families import Family, mean_rows, sharing, used_entries

HEADS, KV_HEADS, WIDTH = 4, 2, 8
ROWS, SLOTS, ENTRIES, BEFORE, MOST = 6, 6, 3, 6, 4  # the kernel for GPUs reads 2 slots at a time
BATCHES = st.tuples(
    st.lists(st.integers(-1, ENTRIES - 1), min_size=ROWS, max_size=ROWS).filter(
        lambda of: max(map(of.count, range(ENTRIES))) <= MOST
    ),
    st.lists(st.integers(0, BEFORE), min_size=ENTRIES, max_size=ENTRIES),
    st.lists(st.integers(1, SLOTS), min_size=ROWS, max_size=ROWS),
    st.integers(0, 99),
)
shared_attention, by_length = jax.jit(decode_attention), jax.jit(attention_by_length)


@pytest.fixture(scope="module")
def interpreted():
    with pytest.MonkeyPatch.context() as patch:
        decode_by_length(patch.setattr, split=4)
        yield


@settings(deadline=None)  # the first one compiles
@given(BATCHES)
def test_attention_over_shared_prefixes_equals_whole_rows(interpreted, batch):
    """Any rows behind any prefixes, empty ones too, against one softmax over all of a row's keys in float64.

    XLA reads all slots. The kernel for GPUs reads the filled blocks of live rows: the others are NaN.
    """
    of, lengths, own = (np.array(x) for x in batch[:3])
    own = np.where(of >= 0, own, 0)
    draw = np.random.default_rng(batch[3])
    q = draw.normal(size=(ROWS, HEADS, WIDTH)).astype(np.float32)

    def cache(rows, slots):
        return LayerCache(*(draw.normal(size=(rows, KV_HEADS, *x)) for x in ((WIDTH, slots), (slots, WIDTH))))

    own_cache, prefixes = cache(ROWS, SLOTS), cache(ENTRIES, BEFORE)
    live = np.where(of >= 0, 1, -1)[None]
    places = sharing(live, np.maximum(of, 0)[None], lengths[None], MOST)
    as_float = jax.tree.map(np.float32, (own_cache, prefixes))
    found = np.asarray(shared_attention(q, as_float[0], own, as_float[1], places))
    used = np.isin(np.arange(ENTRIES), of)
    only_filled = [
        LayerCache(np.where(seen[:, None, None], k, np.nan), np.where(seen[:, None, :, None], v, np.nan))
        for (k, v), filled in zip(as_float, (own, np.where(used, lengths, 0)), strict=True)
        for seen in [np.arange(k.shape[-1]) // 2 * 2 < filled[:, None]]
    ]
    read = np.asarray(by_length(q, only_filled[0], own, only_filled[1], places))
    np.testing.assert_allclose(read[of >= 0], found[of >= 0], atol=2e-6)
    assert np.isfinite(read).all()
    for row, entry in enumerate(of):
        for head in range(HEADS if entry >= 0 else 0):
            kv, before, after = head // (HEADS // KV_HEADS), lengths[entry], own[row]
            k = np.concatenate([prefixes.k_bkhs[entry, kv, :, :before], own_cache.k_bkhs[row, kv, :, :after]], axis=1)
            v = np.concatenate([prefixes.v_bksh[entry, kv, :before], own_cache.v_bksh[row, kv, :after]])
            powers = np.exp(q[row, head] @ k / WIDTH**0.5)
            np.testing.assert_allclose(found[row, head], powers @ v / powers.sum(), atol=2e-6)


@given(st.lists(BATCHES, min_size=1, max_size=3))
def test_live_rows_have_places_behind_their_prefix(batches):
    entries, lengths = (np.array([batch[i] for batch in batches]) for i in (0, 1))
    places = sharing(entries, np.maximum(entries, 0), lengths, MOST)
    places_db, rows_dem = places.places_b.reshape(-1, ROWS), places.rows_em.reshape(len(batches), -1)
    for device, row in np.argwhere(entries >= 0):
        assert rows_dem[device, places_db[device, row]] == row
        assert places_db[device, row] // MOST == entries[device, row]
    assert places.lengths_e.tolist() == lengths.reshape(-1).tolist()
    used = used_entries(entries, np.maximum(entries, 0), ENTRIES)
    assert used.tolist() == [[entry in of for entry in range(ENTRIES)] for of in entries.tolist()]


def test_a_family_shares_most_of_every_prompt():
    # Length of the first prompt; length, what it shares, and rows of those that follow, and whether they are taken.
    cases = [
        (100, [(100, 90, 1, True), (120, 90, 1, True), (100, 90, 1, True), (100, 99, 1, False)]),  # four rows
        (100, [(100, 70, 1, False), (100, 76, 1, True)]),  # a quarter of each may be its own
        (100, [(400, 99, 1, False)]),
        (100, [(200, 160, 1, False)]),  # the first has no more than 99
        (300, [(300, 280, 1, True), (310, 240, 1, True)]),
        (100, [(100, 99, 3, True), (100, 99, 1, False)]),
        (1, [(1, 1, 1, False)]),  # each needs a token of its own
    ]
    for first, following in cases:
        family = Family(first, 1)
        for *prompt, taken in following:
            assert family.takes(*prompt, 4) == taken, (first, prompt)
    story = [*range(100)]
    assert mean_rows([[*story, 1], [*story, 2], [7] * 50], [1, 1, 1]) == 1.5
    assert mean_rows([[1]], [5]) == 5


@pytest.fixture(scope="module")
def engine():
    config = Qwen3Config(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=WIDTH,
        rope_theta=1e4,
        tie_word_embeddings=True,
    )
    params = jax.jit(init_params, static_argnums=0)(config, jax.random.key(0))
    return Engine(params=params, config=config, num_tokens=96, segment_tokens=4, max_rows=8)


def test_groups_wait_for_a_prefix_alone(engine, monkeypatch):
    """Eight rows in groups of four keep four prefixes: one live row of each leaves rows free but no prefix."""
    waited, enough = [], Rollout._enough

    def counted(rollout):
        live = (rollout.rows >= 0).sum()
        waited.append(bool(rollout.waiting) and live <= 4)
        assert len(set(rollout.entries[rollout.rows >= 0])) <= rollout.plan.prefixes
        return enough(rollout)

    monkeypatch.setattr(Rollout, "_enough", counted)
    draw = np.random.default_rng(3)
    prompts = [draw.integers(0, 96, size).tolist() for size in draw.integers(1, 20, 12)]
    sampling = SamplingParams(n=4, max_new_tokens=40, stop_token_ids=tuple(range(6)), seed=4)
    assert engine.plan(prompts, sampling).prefixes == 4
    found = engine.sample(prompts, sampling)
    assert any(waited)
    for i in (0, 11):
        (alone,) = replace(engine, segment_tokens=40).sample(prompts[i : i + 1], sampling, prompt_ids=[i])
        assert [c.tokens for c in alone] == [c.tokens for c in found[i]]
        np.testing.assert_allclose(alone[0].logprobs, found[i][0].logprobs, atol=1e-5)
