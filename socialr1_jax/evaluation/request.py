"""Prompts of benchmarks, and the texts that they are made of."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName as ProtocolName

Messages = tuple[Mapping[str, str], ...]  # {"role": "system" or "user", "content": ...}
FIELD = re.compile(r"\{\{|\}\}|\{([^\W\d]\w*)\}")  # of a text of `Wording`, or one of its braces


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt of a benchmark.

    `id` is unique in the task and the same in every run; requests of one `item` (a question, a story, a conversation)
    belong together. `gold` and what else grading and figures need (`meta`) are plain JSON, so that samples can be
    scored again from a file. The reply to one with `follow_up` is no answer yet: `Task.follow_up` makes the next prompt
    of it. `continuations`: as of `Asked`.
    """

    id: str
    item: str
    messages: Messages
    gold: Any
    meta: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 512  # of the answer, as the protocol has it; thinking is on top
    follow_up: bool = False
    continuations: tuple[str, ...] = ()


def chat(user: str, system: str = "") -> Messages:
    """Return a prompt of one turn, behind a system text if there is one."""
    asked = {"role": "user", "content": user}
    return ({"role": "system", "content": system}, asked) if system else (asked,)


@dataclass(frozen=True)
class Wording:
    """The texts of the authors' prompts by our names for them, the SHA-256 of all, and what the notes say of them."""

    texts: Mapping[str, str]
    sha256: str
    about: str = ""

    def text(self, name: str, /, **values: str) -> str:
        """Return a text with its fields filled; values are taken as they are."""
        return FIELD.sub(lambda mark: values[mark[1]] if mark[1] else mark[0][0], self.texts[name])
