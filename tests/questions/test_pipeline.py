"""The stream of prompts: whole epochs, other orders, exact resume, and what is left out."""

import json
import logging
import threading
from collections.abc import Mapping
from types import MappingProxyType

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from socialr1_jax.config.run import GrpoConfig, RunConfig
from socialr1_jax.data.prompts import Prompt, encode_prompt
from socialr1_jax.data.tables import DataError
from socialr1_jax.questions import sources as question_sources
from socialr1_jax.questions.pipeline import PromptStream, QuestionStream
from socialr1_jax.questions.sources import Questions, open_questions
from socialr1_jax.training.sampler import Sampler


class Words:
    """A tokenizer with one token a word, so that lengths are plain to see."""

    name_or_path, chat_template = "words", "yes"
    special_tokens_map: Mapping[str, str] = MappingProxyType({})
    added_tokens_decoder: Mapping[int, object] = MappingProxyType({})

    def get_chat_template(self) -> str:
        return self.chat_template

    def apply_chat_template(self, messages: list[dict], **options: object) -> str:
        return messages[0]["content"]

    def __call__(self, texts: list[str], **options: object) -> dict[str, list[list[int]]]:
        return {"input_ids": [[len(word) for word in text.split()] for text in texts]}


@pytest.fixture(scope="module")
def questions_of(tmp_path_factory):
    """Questions i, with i % 3 words more than the shortest."""
    made: dict[int, Questions] = {}

    def questions(count: int) -> Questions:
        if count not in made:
            path = tmp_path_factory.mktemp("questions") / "q.jsonl"
            rows = (
                {"id": str(i), "story": "word " * (i % 3), "question": "Who?", "answer": "Anna"} for i in range(count)
            )
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
            made[count] = open_questions([path])
        return made[count]

    return questions


def stream(questions: Questions, prompts: int, seed: int = 0, limit: int = 10**6) -> QuestionStream:
    return QuestionStream(questions, Words(), prompts_per_step=prompts, max_prompt_tokens=limit, seed=seed)


def ids(batch: list[Prompt]) -> list[int]:
    return [prompt.id for prompt in batch]


def shortest(questions: Questions) -> int:
    return min(len(encode_prompt(Words(), question)) for question in questions)


# ------------------------------------------------------------------------------------------------------- QuestionStream


