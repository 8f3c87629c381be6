"""The chat client on what real servers do, through scripts/evaluate.py: figures, exit status and words, twice each."""

import importlib.util
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from socialr1_jax.chat.answers import PLAIN_NAMES, Reply, read_refusal, server_words
from socialr1_jax.chat.client import ChatClient, ChatRefused
from socialr1_jax.config.server import ServerConfig
from socialr1_jax.data.chat_template import whole_text
from socialr1_jax.evaluation.sotopia.models import spoken

pytest.importorskip("openai")
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "evaluate.py"
COUNT = 40
CONTEXT = "This model's maximum context length is 2048 tokens. Please reduce the length of the messages."
FILTERED = "The response was filtered due to the prompt triggering the content management policy."
MAX_TOKENS = (
    "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
)
TOGETHER = "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
NO_SEED = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]


def said(content, finish="stop", **more):
    return {"choices": [{"finish_reason": finish, "message": {"role": "assistant", "content": content, **more}}]}


def error(message, **more):
    return {"error": {"message": message, **more}}


def answer(manner, body, number):
    """(status, body, headers) of the call with this number, from 1."""
    text, cut = body["messages"][-1]["content"], "Let me think about (B), and the answer is B"
    half = number % 2
    return {
        "context": (400, error(CONTEXT)) if "long day" in text else (),
        "too_large": (413, "<html>Request Entity Too Large</html>") if "long day" in text else (),
        "filter": (400, error(FILTERED, code="content_filter")) if "Story 31" in text else (),
        "moderation": (403, error("Your input was flagged by moderation")) if "Story 31" in text else (),
        "o3": (400, error(MAX_TOKENS)) if "max_tokens" in body else (),
        "claude": (400, error(TOGETHER)) if {"temperature", "top_p"} <= body.keys() else (),
        "seed422": (422, {"detail": NO_SEED}) if "seed" in body else (),
        "refuses_all": (400, error("no such thing")),
        "cut_reasoning_content": (200, said(None, "length", reasoning_content=cut)),
        "cut_reasoning": (200, said(None, "length", reasoning=cut)),
        "cut_with_end": (200, said("", "length", reasoning=cut + "</think>B")),
        "cut_untagged": (200, said(cut, "length")),
        "cut_parts": (200, said([{"type": "thinking", "thinking": [{"type": "text", "text": "B"}]}], "length")),
        "cut_max_tokens": (200, said("Let me think: (B)", "max_tokens")),
        "thoughts_only": (200, said(None, reasoning_content=cut)),
        "firewall": (403, "<html>Blocked</html>") if "Story 31" in text else (),
        "refuses_some": (400, error("no such thing")) if "Story 0" in text else (),
        "abort": (200, said("", "abort")),
        "parts": (200, said([{"type": "thinking", "thinking": "A"}, {"type": "text", "text": "[[B]]"}])),
        "absent": (200, {"choices": [{"finish_reason": "stop", "message": {"role": "assistant"}}]}),
        "error_body": (200, error("Rate limit exceeded", code=429)) if number % 3 == 0 else (),
        "error_in_choice": (200, {"choices": [{"error": {"code": 502, "message": "down"}}]}) if half else (),
        "null_choices": (200, {"choices": None}) if half else (),
        "429": (429, error("slow down"), {"Retry-After": "0"}) if half else (),
        "web_page": (200, "<html>Please log in: the answer is B</html>"),
        "500": (500, error("on fire")),
    }.get(manner, ()) or (200, said("[[B]]"))


@pytest.fixture
def server():
    """A chat server with `manner`; `bodies` holds what it was asked."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                httpd.bodies.append(body)
                number = len(httpd.bodies)
            status, reply, *headers = answer(httpd.manner, body, number)
            if httpd.manner == "refuses_some" and status == 200:  # refusals come first
                time.sleep(0.3)
            data = (reply if isinstance(reply, str) else json.dumps(reply)).encode()
            self.send_response(status)
            for name, value in {"Content-Length": str(len(data)), **(headers[0] if headers else {})}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size, daemon_threads = 256, True

    lock, httpd = threading.Lock(), Server(("127.0.0.1", 0), Handler)
    httpd.bodies, httpd.manner = [], ""
    threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("evaluate_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """SocialIQA of made-up stories; "stay" (B) is right in every second one, and every tenth one is long."""
    folder = tmp_path_factory.mktemp("data")
    (folder / "socialiqa").mkdir()
    rows = [
        {
            "context": f"Story {i:02d}: Ann left." + " It was a long day." * (i % 10 == 3),
            "question": "What next?",
            "answerA": "go",
            "answerB": "stay",
            "answerC": "run",
        }
        for i in range(COUNT)
    ]
    (folder / "socialiqa/dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "socialiqa/dev-labels.lst").write_text("".join(f"{1 + i % 2}\n" for i in range(COUNT)))
    return folder


@pytest.fixture
def run(main, data, server, tmp_path, capsys, monkeypatch):
    """(manner, further arguments) -> exit status, results or None, what was said; into the same folder each time."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)

    def call(manner, *arguments, port=None):
        server.manner = manner
        status = main(
            [
                "--model",
                "m",
                "--base_url",
                f"http://127.0.0.1:{port or server.server_port}/v1",
                "--tasks",
                "socialiqa",
                "--data_dir",
                str(data),
                "--output",
                str(tmp_path / "out"),
                "--protocols",
                "official",
                *arguments,
            ]
        )
        heard = capsys.readouterr()
        file = tmp_path / "out" / "results.json"
        return (
            status,
            json.loads(file.read_text()) if file.exists() else None,
            " ".join((heard.out + heard.err).split()),
        )

    return call


