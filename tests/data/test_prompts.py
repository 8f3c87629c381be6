"""Prompts: the exact text, the token ids of a chat template, and long prompts left out."""

import logging
from pathlib import Path

import pytest

from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import INSTRUCTION, encode_prompt, encode_prompts, question_text, reference_response
from socialr1_jax.data.tokenizer import build_tokenizer

SHARED = Path(__file__).resolve().parents[3] / "shared"
CHOICE = Example(
    id="1", story="Anna left.", question="Who left?", options=("Anna", "Ben"), answer="A", thoughts="Encode: Anna left."
)
FREE = Example(id="2", story="", question="Who left?", answer="Anna")


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer([question_text(CHOICE), reference_response(CHOICE)] * 5, 500)


def test_the_instruction_is_the_cards():
    assert INSTRUCTION == (
        "You should first think about the reasoning process in the mind and then provide with the answer.The reasoning "
        "process and answer are enclosed within <think> </think> and <Answer> </Answer> tags, respectively."
    )


@pytest.mark.skipif(not SHARED.exists(), reason="no specification here")
def test_the_instruction_is_the_specifications():
    assert f"> {INSTRUCTION}\n" in (SHARED / "reward-spec.md").read_text()


def test_question_text():
    assert question_text(CHOICE) == f"Anna left.\n\nWho left?\nA. Anna\nB. Ben\n\n{INSTRUCTION}"
    assert question_text(FREE) == f"Who left?\n\n{INSTRUCTION}"


def test_reference_response():
    assert reference_response(CHOICE) == "<think>\nEncode: Anna left.\n</think>\n\n<Answer>A</Answer>"


def test_encode_prompt(tokenizer):
    tokens = encode_prompt(tokenizer, CHOICE)
    assert all(type(token) is int for token in tokens)
    assert tokenizer.decode(tokens) == f"<|im_start|>user\n{question_text(CHOICE)}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.skipif(not SHARED.exists(), reason="no published tokenizer here")
def test_encode_prompt_with_the_published_tokenizer():
    transformers = pytest.importorskip("transformers")
    published = transformers.AutoTokenizer.from_pretrained(SHARED / "qwen3-tokenizer")
    tokens = encode_prompt(published, CHOICE)
    assert all(type(token) is int for token in tokens)
    assert published.decode(tokens) == f"<|im_start|>user\n{question_text(CHOICE)}<|im_end|>\n<|im_start|>assistant\n"
    assert (tokens[0], tokens[-3]) == (151644, 151644)


def test_long_prompts_are_dropped_and_counted_never_cut(tokenizer, caplog):
    long = Example(id="3", story="Anna left. " * 30, question="Who left?", answer="Anna")
    limit = len(encode_prompt(tokenizer, CHOICE))  # exactly as long is not too long
    with caplog.at_level(logging.WARNING):
        kept = encode_prompts(tokenizer, [CHOICE, long, FREE], limit)
    assert [prompt.example for prompt in kept] == [CHOICE, FREE]
    assert [prompt.tokens for prompt in kept] == [encode_prompt(tokenizer, CHOICE), encode_prompt(tokenizer, FREE)]
    assert [prompt.id for prompt in kept] == [0, 1]
    assert f"dropped 1 of 3 prompts longer than {limit} tokens" in caplog.text


def test_no_prompt_left_is_an_error(tokenizer):
    shortest = len(encode_prompt(tokenizer, FREE))
    with pytest.raises(ValueError, match=f"none of 2 prompts has at most 3 tokens; the shortest has {shortest}; raise"):
        encode_prompts(tokenizer, [CHOICE, FREE], 3)
