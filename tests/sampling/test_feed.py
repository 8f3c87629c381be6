"""Prompts that come while others are decoded get what they would get from `Engine.sample`, and rows stay busy."""

import random

import numpy as np
import pytest
from conftest import VOCAB_SIZE

from socialr1_jax import SamplingParams
from socialr1_jax.sampling import Engine, Feed

SAMPLING = SamplingParams(max_new_tokens=24, seed=5, stop_token_ids=tuple(range(0, VOCAB_SIZE, 12)))


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(7)
    return [rng.integers(0, VOCAB_SIZE, size=rng.integers(1, 60)).tolist() for _ in range(24)]


@pytest.fixture(scope="module")
def engine(tiny_jax):
    return Engine(params=tiny_jax.params, config=tiny_jax.config, num_tokens=VOCAB_SIZE, segment_tokens=4, max_rows=8)


@pytest.fixture(scope="module")
def wanted(engine, prompts):
    return [group[0] for group in engine.sample(prompts, SAMPLING)]


def same(found, wanted):
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine.tokens, mine.finish_reason, mine.stop) == (theirs.tokens, theirs.finish_reason, theirs.stop)
        np.testing.assert_allclose(mine.logprobs, theirs.logprobs, atol=2e-5)


@pytest.mark.parametrize("seed", [0, 1])
def test_late_prompts_equal_those_given_at_once(engine, prompts, wanted, seed):
    draw = random.Random(seed)
    order = draw.sample(range(len(prompts)), len(prompts))
    feed = Feed(engine, SAMPLING, prompt_tokens=60, rows=8)
    waiting, place, found = list(order), {}, {}
    while len(found) < len(prompts):
        for _ in range(min(draw.choice([0, 0, 1, 5]), len(waiting))):  # it runs dry now and then
            i = waiting.pop()
            place[feed.add(prompts[i], i)] = i
        for number, completion in feed.step():
            assert place[number] not in found
            found[place[number]] = completion
    assert not feed.step()
    same([found[i] for i in range(len(prompts))], wanted)


def test_rows_stay_busy_while_prompts_wait(engine, prompts):
    feed = Feed(engine, SAMPLING, prompt_tokens=60, rows=8)
    waiting = [(i, prompts[i % len(prompts)]) for i in range(120)]
    open_, busy = 0, []
    while waiting or open_:
        while waiting and open_ < 2 * feed.rows:
            number, prompt = waiting.pop()
            feed.add(prompt, number)
            open_ += 1
        open_ -= len(feed.step())
        if waiting:
            busy.append(feed.busy / feed.rows)
    assert len(busy) > 20
    assert np.mean(busy) > 0.85


def test_nothing_is_kept_of_what_has_ended(engine, prompts):
    feed = Feed(engine, SAMPLING, prompt_tokens=60, rows=8)
    for i, prompt in enumerate(prompts[:12]):
        feed.add(prompt, i)
    ended = 0
    while ended < 12:
        ended += len(feed.step())
    assert not feed._rollout.of_row
    assert not feed._parts


def test_bad_prompts_and_settings(engine, tiny_jax):
    feed = Feed(engine, SAMPLING, prompt_tokens=10, rows=4)
    with pytest.raises(ValueError, match="a prompt of 11 tokens; the feed takes at most 10"):
        feed.add([1] * 11, 0)
    with pytest.raises(ValueError, match="is empty"):
        feed.add([], 0)
    with pytest.raises(ValueError, match="one response per prompt, not 2"):
        Feed(engine, SamplingParams(n=2, max_new_tokens=4), prompt_tokens=10, rows=4)
    positions = tiny_jax.config.max_position_embeddings
    with pytest.raises(ValueError, match="max_position_embeddings"):
        Feed(engine, SAMPLING, prompt_tokens=positions, rows=4)
