"""Append-only files of JSON lines, one per finished result, that survive a kill."""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.respondents import Asked
from socialr1_jax.runtime.ownership import begins_as, open_own, refuse_foreign_file

log = logging.getLogger(__name__)
JsonRow = Mapping[str, Any]
_FORMAT = 2  # version of a reply's text; 2: in full, with the prompt's opening tag and the server's reasoning field


class RowFile:
    """The rows of a file in order (`known`), open for appending. Use as a context manager.

    A truncated last line is removed. Other lines that are not rows of this kind stay in the file and are ignored.
    Raises ForeignFile if the file holds text but no such row.
    """

    def __init__(self, path: Path, is_row: Callable[[Any], bool]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.known, whole = _read(path, is_row)
        refuse_foreign_file(path, lambda file: bool(self.known) or _is_torn(file), "a file of rows")
        self._file = open_own(Path(os.path.realpath(path)), "a", encoding="utf-8")
        self._file.truncate(whole)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def append(self, row: JsonRow) -> None:
        """Append a row and flush it to the operating system."""
        self.known.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()


def _is_torn(file: Path) -> bool:
    """Return whether a file holds nothing but a truncated first row."""
    if not begins_as(file, b'{"key": '):
        return False
    try:
        json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return True
    return False  # a complete object is not a truncated row


def read_rows(path: Path, is_row: Callable[[Any], bool]) -> list[JsonRow]:
    """Return the rows of a file without changing it; [] if it does not exist."""
    return _read(path, is_row)[0]


def _read(path: Path, is_row: Callable[[Any], bool]) -> tuple[list[JsonRow], int]:
    """Return the rows and the number of bytes up to the end of the last complete line."""
    rows: list[JsonRow] = []
    whole = 0
    if not path.exists():
        return rows, whole
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if is_row(row):
                rows.append(row)
            else:
                log.warning("%s line %d is invalid and is ignored", path, number)
    return rows, whole


class ReplyFile(RowFile):
    """A cache of replies, so that no prompt is asked twice.

    A reply's key has everything it depends on: respondent and settings, prompt, token limit and sample number.
    """

    def __init__(self, path: Path, identity: Mapping[str, Any]) -> None:
        super().__init__(path, _is_reply)
        self._identity = f"{_FORMAT} {json.dumps(identity, sort_keys=True)}"
        self._replies = {row["key"]: Reply(row["text"], row["finish_reason"], row["tokens"]) for row in self.known}

    def key(self, asked: Asked, sample: int) -> str:
        further = [value for value in (asked.decoding, asked.continuations) if value]
        asked_for = [list(asked.messages), asked.max_new_tokens, asked.key, sample, *further]
        prompt = json.dumps(asked_for, ensure_ascii=False)
        return hashlib.sha256(f"{self._identity}\n{prompt}".encode("utf-8", "surrogatepass")).hexdigest()[:32]

    def get(self, asked: Asked, sample: int) -> Reply | None:
        """Return the reply, or None if it is not cached."""
        return self._replies.get(self.key(asked, sample))

    def add(self, asked: Asked, sample: int, reply: Reply) -> None:
        """Cache a reply. Failed replies are not written to the file, so the next run asks again."""
        key = self.key(asked, sample)
        self._replies[key] = reply
        row = {"key": key, "text": reply.text, "finish_reason": reply.finish_reason, "tokens": reply.tokens}
        if _is_reply(row):
            self.append(row)


def _is_reply(row: Any) -> bool:
    if not isinstance(row, dict) or row.get("finish_reason") not in ("stop", "length"):
        return False
    kinds = {"key": str, "text": str, "tokens": int}
    return all(isinstance(row.get(name), kind) for name, kind in kinds.items())
