"""Find the stop tokens of a model and stop strings in a response, and decode responses as the rewards read them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from socialr1_jax.data.chat_template import response_opening
from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.runtime.files import read_json
from socialr1_jax.runtime.model_files import file_of
from socialr1_jax.runtime.terminal import shown
from socialr1_jax.sampling.params import Completion

Decode = Callable[[Sequence[int]], str]


def stop_token_ids(model: Qwen3, tokenizer: Any) -> tuple[int, ...]:
    """Return all ids that end a response, from generation_config.json, config.json and the tokenizer.

    Raises ValueError naming generation_config.json if it is not a JSON object or its eos_token_id is invalid.
    """
    vocab_size = model.config.vocab_size
    listed: list[Any] = [model.config.eos_token_id, tokenizer.eos_token_id]
    generation = file_of(Path(model.source), "generation_config.json") if model.source else None
    if generation:
        listed.append(read_json(generation).get("eos_token_id"))
        if any(type(token) is not int or not -1 <= token < vocab_size for token in _as_list(listed[-1])):
            raise ValueError(
                f"{generation}: eos_token_id {shown(listed[-1])} is not a token id below vocab_size {vocab_size}, a "
                "list of them or null: correct it"
            )
    ids = {token for entry in listed for token in _as_list(entry)}
    return tuple(sorted(token for token in ids if 0 <= token < vocab_size))  # -1 stands for none


def _as_list(entry: Any) -> list[Any]:
    if isinstance(entry, list | tuple):
        return list(entry)
    return [] if entry is None else [entry]


def decode_responses(tokenizer: Any, completions: Sequence[Completion], *, thinking: bool = True) -> list[str]:
    """Return the whole responses as text: the opening that the prompt contains, then the sampled text.

    A stop token, or the text from the stop string on, is removed. `thinking` is the prompt's
    (`chat_template.chat_tokens`).
    """
    opening = response_opening(tokenizer, thinking)
    ids = [c.tokens[:-1] if isinstance(c.stop, int) else c.tokens for c in completions]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=False)
    return [
        opening + (text.partition(c.stop)[0] if isinstance(c.stop, str) else text)
        for text, c in zip(texts, completions, strict=True)
    ]


@dataclass
class StopStrings:
    """Searches one row's tokens for stop strings, segment by segment.

    Only the tail of earlier tokens is decoded again: a token of a byte-level tokenizer has at least one byte, so a
    string of `m` bytes spans at most `m` tokens and a character at most 4.
    """

    stop: tuple[str, ...]
    decode: Decode
    tail: list[int] = field(default_factory=list)

    def look(self, new: Sequence[int]) -> tuple[int, str] | None:
        """Return (number of new tokens up to the end of the first stop string, that string), or None."""
        longest = max(len(text.encode()) for text in self.stop)
        seen, old = [*self.tail, *new], len(self.tail)
        self.tail = seen[-longest - 4 :]
        if not self._first(seen):
            return None
        for count in range(1, len(new) + 1):
            if stop := self._first(seen[: old + count]):
                return count, stop
        return None  # the last tokens changed the decoding of earlier ones

    def _first(self, tokens: Sequence[int]) -> str | None:
        text = self.decode(tokens)
        return next((stop for stop in self.stop if stop in text), None)
