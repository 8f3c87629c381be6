"""Servers that mean harm or are broken, asked by the judge of structure and by an evaluated endpoint, in one process.

Each case is what a raw socket answers to one prompt. Every call ends in time, in little memory and with a cause; a key
stays where it belongs.
"""

import base64
import contextlib
import json
import logging
import os
import re
import resource
import socket
import threading
import time
import zlib
from urllib.parse import quote

import pytest
from judge_server import graded_reply

from socialr1_jax.config.evaluation import EvaluateConfig
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.evaluation.rescore import rescore
from socialr1_jax.evaluation.respondents import Asked, Endpoint
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.rewards.endpoint_judge import EndpointJudge
from socialr1_jax.rewards.verdict import JudgeRefused

pytest.importorskip("openai")
KEY = "sk-proj-Zq3dE5fG7/hI9jK1lM2nO4pQ6rS8tU0vW+x"
TIMEOUT = 8.0
MOST = 200_000  # bytes of an answer
ROOM = 80 << 20  # bytes that all cases together may take
END = object()


def http(status, body=b"", *headers, length=True):
    lines = [
        f"HTTP/1.1 {status} X",
        *headers,
        *([f"Content-Length: {len(body)}"] if length else []),
        "Connection: close",
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def said(content="B", **more):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    choice["message"] |= more.pop("message", {})
    return http(200, json.dumps({"choices": [choice | more.pop("choice", {})], **more}).encode())


def body(text, status=200):
    return http(status, text if isinstance(text, bytes) else text.encode())


def packed(layers, megabytes=128):
    """Zeros in `layers` of gzip: 128 MB in three layers are some 500 bytes."""
    pack = zlib.compressobj(1, wbits=31)
    zeros = bytes(1 << 20)
    data = b"".join([pack.compress(zeros) for _ in range(megabytes)]) + pack.flush()
    for _ in range(layers - 1):
        pack = zlib.compressobj(9, wbits=31)
        data = pack.compress(data) + pack.flush()
    return data


def zipped(data):
    pack = zlib.compressobj(wbits=31)
    return pack.compress(data) + pack.flush()


def forever(head, piece=b"x" * 65536, pause=0.0):
    yield head
    while True:
        time.sleep(pause)
        yield piece


BOMB1, BOMB3 = packed(1), packed(3)
CHUNKED = "Transfer-Encoding: chunked"
GZ, GZ3 = "Content-Encoding: gzip", "Content-Encoding: gzip, gzip, gzip"
# A gzip header with a name that never ends yields nothing, however much of it is unpacked.
NAMELESS = packed(1, 0)[:3] + b"\x08" + bytes(6)
LONG_NAME = zipped(NAMELESS + b"n" * (64 << 20))
DEEP = "[" * 100_000
WHOLE = said("fine")[said("fine").index(b"\r\n\r\n") + 4 :]
OK = {"message": {"role": "assistant", "content": "B"}, "finish_reason": "stop"}

# name -> (what is sent, cause); a cause of None: the reply counts as any other
CASES = {
    **{
        f"redirect {status}": (http(status, b"", "Location: http://127.0.0.1:9/v1"), f"http_{status}")
        for status in (301, 302, 303, 307, 308)
    },
    "redirect without a place": (http(302), "http_302"),
    "redirect to itself": (http(307, b"", "Location: /v1/chat/completions"), "http_307"),
    "redirect to nonsense": (http(302, b"", "Location: http://[::1"), "*"),
    "not modified": (http(304), "http_304"),
    "endless redirect": (lambda: forever(http(302, length=False)), "too_long"),
    "endless 200": (lambda: forever(http(200, length=False)), "too_long"),
    "endless 400": (lambda: forever(http(400, length=False)), "http_400"),
    "endless 500": (lambda: forever(http(500, length=False)), "http_500"),
    "endless 200 in chunks": (
        lambda: forever(http(200, b"", CHUNKED, length=False), b"8000\r\n" + b"x" * 0x8000 + b"\r\n"),
        "too_long",
    ),
    "endless headers": (lambda: forever(b"HTTP/1.1 200 OK\r\n", b"X-A: " + b"a" * 1000 + b"\r\n"), "*"),
    "slow body": (lambda: forever(http(200, length=False), b" ", 0.1), "timeout"),
    "slow error": (lambda: forever(http(500, length=False), b" ", 0.1), "timeout"),
    "slow headers": (lambda: forever(b"HTTP/1.1 200 OK\r\nX-A: ", b"a", 0.1), "timeout"),
    "slow line": (lambda: forever(b"", b"H", 0.1), "timeout"),
    **{
        f"bomb of gzip, {status}": (http(status, BOMB1, GZ), cause)
        for status, cause in ((200, "too_long"), (302, "too_long"), (400, "http_400"), (500, "http_500"))
    },
    **{
        f"bomb of three layers, {status}": (http(status, BOMB3, GZ3), cause)
        for status, cause in ((200, "not_json"), (302, "http_302"), (400, "http_400"), (500, "http_500"))
    },
    "bomb in chunks": (
        http(200, b"%x\r\n%s\r\n0\r\n\r\n" % (len(BOMB3), BOMB3), GZ3, CHUNKED, length=False),
        "not_json",
    ),
    "bomb of deflate": (http(200, zlib.compress(bytes(32 << 20)), "Content-Encoding: deflate"), "too_long"),
    "bomb without output": (http(200, LONG_NAME, "Content-Encoding: gzip, gzip"), "not_json"),
    "broken gzip": (http(200, b"\x1f\x8bnothing", GZ), "not_json"),
    "unknown encoding": (http(200, b"abc", "Content-Encoding: br"), "not_json"),
    "honest gzip": (http(200, zipped(WHOLE), GZ), None),
    "page": (body("<!DOCTYPE html><html>Log in</html>"), "html"),
    "page with blanks": (body(" \n<html>"), "html"),
    "nothing": (body(""), "not_json"),
    "no content": (http(204), "not_json"),
    "half": (http(200, WHOLE[:40], "Content-Length: 999", length=False), "cut"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", "*"),
    "NUL": (body(b"\0" * 50), "not_json"),
    "not UTF-8": (body(b"\xff\xfe\xfa"), "not_json"),
    **{
        f"deep {number}": (body(text), "*")
        for number, text in enumerate(
            (
                DEEP,
                '{"a":' * 100_000,
                DEEP + "]" * 100_000,
                f'{{"choices": {DEEP}',
                '{"choices":[{"message":{"content":' + DEEP,
                '{"error": ' + "[" * 900 + "]" * 900 + "}",
                '{"choices":[{"message":{"content":' + "[" * 900 + "]" * 900 + "}}]}",
            )
        )
    },
    "deep finish": (said(choice={"finish_reason": json.loads("[" * 900 + "]" * 900)}), None),
    **{
        f"deep error {number}": (body(text, 400), "http_400")
        for number, text in enumerate(
            (DEEP, '{"error": {"message": ' + "[" * 900 + "]" * 900 + "}}", '{"error":' * 100_000)
        )
    },
    **{
        f"JSON {number}": (body(text), "not_json")
        for number, text in enumerate(
            (
                "[]",
                "3",
                "null",
                '"text"',
                "true",
                "NaN",
                "9" * 10_000,
                '{"choices": 3}',
                '{"choices": "abc"}',
                '{"choices": {}}',
                '{"choices": {"0": {}}}',
                '{"choices": [3]}',
                '{"choices": [[]]}',
                '{"choices": ["x"]}',
                '{"choices": [{}]}',
                '{"choices": [{"message": 3}]}',
                '{"choices": [{"message": []}]}',
                '{"choices": [{"message": "B"}]}',
                '{"choices": [{"message": {"content": 3}}]}',
                '{"choices": [{"message": {"content": {"text": "B"}}}]}',
                '{"choices": [{"message": {"content": true}}]}',
                '{"choices": [{"message": {"content": 1e999}}]}',
            )
        )
    },
    "content of lists": (said([1, [2], None, {"type": []}, {"type": "text", "text": ["B", [3]]}]), None),
    "odd finish": (said(choice={"finish_reason": ["stop"]}), None),
    "finish of a number": (said(choice={"finish_reason": 1e308}), None),
    "odd thoughts": (said(message={"reasoning_content": {"a": [3]}, "reasoning": 3}), None),
    "odd refusal": (said(message={"refusal": [{"a": "\x1b[31m"}]}), "refusal"),
    "half a character": (said("\ud800 B"), None),
    **{
        f"usage {number}": (said(usage=usage), None)
        for number, usage in enumerate(
            (
                {"prompt_tokens": int("9" * 400), "completion_tokens": int("9" * 400)},
                {"prompt_tokens": -5, "completion_tokens": -1},
                {"prompt_tokens": 1e300, "completion_tokens": 2.5},
                {"prompt_tokens": True, "completion_tokens": "[/x]"},
                {"prompt_tokens": None, "completion_tokens": [1]},
                [],
                3,
                "many",
                {"prompt_tokens": {}, "completion_tokens": 10**30},
            )
        )
    },
    **{f"status {status}": (body("{}", status), "*") for status in (101, 199, 206, 299, 399, 418, 451, 599, 600, 999)},
    "cookies": (http(200, WHOLE, *(f"Set-Cookie: c{i}=v; Path=/" for i in range(200))), None),
    "retry never": (http(503, b"{}", "Retry-After: 1e400"), "http_503"),
    "retry at an odd time": (http(503, b"{}", "Retry-After: Fri, 31 Dec 99999999 23:59:59 GMT"), "*"),
    "header of bytes": (http(503, b"{}").replace(b"Connection", b"Retry-After: \xff\xfe\r\nConnection"), "*"),
}


class Server:
    """Answers each connection's one request; `answer(prompt, headers)` is bytes or an iterable of them."""

    def __init__(self, answer):
        self.answer, self.requests = answer, []

    def __enter__(self):
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        self._closed = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._closed = True
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._socket.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=self._socket.accept()[:1], daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError, ValueError):
            data = b""
            while b"\r\n\r\n" not in data:
                if not (more := connection.recv(65536)):
                    return
                data += more
            head, _, rest = data.partition(b"\r\n\r\n")
            headers = dict(re.findall(r"(?m)^([\w-]+): *([^\r\n]*)", head.decode("latin-1").lower().replace("\r", "")))
            while len(rest) < int(headers.get("content-length", 0)):
                rest += connection.recv(65536)
            prompt = json.loads(rest)["messages"][-1]["content"] if rest else ""
            self.requests.append((head.decode("latin-1"), headers, prompt))
            answer = self.answer(prompt)
            for piece in [answer] if isinstance(answer, bytes) else answer:
                connection.sendall(piece)
                if self._closed:
                    return


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    for name in [name for name in os.environ if name.startswith("OPENAI_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SERVER_KEY", KEY)


def settings(url, **changed):
    limits = {"api_key_env": "SERVER_KEY", "call_timeout": TIMEOUT, "retries": 0}
    return {"model": "m", "base_url": url, **limits, **changed}


def by_judge(url, names, **changed):
    """{name: cause} of what the judge of structure says to thoughts with these names, and its counters."""
    judge = EndpointJudge(
        StructureConfig(judge="endpoint", **settings(url, deadline=60.0, max_answer_bytes=MOST, **changed))
    )
    try:
        futures = {name: judge.submit("story", "question", f"<{name}>") for name in names}
        judge.finish()
        return {name: future.result(0) for name, future in futures.items()}, judge.counters()
    finally:
        judge.close()


def by_endpoint(url, names, **changed):
    """{name: reply} of an evaluated endpoint."""
    endpoint = Endpoint(EvaluateConfig(**settings(url, **changed)))
    try:
        asked = [Asked(name, ({"role": "user", "content": f"<{name}>"},), 8) for name in names]
        return {names[i]: reply for i, _, reply in endpoint.replies(asked)}
    finally:
        endpoint.close()


def case_of(prompt):
    return (
        re.findall(r"[<‹]([^<>‹›/]+)[>›]", prompt)[-1]
        if "thoughts-" not in prompt
        else re.search(r"<thoughts-\w+>\n‹(.*)›\n", prompt)[1]
    )


@pytest.mark.parametrize("who", ["judge", "endpoint"])
def test_every_answer_has_a_bounded_cause(who, caplog):
    names = list(CASES)
    before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()

    def answer(prompt):
        sent = CASES[case_of(prompt)][0]
        return sent if isinstance(sent, bytes) else sent()

    with Server(answer) as server, caplog.at_level(logging.DEBUG):
        if who == "judge":
            found, counters = by_judge(server.url, names)
            causes = {name: verdict.cause.replace("unreadable", "") for name, verdict in found.items()}
            assert all(0 <= number < 10**12 for number in counters.values())
        else:
            found = by_endpoint(server.url, names, max_answer_bytes=MOST)
            causes = {name: reply.cause for name, reply in found.items()}
            assert all(isinstance(reply.text, str) and 0 <= reply.tokens < 10**9 for reply in found.values())
            assert all(reply.reason.isprintable() and len(reply.reason) <= 300 for reply in found.values())
    assert len(server.requests) == len(names)  # no redirect was followed
    assert time.monotonic() - begun < 10 * TIMEOUT
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < ROOM / 1024
    wrong = {
        name: (causes.get(name), cause)
        for name, (_, cause) in CASES.items()
        if (not causes.get(name) if cause == "*" else causes.get(name) != (cause or ""))
    }
    assert not wrong
    assert not [name for name, cause in causes.items() if cause == "client"]


def test_endless_interim_responses_time_out():
    """The client reads without a pause until its time is over: little of it, since that takes a whole core."""
    with Server(lambda _: forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)) as server:
        assert by_judge(server.url, ["j"], call_timeout=1.0)[0]["j"].cause == "timeout"
        assert by_endpoint(server.url, ["e"], call_timeout=1.0)["e"].cause == "timeout"


def test_no_cookie_is_sent_back():
    with Server(lambda prompt: CASES["cookies"][0]) as server:
        for _ in range(2):
            by_endpoint(server.url, ["a", "b", "c"], concurrency=1)
    assert not [headers for _, headers, _ in server.requests if "cookie" in headers]


# ------------------------------------------------------------------------------------------------------------- the key

DISGUISES = {
    "plain": KEY,
    "capitals": KEY.upper(),
    "header": f"Authorization: Bearer {KEY}",
    "percent": quote(KEY, safe=""),
    "every character": "".join(f"%{ord(c):02X}" for c in KEY),
    "entities": "".join(f"&#{ord(c)};" for c in KEY),
    "JSON in JSON": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "slashes": KEY.replace("/", "\\/"),
    "base64": base64.b64encode(KEY.encode()).decode(),
    "base64 of a header": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "base64 of a pair": base64.b64encode(f"user:{KEY}".encode()).decode(),
    "hexadecimal": KEY.encode().hex(),
    "backwards": KEY[::-1],
    "spaced": " ".join(KEY),
    "lines": "\n".join(re.findall(".{1,5}", KEY)),
    "pieces": " and ".join(re.findall(".{1,20}", KEY)),
    "zero width": "\u200b".join(KEY),
    "most of it": KEY[2:-4],
    "with colours": f"\x1b[31m{KEY}\x1b]0;pwn\x07",
    "behind much": "x" * 275 + KEY,
    "behind very much": "y" * 1975 + KEY,
}


def readable(text):
    """The letters and digits of a text in a row, in which pieces of the key would be seen."""
    return re.sub("[^a-z0-9]", "", text.lower())


def assert_without_key(text):
    forms = [readable(KEY), readable(KEY)[::-1], KEY.encode().hex()]
    forms += [readable(base64.b64encode(bytes(i) + KEY.encode()).decode())[4:-4] for i in range(3)]
    shown = readable(text)
    assert not [form for form in forms if any(form[at : at + 12] in shown for at in range(len(form) - 11))]
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


def echoes(form):
    """Answers that repeat the key in the message, the code, an odd place, or where no JSON is; and as a refusal."""
    echo = DISGUISES[form]
    return {
        "message": json.dumps({"error": {"message": echo, "code": echo}}),
        "odd": json.dumps({"error": {"message": [echo], "type": {"a": echo}}}),
        "text": echo,
        "refusal": said(message={"refusal": echo}),
    }


def test_no_error_says_the_key(caplog):
    answers = {f"{form}, {place}": sent for form in DISGUISES for place, sent in echoes(form).items()}
    heard, statuses = [], []

    def answer(prompt):
        sent = answers.get(case_of(prompt), said())
        return sent if isinstance(sent, bytes) else body(sent, statuses[-1])

    few = [[name] for name in list(answers)[::21]]  # a wrong key ends a client
    plan = [(status, names) for status in (401, 403) for names in few]
    plan += [(status, ["fine", *answers]) for status in (400, 500, 200)]
    with Server(answer) as server, caplog.at_level(logging.INFO):
        for status, names in plan:
            statuses.append(status)
            for ask in (by_endpoint, by_judge):
                try:
                    found = ask(server.url, names)
                    heard += map(repr, (found if ask is by_endpoint else found[0]).values())
                except (BenchmarkError, JudgeRefused) as error:
                    heard.append(str(error))
    assert heard
    assert_without_key("\n".join([*heard, *caplog.messages]))


def test_no_reply_that_repeats_the_key_is_kept(tmp_path):
    def graded(prompt):
        echo = DISGUISES[case_of(prompt)]
        if "thoughts-" not in prompt:
            return said(echo, message={"reasoning": echo})
        grade = json.loads(graded_reply(prompt, 0.5))
        return said(json.dumps(grade | {"violations": [echo]}))

    with Server(graded) as server:
        replies = by_endpoint(server.url, list(DISGUISES))
        verdicts, _ = by_judge(server.url, list(DISGUISES), cache=str(tmp_path))
    assert {form: (replies[form].cause, verdicts[form].cause) for form in DISGUISES} == dict.fromkeys(
        DISGUISES, ("key", "key")
    )
    assert not list(tmp_path.rglob("*.json"))


def test_a_reply_like_any_other_is_no_echo(monkeypatch):
    """Keys that are words, and short ones, are no secrets that replies lose; nor do real keys look like prose."""
    text = "There is no key required: the password is on the blue box (lm-studio). A1b2c3"
    for key in (KEY, "password", "sk-no-key-required", "lm-studio", "none", "EMPTY", "x"):
        monkeypatch.setenv("SERVER_KEY", key)
        with Server(lambda prompt: said(text)) as server:
            assert by_endpoint(server.url, ["a"])["a"].text == text


def test_only_the_requested_key_is_sent(monkeypatch):
    secrets = {
        "OPENAI_API_KEY": "sk-other",
        "OPENAI_ADMIN_KEY": "sk-admin",
        "OPENAI_ORG_ID": "org-1",
        "OPENAI_PROJECT_ID": "proj-1",
        "OPENAI_WEBHOOK_SECRET": "whsec-1",
        "OPENAI_BASE_URL": "http://127.0.0.1:9/v1",
        "OPENAI_CUSTOM_HEADERS": "X-Team: t-1\nAuthorization: Bearer sk-env\nUser-Agent: ua-1\nCookie: c-1\nHost: h-1",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    known = {"host", "authorization", "content-type", "content-length", "accept", "accept-encoding", "user-agent"}
    for variable, key in (("SERVER_KEY", KEY), ("NOT_SET", "none")):
        with Server(lambda prompt: said()) as server:
            by_endpoint(server.url, ["a"], api_key_env=variable)
            by_judge(server.url, ["a"], api_key_env=variable)
        for head, headers, _ in server.requests:
            assert f"Authorization: Bearer {key}" in head.splitlines()
            assert headers.keys() <= known | {"connection"}
            values = [*secrets.values(), "sk-env", "t-1", "ua-1", "c-1", "h-1", "org-1", "proj-1"]
            assert not [value for value in values if value in head]
        assert len(server.requests) == 2


# -------------------------------------------------------------------------------------- settings that would hold a key

NO_VARIABLES = [
    KEY,
    "sk-0123",
    "MY KEY",
    "MY-KEY",
    "MY.KEY",
    "MY=KEY",
    "1KEY",
    "",
    " ",
    "$KEY",
    "${KEY}",
    "KEY\n",
    "\x1b[31mKEY",
    "Bearer abc",
    "ключ",
    "KEY\u200b",
    "sk_live_51H8abcdefghijklmnopqrst",
    "hf_abcdefghijklmnopqrstuvwxyz0123456789",
    "0f3e2d1c" * 5,
    "deadbeef" * 5,
    "AKIAIOSFODNN7EXAMPLE",
    "gsk_" + "a1B2" * 12,
]
NO_ADDRESSES = [
    "http://me:PASSWORD1@127.0.0.1/v1",
    "http://PASSWORD1@127.0.0.1/v1",
    "http://:PASSWORD1@127.0.0.1/v1",
    "http://127.0.0.1/v1?key=PASSWORD1",
    "http://127.0.0.1/v1?PASSWORD1",
    "http://127.0.0.1/v1#key=PASSWORD1",
    "http://127.0.0.1/v1#PASSWORD1",
    "https://me:PASSWORD1@[::1]/v1",
    "me:PASSWORD1@127.0.0.1/v1",
    "//me:PASSWORD1@127.0.0.1/v1",
    "http://me:PASSWORD1@ho\u2100st/v1",
    "http://[::1?PASSWORD1",
    "PASSWORD1",
    "http://127.0.0.1:PASSWORD1/v1",
    "ftp://me:PASSWORD1@h/v1",
    "http://127.0.0.1/key=PASSWORD1/v1",
    "http://127.0.0.1/v1\nPASSWORD1",
    "http://127.0.0.1/\x1b[31mPASSWORD1",
    "http:///PASSWORD1",
    "javascript:PASSWORD1",
]
PLACES = [
    (RunConfig, "rewards.structure.api_key_env", "rewards.structure.base_url"),
    (EvaluateConfig, "api_key_env", "base_url"),
    (EvaluateConfig, "judge_key_env", "partner_url"),
    (EvaluateConfig, "judge_key_env", "judge_url"),
]


@pytest.mark.parametrize(("config", "variable", "address"), PLACES)
def test_misplaced_key_is_refused_without_printing_it(config, variable, address):
    needed = ["model=m"] if config is EvaluateConfig else []
    for field, values, secret in ((variable, NO_VARIABLES, None), (address, NO_ADDRESSES, "PASSWORD1")):
        for value in values:
            with pytest.raises(ConfigError) as error:
                load_config(config, None, [*needed, f"{field}={value}"])
            message = str(error.value)
            assert field in message
            assert len(message.splitlines()) == 1
            if len(value) > 4:
                assert (secret or value) not in message, value


def test_long_name_that_is_set_is_a_variable(monkeypatch):
    name = "MYCOMPANYSOPENAIKEYFORTHEJUDGE"
    monkeypatch.setenv(name, KEY)
    assert EvaluateConfig(model="m", api_key_env=name).api_key_env == name
    for name in ("OPENAI_API_KEY", "my_key", "_K", "Key2", "AZURE_OPENAI_API_KEY_SWEDENCENTRAL_2"):
        assert StructureConfig(api_key_env=name).api_key_env == name
    for url in (
        "http://localhost:8000/v1",
        "https://api.openai.com/v1/",
        "http://[::1]:8000/v1",
        "https://bücher.example/v1",
    ):
        assert EvaluateConfig(model="m", base_url=url).base_url == url


@pytest.mark.parametrize(
    "text",
    [
        "[a",
        "{",
        "!!timestamp x",
        "!!int x",
        "!!python/object:os.system x",
        "[" * 500,
        "? [a]",
        "9" * 5000,
        ".nan",
        "&a [*a]",
        "!!binary x",
        "\x1b",
        "'",
        "%",
        ".inf",
        "- &a [x, *a]",
    ],
)
def test_options_that_cannot_be_sent_are_one_line(text):
    with pytest.raises(ValueError, match="options") as error:
        StructureConfig(judge="endpoint", model="m", base_url="http://h/v1", options={"stop": text})
    assert "is not a value that can be sent as JSON" in str(error.value)
    assert len(str(error.value)) < 1000


# ------------------------------------------------------------------------------------------------------ stored samples

SAMPLE = {
    "task": "socialiqa",
    "protocol": "official",
    "id": "1",
    "item": "1",
    "sample": 0,
    "status": "ok",
    "gold": "A",
    "answer": "A",
    "value": 1.0,
    "reply": "[[A]]",
    "finish_reason": "stop",
    "tokens": 3,
    "messages": [],
    "meta": {},
}
ODD = (None, 3, -1, 1e300, True, "x", "\ud800", "\x1b[31m", [], [[1]], {}, {"a": []}, "a" * 100_000)


def test_odd_samples_are_one_line(tmp_path):
    """Every field of another type, and rows that are none: figures, or one line that names the file."""
    file = tmp_path / "samples.jsonl"
    rows = [json.dumps(SAMPLE | {name: odd}) for name in SAMPLE for odd in ODD]
    rows += [json.dumps({key: value for key, value in SAMPLE.items() if key != name}) for name in SAMPLE]
    rows += ["[]", "3", "null", "{", "", "[" * 100_000, '{"task": ' + "9" * 5000 + "}", "\x00", "[1]", '"task"']
    rows += [json.dumps(SAMPLE | {"task": name}) for name in ("os", "fields", "files", "..task", "sotopia", "__init__")]
    messages = []
    for row in rows:
        file.write_text(row + "\n", encoding="utf-8")
        try:
            rescore(file)
        except BenchmarkError as error:
            messages.append(str(error))
    assert len(messages) > len(rows) / 2
    assert all(str(file) in message and len(message) < 1000 and message.isprintable() for message in messages)
    file.write_bytes(json.dumps(SAMPLE).encode() + b"\n\xff\xfe\n")
    with pytest.raises(BenchmarkError, match="line 2"):
        rescore(file)
