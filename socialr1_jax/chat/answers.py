"""Interpret answers of chat servers: their effective status, their message, and whether a refusal concerns every call.

Causes of a failed call:

    timeout      no whole answer within `call_timeout`      http_500 ...  the server's status
    connection   no server, or it hung up                   html          a web page: a login, a proxy's error
    cut          the connection broke within the answer     not_json      the answer is no chat completion
    refusal      the model declined, or was filtered        refused       a content filter refused the prompt
    token_limit  alone above `tokens_per_minute`            too_long      the prompt exceeds the model's context, or
                                                                          the answer `max_answer_bytes`
    client       the prompt cannot be sent                  http_400 ...  refused, for another reason
    key          the reply repeats the server's key         http_302 ...  a redirect, which is not followed
"""

import base64
import html
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import unquote

_CONTEXT = re.compile(
    r"context.{0,3}(length|window|size|limit)|reduce the length|max_model_len|too many (input )?tokens"
    r"|at least 1, got -|(?<!\w)(prompt|input|message|string|token count|request|token)s?(?!\w).{0,60}"
    r"(too (long|large)|exceed|longer than)"
    r"|length should be \[|`?inputs`? tokens.{0,30}must be",
    re.I | re.S,
)
_FILTER = re.compile(
    r"content.{0,12}(filter|management|policy)|moderation|flagged|safety|usage polic|responsible ai|inappropriate"
    r"|data_inspection|(?<!case-)sensitive|exists risk",
    re.I,
)
_ACCESS = re.compile(
    r"credit balance|(?<!\w)api[ _-]?key|arrearage|over budget|model.{0,20}not (exist|a valid)|not a valid model"
    r"|invalid model|insufficient_quota",
    re.I,
)
_NO_SUCH = re.compile(
    r"support|recogni[sz]ed|unexpected|unknown|extra.{0,3}(input|field|forbidden)|not (permitted|allowed)|cannot both"
    r"|deprecated|not available|only one|does not accept|too large|must be|range|at most|maximum|exceeds| > ",
    re.I,
)
_SECRET = 8  # characters; a shorter key ("none", "EMPTY") is not a secret
_PIECE = 12  # letters and digits of a key that count as a leak
_MARKS = bytes(code for code in range(128) if not chr(code).isalnum())
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|[a-z])")
_WORDS = {
    "rate_limit": 429,
    "too_many": 429,
    "quota": 429,
    "context": 400,
    "filter": 400,
    "api_key": 401,
    "not_found": 404,
}


class Reply(NamedTuple):
    """A reply: its text with thoughts, as generated; or "" for too_long, refused and error, with cause and reason."""

    text: str
    finish_reason: Literal["stop", "length", "too_long", "refused", "error"]
    tokens: int
    cause: str = ""
    reason: str = ""


class SettingNames(NamedTuple):
    """Names of a server's settings, for messages."""

    model: str = "model"
    url: str = "base_url"
    options: str = "options"


PLAIN_NAMES = SettingNames()


class Refusal(NamedTuple):
    """Meaning of a 4xx status: the prompt is too_long or refused, a wrong parameter, no access (key, model, address,
    credit), or unknown.
    """

    kind: Literal["too_long", "refused", "parameter", "access", "unknown"]
    fix: str = ""


