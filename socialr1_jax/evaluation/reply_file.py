"""Known replies: a file that grows as they come, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.respondents import Asked
from socialr1_jax.evaluation.rows import RowFile

_FORMAT = 2  # of a reply's text: whole, with what the prompt opened and the server kept apart


class ReplyFile:
    """Replies by what they depend on: who answers and how, the prompt, its limit, and the number of the sample.

    A line that a kill has cut is left out and asked again. Use as a context manager.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._identity = f"{_FORMAT} {json.dumps(identity, sort_keys=True)}"
        self._file = RowFile(path, _is_reply)
        self._known = {row["key"]: Reply(row["text"], row["finish_reason"], row["tokens"]) for row in self._file.known}

    def __enter__(self) -> ReplyFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(*exception)

    def key(self, asked: Asked, sample: int) -> str:
        """Return the key of a reply."""
        further = [one for one in (asked.decoding, asked.continuations) if one]
        asked_for = [list(asked.messages), asked.max_new_tokens, asked.key, sample, *further]
        prompt = json.dumps(asked_for, ensure_ascii=False)
        return hashlib.sha256(f"{self._identity}\n{prompt}".encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def get(self, asked: Asked, sample: int) -> Reply | None:
        """Return the reply, None when it is not known."""
        return self._known.get(self.key(asked, sample))

    def add(self, asked: Asked, sample: int, reply: Reply) -> None:
        """Keep a reply; a failed one is not stored, so that the next call asks again."""
        key = self.key(asked, sample)
        self._known[key] = reply
        row = {"key": key, "text": reply.text, "finish_reason": reply.finish_reason, "tokens": reply.tokens}
        if _is_reply(row):
            self._file.add(row)


def _is_reply(row: Any) -> bool:
    """Return whether a row is a reply that can be graded."""
    if not isinstance(row, dict) or row.get("finish_reason") not in ("stop", "length"):
        return False
    kinds = {"key": str, "text": str, "tokens": int}
    return all(isinstance(row.get(name), kind) for name, kind in kinds.items())
