"""One question for a model, typed on a command line or picked from a question file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from socialr1_jax.data.examples import Example, parse_options, read_examples
from socialr1_jax.data.prompts import question_text
from socialr1_jax.data.tables import DataError


def typed_question(question: str, story: str = "", options: str = "") -> Example:
    """A question without a gold answer; `options` is one text such as "A. drawer, B. shelf", or "".

    The record's `answer` is a filler that no prompt shows. Raises ValueError for an empty question and for options
    that cannot be told apart.
    """
    texts = parse_options(options)
    return Example(id="typed", story=story.strip(), question=question.strip(), options=texts, answer="A")


def picked_question(file: str | Path, row: int) -> Example:
    """The question at place `row`, from 1, of a file of any kind that `read_examples` knows. Raises DataError."""
    examples = read_examples(file)
    if row > len(examples):
        raise DataError(f"{file}: there is no row {row}; the file has {len(examples)} questions")
    return examples[row - 1]


def chat_prompt(tokenizer: Any, example: Example, thinking: bool = True) -> list[int]:
    """Token ids of the question up to and with the header of the assistant's turn.

    With `thinking` false, templates of Qwen3's kind put empty thoughts there, so that the model answers at once.
    Raises ValueError when the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"{tokenizer.name_or_path} has no chat template: put the model's tokenizer files beside its weights"
        )
    messages = [{"role": "user", "content": question_text(example)}]
    options = {"add_generation_prompt": True, "enable_thinking": thinking}
    return list(tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options))
