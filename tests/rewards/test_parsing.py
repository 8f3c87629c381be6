"""Cutting responses: shapes that are right, and everything a policy may try instead."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socialr1_jax.rewards import parse_response

GOOD = "<think>\nAnna left.\n</think>\n\n<Answer>B</Answer>"
# name -> (response, problems, thoughts, answer)
MALFORMED = {
    "nothing": ("", ("no <think>", "no </think>", "no <Answer>", "no </Answer>"), "", ""),
    "white space": (" \n\t", ("no <think>", "no </think>", "no <Answer>", "no </Answer>"), "", ""),
    "no think": ("<Answer>B</Answer>", ("no <think>", "no </think>"), "", "B"),
    "no opening think": ("t</think><Answer>B</Answer>", ("no <think>",), "", "B"),
    "no answer": ("<think>t</think>B", ("no <Answer>", "no </Answer>"), "t", ""),
    "cut in the thoughts": ("<think>t and t", ("no </think>", "no <Answer>", "no </Answer>"), "", ""),
    "cut in the answer": ("<think>t</think><Answer>B", ("no </Answer>",), "t", ""),
    "cut in the last tag": ("<think>t</think><Answer>B</Answ", ("no </Answer>",), "t", ""),
    "two answers": (
        "<think>t</think><Answer>A</Answer><Answer>B</Answer>",
        ("<Answer> appears 2 times", "</Answer> appears 2 times"),
        "t",
        "",
    ),
    "two thoughts": (
        "<think>t</think><think>u</think><Answer>B</Answer>",
        ("<think> appears 2 times", "</think> appears 2 times"),
        "",
        "B",
    ),
    "nested think": (
        "<think>t<think>u</think></think><Answer>B</Answer>",
        ("<think> appears 2 times", "</think> appears 2 times"),
        "",
        "B",
    ),
    "answer in the thoughts": ("<think>t<Answer>B</Answer></think>", ("tags out of order",), "", ""),
    "answers in and after the thoughts": (
        "<think>t<Answer>A</Answer></think><Answer>B</Answer>",
        ("<Answer> appears 2 times", "</Answer> appears 2 times"),
        "",
        "",
    ),
    "think in the answer": ("<Answer><think>t</think>B</Answer>", ("tags out of order",), "t", ""),
    "interleaved": ("<think>t<Answer>B</think></Answer>", ("tags out of order",), "", ""),
    "answer first": ("<Answer>B</Answer><think>t</think>", ("tags out of order",), "t", ""),
    "reversed thoughts": ("</think>t<think><Answer>B</Answer>", ("tags out of order",), "", "B"),
    "reversed answer": ("<think>t</think></Answer>B<Answer>", ("tags out of order",), "t", ""),
    "lower-case answer": ("<think>t</think><answer>B</answer>", ("no <Answer>", "no </Answer>"), "t", ""),
    "upper-case think": ("<THINK>t</THINK><Answer>B</Answer>", ("no <think>", "no </think>"), "", "B"),
    "text before": ("So: <think>t</think><Answer>B</Answer>", ("text before <think>",), "t", "B"),
    "text after": ("<think>t</think><Answer>B</Answer> I hope so.", ("text after </Answer>",), "t", "B"),
    "empty thoughts": ("<think> \n</think><Answer>B</Answer>", ("empty thoughts",), "", "B"),
    "empty answer": ("<think>t</think><Answer> </Answer>", ("empty answer",), "t", ""),
    "both empty": ("<think></think><Answer></Answer>", ("empty thoughts", "empty answer"), "", ""),
}


@pytest.mark.parametrize(
    "text", [GOOD, f" \n{GOOD}\n ", GOOD.replace("\n\n", ""), GOOD.replace("\n\n", "The answer follows: ")]
)
def test_well_formed(text):
    parsed = parse_response(text)
    assert (parsed.thoughts, parsed.answer, parsed.well_formed, parsed.problems) == ("Anna left.", "B", True, ())


def test_look_alikes_are_no_tags():
    parsed = parse_response("<think>a < b, <thinking>, <think >, <ANSWER></think><Answer>B</Answer>")
    assert parsed.well_formed
    assert parsed.thoughts == "a < b, <thinking>, <think >, <ANSWER>"


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed(name):
    text, problems, thoughts, answer = MALFORMED[name]
    parsed = parse_response(text)
    assert not parsed.well_formed
    assert (parsed.problems, parsed.thoughts, parsed.answer) == (problems, thoughts, answer)


@pytest.mark.parametrize("value", [None, b"<think>", 3, ["<think>"]])
@pytest.mark.parametrize("mode", ["strict", "reference"])
def test_only_strings(value, mode):
    with pytest.raises(TypeError, match="a response is a string"):
        parse_response(value, mode)


PIECES = st.lists(
    st.sampled_from(["<think>", "</think>", "<Answer>", "</Answer>", "B", "\n", " ", "<", "</think", "t"]), max_size=12
).map("".join)


@given(PIECES)
def test_reference_mode_is_the_published_pattern(text):
    published = re.fullmatch(r"<think>.*</think>.*<Answer>.*</Answer>", text.strip(), re.DOTALL)
    assert parse_response(text, "reference").well_formed == (published is not None)


@given(PIECES)
def test_strict_is_a_part_of_reference(text):
    strict, reference = parse_response(text), parse_response(text, "reference")
    assert strict.well_formed == (not strict.problems)
    if strict.well_formed:
        assert reference.well_formed
        assert (strict.thoughts, strict.answer) == (reference.thoughts, reference.answer)
        assert strict.thoughts
        assert strict.answer


def test_reference_mode_takes_first_pairs():
    parsed = parse_response("<think>t</think><think>u</think><Answer>A</Answer><Answer>B</Answer>", "reference")
    assert (parsed.thoughts, parsed.answer, parsed.well_formed) == ("t", "A", True)
    assert parse_response("<think></think><Answer></Answer>", "reference").well_formed


def test_reference_mode_is_linear():
    # the pattern itself needs time in the cube of this length
    text = "<think>" + "</think>" * 20_000 + "<Answer>" * 20_000
    assert not parse_response(text, "reference").well_formed
