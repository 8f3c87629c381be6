"""Stream a response as text while it is being generated."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from socialr1_jax.sampling.engine import Engine
from socialr1_jax.sampling.params import FinishReason, SamplingParams

_HALF = "\ufffd"  # a decoder's replacement for an incomplete character


class ResponseStream:
    """One response to one prompt. Iterate over it once for its pieces of text as they are generated.

    The first piece is `opening`, the part of the response that the prompt already contains. A character whose bytes are
    spread over tokens is yielded when it is complete. All pieces together are `text`, the decoded response without its
    stop token. `tokens` counts the generated tokens, including the stop token.

    `sampling.max_new_tokens` is capped by the positions that the prompt leaves free. Raises ValueError if it leaves
    none.
    """

    def __init__(
        self, engine: Engine, tokenizer: Any, prompt: Sequence[int], sampling: SamplingParams, opening: str = ""
    ) -> None:
        positions = engine.config.max_position_embeddings
        if len(prompt) >= positions:
            raise ValueError(
                f"the prompt has {len(prompt)} tokens, and the model's {positions} positions are for prompt and "
                "response together: shorten the story or the question"
            )
        limit = min(sampling.max_new_tokens, positions - len(prompt))
        self._segments = engine.stream([prompt], replace(sampling, n=1, max_new_tokens=limit))
        self._tokenizer, self._opening = tokenizer, opening
        self.text, self.tokens = "", 0
        self.finish_reason: FinishReason = "length"

    def __iter__(self) -> Iterator[str]:
        ids: list[int] = []
        self.text = self._opening
        if self.text:
            yield self.text
        for segment in self._segments:
            self.tokens += len(segment.tokens)
            ids += segment.tokens
            if segment.finish_reason:
                self.finish_reason = segment.finish_reason
            if isinstance(segment.stop, int):
                ids.pop()
            # Decode all ids again, since a character's bytes may be spread over tokens; 2,048 tokens take 0.4 ms.
            text = self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            text = self._opening + text
            if not segment.finish_reason:
                text = text.removesuffix(_HALF)  # a single U+FFFD, whatever the number of bytes so far
            piece, self.text = text[len(self.text) :], text
            if piece:
                yield piece
