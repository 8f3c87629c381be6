"""The client of OpenAI-compatible chat servers, for judges, evaluated models and SOTOPIA's players.

The `openai` package retries with its backoff. Every attempt goes through `send`, which limits concurrency, the rates of
calls and tokens, and the time and size of an answer, and converts an error body with status 200 into the status that it
names. It sends only the headers listed here, follows no redirects and keeps no cookies. One thread runs an event loop
with all calls. `chat/answers.py` lists the causes of a failure.
"""

import asyncio
import contextlib
import json
import logging
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

from socialr1_jax.chat.answers import (
    PLAIN_NAMES,
    Refusal,
    Reply,
    SettingNames,
    holds_key,
    meant_status,
    read_refusal,
    server_words,
    token_count,
    unpacked,
    without_key,
)
from socialr1_jax.config.server import ServerConfig
from socialr1_jax.data.chat_template import whole_text

log = logging.getLogger(__name__)

MINUTE = 60.0  # window of the rate limits, in seconds
_BYTES_A_TOKEN = 3  # conservative estimate for the token rate limit; English text has 4 to 5
# Number of refusals without any answer (the second: with status 403) after which every call counts as failed.
_MOST_REFUSED, _MOST_FORBIDDEN = 8, 3


@dataclass(eq=False)
class _Call:
    """State of one prompt. rounds: how often it may be sent again while the server answers others."""

    tokens: int = 0
    tries: int = 0
    rounds: int = 20


_CALL: ContextVar[_Call] = ContextVar("the call that a try belongs to")


class ChatRefused(RuntimeError):
    """Raised if every call will fail until the settings are corrected: a wrong key, an unknown model or parameter."""