def read_refusal(status: int, words: str, sent: Iterable[str], names: SettingNames) -> Refusal:
    """Classify a refusal.

    Args:
        status: the server's 4xx status.
        words: the codes of the server's error, then its message (see `server_words`).
        sent: names of the parameters that were sent.
        names: names of the settings, for the fix.
    """
    codes, _, line = words.partition("\n")
    fix = f"check {names.model} and {names.url}" if status == 404 else f"check {names.model}, the key and its account"
    if status in (401, 402, 404):
        return Refusal("access", fix)
    if status == 429:  # no credit left, or a rate limit
        return Refusal("access", fix) if "insufficient_quota" in words else Refusal("unknown")
    if status != 403 and (
        status == 413 or _CONTEXT.search(line) or re.search("context_length|string_above_max", codes)
    ):
        return Refusal("too_long")
    if _FILTER.search(words):
        return Refusal("refused")
    if status == 403 or _ACCESS.search(words):
        return Refusal("access", fix)
    named = [name for name in sent if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", words)]
    if not named or not _NO_SUCH.search(line):
        return Refusal("unknown")
    name = "top_p" if {"temperature", "top_p"} <= set(named) else named[0]
    other = "max_completion_tokens" if name == "max_tokens" and "max_completion_tokens" in words else ""
    return Refusal("parameter", f"set {names.options}.{name}={other}" + ("" if other else " (nothing) to leave it out"))


def server_words(text: str) -> tuple[str, str]:
    """Return a server's message in one line of at most 300 characters, and the message after the error's codes."""
    codes = ""
    try:
        error = json.loads(text)
        error = error.get("error", error)
        if isinstance(error, Mapping):
            codes = " ".join(str(error.get(name) or "").replace("\n", " ") for name in ("code", "type", "param"))
            text = str(error.get("message") or error)
        else:
            text = str(error)
    except (ValueError, AttributeError, RecursionError):
        pass
    line = " ".join("".join(c if c.isprintable() else " " for c in text[:2000]).split())
    return line[:300], f"{codes}\n{line}"[:2000]


def meant_status(status: int, body: bytes | None) -> tuple[int, str]:
    """Return the effective status of an answer, and the cause if it differs from the server's status.

    A body of None was too long. An error body with status 200 has the status that it names, or 502.
    """
    if body is None:
        return (status, "") if status >= 400 else (422, "too_long")
    if not 200 <= status < 300:
        return status, ""
    if body.lstrip()[:1] == b"<":
        return 422, "html"
    try:
        answer = json.loads(body)
        choices = answer.get("choices")
        error = answer.get("error") or (choices[0].get("error") if choices else None)
        if error or choices is None:
            return _code(error) or _code(answer) or 502, ""
        if str(choices[0].get("finish_reason")).lower() in ("error", "abort", "cancelled"):
            return 502, ""
        if isinstance(choices[0]["message"].get("content"), str | list | None):
            return 200, ""
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        pass
    return 422, "not_json"


def _code(error: Any) -> int:
    """Return the HTTP status that an error body names by number or by word; 0 for none."""
    for name in ("code", "status", "type", "message") if isinstance(error, Mapping) else ():
        value = str(error.get(name)).lower().replace(" ", "_")
        if re.fullmatch("[45][0-9][0-9]", value):
            return int(value)
        if status := next((code for word, code in _WORDS.items() if word in value), 0):
            return status
    return 0


def unpacked(body: bytes, encoding: str, most: int) -> bytes | None:
    """Decompress a body in gzip or deflate; return None if the result is longer than `most` bytes.

    A body in any other encoding, or in several, is returned unchanged: it will be rejected as invalid JSON.
    """
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return body
    try:
        content = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(body, most + 1)
    except zlib.error:
        return body
    return content if len(content) <= most else None


def without_key(text: str, key: str) -> str:
    """Replace the key in a text by [key]; replace the whole text if it contains the key in an encoded form."""
    if len(key) < _SECRET:
        return text
    return "[text with the key]" if holds_key(text.replace(key, ""), key) else text.replace(key, "[key]")


def holds_key(text: str, key: str) -> bool:
    """Return whether the text contains 12 consecutive letters and digits of the key.

    They may be in any case, escaped, in base64 or hexadecimal, reversed, or separated by other characters. A key of
    plain words, such as "password", is not detected.
    """
    plain = _ESCAPE.sub(lambda escape: chr(int(escape[1] or escape[2] or "20", 16)), html.unescape(unquote(text)))
    readings = {_folded(text), _folded(plain)}
    return any(piece in reading for piece in _pieces(key) for reading in readings)


@lru_cache
def _pieces(key: str) -> frozenset[str]:
    data = key.encode()
    forms = [_folded(key), _folded(key)[::-1], data.hex()]
    for shift in range(3):  # alignments of the key in base64
        digits = base64.b64encode(bytes(shift) + data).decode()
        forms.append(_folded(digits[-(-8 * shift // 6) : 8 * (shift + len(data)) // 6]))
    pieces = {form[at : at + _PIECE] for form in forms for at in range(max(1, len(form) - _PIECE + 1))}
    return frozenset(piece for piece in pieces if len(piece) >= _SECRET and any(map(str.isdigit, piece)))


def _folded(text: str) -> str:
    return text.encode("ascii", "ignore").translate(None, _MARKS).decode().lower()


def token_count(usage: Any, name: str) -> int:
    """Return a token count reported by a server; 0 if it is implausible."""
    tokens = usage.get(name) if isinstance(usage, Mapping) else None
    return tokens if isinstance(tokens, int) and tokens is not True and 0 < tokens < 10**9 else 0
