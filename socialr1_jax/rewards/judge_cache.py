"""Answers of a judge kept on disk, so that the same question is asked once: by this run, the next one, or one offline.

One JSON file per answer, in 256 folders by the first two digits of its key. Files appear whole, so any number of
processes may share the folder; two that store the same key leave one of the two answers. What cannot be read, or is not
what was written, counts as absent and is replaced.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.runtime.files import read_json, write_whole


def answer_key(
    judge: str, model: str, version: str, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any]
) -> str:
    """Key of an answer, 64 hexadecimal digits: who was asked, by which rubric, what, and with which parameters.

    The address of the server is no part of it: a model that moves keeps its answers, and offline needs no address.
    """
    asked = [judge, model, version, list(messages), dict(parameters)]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class JudgeCache:
    """A folder of answers. Any thread or process may use it at any time."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> str | None:
        """The reply that was stored, None when there is none that can be trusted."""
        try:
            stored = read_json(self._file(key))
        except (OSError, ValueError, RecursionError):
            return None
        reply = stored.get("reply")
        if not isinstance(reply, str) or stored.get("key") != key or stored.get("sha256") != _digest(reply):
            return None
        return reply

    def put(self, key: str, reply: str) -> None:
        """Store a reply, in place of any other. Raises OSError when the disk does not take it."""
        write_whole(self._file(key), json.dumps({"key": key, "sha256": _digest(reply), "reply": reply}))

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _digest(reply: str) -> str:
    return hashlib.sha256(reply.encode("utf-8", "surrogatepass")).hexdigest()
