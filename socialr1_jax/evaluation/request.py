"""Prompts of benchmarks, and the authors' texts they are built from."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Messages = tuple[Mapping[str, str], ...]  # {"role": "system" or "user", "content": ...}
FIELD = re.compile(r"\{\{|\}\}|\{([^\W\d]\w*)\}")  # field or escaped brace in a text of `Wording`


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt of a benchmark.

    `id` is unique in the task and stable across runs. Requests with the same `item` (a question, a story, a
    conversation) are one statistical unit. `gold` and `meta` (all other inputs of grading and figures) are plain JSON,
    so samples can be rescored from a file. With `follow_up` the reply is not the answer yet: `Task.follow_up` builds
    the next prompt from it. `continuations`: see `Asked`.
    """

    id: str
    item: str
    messages: Messages
    gold: Any
    meta: Mapping[str, Any] = field(default_factory=dict)
    max_new_tokens: int = 512  # answer limit of the protocol; thinking tokens are added
    follow_up: bool = False
    continuations: tuple[str, ...] = ()


def chat(user: str, system: str = "") -> Messages:
    """Return a single-turn prompt, with a system message unless it is empty."""
    message = {"role": "user", "content": user}
    return ({"role": "system", "content": system}, message) if system else (message,)


@dataclass(frozen=True)
class Wording:
    """Texts of a benchmark's prompts by name: the authors', with SHA-256 and a description for the notes, or ours."""

    texts: Mapping[str, str]
    sha256: str = ""
    about: str = ""

    def text(self, name: str, /, **values: str) -> str:
        """Return a text with its fields filled in; braces in values stay as they are."""
        return FIELD.sub(lambda mark: values[mark[1]] if mark[1] else mark[0][0], self.texts[name])
