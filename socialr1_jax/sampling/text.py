"""Between token ids and text: stop tokens of a model, and responses as the rewards read them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.data.chat_template import response_opening
from socialr1_jax.models.qwen3 import Qwen3
from socialr1_jax.sampling.params import Completion


def stop_token_ids(model: Qwen3, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends a response: of generation_config.json, config.json and the tokenizer."""
    listed: list[Any] = [model.config.eos_token_id, tokenizer.eos_token_id]
    generation = Path(model.source or "") / "generation_config.json"
    if model.source and generation.exists():
        listed.append(json.loads(generation.read_text(encoding="utf-8")).get("eos_token_id"))
    ids: set[int] = set()
    for entry in listed:
        ids |= set(entry) if isinstance(entry, list | tuple) else {entry} - {None}
    return tuple(sorted(ids))


def decode_responses(tokenizer: Any, completions: Sequence[Completion], *, thinking: bool = True) -> list[str]:
    """Return the whole responses as text: what the prompt already holds of them, then what was sampled.

    The stop token that ended a completion, or the text from its stop string on, is left out. `thinking` is that of the
    prompt (`chat_template.chat_tokens`).
    """
    opening = response_opening(tokenizer, thinking)
    ids = [c.tokens[:-1] if isinstance(c.stop, int) else c.tokens for c in completions]
    texts = tokenizer.batch_decode(ids, skip_special_tokens=False)
    return [
        opening + (text.partition(c.stop)[0] if isinstance(c.stop, str) else text)
        for text, c in zip(texts, completions, strict=True)
    ]
