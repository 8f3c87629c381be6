"""Find prompts that leave a model no room for the response, without tokenizing every question."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.chat_template import chat_tokens
from socialr1_jax.data.examples import Example
from socialr1_jax.data.prompts import encode_prompt, question_text
from socialr1_jax.questions.sources import source_names
from socialr1_jax.runtime.terminal import printable

_PROBE = "Where will Ann look?"


class LongPromptError(ConfigError):
    """Raised for a prompt that leaves too few positions; `fix` names the settings to lower."""

    def __init__(self, found: str, fix: str) -> None:
        super().__init__(f"{found}: {fix}")
        self.found, self.fix = found, fix


def refuse_long_prompts(
    tokenizer: Any,
    parts: Iterable[tuple[Sequence[str], Iterable[Example]]],
    *,
    positions: int,
    max_new_tokens: int,
    max_prompt_tokens: int,
    limit: str = "data.max_prompt_tokens",
) -> None:
    """Raise LongPromptError if a prompt and its response together can exceed the model's positions.

    Prompts longer than `max_prompt_tokens` are ignored, since the run drops them. If that limit leaves room for the
    response, nothing is read; otherwise only texts with enough bytes to be too long are tokenized.

    Args:
        parts: (sources as given by the user, their questions) for each group of sources.
        positions: the model's `max_position_embeddings`.
        limit: name of the setting `max_prompt_tokens`.
    """
    room = positions - max_new_tokens
    if max_prompt_tokens <= room:
        return
    most_tokens = _bound(tokenizer)
    total = count = longest = 0
    place = ""
    for sources, questions in parts:
        for example in questions:
            total += 1
            if most_tokens(question_text(example)) <= room:
                continue
            tokens = len(encode_prompt(tokenizer, example))
            if room < tokens <= max_prompt_tokens:
                count += 1
                if tokens > longest:
                    longest, place = tokens, f"{_file(sources, example)}: question {printable(example.id, 100)}"
    if count:
        others = f" (the longest of {count:,} such prompts among {total:,})" if count > 1 else ""
        fixes = [f"sampling.max_new_tokens to {positions - longest}"] if longest < positions else []
        fixes += [f"{limit} to {room}, which drops such questions"] if room > 0 else []
        raise LongPromptError(
            f"{place}{others} has {longest} prompt tokens; {max_new_tokens} new tokens "
            f"(sampling.max_new_tokens) make {longest + max_new_tokens}, and the model has {positions} positions "
            "(max_position_embeddings)",
            f"lower {' or '.join(fixes) or f'sampling.max_new_tokens and {limit}'}",
        )


def _bound(tokenizer: Any) -> Callable[[str], float]:
    """Return a function that bounds the number of prompt tokens from a question's text.

    Byte-level BPE has at most one token per byte of normalised text. For other tokenizers the bound is infinite.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    splits, normalizer = str(getattr(backend, "pre_tokenizer", "")), str(getattr(backend, "normalizer", ""))
    byte_level = "ByteLevel" in splits and "add_prefix_space=True" not in splits
    if not byte_level or normalizer not in ("None", "NFC()"):
        return lambda text: math.inf
    prompt = tokenizer.decode(chat_tokens(tokenizer, [{"role": "user", "content": _PROBE}]))
    size, copies = len(prompt.encode()), prompt.count(_PROBE)
    if not copies:
        return lambda text: math.inf
    # NFC at most triples the bytes; do not normalise here: Python's NFC is quadratic in a run of combining characters.
    return lambda text: size + copies * len(text.encode()) * (1 if text.isascii() else 3)


def _file(sources: Sequence[str], example: Example) -> str:
    """Return the source of a question, or all sources if the row's own column `source` hides it."""
    by_name = dict(zip(source_names(sources), sources, strict=True))
    return by_name.get(example.meta.get("source", ""), ", ".join(sources))