@settings(max_examples=20, deadline=None)
@given(count=st.integers(1, 20), prompts=st.integers(1, 20), seed=st.integers(0, 2**31 - 1), words=st.integers(0, 2))
def test_every_epoch_holds_every_prompt_that_fits_once(questions_of, count, prompts, seed, words):
    questions = questions_of(count)
    limit = shortest(questions) + words
    fitting = [i for i in range(count) if i % 3 <= words]
    batches = stream(questions, prompts, seed, limit)
    order = [prompt for _ in range(-(-3 * len(fitting) // prompts)) for prompt in next(batches)]
    for epoch in range(3):
        assert sorted(ids(order[epoch * len(fitting) : (epoch + 1) * len(fitting)])) == fitting
    for prompt in order:
        assert prompt.example == questions[prompt.id]
        assert prompt.tokens == encode_prompt(Words(), prompt.example)
        assert type(prompt.id) is int


@settings(max_examples=8, deadline=None)
@example(count=3, prompts=4, seed=1, words=1)  # grain shuffles few questions slowly: 5 ms for a place among 3
@given(
    count=st.sampled_from((1, 9, 12, 16)), prompts=st.integers(1, 9), seed=st.integers(0, 99), words=st.integers(0, 2)
)
def test_resume_at_any_step_equals_no_interruption(questions_of, count, prompts, seed, words):
    """Across epochs too: batches may be larger than an epoch. A restored stream is restored once more."""
    steps = 5
    questions = questions_of(count)
    limit = shortest(questions) + words
    whole = stream(questions, prompts, seed, limit)
    states, batches = [json.dumps(whole.get_state())], []
    for _ in range(steps):
        batches.append(next(whole))
        states.append(json.dumps(whole.get_state()))
    again = stream(questions, prompts, seed, limit)  # one stream that is thrown from place to place
    for start in (3, 0, 4, 1, 5, 2):
        for resumed in (stream(questions, prompts, seed, limit), again):
            resumed.set_state(json.loads(states[start]))
            assert json.dumps(resumed.get_state()) == states[start]
            for step in range(start, steps):
                assert next(resumed) == batches[step]
                assert json.dumps(resumed.get_state()) == states[step + 1]


def test_state_is_small_and_far_places_are_cheap(questions_of):
    batches = stream(questions_of(30), 64)
    state = batches.get_state()
    assert state == {"grain": {"next_index": 0}, "questions": 30, "seed": 0}
    state["grain"]["next_index"] = 10**12
    batches.set_state(state)  # a replay would take a year
    assert len(next(batches)) == 64
    assert batches.get_state()["grain"]["next_index"] == 10**12 + 64


def test_seeds_have_independent_orders(questions_of):
    questions = questions_of(30)
    orders = {tuple(ids(next(batches))) for seed in range(4) for batches in [stream(questions, 30, seed)] * 3}
    assert len(orders) == 12  # three epochs of four seeds, none the other's
    first, spare = stream(questions, 4, 0), stream(questions, 4, 1)
    expected = [next(first) for _ in range(5)]
    first = stream(questions, 4, 0)
    found = []
    for _ in range(5):
        found.append(next(first))
        next(spare)
    assert found == expected


def test_batches_of_the_stream_are_pinned(questions_of):
    """A change of the order would make an old checkpoint resume on other prompts."""
    batches = stream(questions_of(10), 4, seed=3)
    assert [ids(next(batches)) for _ in range(3)] == [[4, 6, 9, 7], [5, 3, 1, 8], [2, 0, 8, 1]]


def test_state_of_other_questions_or_seed_is_refused(questions_of):
    batches = stream(questions_of(10), 4, seed=3)
    with pytest.raises(ValueError, match="one of questions 10, these have questions 20"):
        stream(questions_of(20), 4, seed=3).set_state(batches.get_state())
    with pytest.raises(ValueError, match="one of seed 3, these have seed 4"):
        stream(questions_of(10), 4, seed=4).set_state(batches.get_state())


def test_views_count_their_own_places(questions_of):
    view = questions_of(30).take(range(20, 30))
    batch = next(stream(view, 10))
    assert sorted(ids(batch)) == list(range(10))
    assert all(prompt.example.id == str(prompt.id + 20) for prompt in batch)


def test_long_prompts_are_counted_and_told_once(questions_of, caplog):
    questions = questions_of(30)
    limit = shortest(questions)
    batches = stream(questions, 10, limit=limit)
    with caplog.at_level(logging.WARNING):
        for _ in range(6):  # six epochs of ten prompts that fit
            assert all(prompt.id % 3 == 0 for prompt in next(batches))
    assert batches.dropped == 20
    assert caplog.text.count(f"data.max_prompt_tokens={limit}") == 1


def test_run_counts_long_prompts_from_its_place(questions_of):
    def sampler(prompts):
        config = RunConfig.model_construct(grpo=GrpoConfig(prompts_per_step=10, mini_batch_prompts=10))
        return Sampler(**dict.fromkeys(Sampler.__dataclass_fields__) | {"config": config, "prompts": prompts})

    questions = questions_of(30)
    limit = shortest(questions)
    whole, all_fit = stream(questions, 10, limit=limit), stream(questions, 10)
    for step in range(1, 7):
        next(whole), next(all_fit)
        met = whole.get_state()["grain"]["next_index"]
        assert sampler(whole).dropped(step) == met - 10 * step
        assert sampler(all_fit).dropped(step) == 0
    assert 6 * 20 - 20 < sampler(whole).dropped(6) <= 6 * 20
    resumed = stream(questions, 10, limit=limit)
    resumed.set_state(whole.get_state())
    assert sampler(resumed).dropped(6) == sampler(whole).dropped(6)


def test_no_fitting_prompt_is_an_error(questions_of):
    questions = questions_of(30)
    length = shortest(questions)
    batches = stream(questions, 4, limit=length - 1)
    for _ in range(2):
        with pytest.raises(
            DataError,
            match=f"none of 30 prompts has at most {length - 1} tokens; the shortest has {length}; "
            "raise data.max_prompt_tokens",
        ):
            next(batches)


@pytest.mark.parametrize(("count", "prompts"), [(0, 4), (10, 0)])
def test_streams_of_nothing_are_refused(questions_of, count, prompts):
    with pytest.raises(ValueError, match="at least one question"):
        stream(questions_of(10).take(range(count)), prompts)


@pytest.fixture
def large(tmp_path, monkeypatch):
    """A Parquet file that counts as large, whose question 7 of 20 is bad."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(question_sources, "LARGE_PARQUET", 0)
    rows = [{"story": "s", "question": "" if i == 7 else "Who?", "answer": str(i)} for i in range(20)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "big.parquet", row_group_size=6)
    return tmp_path / "big.parquet"


def test_late_bad_row_stops_the_stream_there(large):
    batches = stream(open_questions([large]), 6)
    batch, error = [], None
    while error is None:
        before = batches.get_state()
        try:
            batch.append(next(batches))
        except DataError as caught:
            error = caught
    assert "big.parquet row 8: the question is empty. Fix the file" in str(error)
    assert type(error) is DataError
    assert len(batch) < 4
    assert batches.get_state() == before
    with pytest.raises(DataError, match="row 8"):
        next(batches)


def test_allowed_late_bad_row_keeps_resume_exact(large):
    questions = open_questions([large], allow_bad_rows=True)
    whole = stream(questions, 6)
    states, batches = [], []
    for _ in range(10):
        states.append(whole.get_state())
        batches.append(next(whole))
    order = [i for batch in batches for i in ids(batch)]
    for epoch in range(3):
        assert sorted(order[epoch * 19 : (epoch + 1) * 19]) == [i for i in range(20) if i != 7]
    assert (whole.dropped, len(questions.bad_rows)) == (1, 1)
    for start in range(10):
        resumed = stream(open_questions([large], allow_bad_rows=True), 6)
        resumed.set_state(states[start])
        assert [next(resumed) for _ in range(start, 10)] == batches[start:]


def test_tokenizer_fault_reaches_the_caller(questions_of):
    class Faulty(Words):
        calls = 0

        def apply_chat_template(self, messages, **options):
            self.calls += 1
            if self.calls == 6:
                raise KeyboardInterrupt
            return super().apply_chat_template(messages, **options)

    batches = QuestionStream(questions_of(10), Faulty(), prompts_per_step=4, max_prompt_tokens=10**6, seed=0)
    expected = stream(questions_of(10), 4)
    assert next(batches) == next(expected)
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    assert next(batches) == next(expected)  # as if nothing had been


def test_no_threads_and_a_closed_stream(questions_of):
    before = threading.active_count()
    batches = stream(questions_of(10), 4)
    next(batches)
    assert threading.active_count() == before
    batches.close()
    batches.close()
    with pytest.raises(ValueError, match="closed"):
        next(batches)


# --------------------------------------------------------------------------------------------------------- PromptStream


@settings(max_examples=10, deadline=None)
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


def test_late_step_costs_no_more_than_the_first():
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
