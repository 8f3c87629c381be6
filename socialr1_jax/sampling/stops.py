"""Stop strings: found on the host between two segments, cut at the very token that completes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Decode = Callable[[Sequence[int]], str]


@dataclass
class StopStrings:
    """Looks for stop strings in one row's tokens as they come.

    Only the end of what was there before is decoded again: every token of a byte-level tokenizer stands for at least
    one byte, so a string of `m` bytes lies in the last `m` tokens, and a character in at most 4.
    """

    stop: tuple[str, ...]
    decode: Decode
    tail: list[int] = field(default_factory=list)

    def look(self, new: Sequence[int]) -> tuple[int, str] | None:
        """(how many of the new tokens there are up to the end of the first stop string, that string), or None."""
        longest = max(len(text.encode()) for text in self.stop)
        seen, old = [*self.tail, *new], len(self.tail)
        self.tail = seen[-longest - 4 :]
        if not self._first(seen):
            return None
        for count in range(1, len(new) + 1):
            found = self._first(seen[: old + count])
            if found:
                return count, found
        return None  # the whole decodes to something that no beginning of it does

    def _first(self, tokens: Sequence[int]) -> str | None:
        text = self.decode(tokens)
        return next((stop for stop in self.stop if stop in text), None)
