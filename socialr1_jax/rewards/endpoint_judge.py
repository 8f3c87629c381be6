"""A judge of structure behind an OpenAI-compatible chat endpoint: OpenAI, vLLM, SGLang, llama.cpp and others.

One background thread runs an event loop with one queue. A response waits in the queue, is asked for (one try = one HTTP
call), goes back into the queue after a pause when the try failed and another is left, and is settled in the end: with
the judge's score or with the cause of having none. Causes are those of ``rubric.parse_verdict`` and

    timeout      no whole answer within ``call_timeout``         http_500 ...  the server's status
    connection   nobody listens, or hung up                      html          a web page: a login, a proxy's error
    cut          the connection broke within the answer          too_long      more than ``max_answer_bytes``
    not_json     the answer is no chat completion                refusal       the model declined, or was filtered
    deadline     not there ``deadline`` seconds after finish     not_cached    ``offline``, and never asked before
    token_limit  alone above ``tokens_per_minute``               closed        the judge was closed
    interrupted  the run was asked to stop
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import math
import os
import random
import re
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import yaml

from socialr1_jax.interrupt import NEVER, Stop
from socialr1_jax.reward_config import StructureConfig
from socialr1_jax.rewards.judge_cache import JudgeCache, answer_key
from socialr1_jax.rewards.pace import Pace, retry_after
from socialr1_jax.rewards.rubric import RUBRIC_VERSION, answer_code, parse_verdict, rubric_messages
from socialr1_jax.rewards.verdict import JudgeRefused, Verdict

logger = logging.getLogger(__name__)

# Seconds before another try; doubled each time, then half to all of it at random.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
_BYTES_A_TOKEN = 3  # estimate for the tokens limit; English text has 4 to 5
_LOOK = 0.2  # seconds between two looks at whether the run is asked to stop
_CLOSING = 10.0  # seconds that close may take
_HEADERS = {"Accept-Encoding": "identity"}  # else a small answer could unpack to a huge one
_OURS = ("model", "messages", "stream", "n")


@dataclass(eq=False)
class _Job:
    messages: list[dict[str, str]]
    code: str
    key: str
    tokens: int  # estimate of those sent and received
    future: Future[Verdict] = field(default_factory=Future)
    tries: int = 0


class _Failure(Exception):
    """A try that gave no reply. pause: seconds that the server asked for."""

    def __init__(self, cause: str, *, again: bool = False, pause: float = 0.0) -> None:
        super().__init__(cause)
        self.cause, self.again, self.pause = cause, again, pause


class _Refused(Exception):
    """The server answered 401, 403 or 404."""


class EndpointJudge:
    """``verdict.Judge`` over ``config.base_url``; thread-safe. A wrong key or model fails every future: JudgeRefused.

    Raises JudgeRefused when the key's variable is not set (a server on this machine needs none), ImportError when the
    openai package is missing, ValueError for options or an address that cannot be used.
    """

    everywhere = False

    def __init__(self, config: StructureConfig) -> None:
        self._config = config
        self._parameters = _parameters(config)
        if 0 < config.tokens_per_minute <= config.max_tokens:
            raise ValueError(
                f"max_tokens {config.max_tokens} is not below tokens_per_minute {config.tokens_per_minute}, so that no "
                "call would be allowed; lower max_tokens or raise tokens_per_minute"
            )
        self._cache = JudgeCache(config.cache) if config.cache else None
        self._client = None if config.offline else self._make_client()
        self._lock = threading.Lock()  # guards the next eight; never held while a future is settled: it has callbacks
        self._unsettled: set[Future[Verdict]] = set()  # who takes one out settles it
        self._pending: set[Future[Verdict]] = set()  # not done
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._answered = 0
        self._refused: JudgeRefused | None = None
        self._closed = False
        self._stores: list[Future[None]] = []
        self._disk = ThreadPoolExecutor(4, thread_name_prefix="judge-cache")
        self._queue: deque[_Job] = deque()  # from here on: of the loop's thread alone
        self._tasks: dict[asyncio.Task[None], _Job] = {}
        self._pace = Pace(config)
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="judge", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        return f"EndpointJudge(model={self._config.model!r}, base_url={self._config.base_url!r})"

    # ------------------------------------------------------------------------------------------------ verdict.Judge

    def submit(self, story: str, question: str, thoughts: str) -> Future[Verdict]:
        """The verdict to come; see ``verdict.Judge``. After a refusal the future holds JudgeRefused at once."""
        messages = rubric_messages(story, question, thoughts)
        key = answer_key("endpoint", self._config.model, RUBRIC_VERSION, messages, self._parameters)
        sent = sum(len(message["content"].encode()) for message in messages) // _BYTES_A_TOKEN
        job = _Job(messages, answer_code(story, question, thoughts), key, sent + self._config.max_tokens)
        job.future.set_running_or_notify_cancel()  # it ends in one way, by _settle
        with self._lock:
            refused, closed = self._refused, self._closed
            if not (refused or closed):
                self._pending.add(job.future)
                self._unsettled.add(job.future)
                if self._cache is None:
                    self._loop.call_soon_threadsafe(self._enqueue, job)
                else:
                    self._disk.submit(self._look_up, job, self._cache)
        if refused:
            job.future.set_exception(refused)
        elif closed:
            job.future.set_result(Verdict.unscorable("closed"))
        return job.future

    def finish(self, stop: Stop = NEVER) -> None:
        end = time.monotonic() + self._config.deadline
        with self._lock:
            late = set(self._pending)
        while late and not stop.asked and (left := end - time.monotonic()) > 0:
            _, late = wait(late, timeout=min(left, _LOOK))
        for future in late:
            self._settle(future, Verdict.unscorable("interrupted" if stop.asked else "deadline"))
        if late:
            self._loop.call_soon_threadsafe(self._drop_settled)
            wait(late)  # those that another thread is settling just now
        with self._lock:
            stores, self._stores = self._stores, []
        wait(stores, timeout=max(0.0, end - time.monotonic()))

    def counters(self) -> dict[str, float]:
        """Since the last call: ``calls`` (HTTP requests), ``retries`` among them, ``cache_hits``, ``tokens_in``,
        ``tokens_out`` and ``cost`` (as the server counts), ``failed/CAUSE`` (responses, not calls), and ``latency``
        (mean seconds of the calls that got an answer; absent when none did). ``concurrency`` is the limit now.
        """
        with self._lock:
            counts, seconds, answered = self._counts, self._seconds, self._answered
            self._counts, self._seconds, self._answered = Counter(), 0.0, 0
        numbers = {name: float(counts.pop(name, 0)) for name in _COUNTED}
        config = self._config
        cost = numbers["tokens_in"] * config.price_input + numbers["tokens_out"] * config.price_output
        numbers["cost"] = cost / 1_000_000
        numbers["concurrency"] = float(int(self._pace.limit))
        if answered:
            numbers["latency"] = seconds / answered
        return numbers | {name: float(count) for name, count in sorted(counts.items())}

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            pending = set(self._pending)
        for future in pending:
            self._settle(future, Verdict.unscorable("closed"))
        self._disk.shutdown(wait=True)
        asyncio.run_coroutine_threadsafe(self._end(), self._loop)
        self._thread.join(_CLOSING)
        if not self._thread.is_alive():
            self._loop.close()

    # ------------------------------------------------------------------------------------------------- any thread

    def _settle(self, future: Future[Verdict], verdict: Verdict | JudgeRefused) -> None:
        """Gives a future its end, unless it has one: what comes late is ignored."""
        cause = "refused" if isinstance(verdict, JudgeRefused) else verdict.cause
        with self._lock:
            if future not in self._unsettled:
                return
            self._unsettled.discard(future)
            if cause:
                self._counts[f"failed/{cause}"] += 1
        if isinstance(verdict, JudgeRefused):
            future.set_exception(verdict)
        else:
            future.set_result(verdict)
        with self._lock:
            self._pending.discard(future)

    def _count(self, **counts: int) -> None:
        with self._lock:
            self._counts.update(counts)

    def _look_up(self, job: _Job, cache: JudgeCache) -> None:
        reply = cache.get(job.key)
        verdict = None if reply is None else parse_verdict(reply, job.code)
        if verdict is not None and not verdict.cause:
            self._count(cache_hits=1)
            self._settle(job.future, verdict)
        elif self._config.offline:
            self._settle(job.future, Verdict.unscorable("not_cached"))
        else:
            self._loop.call_soon_threadsafe(self._enqueue, job)

    def _store(self, cache: JudgeCache, key: str, reply: str) -> None:
        try:
            cache.put(key, reply)
        except OSError as error:  # the score is there all the same
            logger.warning("the judge's answer could not be kept in %s: %s", cache.folder, error.strerror)

    # ---------------------------------------------------------------------------------------------- the loop's thread

    def _enqueue(self, job: _Job) -> None:
        self._queue.append(job)
        self._start_next()

    def _start_next(self) -> None:
        """Starts as many tries as the limits allow."""
        while self._queue and len(self._tasks) < int(self._pace.limit):
            job = self._queue[0]
            if job.future.done():
                self._queue.popleft()
                continue
            pause = self._pace.pause(job.tokens)
            if math.isinf(pause):
                self._queue.popleft()
                self._settle(job.future, Verdict.unscorable("token_limit"))
                continue
            if pause > 0:
                if self._timer is None:
                    self._timer = self._loop.call_later(pause, self._resume)
                return
            self._queue.popleft()
            self._pace.started(job.tokens)
            task = self._loop.create_task(self._try(job))
            self._tasks[task] = job
            task.add_done_callback(self._ended)

    def _resume(self) -> None:
        self._timer = None
        self._start_next()

    def _ended(self, task: asyncio.Task[None]) -> None:
        job = self._tasks.pop(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # A mistake of ours or of the client. Its text may hold anything, the key too; its type says enough.
            logger.error("the judge's call failed with %s", type(error).__name__)
            self._settle(job.future, Verdict.unscorable("error"))
        self._start_next()

    async def _try(self, job: _Job) -> None:
        job.tries += 1
        started = time.monotonic()
        self._count(calls=1, retries=int(job.tries > 1))
        try:
            async with asyncio.timeout(self._config.call_timeout):
                answer = await self._call(job.messages)
            with self._lock:
                self._seconds += time.monotonic() - started
                self._answered += 1
            self._pace.succeeded()
            reply = self._reply(answer)
        except _Refused as refused:
            self._refuse(JudgeRefused(str(refused)))
        except TimeoutError:
            self._failed(job, _Failure("timeout", again=True), started)
        except _Failure as failure:
            self._failed(job, failure, started)
        else:
            verdict = parse_verdict(reply, job.code)
            with self._lock:
                if self._cache is not None and not verdict.cause and not self._closed:
                    self._stores.append(self._disk.submit(self._store, self._cache, job.key, reply))
            self._settle(job.future, verdict)

    def _failed(self, job: _Job, failure: _Failure, started: float) -> None:
        if failure.cause in ("timeout", "http_429"):
            self._pace.failed(started)
        if not failure.again or job.tries > self._config.retries or failure.pause > self._config.deadline:
            self._settle(job.future, Verdict.unscorable(failure.cause))
            return
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (job.tries - 1)) * random.uniform(0.5, 1.0)
        # Its own pause on top of the server's, so that all who were told the same do not come back at once.
        self._loop.call_later(failure.pause + pause, self._enqueue, job)

    def _refuse(self, refused: JudgeRefused) -> None:
        with self._lock:
            self._refused = self._refused or refused
            pending = set(self._pending)
        for future in pending:
            self._settle(future, self._refused)
        self._drop_settled()

    def _drop_settled(self) -> None:
        """Hangs up on calls whose future has its end."""
        for task, job in list(self._tasks.items()):
            if job.future.done() and task is not asyncio.current_task():
                task.cancel()
        self._start_next()

    async def _end(self) -> None:
        try:
            self._queue.clear()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            if self._client is not None:
                await self._client.close()
        finally:
            self._loop.stop()

    # ------------------------------------------------------------------------------------------------------- HTTP

    def _make_client(self) -> Any:
        try:
            import openai  # heavy, and needed by this judge alone
        except ImportError:
            raise ImportError(
                "judge endpoint needs the openai package: pip install 'socialr1_jax[judge]'", name="openai"
            ) from None
        config = self._config
        local = _is_local(urlsplit(self._config.base_url).hostname or "")
        http = openai.DefaultAsyncHttpxClient(
            event_hooks={"response": [self._check_status]},
            trust_env=not local,  # no proxy between this machine and itself
        )
        return openai.AsyncOpenAI(
            api_key=_api_key(config.api_key_env, local=local),
            base_url=config.base_url,
            timeout=config.call_timeout,
            max_retries=0,  # ours know the deadline and the pace
            http_client=http,
        )

    async def _call(self, messages: list[dict[str, str]]) -> bytes:
        """The body of an answer with status 200."""
        assert self._client is not None
        import openai

        create = self._client.chat.completions.with_streaming_response.create
        try:
            async with create(
                model=self._config.model, messages=messages, extra_body=self._parameters, extra_headers=_HEADERS
            ) as response:
                return await self._read(response.iter_bytes())
        except openai.APITimeoutError:
            raise _Failure("timeout", again=True) from None
        except openai.APIConnectionError as error:
            if isinstance(error.__cause__, _Failure | _Refused):  # older clients wrap what `_check_status` raises
                raise error.__cause__ from None
            raise _Failure("connection", again=True) from None

    async def _read(self, chunks: AsyncIterator[bytes]) -> bytes:
        body = bytearray()
        try:
            async for chunk in chunks:
                body += chunk
                if len(body) > self._config.max_answer_bytes:
                    raise _Failure("too_long")
        except _Failure:
            raise
        except Exception:  # of the HTTP library below the client, which has changed its name before
            raise _Failure("cut", again=True) from None
        return bytes(body)

    async def _check_status(self, response: Any) -> None:
        """Sorts out other statuses before the client reads their bodies, which it would do without limit."""
        status = response.status_code
        if status < 400:
            return
        config = self._config
        if status in (401, 403, 404):
            mend = f"check model {config.model!r} and base_url" if status == 404 else f"check {config.api_key_env}"
            raise _Refused(f"the judge at {config.base_url} answered {status} (key from {config.api_key_env}): {mend}")
        again = status >= 500 or status in (408, 409, 429)
        if not again:
            logger.warning("the judge at %s answered %d: %s", config.base_url, status, await self._excerpt(response))
        pause = retry_after(response.headers.get("retry-after", ""))
        raise _Failure(f"http_{status}", again=again, pause=pause)

    async def _excerpt(self, response: Any) -> str:
        """The beginning of an answer's text, without the key should the server send it back."""
        text = b""
        async for chunk in response.aiter_bytes(2000):
            text = chunk
            break
        assert self._client is not None
        shown = "".join(c if c.isprintable() else " " for c in text.decode("utf-8", "replace"))
        return shown.replace(self._client.api_key, "[key]")[:300]

    def _reply(self, answer: bytes) -> str:
        """The model's text in an answer's body."""
        if answer.lstrip()[:1] == b"<":
            raise _Failure("html")
        try:
            completion = json.loads(answer)
            choices = completion["choices"]
        except (ValueError, TypeError, KeyError, RecursionError):
            raise _Failure("not_json") from None
        usage = completion.get("usage")
        if isinstance(usage, dict):
            self._count(tokens_in=_tokens(usage, "prompt_tokens"), tokens_out=_tokens(usage, "completion_tokens"))
        try:
            choice = choices[0]
            message = choice["message"]
            refused = choice.get("finish_reason") == "content_filter" or message.get("refusal")
            reply = message.get("content")
        except (TypeError, KeyError, IndexError, AttributeError):
            raise _Failure("not_json") from None
        if refused:
            raise _Failure("refusal")
        if reply is not None and not isinstance(reply, str):
            raise _Failure("not_json")
        return reply or ""


_COUNTED = ("calls", "retries", "cache_hits", "tokens_in", "tokens_out")


def _parameters(config: StructureConfig) -> dict[str, Any]:
    """What is sent beside model and messages. An empty option takes a parameter away, so `max_tokens:` can be."""
    options = {name: yaml.safe_load(text) for name, text in config.options.items()}
    for name in _OURS:
        if name in options:
            raise ValueError(f"options may not hold {name!r}; it is set by the judge")
    parameters = {"temperature": config.temperature, "max_tokens": config.max_tokens} | options
    return {name: value for name, value in parameters.items() if value is not None}


def _api_key(variable: str, *, local: bool) -> str:
    key = os.environ.get(variable, "").strip()
    if not key and not local:
        raise JudgeRefused(
            f"the environment variable {variable} with the judge's key is not set; set it, to any text for a server "
            "without keys"
        )
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        raise JudgeRefused(f"the environment variable {variable} holds signs that no key has; set it to the key alone")
    return key or "none"


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _tokens(usage: dict[str, Any], name: str) -> int:
    tokens = usage.get(name)
    return tokens if isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0 else 0
