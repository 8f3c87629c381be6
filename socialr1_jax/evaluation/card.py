"""The `social_r1` protocol: the cards' prompt, the letter in <Answer>, plain accuracy."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.prompts import INSTRUCTION
from socialr1_jax.evaluation.task import Grade, Request

_LETTER = re.compile(r"<Answer>\s*([A-Z])[\s\S]*?</Answer>")
_NEW_TOKENS = 2048  # the cards' limit, thoughts and answer together


def card_request(
    *, id: str, item: str, story: str, question: str, options: Sequence[str], gold: str, meta: Mapping[str, Any]
) -> Request:
    """The prompt of the SocialR1 cards. `gold` is a letter where there are options."""
    lettered = "\n".join([question, *(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))])
    content = "\n\n".join(part for part in (story, lettered, INSTRUCTION) if part)
    return Request(
        id=id, item=item, messages=({"role": "user", "content": content},), gold=gold, meta=meta,
        max_new_tokens=_NEW_TOKENS,
    )  # fmt: skip


def card_grade(request: Request, reply: str) -> Grade:
    """1 when the capital letter that <Answer> begins with is the gold letter, as the paper's code reads it."""
    found = _LETTER.search(reply)
    answer = found.group(1) if found else ""
    return Grade(answer, float(answer == request.gold))
