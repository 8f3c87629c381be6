"""One question for a model, typed on a command line or picked from a question file."""

from __future__ import annotations

from pathlib import Path

from socialr1_jax.data.examples import Example, parse_options, read_examples
from socialr1_jax.data.tables import DataError
from socialr1_jax.terminal import counted


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
        raise DataError(f"{file}: there is no row {row}; the file has {counted(len(examples), 'question')}")
    return examples[row - 1]
