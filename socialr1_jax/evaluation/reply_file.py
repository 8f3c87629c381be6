"""Replies that are known: a file that grows as they come, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.evaluation.respondents import Asked, Reply


class ReplyFile:
    """Replies by what they depend on: who answers and how, the prompt, its limit, and the number of the sample.

    A line that a kill has cut is left out and asked again. Use as a context manager.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        self._identity = json.dumps(identity, sort_keys=True)
        self._known: dict[str, Reply] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if path.exists():
            with path.open("rb") as file:
                for line in file:
                    try:
                        row = json.loads(line)
                        self._known[row["key"]] = Reply(row["text"], row["finish_reason"], row["tokens"])
                    except (ValueError, KeyError, TypeError):
                        break
                    whole += len(line)
        self._file = path.open("a", encoding="utf-8")
        self._file.truncate(whole)

    def __enter__(self) -> ReplyFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

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
            self._file.write(json.dumps({"key": key, **reply._asdict()}) + "\n")
            self._file.flush()
