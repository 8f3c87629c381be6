"""The question record used throughout the package."""

import string
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from socialr1_jax.data.tables import refuse_half_characters
from socialr1_jax.runtime.terminal import shown

LETTERS = string.ascii_uppercase
FIELDS = ("id", "story", "question", "options", "answer", "thoughts", "messages")
META_FIELDS = ("type", "source", "twin_id")  # fields of `meta` that `columns` may name
READ_AS_TEXT = frozenset(("source", "type", "twin_id", "twin_of", "story_id", "plot", "script"))  # fields of `meta`
_ASCII_PUNCTUATION = frozenset(string.punctuation)  # includes $ + < = > ^ ` | ~, which are symbols in Unicode


@dataclass(frozen=True, kw_only=True)
class Example:
    """One question with its gold answer.

    `options` are the option texts in letter order (the first is A); without options the answer is free text.
    `answer` is the gold letter if there are options, else the free-text answer.
    `thoughts` is the reference reasoning that SFT puts inside `<think>`, or "".
    `meta` holds all other data with its JSON types: scalar columns, scalars inside objects by dotted names
    (`scalar_parts`), and the whole column `meta`. The fields that the package reads (`READ_AS_TEXT`) are strings.
    `messages` are the turns (role, content) that ask the question; () stands for the card's prompt.

    Raises ValueError if the answer is not a letter of the options, if there are one or more than 26 options, if the
    question, an option or the answer is empty, if a free-text answer has no letter or digit, or for a lone surrogate.
    """

    id: str
    story: str
    question: str
    options: tuple[str, ...] = ()
    answer: str
    thoughts: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.question.strip():
            raise ValueError("the question is empty")
        if not self.answer.strip():
            raise ValueError("the gold answer is empty")
        if len(self.options) == 1 or len(self.options) > len(LETTERS):
            raise ValueError(f"{len(self.options)} options; a question has none (free text) or 2 to {len(LETTERS)}")
        for letter, option in zip(LETTERS, self.options, strict=False):
            if not option.strip():
                raise ValueError(f"option {letter} is empty")
        if self.options and (len(self.answer) != 1 or self.answer not in LETTERS[: len(self.options)]):
            last = LETTERS[len(self.options) - 1]
            raise ValueError(f"the gold answer {shown(self.answer)} is not one of the option letters A to {last}")
        if not self.options and not (any(map(str.isalnum, self.answer)) or normalized(self.answer)):
            raise ValueError(f"the gold answer {shown(self.answer)} holds no letter or digit; give a letter or a text")
        texts = (self.id, self.story, self.question, *self.options, self.answer, self.thoughts)
        texts += tuple(turn["content"] for turn in self.messages)
        refuse_half_characters((*texts, *self.meta, *(value for value in self.meta.values() if isinstance(value, str))))


def normalized(text: str) -> str:
    """Normalise free text for comparison: fold case, remove ASCII and Unicode punctuation, collapse white space."""
    kept = (c for c in text.casefold() if c not in _ASCII_PUNCTUATION and not unicodedata.category(c).startswith("P"))
    return " ".join("".join(kept).split())
