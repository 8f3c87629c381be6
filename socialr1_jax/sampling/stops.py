"""Find stop strings on the host between two segments, and the token that completes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Decode = Callable[[Sequence[int]], str]


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
