"""Micro-batches: what they hold, how few shapes they have, how little padding; and that packing changes no result."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VOCAB_SIZE
from hypothesis import given, settings
from hypothesis import strategies as st

from socialr1_jax.benchmark.benchmark import tail_lengths
from socialr1_jax.config.run import RunConfig
from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.grpo.packing import (
    MicroBatch,
    TextPlace,
    micro_batches,
    pack_rows,
    padding_waste,
    shared_prompts,
    width_of,
)
from socialr1_jax.grpo.step import GrpoStep, compile_programs
from socialr1_jax.models.qwen3 import init_params


def some_rows(prompts, responses, group, multiple=16, vocab=VOCAB_SIZE, seed=0):
    """`group` responses to each prompt, of the given lengths; log-probs and advantages say which token they are of."""
    rng = np.random.default_rng(seed)
    texts = [rng.integers(0, vocab, n).tolist() for n in prompts for _ in range(1)]
    texts = [text for text in texts for _ in range(group)]
    answers = [rng.integers(0, vocab, n).tolist() for n in responses]
    return pack_rows(
        texts,
        answers,
        multiple=multiple,
        sampler_logprobs=[[-100.0 * i - t for t in range(len(answer))] for i, answer in enumerate(answers)],
        advantages=rng.normal(size=len(answers)).astype(np.float32),
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_every_token_is_placed_and_seen_once(data):
    group = data.draw(st.integers(1, 4))
    prompts = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    responses = data.draw(st.lists(st.integers(1, 50), min_size=len(prompts) * group, max_size=len(prompts) * group))
    budget, shards = data.draw(st.sampled_from([1, 60, 200, 1000])), data.draw(st.sampled_from([1, 2, 8]))
    rows = some_rows(prompts, responses, group)
    longest = max(rows.lengths_b)
    batches = micro_batches(rows, budget, 8, shards)
    widths = [batch.rows.tokens_bt.shape[1] for batch in batches]
    assert widths == sorted(widths, reverse=True)  # what takes most memory comes first
    owned = np.zeros(rows.tokens_bt.shape, int)  # how often a row's own part has this position
    for batch in batches:
        part = batch.rows
        count, width = part.tokens_bt.shape
        assert count % shards == 0
        assert width % 8 == 0
        assert count // shards * width <= max(budget, width_of(int(longest), 8)) or count == shards
        free = np.ones(part.tokens_bt.shape, bool)
        for place in batch.places:
            here = place.bin, slice(place.start, place.stop)
            there = place.row, slice(place.first, place.first + place.length)
            assert free[here].all()
            free[here] = False
            for name in ("tokens_bt", "mask_bt", "sampler_logp_bt"):
                np.testing.assert_array_equal(getattr(part, name)[here], getattr(rows, name)[there])
            assert (part.advantages[here] == rows.advantages[place.row]).all()
            np.testing.assert_array_equal(part.segments.positions_bt[here], np.arange(*there[1].indices(10**6)))
            if place.own != place.prefix or place.first == 0:
                owned[there] += 1
            seen = np.asarray(
                jax.tree.map(lambda x, b=place.bin: x[b : b + 1], part.segments).seen(here[1], slice(None))
            )
            texts = [p for p in batch.places if p.bin == place.bin and p.own in (place.own, place.prefix)]
            expected = np.zeros(width, bool)
            for text in texts:
                expected[text.start : text.stop] = True
            assert (seen == expected).all()
        assert not part.tokens_bt[free].any()
        assert not part.mask_bt[free].any()
        np.testing.assert_array_equal(part.lengths_b, (~free).sum(axis=1))
    np.testing.assert_array_equal(owned[rows.mask_bt], 1)  # every trained token in exactly one place
    if group == 1:
        assert shared_prompts(batches, rows) <= 0.5  # equal prompts of one token at most


def test_responses_share_their_prompt():
    """2 prompts of 9 tokens with 3 responses of 4: each bin 8 shared + 3 x (1 + 4), not 3 x 13."""
    rows = some_rows([9, 9], [4] * 6, group=3)
    (batch,) = micro_batches(rows, 64, 8)
    assert batch.rows.lengths_b.tolist() == [23, 23]
    assert shared_prompts([batch], rows) == pytest.approx(1 - 46 / 78)


def test_untrained_row_is_dropped_but_a_batch_stays():
    rows = some_rows([3, 4, 5], [10, 20, 30], group=1)
    rows.mask_bt[1] = False
    assert sorted({place.row for batch in micro_batches(rows, 100, 8) for place in batch.places}) == [0, 2]
    rows.mask_bt[:] = False
    (batch,) = micro_batches(rows, 100, 8)
    assert not batch.rows.mask_bt.any()


@pytest.mark.parametrize(("length", "width"), [(1, 16), (16, 16), (17, 32), (256, 256), (257, 288), (3073, 3328)])
def test_widths(length, width):
    assert width_of(length, 16) == width


def test_widths_are_few_and_near():
    widths = {width_of(length, 128) for length in range(1, 4097)}
    assert len(widths) == 24
    assert max(widths) == 4096
    assert max(width_of(length, 128) / length for length in range(1024, 4097)) < 1.126


@pytest.mark.parametrize(("shards", "budget"), [(1, 4096), (1, 16384), (8, 4096), (8, 8192)])
def test_padding_is_below_15_percent_of_long_tails(shards, budget):
    """The recipe's mini-batches: 16 prompts of 100 to 300 tokens x 5 responses with a long tail up to 3,072."""
    prompts = np.random.default_rng(0).integers(100, 300, 64)
    rows = some_rows(prompts, tail_lengths(320, 3072), group=5, multiple=128)
    parts = [rows.take(slice(start, start + 80)) for start in range(0, 320, 80)]
    batches = [batch for part in parts for batch in micro_batches(part, budget, 128, shards)]
    assert padding_waste(batches) < 0.15
    assert shared_prompts(batches, rows) > 0.12
    assert 1 - rows.lengths_b.sum() / rows.tokens_bt.size > 0.6  # what one width for all would waste


