"""Replies that are known: a file that grows as they come, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.evaluation.respondents import Asked, Reply
from socialr1_jax.evaluation.rows import RowFile


class ReplyFile:
    """Replies by what they depend on: who answers and how, the prompt, its limit, and the number of the sample.

    A line that a kill has cut is left out and asked again. Use as a context manager.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._identity = json.dumps(identity, sort_keys=True)
        self._file = RowFile(path, lambda row: isinstance(row, dict) and row.keys() >= {"key", *Reply._fields})
        self._known = {row["key"]: Reply(*(row[name] for name in Reply._fields)) for row in self._file.known}

    def __enter__(self) -> ReplyFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.__exit__(*exception)

    def key(self, asked: Asked, sample: int) -> str:
        """What a reply is known by."""
        prompt = json.dumps([list(asked.messages), asked.max_new_tokens, asked.key, sample], ensure_ascii=False)
        return hashlib.sha256(f"{self._identity}\n{prompt}".encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def get(self, asked: Asked, sample: int) -> Reply | None:
        """The reply, None when it is not known."""
        return self._known.get(self.key(asked, sample))

    def add(self, asked: Asked, sample: int, reply: Reply) -> None:
        """Keeps a reply; one that could not be had is not kept, so that it is asked again."""
        key = self.key(asked, sample)
        self._known[key] = reply
        if reply.finish_reason != "error":
            self._file.add({"key": key, **reply._asdict()})