@pytest.mark.parametrize(
    ("manner", "status", "share", "accuracy"),
    [
        ("ok", "ok", 1.0, (0.5, 40)),
        ("context", "too_long", 0.1, (16 / 36, 36)),
        ("too_large", "too_long", 0.1, (16 / 36, 36)),
        ("filter", "refused", 1 / 40, (19 / 39, 39)),
        ("moderation", "refused", 1 / 40, (19 / 39, 39)),
        ("cut_reasoning_content", "truncated", 1.0, (0.0, 40)),
        ("cut_reasoning", "truncated", 1.0, (0.0, 40)),
        ("cut_with_end", "truncated", 1.0, (0.0, 40)),
        ("cut_untagged", "truncated", 1.0, (0.0, 40)),
        ("cut_parts", "truncated", 1.0, (0.0, 40)),
        ("cut_max_tokens", "truncated", 1.0, (0.0, 40)),
        ("thoughts_only", "unparsable", 1.0, (0.0, 40)),
        ("firewall", "refused", 1 / 40, (19 / 39, 39)),
        ("refuses_some", "refused", 10 / 40, (0.5, 30)),
        ("parts", "ok", 1.0, (0.5, 40)),
        ("absent", "unparsable", 1.0, (0.0, 40)),
        ("error_body", "ok", 1.0, (0.5, 40)),
        ("error_in_choice", "ok", 1.0, (0.5, 40)),
        ("null_choices", "ok", 1.0, (0.5, 40)),
        ("429", "ok", 1.0, (0.5, 40)),
    ],
)
def test_manners_of_servers(run, server, manner, status, share, accuracy):
    for repeated in (False, True):
        before = len(server.bodies)
        code, results, heard = run(manner, "retries=6")
        figure = results["results"]["socialiqa"]["official/accuracy"]
        assert (code, figure["value"], figure["n"]) == (0, pytest.approx(accuracy[0]), accuracy[1])
        assert results["status"]["socialiqa"]["official"][status] == share
        failed = COUNT - accuracy[1]
        assert results["reportable"] == (not failed)
        again = [body["messages"][-1]["content"] for body in server.bodies[before:]]
        if repeated:  # only what failed is asked once more
            assert len(set(again)) == len(again) == failed
        if failed:
            reason = {"filter": FILTERED, "context": CONTEXT}.get(manner, "")
            assert reason in heard
            assert any(
                reason in note and f"{failed} of {COUNT} replies failed" in note
                for note in results["notes"]["socialiqa"]
            )


@pytest.mark.parametrize(
    ("manner", "fix", "name"),
    [
        ("o3", "options.max_tokens=max_completion_tokens", "max_completion_tokens"),
        ("claude", "options.top_p=", "temperature"),
        ("seed422", "options.seed=", "temperature"),
    ],
)
def test_refused_parameter_is_named_with_its_option(run, server, manner, fix, name):
    for _ in range(2):
        server.bodies.clear()
        code, results, heard = run(manner, "concurrency=4")
        assert (code, results) == (2, None)
        assert f"set {fix}" in heard
        assert len(server.bodies) < COUNT  # it ends at once
    server.bodies.clear()
    for _ in range(2):
        code, results, _ = run(manner, fix)
        assert (code, results["results"]["socialiqa"]["official/accuracy"]["n"]) == (0, COUNT)
    assert all(name in body for body in server.bodies[-COUNT:])


@pytest.mark.parametrize(
    ("manner", "reason"),
    [("web_page", "html 40"), ("500", "http_500 40: on fire"), ("abort", "http_502 40"), ("dead", "connection 40")],
)
def test_no_figure_and_status_1_if_all_fail(run, manner, reason):
    for _ in range(2):
        code, results, heard = run(manner, "retries=1", port=9 if manner == "dead" else None)
        assert (code, results["results"]["socialiqa"], results["reportable"]) == (1, {}, False)
        assert f"socialiqa: no reply at all ({reason}" in heard
        assert reason in results["failed"]["socialiqa"]


def test_a_refusal_of_every_call_ends_at_once(run, server):
    code, results, heard = run("refuses_all", "concurrency=2")
    assert (code, results) == (2, None)
    assert "no such thing" in heard
    assert len(server.bodies) < 20