@pytest.mark.parametrize(("backend", "masked"), [("cudnn", False), ("triton", True), ("xla", True)])
def test_only_cudnn_takes_lone_rows_without_segments(backend, masked):
    rows = some_rows([8, 8], [30, 28, 25, 4], group=2)
    step = GrpoStep(backend=backend, config=None, model=None, programs=None, reference=None, multiple=8)
    placed = [step.placed(batch) for batch in micro_batches(rows, 40, 8)]
    assert [part.segments is not None for part in placed] == [masked, True, masked]  # the second bin holds two rows


# ------------------------------------------------------------------------------------ the same results, however packed


PACKINGS = {
    "narrow bins": (48, 16),
    "shared prompts": (128, 16),
    "one bin": (400, 16),
    "wide padding": (128, 64),
}


class Case:
    """One preset's update on one mini-batch: 4 prompts x 3 responses of very different lengths."""

    def __init__(self, preset, model):
        config = RunConfig.model_validate(
            {
                "model": {"path": "given"},
                "data": {"train": "given"},
                "sampling": {"group_size": 3},
                "grpo": {
                    "prompts_per_step": 4,
                    "mini_batch_prompts": 4,
                    "preset": preset,
                    "kl_coefficient": 0.04,
                    "importance_sampling": "sequence",
                    "entropy_coefficient": 0.01,
                },
            }
        )
        self.programs = {name: compile_programs(config, model, VOCAB_SIZE, name) for name in ("xla", "triton")}
        # as training starts: logits without large sums
        self.params = jax.jit(init_params, static_argnums=0)(model, jax.random.key(3))
        rows = some_rows([1, 7, 20, 3], [3, 30, 1, 8, 8, 25, 2, 9, 14, 40, 5, 6], group=3)
        uniform = np.full(rows.tokens_bt.shape, -np.log(VOCAB_SIZE), np.float32)
        noise = np.random.default_rng(9).normal(0, 0.2, (3, *uniform.shape)).astype(np.float32)
        names = ("old_logp_bt", "ref_logp_bt", "sampler_logp_bt")
        self.rows = replace(rows, **{name: uniform + x for name, x in zip(names, noise, strict=True)})
        whole = [TextPlace(i, 0, length, i, 0, 1, 1) for i, length in enumerate(self.rows.lengths_b)]
        self.expected = self.gradient(self.rows, [MicroBatch(self.rows, whole)])

    def gradient(self, rows, parts, attention="xla"):
        """The gradient as one float64 vector, loss, and log-probs of the rows."""
        update = self.programs[attention].update
        sums = update.begin(self.params, parts[0].rows.placed())
        logp_bt = np.zeros(rows.tokens_bt.shape, np.float32)
        for part in parts:
            sums, arrays = update.accumulate(self.params, sums, part.rows.placed())
            part.spread(arrays["logp_bt"], logp_bt)
        scale = 1 / float(sums.numbers["denominator"])
        leaves = [np.asarray(x, np.float64).ravel() * scale for x in jax.tree.leaves(sums.gradient)]
        return np.concatenate(leaves), float(sums.numbers["loss"]) * scale, logp_bt


