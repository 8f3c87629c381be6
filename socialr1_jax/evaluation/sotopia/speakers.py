"""Models as SOTOPIA uses them: turns go in one by one, and replies come out as they end, in any order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from socialr1_jax.evaluation.request import Messages


class Reply(NamedTuple):
    """text: without thoughts, "" where they did not end. truncated: cut at the limit of tokens, or the prompt was too
    long to be asked. error: why there is no reply at all, after the speaker's own retries; "" else.
    """

    text: str
    truncated: bool = False
    error: str = ""


Speak = Callable[[Sequence[Messages], Sequence[int]], Iterator[tuple[int, Reply]]]  # prompts, seeds -> (index, reply)


class Speaker(Protocol):
    """A model that answers turns, from one thread. The same messages and seed give the same reply as far as it can."""

    @property
    def slots(self) -> int:
        """Return how many turns it works on at once; more of them wait."""

    def submit(self, key: str, messages: Messages, seed: int) -> None:
        """Takes a turn and returns at once; `key` is unique among those not yet answered."""

    def poll(self, wait: float) -> list[tuple[str, Reply]]:
        """The replies that ended since the last call, (key, reply); every turn is answered once.

        A local engine first puts waiting turns into free slots, then decodes one segment. An endpoint waits until a
        reply is there, `wait` seconds at most. Either may return none. Called only while turns are unanswered.
        """


class Waves:
    """A `Speaker` made of a `Speak`: what is waiting when a wave ends is the next wave.

    Slots run empty at the end of each wave, and `poll` waits for a reply however long that takes; a speaker that takes
    turns while it decodes is better.
    """

    def __init__(self, speak: Speak, slots: int = 64) -> None:
        self.slots = slots
        self._speak = speak
        self._waiting: deque[tuple[str, Messages, int]] = deque()
        self._asked: dict[int, str] = {}  # of the wave, by index: not answered yet
        self._wave: Iterator[tuple[int, Reply]] = iter(())

    def submit(self, key: str, messages: Messages, seed: int) -> None:
        """See `Speaker`."""
        self._waiting.append((key, messages, seed))

    def poll(self, wait: float) -> list[tuple[str, Reply]]:
        """See `Speaker`; one reply a call. Raises RuntimeError when `speak` leaves turns out or answers one twice."""
        if not self._asked and self._waiting:
            keys, messages, seeds = zip(*self._waiting, strict=True)
            self._waiting.clear()
            self._asked = dict(enumerate(keys))
            self._wave = iter(self._speak(messages, seeds))
        if not self._asked:
            return []
        try:
            index, reply = next(self._wave)
        except StopIteration:
            raise RuntimeError(f"the speaker left {len(self._asked)} turns without a reply") from None
        if index not in self._asked:
            raise RuntimeError(f"the speaker answered turn {index}, which it was not asked or had answered")
        return [(self._asked.pop(index), reply)]
