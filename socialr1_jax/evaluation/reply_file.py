"""Cache of replies: an append-only file, so that no prompt is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.respondents import Asked
from socialr1_jax.evaluation.rows import RowFile

_FORMAT = 2  # version of a reply's text; 2: in full, with the prompt's opening tag and the server's reasoning field


class ReplyFile:
    """Replies keyed by everything they depend on: respondent and settings, prompt, token limit and sample number.

    A line truncated by a kill is dropped and asked again. Use as a context manager.
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
        further = [value for value in (asked.decoding, asked.continuations) if value]
        asked_for = [list(asked.messages), asked.max_new_tokens, asked.key, sample, *further]
        prompt = json.dumps(asked_for, ensure_ascii=False)
        return hashlib.sha256(f"{self._identity}\n{prompt}".encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def get(self, asked: Asked, sample: int) -> Reply | None:
        """Return the reply, or None if it is not cached."""
        return self._known.get(self.key(asked, sample))

    def add(self, asked: Asked, sample: int, reply: Reply) -> None:
        """Cache a reply. Failed replies are not written to the file, so the next run asks again."""
        key = self.key(asked, sample)
        self._known[key] = reply
        row = {"key": key, "text": reply.text, "finish_reason": reply.finish_reason, "tokens": reply.tokens}
        if _is_reply(row):
            self._file.add(row)


def _is_reply(row: Any) -> bool:
    if not isinstance(row, dict) or row.get("finish_reason") not in ("stop", "length"):
        return False
    kinds = {"key": str, "text": str, "tokens": int}
    return all(isinstance(row.get(name), kind) for name, kind in kinds.items())