@pytest.fixture(scope="module", params=["social_r1", "gspo"])
def case(request, tiny_jax):
    return Case(request.param, tiny_jax.config)


@pytest.mark.parametrize(
    ("packing", "attention"), [*((packing, "xla") for packing in PACKINGS), ("shared prompts", "triton")]
)
def test_gradient_does_not_depend_on_packing(case, packing, attention, segment_kernel):
    """To 1e-6 of its norm in float32, loss and log-probs too; expected: whole rows without segments."""
    gradient_n, loss, logp_bt = case.expected
    parts = micro_batches(case.rows, *PACKINGS[packing])
    found_n, found_loss, found_bt = case.gradient(case.rows, parts, attention)
    assert np.linalg.norm(found_n - gradient_n) < 1e-6 * np.linalg.norm(gradient_n)
    assert found_loss == pytest.approx(loss, rel=1e-5, abs=1e-6)
    np.testing.assert_allclose(found_bt[case.rows.mask_bt], logp_bt[case.rows.mask_bt], rtol=0, atol=2e-6)


def test_gradient_does_not_depend_on_row_order(case):
    gradient_n, *_ = case.expected
    rows = case.rows.take(np.random.default_rng(1).permutation(12))
    found_n, *_ = case.gradient(rows, micro_batches(rows, 128, 16))
    assert np.linalg.norm(found_n - gradient_n) < 1e-6 * np.linalg.norm(gradient_n)


def test_packed_log_probs_are_those_of_plain_rows(tiny_jax):
    rows = some_rows([1, 7, 20, 3], [3, 30, 1, 8, 8, 25, 2, 9, 14, 40, 5, 6], group=3)
    log_probs = jax.jit(row_logprobs, static_argnames=("config", "num_tokens", "dtype"))
    plain_bt, entropy_bt = log_probs(
        tiny_jax.params,
        tiny_jax.config,
        jnp.asarray(rows.tokens_bt),
        jnp.asarray(rows.lengths_b),
        1.0,
        num_tokens=VOCAB_SIZE,
        dtype="float32",
        wanted_bt=jnp.asarray(rows.mask_bt),
    )
    found = np.zeros((2, *rows.tokens_bt.shape), np.float32)
    for batch in micro_batches(rows, 200, 8):
        part = batch.rows
        results = log_probs(
            tiny_jax.params,
            tiny_jax.config,
            jnp.asarray(part.tokens_bt),
            jnp.asarray(part.lengths_b),
            1.0,
            num_tokens=VOCAB_SIZE,
            dtype="float32",
            wanted_bt=jnp.asarray(part.mask_bt),
            segments=jax.tree.map(jnp.asarray, part.segments),
        )
        for x_bt, out_bt in zip(results, found, strict=True):
            batch.spread(x_bt, out_bt)
    np.testing.assert_allclose(found[0], plain_bt, rtol=0, atol=3e-5)
    np.testing.assert_allclose(found[1], entropy_bt, rtol=0, atol=3e-5)