class ChatClient:
    """Thread-safe client of the server in a configuration. `names` are those of its settings, for messages.

    Raises ChatRefused if there is no key (`ServerConfig.api_key`), and ImportError without the openai package.
    """

    def __init__(self, config: ServerConfig, names: SettingNames = PLAIN_NAMES) -> None:
        self._config, self._names = config, names
        try:
            self._key = config.api_key()
        except ValueError as error:
            raise ChatRefused(str(error)) from None
        try:
            import openai  # takes a second; only needed for servers
        except ImportError:
            raise ImportError(
                "a server needs the openai package: pip install -e '.[judge]' in the repository"
            ) from None
        self._openai: Any = openai
        self._lock = threading.Lock()  # guards the next two
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._recent: deque[tuple[float, int]] = deque()  # (began, tokens) of the last minute's calls
        self._slots = asyncio.Semaphore(config.concurrency)
        self.refused: ChatRefused | None = None  # set if every call fails
        self._answered, self._rejected, self._before, self._schemas = 0, 0, False, True
        self._open: set[_Call] = set()  # unresolved calls
        self._closing, self._denied = False, 0  # _denied: refusals of access since the last answer
        self._said: set[str] = set()  # causes already logged
        self._client = openai.AsyncOpenAI(
            api_key=self._key,
            base_url=config.base_url,
            timeout=config.call_timeout,
            max_retries=config.retries,
            http_client=self._make_http(),
        )
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat", daemon=True)
        self._thread.start()

    def ask(self, messages: Sequence[Mapping[str, str]], parameters: Mapping[str, Any]) -> Future[Reply]:
        """Call the server; return a future of the reply, whose only exception is ChatRefused. Cancel it to hang up.

        `config.options` modify the `parameters`.
        """
        if not self._closing and not self.refused:
            return asyncio.run_coroutine_threadsafe(self._ask(list(messages), dict(parameters)), self._loop)
        ended = Future[Reply]()
        if self.refused:
            ended.set_exception(self.refused)
        ended.cancel()  # no effect if the exception is set
        return ended

    def answered_before(self) -> None:
        """Assume that the server has answered prompts before, so that a refusal concerns a single prompt."""
        self._before = True

    def counters(self) -> dict[str, float]:
        """Return and reset the counters: HTTP `calls`, of these `retries`, tokens, and mean seconds (`latency`)."""
        with self._lock:
            counts, seconds, self._counts, self._seconds = self._counts, self._seconds, Counter(), 0.0
        numbers = {name: float(counts[name]) for name in ("calls", "retries", "tokens_in", "tokens_out")}
        return numbers | ({"latency": seconds / counts["answered"]} if counts["answered"] else {})

    def close(self) -> None:
        """Hang up on all calls and stop the thread."""
        if not self._closing:
            self._closing = True
            asyncio.run_coroutine_threadsafe(self._end(), self._loop)
            self._thread.join(10.0)
        if not self._thread.is_alive() and not self._loop.is_closed():
            self._loop.run_until_complete(self._end())  # calls that another thread submitted meanwhile
            self._loop.close()

    async def _end(self) -> None:
        while calls := self._hang_up():
            await asyncio.gather(*calls, return_exceptions=True)
        await self._client.close()
        if threading.current_thread() is self._thread:
            self._loop.call_soon(self._loop.stop)

    def _hang_up(self) -> set[asyncio.Task[Any]]:
        calls = asyncio.all_tasks(self._loop) - {asyncio.current_task(self._loop)}
        for call in calls:
            call.cancel()
        return calls

    async def _ask(self, messages: list[Any], parameters: dict[str, Any]) -> Reply:
        call = _Call()
        self._open.add(call)
        _CALL.set(call)
        try:
            return await self._call(messages, parameters)
        except asyncio.CancelledError:
            if self.refused:
                raise self.refused from None
            raise
        except ChatRefused:
            raise
        except Exception as error:  # such as a prompt that cannot be sent
            return self._failure("client", type(error).__name__)
        finally:
            self._open.discard(call)

    async def _call(self, messages: list[Any], parameters: dict[str, Any]) -> Reply:
        if self.refused:
            raise self.refused
        if not self._schemas:
            parameters.pop("response_format", None)
        tokens = sum(len(turn["content"].encode("utf-8", "replace")) for turn in messages) // _BYTES_A_TOKEN
        call = _CALL.get()
        call.tokens = tokens + parameters.get("max_tokens", 0)
        if 0 < self._config.tokens_per_minute < call.tokens:
            return Reply("", "error", 0, "token_limit", f"about {call.tokens} tokens, above tokens_per_minute")
        create, openai = self._client.chat.completions.with_raw_response.create, self._openai
        answered = self._answered
        try:
            sent = self._config.parameters(parameters)
            answer = await create(model=self._config.model, messages=messages, extra_body=sent)
            return self._read(json.loads(answer.http_response.content))
        except RecursionError:
            return self._failure("not_json", "the answer is nested too deeply")
        except openai.APIStatusError as error:
            status, cause = error.status_code, error.response.headers.get("x-cause", "")
            if status == 429 and self._answered > answered and call.rounds:  # rate limit: others are answered
                call.rounds -= 1
                return await self._call(messages, parameters)
            reason, words = server_words(without_key(error.response.text, self._key))
            refusal = read_refusal(status, words, sent, self._names)
            schema = parameters.pop("response_format", None)
            if schema and not cause and status in (400, 422) and refusal.kind in ("unknown", "parameter"):
                reply = await self._call(messages, parameters)  # the server may not support JSON Schema
                self._schemas = bool(reply.cause)
                return reply
            return await self._failed(status, cause, reason, refusal)
        except openai.APITimeoutError:
            return self._failure("timeout", f"no whole answer within {self._config.call_timeout:g} s")
        except openai.APIConnectionError as error:
            cut = "cut" in getattr(error.__cause__, "args", ())
            return self._failure("cut" if cut else "connection", "the answer broke off" if cut else "no connection")

    async def _failed(self, status: int, cause: str, reason: str, refusal: Refusal) -> Reply:
        """Handle a status after the last retry: return a failure, or raise ChatRefused if every call will fail."""
        (kind, fix), config = refusal, self._config
        if cause or not (400 <= status < 500) or (status in (408, 409, 429) and kind != "access"):
            return self._failure(cause or f"http_{status}", reason)
        if kind == "too_long" or kind == "refused":
            return self._failure(kind, reason, kind)
        self._denied += kind == "access"
        every = kind != "unknown" and status != 403  # a firewall may answer 403 to one prompt
        if not every and not self._before:  # wait for the calls in flight and for enough refusals
            self._rejected += 1
            least = _MOST_REFUSED if kind == "unknown" else _MOST_FORBIDDEN
            self._open.discard(_CALL.get())
            begun = {call for call in self._open if call.tries}
            while not self._answered and self._open and (self._rejected < least or begun & self._open):
                await asyncio.sleep(0.002)  # other calls are sent meanwhile
            every = self._rejected >= least or status == 403
            fix = fix or f"so it answered {self._rejected} prompts and no other"
        if (self._answered and self._denied < _MOST_REFUSED) or not every:
            return self._failure(f"http_{status}", reason, "refused")
        said = f"{config.base_url} answers {status} (key from {config.api_key_env}): {reason.rstrip('.')}"
        self.refused = ChatRefused(f"{said}; {fix}")
        self._hang_up()
        raise self.refused

    def _failure(self, cause: str, reason: str, finish: Literal["too_long", "refused", "error"] = "error") -> Reply:
        if cause not in self._said:
            self._said.add(cause)
            log.warning("%s: %s: %s", self._config.base_url, cause, reason)
        return Reply("", finish, 0, cause, reason)

    def _read(self, completion: dict[str, Any]) -> Reply:
        choice, usage = completion["choices"][0], completion.get("usage")
        tokens = token_count(usage, "completion_tokens")
        with self._lock:
            self._counts.update(tokens_in=token_count(usage, "prompt_tokens"), tokens_out=tokens)
        self._answered, self._denied = self._answered + 1, 0
        message, finish = choice["message"], str(choice.get("finish_reason")).lower()
        if finish == "content_filter" or message.get("refusal"):
            words = without_key(str(message.get("refusal") or finish), self._key)
            return self._failure("refusal", server_words(words)[0], "refused")
        cut = finish in ("length", "max_tokens", "model_length")
        text = whole_text(message, cut=cut)
        if holds_key(text, self._key):  # replies are stored and shared
            return self._failure("key", "the reply repeats the key")
        return Reply(text, "length" if cut else "stop", tokens)

    def _make_http(self) -> Any:
        """Return the HTTP client for the openai package; every attempt of a call goes through its `send`."""
        outer, base = self, self._openai.DefaultAsyncHttpxClient
        httpx: Any = sys.modules[base.__mro__[1].__module__]  # httpx2, or httpx in older releases of openai

        class Http(base):  # type: ignore[misc, valid-type]
            async def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
                async with outer._slots:
                    await outer._keep_pace()
                    began, call = time.monotonic(), _CALL.get()
                    with outer._lock:
                        outer._counts.update(calls=1, retries=int(call.tries > 0))
                    call.tries += 1
                    try:
                        async with asyncio.timeout(outer._config.call_timeout):
                            sent = httpx.Request(
                                request.method,
                                request.url,
                                headers=outer._headers(),
                                content=request.content,
                                extensions=request.extensions,
                            )
                            response = await super().send(sent, stream=True, **options | {"follow_redirects": False})
                            self.cookies.clear()
                            body = await outer._body(response, httpx.ReadError)
                    except TimeoutError:
                        raise httpx.ReadTimeout("timeout", request=request) from None
                    with outer._lock:
                        outer._seconds += time.monotonic() - began
                        outer._counts["answered"] += 1
                status, cause = meant_status(response.status_code, body)
                after = response.headers.get("retry-after", "")
                headers = {"x-cause": cause, "retry-after": after if after.isascii() else ""}
                return httpx.Response(status, headers=headers, content=body or b"", request=request)

        return Http(trust_env=not self._config.local)  # no proxy for a local server

    def _headers(self) -> dict[str, str]:
        """Return all headers of a request, without those that the package takes from the environment."""
        return {
            "Authorization": f"Bearer {self._key}",
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": self._client.user_agent,
        }

    async def _keep_pace(self) -> None:
        """Wait until the rate limits allow one more call, and count it."""
        calls, tokens, recent = self._config.requests_per_minute, self._config.tokens_per_minute, self._recent
        needed = _CALL.get().tokens
        while calls or tokens:
            now = time.monotonic()
            while recent and recent[0][0] <= now - MINUTE:
                recent.popleft()
            if not (0 < calls <= len(recent) or 0 < tokens < needed + sum(used for _, used in recent)):
                recent.append((now, needed))
                return
            await asyncio.sleep(recent[0][0] + MINUTE - now)

    async def _body(self, response: Any, broken: type[Exception]) -> bytes | None:
        """Read the body; stop and return None if it is too long."""
        most, body = self._config.max_answer_bytes, bytearray()
        try:
            async with contextlib.aclosing(response.aiter_raw()) as chunks:
                async for chunk in chunks:
                    body += chunk
                    if len(body) > most:
                        return None
        except Exception as error:  # the HTTP library's exceptions differ between releases
            raise broken("cut") from error
        finally:
            await response.aclose()
        return unpacked(bytes(body), response.headers.get("content-encoding", ""), most)
