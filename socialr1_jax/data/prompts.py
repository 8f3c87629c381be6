"""Build the prompt of a question, its token ids, and the reference response for SFT."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
from jinja2.sandbox import SandboxedEnvironment

from socialr1_jax.data.chat_template import chat_tokens
from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.runtime.terminal import printable

# Verbatim from the Social-R1 model cards, including the missing space: the published weights were trained on it.
INSTRUCTION = (
    "You should first think about the reasoning process in the mind and then provide with the answer."
    "The reasoning process and answer are enclosed within <think> </think> and <Answer> </Answer> tags, respectively."
)
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A question with its prompt; `id` is its place among the run's questions and seeds its sampling."""

    id: int
    example: Example
    tokens: list[int]


def template_file(template: str) -> Path | None:
    """Return the file that `data.prompt` names; None if it is a template or ""."""
    return None if not template or re.search(r"{{|{%|\n", template) else Path(template).expanduser()


class PromptWriter:
    """Rewrite the last user turn and the system turn of questions; other turns of a chat stay.

    Args:
        template: Jinja template of the user turn, or a file with one; "" is the card's prompt. It may use story,
            question, options (a list), lettered (the options as lines "A. text"), meta and instruction (the card's).
            Any other name is an error; the gold answer is not available.
        system: text of the system turn; "" keeps the question's own, if any.

    Raises ValueError for a file that cannot be read or an invalid template.
    """

    def __init__(self, template: str, system: str) -> None:
        self._system = system
        self._template = None
        if not template:
            return
        try:
            file = template_file(template)
            text = template if file is None else file.read_text(encoding="utf-8")
            self._template = SandboxedEnvironment(undefined=jinja2.StrictUndefined).from_string(text)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ValueError(f"data.prompt: {printable(template)} is no template and no file ({reason})") from None
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"data.prompt: line {error.lineno}: {printable(str(error.message))}") from None

    def __call__(self, example: Example) -> Example:
        """Return the question with its rewritten turns. Raises ValueError if the template fails on it."""
        *earlier, last = example.messages or ({"role": "user", "content": question_text(example)},)
        if self._template is not None:
            fields = {name: getattr(example, name) for name in ("story", "question", "options", "meta")}
            try:
                text = self._template.render(**fields, lettered=lettered(example.options), instruction=INSTRUCTION)
            except Exception as error:  # a template may raise anything
                raise ValueError(f"data.prompt fails on question {example.id}: {printable(str(error), 200)}") from error
            last = {"role": "user", "content": text}
        if self._system:
            rest = (turn for turn in earlier if turn["role"] != "system")
            earlier = [{"role": "system", "content": self._system}, *rest]
        return replace(example, messages=(*earlier, last))


def lettered(options: Sequence[str], form: str = "{}. {}") -> str:
    """Return the options as lines, each with its letter."""
    return "\n".join(form.format(letter, option) for letter, option in zip(LETTERS, options, strict=False))


def card_prompt(story: str, question: str, options: Sequence[str]) -> str:
    """Return the prompt of the model cards: story, question with lettered options, and instruction."""
    asked = f"{question}\n{lettered(options)}" if options else question
    return "\n\n".join(part for part in (story, asked, INSTRUCTION) if part)


def question_text(example: Example) -> str:
    """Return the text of the prompt's turns, which without `messages` is the card's."""
    if example.messages:
        return "\n\n".join(message["content"] for message in example.messages)
    return card_prompt(example.story, example.question, example.options)


def encode_prompt(tokenizer: Any, example: Example, thinking: bool = True) -> list[int]:
    """Return the token ids of the question's prompt; see `chat_template.chat_tokens`."""
    messages = example.messages or [{"role": "user", "content": question_text(example)}]
    return chat_tokens(tokenizer, messages, thinking)


def encode_prompts(tokenizer: Any, examples: Sequence[Example], max_prompt_tokens: int) -> list[Prompt]:
    """Encode the prompts of all examples; those longer than `max_prompt_tokens` are dropped and logged, never cut.

    Raises ValueError if none is left.
    """
    prompts: list[Prompt] = []
    lengths = []
    for example in examples:
        tokens = encode_prompt(tokenizer, example)
        lengths.append(len(tokens))
        if len(tokens) <= max_prompt_tokens:
            prompts.append(Prompt(id=len(prompts), example=example, tokens=tokens))
    if not prompts:
        shortest = f"; the shortest has {min(lengths)}" if lengths else ""
        raise ValueError(
            f"none of {len(examples)} prompts has at most {max_prompt_tokens} tokens{shortest}; "
            "raise data.max_prompt_tokens"
        )
    if dropped := len(examples) - len(prompts):
        log.warning(
            "dropped %d of %d prompts longer than %d tokens (longest %d); data.max_prompt_tokens keeps more",
            *(dropped, len(examples), max_prompt_tokens, max(lengths)),
        )
    return prompts


def reference_response(example: Example, opening: str = "") -> str:
    """Return the target of SFT, without the end token: thoughts and answer in the card's format.

    `opening` is the part of the response that the chat template puts into the prompt; it is left out.
    """
    response = f"<think>\n{example.thoughts}\n</think>\n\n<Answer>{example.answer}</Answer>"
    if opening.strip() != "<think>":
        return response
    rest = response.removeprefix("<think>")
    return rest.lstrip() if opening[-1].isspace() else rest
