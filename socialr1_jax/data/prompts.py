"""From a question to the prompt's token ids, and the reference response that SFT learns."""

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


def template_file(template: str) -> Path | None:
    """Return the file that `data.prompt` names; None for a template itself and for ""."""
    return None if not template or re.search(r"{{|{%|\n", template) else Path(template).expanduser()


class PromptWriter:
    """Gives questions a prompt of the user's own; of questions in chat format the other turns stay.

    Args:
        template: of the user turn, in Jinja: a text, or the name of a file that holds it; "" is the card's prompt. It
            may use story, question, options (texts), lettered (the options as lines "A. text"), meta and instruction
            (the card's). A name that is none of these is an error, and the gold answer is none of them.
        system: text of the system turn; "" for none, or the question's own.

    Raises ValueError for a file that cannot be read and for a template that is no Jinja.
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
            raise ValueError(
                f"data.prompt: {printable(template)} is no template and no file to read ({reason})"
            ) from None
        except jinja2.TemplateSyntaxError as error:
            raise ValueError(f"data.prompt: line {error.lineno}: {printable(str(error.message))}") from None

    def __call__(self, example: Example) -> Example:
        """Return the question with the turns that ask it. Raises ValueError when the template fails on it."""
        *earlier, last = example.messages or ({"role": "user", "content": question_text(example)},)
        if self._template is not None:
            fields = {name: getattr(example, name) for name in ("story", "question", "options", "meta")}
            try:
                text = self._template.render(**fields, lettered="\n".join(_lettered(example)), instruction=INSTRUCTION)
            except Exception as error:  # whatever a template does with a row
                raise ValueError(f"data.prompt fails on question {example.id}: {printable(str(error), 200)}") from error
            last = {"role": "user", "content": text}
        if self._system:
            rest = (turn for turn in earlier if turn["role"] != "system")
            earlier = [{"role": "system", "content": self._system}, *rest]
        return replace(example, messages=(*earlier, last))


def _lettered(example: Example) -> list[str]:
    return [f"{letter}. {option}" for letter, option in zip(LETTERS, example.options, strict=False)]


def question_text(example: Example) -> str:
    """The text of the prompt's turns; the card's is story, question and lettered options, then its instruction."""
    if example.messages:
        return "\n\n".join(message["content"] for message in example.messages)
    question = "\n".join([example.question, *_lettered(example)])
    return "\n\n".join(part for part in (example.story, question, INSTRUCTION) if part)


def encode_prompt(tokenizer: Any, example: Example, thinking: bool = True) -> list[int]:
    """Return the token ids of the question's prompt; see `chat_template.chat_tokens`."""
    messages = example.messages or [{"role": "user", "content": question_text(example)}]
    return chat_tokens(tokenizer, messages, thinking)


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
