"""The reader of answers: plain forms read as meant, training and evaluation agreeing on every string, linear time."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.scoring import score
from socialr1_jax.evaluation.tasks.socialiqa import TASK
from socialr1_jax.rewards import social_r1_reward
from socialr1_jax.rewards.answers import answer_letter, named_letter
from socialr1_jax.rewards.terms import outcome_reward

OPTIONS = ("go", "stay / make a plan", "run")
FORMS = [json.loads(line) for line in (Path(__file__).parent / "answer_forms.jsonl").read_text("utf-8").splitlines()]


def test_plain_forms_are_read_as_meant():
    """means: the letter that a reply plainly names; null is none, several, or not decidable."""
    assert len(FORMS) > 250
    wrong = {}
    for form in FORMS:
        reply, means = form["reply"], form["means"] or ""
        paid = "".join(gold for gold in "ABC" if outcome_reward(reply, gold))  # the reward knows no options
        if named_letter(reply, "ABC", OPTIONS) != means or paid != means:
            wrong[reply] = named_letter(reply, "ABC", OPTIONS), paid
    assert wrong == {}


def test_letter_beyond_pronoun_and_option_text():
    assert [named_letter(text, "ABCDEFGHIJKLMNO") for text in ("I", "(I)", "Answer: I", "I think so")] == [*"III", ""]
    assert [named_letter(text, "ABC", OPTIONS) for text in ("run", "**Run.**", "B. go", "ran")] == ["C", "C", "B", ""]


def test_reference_mode_is_the_published_pattern():
    assert [answer_letter(text, "reference") for text in ("Anna", "Answer: D", "b")] == ["A", "A", ""]


PIECES = st.lists(
    st.sampled_from(
        [
            *("<think>", "</think>", "<Answer>", "</Answer>", "A", "B", "(B)", "**B**", "\\boxed{B}", "or"),
            *("the answer is ", "Answer: ", "not ", "Anna", "I", " ", "\n", ".", ",", "is", "答案", "é"),
        ]
    ),
    max_size=14,
).map("".join)
CARD = Request(id="0", item="0", messages=(), gold="B")


@given(PIECES | st.text())
def test_training_and_evaluation_agree_on_every_string(text):
    for response in (text, f"<think>t</think><Answer>{text}</Answer>"):
        graded = score(TASK, "social_r1", CARD, 0, Reply(response, "stop", 1)).grade
        assert social_r1_reward(response, "B").outcome == graded.value


@pytest.mark.parametrize(
    "piece", [" ", "answer is ", "A, ", "A and ", "answer: A", "\\boxed{", "*", "选", "'", "so it is ", "\n"]
)
def test_the_time_is_linear(piece):
    def seconds(count):
        started = time.process_time()
        named_letter(piece * count)
        return time.process_time() - started

    assert seconds(16_000) < 40 * seconds(1000) + 0.2  # 16 times as much; quadratic time would be 256 times
