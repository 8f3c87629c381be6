"""The order of prompts: whole epochs, other orders, and a step that needs no replay."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from socialr1_jax.data.pipeline import PromptStream


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, 40), prompts=st.integers(1, 30), seed=st.integers(0, 2**31 - 1))
def test_every_epoch_holds_every_prompt_once(count, prompts, seed):
    stream = PromptStream(count, prompts, seed)
    steps = -(-3 * count // prompts)
    order = [index for step in range(steps) for index in stream.batch(step)]
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(count))


def test_epochs_and_seeds_have_orders_of_their_own():
    stream = PromptStream(50, 50, seed=1)
    orders = [stream.batch(0), stream.batch(1), stream.batch(2), PromptStream(50, 50, seed=2).batch(0), list(range(50))]
    assert len({tuple(order) for order in orders}) == 5


def test_a_step_is_a_function_of_its_number():
    replayed = PromptStream(37, 8, seed=5)
    batches = [replayed.batch(step) for step in range(40)]
    resumed = PromptStream(37, 8, seed=5)
    for step in (39, 3, 17, 3):
        assert resumed.batch(step) == batches[step]
    assert all(type(index) is int for index in batches[0])


def test_a_late_step_costs_no_more_than_the_first():
    assert len(PromptStream(1000, 64, seed=0).batch(10**9)) == 64  # a replay of 6e10 prompts would never end


def test_batches_are_pinned():
    """A change of the order would make an old checkpoint resume on other prompts."""
    stream = PromptStream(10, 4, seed=3)
    assert [stream.batch(step) for step in range(3)] == [[4, 6, 9, 7], [5, 3, 1, 8], [2, 0, 8, 1]]


@pytest.mark.parametrize(("count", "prompts"), [(0, 4), (4, 0)])
def test_empty_streams_are_refused(count, prompts):
    with pytest.raises(ValueError, match="at least one prompt"):
        PromptStream(count, prompts, seed=0)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="steps count from 0, not -1"):
        PromptStream(4, 2, seed=0).batch(-1)
