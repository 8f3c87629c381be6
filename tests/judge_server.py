"""An OpenAI-compatible chat server on loopback whose faults are scripted, with a log of what it did.

    with JudgeServer(faults={"500": 0.1, "garbage": 0.1}, latency=0.05) as server:
        EndpointJudge(StructureConfig(judge="endpoint", model="judge", base_url=server.base_url)) ...
        assert server.count("500") == ...

Whether a call fails depends on (seed, prompt, how often this prompt was asked before) alone, so that the order in which
calls arrive does not matter. Everything that is public can be changed while it runs.
"""

import contextlib
import hashlib
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# What a call can be answered with. "ok", "slow" (ok, after `slow` seconds more) and "drip" (ok, a few bytes at a time)
# hold a grade; nothing else does.
KINDS = (
    *("ok", "slow", "400", "401", "403", "404", "429", "500", "503", "hang", "drop", "half", "garbage", "html"),
    *("huge", "huge_error", "drip", "no_choices", "refusal", "empty", "ungraded"),
)
HUGE = 20_000_000  # bytes


@dataclass
class Call:
    """One request. prompt: the user's message. kind: of KINDS. finished: the whole answer could be sent.

    It is in the log before anything is sent; finished, seconds and sent_bytes follow.
    """

    prompt: str
    kind: str
    body: Mapping[str, Any]
    authorization: str
    started: float
    seconds: float = 0.0
    finished: bool = False
    sent_bytes: int = 0


def hashed_score(prompt: str) -> float:
    """A score in [0, 1] with two digits that depends on the prompt alone."""
    return int(hashlib.sha256(prompt.encode()).hexdigest(), 16) % 101 / 100


def code_of(prompt: str) -> str:
    """The code that a grade of this prompt must carry, as a judge would read it."""
    return re.findall(r'"code": "(\w+)"', prompt)[-1]


def thoughts_of(prompt: str) -> str:
    """The thoughts that a prompt asks to grade, as a judge sees them."""
    return re.findall(r"<thoughts-\w+>\n(.*)\n</thoughts-\w+>", prompt, re.DOTALL)[-1]


def graded_reply(prompt: str, score: float) -> str:
    """What a judge that does as it is told replies."""
    stages = dict.fromkeys(("encode", "interpret", "goal", "respond"), score)
    return json.dumps({"code": code_of(prompt), "stages": stages, "violations": [], "total": score})


