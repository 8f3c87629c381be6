"""From a question to the prompt's token ids, and the reference response that SFT learns."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from socialr1_jax.data.chat_template import chat_tokens
from socialr1_jax.data.examples import LETTERS, Example

# Verbatim from the Social-R1 model cards, the missing space included: the published weights were trained on it.
INSTRUCTION = (
    "You should first think about the reasoning process in the mind and then provide with the answer."
    "The reasoning process and answer are enclosed within <think> </think> and <Answer> </Answer> tags, respectively."
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question with its prompt; ``id`` is the question's place among the run's questions and seeds its draws."""

    id: int
    example: Example
    tokens: list[int]


def question_text(example: Example) -> str:
    """The user turn: story, question and lettered options, then the card's instruction."""
    options = [f"{letter}. {option}" for letter, option in zip(LETTERS, example.options, strict=False)]
    question = "\n".join([example.question, *options])
    return "\n\n".join(part for part in (example.story, question, INSTRUCTION) if part)


def encode_prompt(tokenizer: Any, example: Example, thinking: bool = True) -> list[int]:
    """Return the token ids of the question's prompt; see `chat_template.chat_tokens`."""
    return chat_tokens(tokenizer, [{"role": "user", "content": question_text(example)}], thinking)


def encode_prompts(tokenizer: Any, examples: Sequence[Example], max_prompt_tokens: int) -> list[Prompt]:
    """Prompts of all examples; those longer than ``max_prompt_tokens`` are dropped and counted, never cut.

    Raises ValueError when none is left.
    """
    kept: list[Prompt] = []
    lengths = []
    for example in examples:
        tokens = encode_prompt(tokenizer, example)
        lengths.append(len(tokens))
        if len(tokens) <= max_prompt_tokens:
            kept.append(Prompt(id=len(kept), example=example, tokens=tokens))
    if not kept:
        shortest = f"; the shortest has {min(lengths)}" if lengths else ""
        raise ValueError(
            f"none of {len(examples)} prompts has at most {max_prompt_tokens} tokens{shortest}; "
            "raise data.max_prompt_tokens"
        )
    dropped = len(examples) - len(kept)
    if dropped:
        log.warning(
            "dropped %d of %d prompts longer than %d tokens (longest %d); data.max_prompt_tokens keeps more",
            *(dropped, len(examples), max_prompt_tokens, max(lengths)),
        )
    return kept


def reference_response(example: Example, opening: str = "") -> str:
    """Return the response that SFT teaches, without the end token: thoughts and answer in the card's shape.

    `opening` is what the chat template's prompt already holds of it and the model need not write.
    """
    response = f"<think>\n{example.thoughts}\n</think>\n\n<Answer>{example.answer}</Answer>"
    if opening.strip() != "<think>":
        return response
    rest = response.removeprefix("<think>")
    return rest.lstrip() if opening[-1].isspace() else rest