def test_key_with_line_end_is_trimmed_or_refused(run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdef\n")
    assert run("ok")[0] == 0
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abc\ndef")
    code, _, heard = run("ok")
    assert code == 2
    assert "OPENAI_API_KEY contains characters" in heard
    assert "sk-abc" not in heard


def test_short_key_is_not_masked_in_words(run, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    assert "set options.max_tokens=max_completion_tokens" in run("o3")[2]


def test_unsendable_text_is_a_failure_of_its_own(server):
    client = ChatClient(ServerConfig(model="m", base_url=f"http://127.0.0.1:{server.server_port}/v1"))
    odd, good = (client.ask([{"role": "user", "content": text}], {}).result(10) for text in ("\ud800", "q"))
    client.close()
    assert (odd.finish_reason, odd.cause, good.text) == ("error", "client", "[[B]]")


def test_a_stored_odd_reply_is_asked_again(run, tmp_path):
    run("ok")
    file = tmp_path / "out" / "replies.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    odd = [{"text": ["[[B]]"]}, {"text": None}, {"tokens": "5"}, {"finish_reason": None}, {"key": 3}]
    for row, change in zip(rows, odd, strict=False):
        row.update(change)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, results, _ = run("ok")
    assert (code, results["results"]["socialiqa"]["official/accuracy"]["n"]) == (0, COUNT)


def test_options_are_refused_before_any_call():
    for options, words in (({"model": "x"}, "may not hold 'model'"), ({"a": "[1"}, "not a value that can be sent")):
        with pytest.raises(ValueError, match=words):
            ServerConfig(model="m", base_url="http://127.0.0.1/v1", options=options)
    with pytest.raises(ChatRefused, match="NO_KEY is not set"):
        ChatClient(ServerConfig(model="m", base_url="https://far.example/v1", api_key_env="NO_KEY"))


@pytest.mark.parametrize(
    ("message", "cut", "text"),
    [
        ({"content": "A"}, False, "A"),
        ({"content": "A"}, True, "<think>A"),
        ({"content": "x</think>A"}, True, "x</think>A"),
        ({"content": "A", "reasoning_content": "x"}, True, "<think>x</think>A"),
        ({"content": None, "reasoning": "x"}, False, "<think>x</think>"),
        ({"content": " ", "reasoning": "x</think>A"}, True, "<think>xA"),
        ({"content": ["A", {"type": "text", "text": "B"}, {"type": "image"}, 3, None]}, False, "AB"),
        ({"content": [{"type": "thought", "text": "A"}, {"type": "text", "text": "B"}]}, False, "<think>A</think>B"),
        ({}, False, ""),
    ],
)
def test_the_whole_text_of_a_message(message, cut, text):
    assert whole_text(message, cut=cut) == text


# (status, the server's words, its code) -> what it means
REFUSALS = [
    (400, "temperature exceeds the maximum of 1", "invalid_request_error", "parameter"),
    (400, "max_tokens is too large: 20000. This model supports at most 4096 completion tokens", "", "parameter"),
    (400, "This model's maximum context length is 4096 tokens and max_tokens is 500", "", "too_long"),
    (400, "max_tokens must be at least 1, got -173.", "", "too_long"),
    (400, "The decoder prompt (length 9000) is longer than the maximum model length of 8192.", "", "too_long"),
    (400, "Please check.", "context_length_exceeded", "too_long"),
    (403, "Key limit exceeded (total limit)", "invalid_request_error", "access"),
    (401, "Invalid API key. API keys are case-sensitive", "", "access"),
    (400, "Your credit balance is too low", "", "access"),
    (400, "Model Not Exist", "", "access"),
    (400, "Content Exists Risk", "", "refused"),
    (403, "Your input was flagged", "", "refused"),
    (400, "no such thing", "", "unknown"),
]


def test_what_refusals_mean():
    sent = ("temperature", "top_p", "seed", "max_tokens")
    found = []
    for status, message, code, _ in REFUSALS:
        words = server_words(json.dumps({"error": {"message": message, "code": code}}))[1]
        found.append(read_refusal(status, words, sent, PLAIN_NAMES).kind)
    assert found == [kind for *_, kind in REFUSALS]


def test_closing_a_client_leaves_no_open_call(server):
    client = ChatClient(ServerConfig(model="m", base_url=f"http://127.0.0.1:{server.server_port}/v1"))
    calls, done = [], threading.Event()

    def ask():
        while not done.is_set():
            calls.append(client.ask([{"role": "user", "content": "q"}], {}))
            time.sleep(0.001)  # thousands of calls would take a loaded machine long to end

    thread = threading.Thread(target=ask)
    thread.start()
    time.sleep(0.2)
    client.close()
    done.set()
    thread.join()
    assert len(calls) > 1
    until = time.monotonic() + 30
    while not all(call.done() for call in calls) and time.monotonic() < until:
        time.sleep(0.01)
    assert all(call.done() for call in calls)


def test_turn_in_cut_thoughts_is_no_turn():
    turn = '{"action_type": "speak", "argument": "I confess."}'
    assert spoken(Reply(f"<think>I could say {turn}", "length", 9)).text == ""
    assert spoken(Reply(f"<think>I could say {turn}", "length", 9)).truncated
    assert spoken(Reply(f"<think>hm</think>{turn}", "stop", 9)).text == turn
    assert "no reply: too_long" in spoken(Reply("", "too_long", 0, "too_long", "2300 tokens")).error