class JudgeServer:
    """Serves while the ``with`` block lasts, on a free port of 127.0.0.1.

    latency: seconds before each answer. faults: share of calls by kind; what is left of 1 is "ok". plan: kinds of the
    first calls, whatever the faults say. score: of a prompt. key: refuse other keys with 401; "" takes any.
    retry_after: header of a 429, seconds or "date" or None. hang: seconds until a hanging call is dropped.
    """

    def __init__(
        self,
        *,
        latency: float = 0.0,
        faults: Mapping[str, float] | None = None,
        plan: tuple[str, ...] = (),
        score: Callable[[str], float] = hashed_score,
        reply: Callable[[str, float], str] = graded_reply,
        key: str = "",
        retry_after: float | str | None = None,
        slow: float = 1.0,
        hang: float = 30.0,
        most_calls: int = 10**9,
        seed: int = 0,
    ) -> None:
        assert set(faults or {}) | set(plan) <= set(KINDS)
        self.latency, self.faults, self.plan = latency, dict(faults or {}), list(plan)
        self.score, self.reply, self.key, self.retry_after = score, reply, key, retry_after
        self.slow, self.hang, self.most_calls, self.seed = slow, hang, most_calls, seed
        self.log: list[Call] = []
        self.most_at_once = 0
        self.usage: Counter[str] = Counter()  # tokens in the answers that were sent whole
        self._at_once = 0
        self._asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._sockets: set[socket.socket] = set()

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def count(self, *kinds: str) -> int:
        """Calls of these kinds so far; all calls when none is named."""
        with self._lock:
            return sum(not kinds or call.kind in kinds for call in self.log)

    def last_kind(self) -> dict[str, str]:
        """How the last call of each prompt was answered."""
        with self._lock:
            return {call.prompt: call.kind for call in self.log}

    def __enter__(self) -> "JudgeServer":
        outer = self

        class Handler(_Handler):
            judge = outer

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 512  # connections that wait to be accepted: 5 by default
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that went away

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Nobody is answered any more: connections that are kept open end too."""
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)
        with self._lock:
            for opened in self._sockets:
                with contextlib.suppress(OSError):
                    opened.shutdown(socket.SHUT_RDWR)

    def _kind(self, prompt: str, authorization: str) -> str:
        """Called under the lock."""
        before = self._asked[prompt]
        self._asked[prompt] += 1
        if self.key and authorization != f"Bearer {self.key}":
            return "401"
        if self.plan:
            return self.plan.pop(0)
        drawn = random.Random(f"{self.seed} {before} {prompt}").random()
        for kind, share in self.faults.items():
            drawn -= share
            if drawn < 0:
                return kind
        return "ok"


class _Handler(BaseHTTPRequestHandler):
    judge: JudgeServer
    protocol_version = "HTTP/1.1"  # connections are used again
    disable_nagle_algorithm = True
    wbufsize = -1  # headers and body in one packet

    def setup(self) -> None:
        super().setup()
        with self.judge._lock:
            self.judge._sockets.add(self.connection)

    def finish(self) -> None:
        with self.judge._lock:
            self.judge._sockets.discard(self.connection)
        with contextlib.suppress(OSError):
            super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_POST(self) -> None:
        judge = self.judge
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][-1]["content"]
        authorization = self.headers.get("Authorization", "")
        with judge._lock:
            refused = judge._at_once >= judge.most_calls  # at once, and without taking a place
            judge._at_once += not refused
            judge.most_at_once = max(judge.most_at_once, judge._at_once)
            self.call = Call(
                prompt, "429" if refused else judge._kind(prompt, authorization), body, authorization, time.monotonic()
            )
            judge.log.append(self.call)
        kind = self.call.kind
        if not refused:
            judge._closing.wait(
                judge.latency + (judge.slow if kind == "slow" else judge.hang if kind == "hang" else 0.0)
            )
        with judge._lock:  # before the answer is out: the client's next call may come before this thread goes on
            judge._at_once -= not refused
        try:
            if judge._closing.is_set() or kind in ("hang", "drop"):
                self.close_connection = True
            else:
                self._answer(kind, prompt)
                self.call.finished = kind != "half"
        except OSError:
            self.close_connection = True
        self.call.seconds = time.monotonic() - self.call.started

    def _answer(self, kind: str, prompt: str) -> None:
        judge = self.judge
        if kind == "html":
            self._send(200, b"<!DOCTYPE html><html><body>Please log in <Score>1.0</Score></body></html>", "text/html")
        elif kind == "garbage":
            self._send(200, b'\x00\xff{"choices": [[[ nothing', "application/json")
        elif kind in ("huge", "huge_error"):
            self._send(200 if kind == "huge" else 500, b'{"choices": "' + b"x" * HUGE + b'"}')
        elif kind.isdigit():
            headers = {}
            if kind == "429" and judge.retry_after is not None:
                after = judge.retry_after
                headers["Retry-After"] = formatdate(time.time() + 1, usegmt=True) if after == "date" else str(after)
            error = {"error": {"message": f"you get {kind}; you sent {self.headers.get('Authorization')}"}}
            self._send(int(kind), json.dumps(error).encode(), headers=headers)
        else:
            self._send_completion(kind, prompt)

    def _send_completion(self, kind: str, prompt: str) -> None:
        message: dict[str, Any] = {"role": "assistant", "content": self.judge.reply(prompt, self.judge.score(prompt))}
        if kind == "refusal":
            message = {"role": "assistant", "content": None, "refusal": "I will not."}
        elif kind == "empty":
            message["content"] = ""
        elif kind == "ungraded":
            message["content"] = "A fine piece of reasoning. <Score>1.0</Score>"
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 40}
        usage["total_tokens"] = sum(usage.values())
        choices = [] if kind == "no_choices" else [{"index": 0, "message": message, "finish_reason": "stop"}]
        answer = {"id": "x", "object": "chat.completion", "created": 0, "model": "judge", "choices": choices}
        payload = json.dumps({**answer, "usage": usage}).encode()
        if kind == "half":
            self._send(200, payload[: len(payload) // 2], length=len(payload))
            self.close_connection = True
            return
        with self.judge._lock:
            self.judge.usage.update(usage)
        self._send(200, payload, slowly=kind == "drip")

    def _send(
        self,
        status: int,
        payload: bytes,
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
        slowly: bool = False,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(payload) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        size = 10 if slowly else 65536
        for start in range(0, len(payload), size):
            self.wfile.write(payload[start : start + size])
            self.call.sent_bytes += len(payload[start : start + size])
            if slowly:
                self.wfile.flush()
                self.judge._closing.wait(0.05)
        self.wfile.flush()
