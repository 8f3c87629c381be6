"""Cache a judge's answers on disk, so that no question is asked twice, in this run, a later one or offline.

One JSON file per answer, in 256 folders by the first two digits of its key. Files are written atomically, so any number
of processes can share the folder; the last writer of a key wins. A damaged file counts as absent and is replaced.
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
    """Return the key of an answer, 64 hexadecimal digits: a hash of judge, model, rubric, messages and parameters.

    The server's address is not included: a model keeps its answers when it moves, and offline use needs no address.
    """
    request = [judge, model, version, list(messages), dict(parameters)]
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class JudgeCache:
    """A folder of answers, safe for concurrent threads and processes."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def get(self, key: str) -> str | None:
        """Return the stored reply, None if it is absent or damaged."""
        try:
            stored = read_json(self._file(key))
        except (OSError, ValueError, RecursionError):
            return None
        reply = stored.get("reply")
        if not isinstance(reply, str) or stored.get("key") != key or stored.get("sha256") != _digest(reply):
            return None
        return reply

    def put(self, key: str, reply: str) -> None:
        """Store a reply, replacing any other. Raises OSError if it cannot be written."""
        write_whole(self._file(key), json.dumps({"key": key, "sha256": _digest(reply), "reply": reply}))

    def _file(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"


def _digest(reply: str) -> str:
    return hashlib.sha256(reply.encode("utf-8", "surrogatepass")).hexdigest()
