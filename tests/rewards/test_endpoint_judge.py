"""The judge behind an endpoint against a real HTTP server: speed, limits, faults, accounting; no key gets out."""

import builtins
import contextlib
import io
import itertools
import json
import logging
import math
import os
import socket
import subprocess
import sys
import threading
import time
import traceback

import pytest
from judge_server import HUGE, JudgeServer, graded_reply, hashed_score

from socialr1_jax.chat import client as chat
from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.rewards.endpoint_judge import EndpointJudge
from socialr1_jax.rewards.rubric import rubric_messages
from socialr1_jax.rewards.verdict import JudgeRefused, Verdict

KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def config_of(server, **changed):
    fields = {"judge": "endpoint", "model": "judge", "base_url": server if isinstance(server, str) else server.base_url}
    return StructureConfig.model_validate(fields | {"call_timeout": 5.0, "deadline": 20.0} | changed)


@contextlib.contextmanager
def judge_at(server, **changed):
    judge = EndpointJudge(config_of(server, **changed))
    try:
        yield judge
    finally:
        judge.close()


def thoughts(number):
    return f"{number}. Anna saw the coin; so she thinks it is there."


def ask(judge, numbers):
    """Verdicts in the order of the numbers."""
    futures = [judge.submit("story", "question", thoughts(number)) for number in numbers]
    judge.finish()
    assert all(future.done() for future in futures)
    return [future.result(0) for future in futures]


def causes(verdicts):
    assert all(math.isnan(verdict.score) == bool(verdict.cause) for verdict in verdicts)
    return [verdict.cause for verdict in verdicts]


def prompt(number):
    return rubric_messages("story", "question", thoughts(number))[1]["content"]


def free_port():
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


# ---------------------------------------------------------------------------------------------------- what is sent


def test_every_response_gets_its_own_score():
    with JudgeServer() as server, judge_at(server) as judge:
        verdicts = ask(judge, range(50))
    assert [verdict.score for verdict in verdicts] == [hashed_score(prompt(number)) for number in range(50)]
    assert len({verdict.score for verdict in verdicts}) > 10
    assert set(verdicts[0].stages) == {"encode", "interpret", "goal", "respond"}


def test_what_is_sent(monkeypatch):
    options = {"seed": "7", "top_p": "0.9", "reasoning_effort": "low", "guided": "true"}
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    with JudgeServer(key=KEY) as server:
        with judge_at(server, temperature=0.5, max_tokens=77, options=options, api_key_env="MY_KEY") as judge:
            assert causes(ask(judge, [0])) == [""]
        (call,) = server.log
    assert call.body == {
        "model": "judge",
        "messages": rubric_messages("story", "question", thoughts(0)),
        "temperature": 0.5,
        "max_tokens": 77,
        "seed": 7,
        "top_p": 0.9,
        "reasoning_effort": "low",
        "guided": True,
    }


def test_an_empty_option_takes_a_parameter_away():
    options = {"max_tokens": None, "max_completion_tokens": 99}
    with JudgeServer() as server:
        with judge_at(server, options=options) as judge:
            ask(judge, [0])
        assert set(server.log[0].body) == {"model", "messages", "temperature", "max_completion_tokens"}


@pytest.mark.parametrize("name", ["model", "messages", "stream", "n"])
def test_options_may_not_override_the_judge(name):
    with pytest.raises(ValueError, match=name):
        EndpointJudge(config_of("http://127.0.0.1:1/v1", options={name: "x"}))


@pytest.mark.parametrize("url", ["localhost:8000/v1", "ftp://host/v1", "http:///v1"])
def test_an_address_that_is_none(url):
    with pytest.raises(ValueError, match="http://host:8000/v1"):
        EndpointJudge(config_of(url))


@pytest.mark.parametrize("url", [f"http://me:{KEY}@127.0.0.1/v1", f"http://127.0.0.1/v1?key={KEY}"])
def test_address_with_a_secret_is_never_printed(url):
    with pytest.raises(ValueError, match="OPENAI_API_KEY") as error:
        EndpointJudge(config_of(url))
    assert KEY not in str(error.value)


def test_submit_and_finish_do_not_wait_needlessly():
    with JudgeServer(latency=0.3) as server, judge_at(server) as judge:
        started = time.monotonic()
        futures = [judge.submit("story", "question", thoughts(number)) for number in range(20)]
        assert time.monotonic() - started < 0.2
        assert not any(future.done() for future in futures)
        futures[0].result(5)  # answers come without finish
        judge.finish()
        assert time.monotonic() - started < 1.5
        judge.finish()  # nothing is left


# -------------------------------------------------------------------------------------------------- failures, retries


@pytest.mark.parametrize(
    ("kind", "cause", "tries"),
    [
        ("500", "http_500", 3),
        ("503", "http_503", 3),
        ("429", "http_429", 3),
        ("drop", "connection", 3),
        ("half", "cut", 3),
        ("400", "http_400", 1),
        ("garbage", "not_json", 1),
        ("html", "html", 1),
        ("no_choices", "not_json", 1),
        ("refusal", "refusal", 1),
        ("empty", "no_answer", 1),
        ("ungraded", "unreadable", 1),
    ],
)
def test_each_failure_has_its_cause_and_its_tries(kind, cause, tries):
    with JudgeServer(faults={kind: 1.0}) as server, judge_at(server, retries=2) as judge:
        assert causes(ask(judge, range(2))) == [cause] * 2
        counters = judge.counters()
        assert server.count(kind) == server.count() == counters["calls"] == 2 * tries
    assert counters["retries"] == 2 * (tries - 1)
    assert {name: count for name, count in counters.items() if "/" in name} == {f"failed/{cause}": 2.0}


@pytest.mark.parametrize("kind", ["500", "503", "429", "drop", "half"])
def test_a_failure_that_passes_is_made_good(kind):
    with JudgeServer(plan=(kind, kind)) as server, judge_at(server, retries=2) as judge:
        (verdict,) = ask(judge, [0])
        assert verdict.score == hashed_score(prompt(0))
        assert [call.kind for call in server.log] == [kind, kind, "ok"]
        counters = judge.counters()
    assert (counters["calls"], counters["retries"]) == (3, 2)
    assert not any("/" in name for name in counters)


def test_hanging_call_is_given_up_and_retried():
    with JudgeServer(plan=("hang",)) as server, judge_at(server, call_timeout=0.3) as judge:
        started = time.monotonic()
        assert causes(ask(judge, [0])) == [""]
        assert 0.3 <= time.monotonic() - started < 2.0
        assert [call.kind for call in server.log] == ["hang", "ok"]


@pytest.mark.parametrize("kind", ["hang", "drip"])
def test_hanging_or_dripping_server_is_a_timeout(kind):
    with JudgeServer(faults={kind: 1.0}) as server, judge_at(server, call_timeout=0.2, retries=1) as judge:
        started = time.monotonic()
        assert causes(ask(judge, range(4))) == ["timeout"] * 4
        assert time.monotonic() - started < 1.5
        assert server.count(kind) == judge.counters()["calls"] == 8


def test_a_dead_endpoint_is_unscorable_and_quick():
    with judge_at(f"http://127.0.0.1:{free_port()}/v1", retries=2) as judge:
        started = time.monotonic()
        assert causes(ask(judge, range(10))) == ["connection"] * 10
        assert time.monotonic() - started < 3.0
        counters = judge.counters()
    assert (counters["calls"], counters["retries"], counters["failed/connection"]) == (30, 20, 10)
    assert "latency" not in counters


def test_pauses_grow_with_jitter(monkeypatch):
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.1)
    with JudgeServer(faults={"500": 1.0}) as server, judge_at(server, retries=3) as judge:
        ask(judge, range(16))
        starts = {}
        for call in server.log:
            starts.setdefault(call.prompt, []).append(call.started)
    gaps = [[later - first for first, later in itertools.pairwise(each)] for each in starts.values()]
    for number, longest in enumerate((0.1, 0.2, 0.4)):
        assert min(gap[number] for gap in gaps) >= longest * 0.75
    assert min(gap[2] for gap in gaps) < 0.4  # three quarters to all of it, and not the same for all


@pytest.mark.parametrize("after", [0.4, "date"])
def test_retry_after_is_honoured(after):
    with JudgeServer(plan=("429",), retry_after=after) as server, judge_at(server) as judge:
        assert causes(ask(judge, [0])) == [""]
        first, second = server.log
    assert second.started - first.started >= (0.4 if after == 0.4 else 0.0)
    assert second.started - first.started < 2.5


def test_a_wait_beyond_the_deadline_is_not_begun():
    with JudgeServer(faults={"429": 1.0}, retry_after=3600) as server, judge_at(server) as judge:
        started = time.monotonic()
        assert causes(ask(judge, [0])) == ["http_429"]
        assert time.monotonic() - started < 2.0
        assert server.count() == 1


def test_answer_of_20_mb_is_cut_off():
    with JudgeServer(faults={"huge": 1.0}) as server, judge_at(server, max_answer_bytes=100_000) as judge:
        assert causes(ask(judge, [0])) == ["too_long"]
        time.sleep(0.2)
        assert server.count() == 1
        assert server.log[0].sent_bytes < HUGE / 2
        assert not server.log[0].finished


def test_error_of_20_mb_is_not_read():
    with JudgeServer(faults={"huge_error": 1.0}) as server, judge_at(server, retries=1) as judge:
        assert causes(ask(judge, [0])) == ["http_500"]
        time.sleep(0.2)
        assert max(call.sent_bytes for call in server.log) < HUGE / 2


def test_the_size_limit_is_exact():
    with JudgeServer(reply=lambda prompt, score: " " * 5000 + graded_reply(prompt, score)) as server:
        with judge_at(server, max_answer_bytes=5000) as judge:
            assert causes(ask(judge, [0])) == ["too_long"]
        with judge_at(server, max_answer_bytes=6000) as judge:
            assert causes(ask(judge, [0])) == [""]


def test_random_faults_match_the_log_of_the_server():
    faults = {"500": 0.1, "garbage": 0.1, "html": 0.1, "hang": 0.05, "half": 0.05, "429": 0.1}
    expected = {
        "500": "http_500",
        "garbage": "not_json",
        "html": "html",
        "hang": "timeout",
        "half": "cut",
        "429": "http_429",
        "ok": "",
    }
    with JudgeServer(faults=faults, latency=0.01) as server, judge_at(server, retries=1, call_timeout=2.0) as judge:
        verdicts = ask(judge, range(120))
        last = server.last_kind()
        counters = judge.counters()
    assert causes(verdicts) == [expected[last[prompt(number)]] for number in range(120)]
    for number, verdict in enumerate(verdicts):
        assert verdict.cause or verdict.score == hashed_score(prompt(number))
    assert len(set(causes(verdicts))) >= 5
    assert counters["calls"] == server.count()
    assert counters["retries"] == server.count() - 120
    for cause in set(expected.values()) - {""}:
        assert counters.get(f"failed/{cause}", 0) == causes(verdicts).count(cause)
    assert (counters["tokens_in"], counters["tokens_out"]) == (
        server.usage["prompt_tokens"],
        server.usage["completion_tokens"],
    )


def test_the_server_comes_back():
    with JudgeServer(faults={"503": 1.0}) as server, judge_at(server, retries=1) as judge:
        assert causes(ask(judge, range(5))) == ["http_503"] * 5
        server.faults = {}
        assert causes(ask(judge, range(5))) == [""] * 5


# ------------------------------------------------------------------------------------------------- deadline and end


def test_deadline_counts_from_finish():
    with JudgeServer(latency=0.6, plan=("ok",) * 3) as server, judge_at(server, deadline=0.3) as judge:
        futures = [judge.submit("story", "question", thoughts(number)) for number in range(3)]
        time.sleep(0.1)
        started = time.monotonic()
        judge.finish()
        assert 0.25 < time.monotonic() - started < 0.5
        assert causes([future.result(0) for future in futures]) == ["deadline"] * 3
        time.sleep(0.6)  # the server answers into the void
        assert causes([future.result(0) for future in futures]) == ["deadline"] * 3
        counters = judge.counters()
        assert counters["failed/deadline"] == counters["calls"] == 3
        server.latency = 0.0
        assert causes(ask(judge, range(3))) == [""] * 3  # and the next step is not harmed


def test_the_deadline_ends_retries_and_the_queue():
    few = {"deadline": 0.4, "retries": 1000, "concurrency": 1}
    with JudgeServer(faults={"500": 1.0}) as server, judge_at(server, **few) as judge:
        assert set(causes(ask(judge, range(20)))) == {"deadline"}
        calls = server.count()
        time.sleep(0.2)
        assert server.count() - calls <= 1


def test_calls_after_the_deadline_block_no_others():
    few = {"deadline": 0.2, "call_timeout": 60, "concurrency": 2}
    with JudgeServer(plan=("hang", "hang")) as server, judge_at(server, **few) as judge:
        assert causes(ask(judge, range(2))) == ["deadline"] * 2
        answers = [judge.submit("story", "question", thoughts(number)) for number in range(5)]
        assert [answer.result(5).cause for answer in answers] == [""] * 5


def test_late_answer_of_the_same_moment_is_ignored():
    with JudgeServer() as server, judge_at(server) as judge:
        future = judge.submit("story", "question", thoughts(0))
        judge.finish()
        before = future.result(0)
        judge._settle(future, Verdict(0.123))
        assert future.result(0) is before
        assert "failed/deadline" not in judge.counters()


def test_close_settles_what_is_waiting_and_later_ones():
    with JudgeServer(faults={"hang": 1.0}) as server:
        threads = threading.active_count() - len(server.log)
        judge = EndpointJudge(config_of(server))
        futures = [judge.submit("story", "question", thoughts(number)) for number in range(3)]
        started = time.monotonic()
        judge.close()
        judge.close()
        assert time.monotonic() - started < 2.0
        futures.append(judge.submit("story", "question", thoughts(3)))
        assert causes([future.result(0) for future in futures]) == ["closed"] * 4
        assert not [thread for thread in threading.enumerate() if thread.name.startswith("judge")]
        assert threading.active_count() <= threads + 3  # the server's


def test_a_callback_may_ask_again():
    with JudgeServer() as server, judge_at(server) as judge:
        asked = threading.Event()
        later = []

        def again(_):
            later.append(judge.submit("story", "question", thoughts(1)))
            judge.counters()
            asked.set()

        judge.submit("story", "question", thoughts(0)).add_done_callback(again)
        assert asked.wait(5)
        assert later[0].result(5).cause == ""


def test_a_program_that_forgets_to_close_ends():
    with JudgeServer(faults={"hang": 1.0}) as server:
        program = (
            "from socialr1_jax.config.rewards import StructureConfig\n"
            "from socialr1_jax.rewards.endpoint_judge import EndpointJudge\n"
            f"judge = EndpointJudge(StructureConfig(judge='endpoint', model='m', base_url={server.base_url!r}))\n"
            "judge.submit('s', 'q', 't')\n"
        )
        done = subprocess.run([sys.executable, "-c", program], timeout=20, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_wrong_key_or_model_stops_at_once(monkeypatch, status):
    monkeypatch.setenv("MY_KEY", KEY)
    asked = {"api_key_env": "MY_KEY", "concurrency": 2}
    with JudgeServer(faults={status: 1.0}, latency=0.05) as server, judge_at(server, **asked) as judge:
        started = time.monotonic()
        futures = [judge.submit("story", "question", thoughts(number)) for number in range(30)]
        judge.finish()
        assert time.monotonic() - started < 2.0
        futures.append(judge.submit("story", "question", "later"))
        for future in futures:
            with pytest.raises(JudgeRefused, match="MY_KEY") as error:
                future.result(0)
            assert server.base_url in str(error.value)
            assert status in str(error.value)
        assert judge.counters()["failed/refused"] == 31
        assert server.count() <= 8  # the rest was never asked


def test_right_key_is_taken_and_wrong_one_refused(monkeypatch):
    with JudgeServer(key=KEY) as server:
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        with judge_at(server) as judge:
            assert causes(ask(judge, [0])) == [""]
        monkeypatch.setenv("OPENAI_API_KEY", "sk-other")
        with judge_at(server) as judge, pytest.raises(JudgeRefused, match="401"):
            ask(judge, [0])


def test_remote_server_needs_a_key_and_local_none():
    with pytest.raises(JudgeRefused, match="OPENAI_API_KEY"):
        EndpointJudge(config_of("https://judge.example/v1"))
    with JudgeServer() as server:
        with judge_at(server.base_url.replace("127.0.0.1", "localhost")) as judge:
            assert causes(ask(judge, [0])) == [""]
        assert server.log[0].authorization == "Bearer none"


def test_impossible_key_is_not_repeated(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nexport X=1")
    with pytest.raises(JudgeRefused, match="OPENAI_API_KEY") as error:
        EndpointJudge(config_of("http://127.0.0.1:1/v1"))
    assert KEY not in "".join(traceback.format_exception(error.value))


def test_a_missing_package_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "openai":
            raise ImportError("No module named 'openai'")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install -e '\.\[judge\]' in the repository"):
        EndpointJudge(config_of("http://127.0.0.1:1/v1"))


def test_importing_the_judge_is_light():
    program = (
        "import sys, socialr1_jax.rewards.endpoint_judge; print([m for m in ('openai', 'jax') if m in sys.modules])"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "[]"


def test_no_key_gets_out(monkeypatch, caplog):
    """With every logger at its most talkative, faults of every kind, and a server that sends the key back."""
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx", "httpx2", "httpcore", "httpcore2", "asyncio"):
        logging.getLogger(name).setLevel(logging.DEBUG)
    monkeypatch.setenv("MY_KEY", KEY)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        for kind in ("ok", "400", "401", "403", "404", "429", "500", "drop", "half", "garbage", "html", "hang"):
            with (
                JudgeServer(faults={kind: 1.0}) as server,
                judge_at(server, api_key_env="MY_KEY", retries=1, call_timeout=0.2) as judge,
            ):
                future = judge.submit("story", "question", thoughts(0))
                judge.finish()
                error = future.exception(0)
                texts = [repr(judge), str(judge), repr(judge._config), repr(vars(judge)), repr(judge.counters())]
                texts += [repr(future), repr(future.exception(0) or future.result(0))]
                texts += traceback.format_exception(error) if error else []
                assert server.log[0].authorization == f"Bearer {KEY}"  # it was sent
                assert not [text for text in texts if KEY in text], kind
    logged = "\n".join([caplog.text, *(str(vars(record)) for record in caplog.records)])
    assert "you get 400" in logged  # the server's own words help
    assert "[key]" in logged
    assert "POST" in logged  # the loggers were on
    assert KEY not in logged
    assert KEY not in printed.getvalue()


# --------------------------------------------------------------------------------------------------------- limits


def test_320_slow_calls_with_64_at_once():
    """5 s are waiting; the rest is ours and the server's. Best of two: other tests run beside this one."""
    seconds = math.inf
    for _ in range(2):
        with JudgeServer(latency=1.0) as server, judge_at(server, concurrency=64) as judge:
            started = time.monotonic()
            verdicts = ask(judge, range(320))
            seconds = min(seconds, time.monotonic() - started)
            assert causes(verdicts) == [""] * 320
            assert server.most_at_once == 64
        if seconds <= 8.0:
            break
    assert 5.0 <= seconds <= 8.0


@pytest.mark.parametrize("concurrency", [1, 5])
def test_never_more_at_once_than_allowed(concurrency):
    with JudgeServer(latency=0.02) as server, judge_at(server, concurrency=concurrency) as judge:
        assert causes(ask(judge, range(20))) == [""] * 20
        assert server.most_at_once == concurrency


def test_rate_limited_server_gets_everything_asked(monkeypatch):
    """Four calls at once are answered, others get 429: more often in a row than `retries` allows for a dead server."""
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.1)  # a pause longer than an answer, as a real one
    with JudgeServer(latency=0.02, most_calls=4) as server, judge_at(server, concurrency=64, retries=1) as judge:
        assert causes(ask(judge, range(100))) == [""] * 100
        assert server.count("429") == judge.counters()["retries"] > 0


def test_request_limit_holds_in_every_window(monkeypatch):
    monkeypatch.setattr(chat, "MINUTE", 0.5)
    with JudgeServer() as server, judge_at(server, requests_per_minute=10) as judge:
        started = time.monotonic()
        assert causes(ask(judge, range(25))) == [""] * 25
        assert 1.0 <= time.monotonic() - started < 5.0  # and not slower than it must be
        starts = sorted(call.started for call in server.log)
    assert all(later - first > 0.25 for first, later in zip(starts, starts[10:], strict=False))


def test_token_limit_holds_and_retries_count(monkeypatch):
    monkeypatch.setattr(chat, "MINUTE", 0.5)
    sent = sum(len(message["content"]) for message in rubric_messages("story", "question", thoughts(0))) / 3
    limit = int(4.5 * (sent + 500))  # room for four
    with JudgeServer(plan=("500",) * 4) as server:
        with judge_at(server, tokens_per_minute=limit, max_tokens=500) as judge:
            assert causes(ask(judge, range(6))) == [""] * 6
        starts = sorted(call.started for call in server.log)
    assert len(starts) == 10
    assert all(later - first > 0.25 for first, later in zip(starts, starts[4:], strict=False))


def test_call_above_the_token_limit_blocks_nothing():
    with JudgeServer() as server, judge_at(server, tokens_per_minute=4000, max_tokens=100) as judge:
        long = judge.submit("story", "question", "word " * 20_000)
        short = judge.submit("story", "question", thoughts(0))
        judge.finish()
        assert (long.result(0).cause, short.result(0).cause) == ("token_limit", "")
        assert server.count() == 1
    with pytest.raises(ValueError, match="tokens_per_minute"):
        EndpointJudge(config_of("http://127.0.0.1:1/v1", tokens_per_minute=100, max_tokens=100))


# ------------------------------------------------------------------------------------------------ cache and counters


def test_what_was_answered_is_not_asked_again(tmp_path):
    with JudgeServer() as server:
        for step in range(2):
            with judge_at(server, cache=str(tmp_path)) as judge:
                verdicts = ask(judge, range(10))
                assert causes(verdicts) == [""] * 10
                counters = judge.counters()
                assert (counters["calls"], counters["cache_hits"]) == ((10, 0), (0, 10))[step]
                assert (counters["tokens_in"] > 0) == (step == 0)
        assert server.count() == 10
        with judge_at(server, cache=str(tmp_path), temperature=0.1) as judge:
            ask(judge, [0])
            assert judge.counters()["cache_hits"] == 0
        with judge_at(server, cache=str(tmp_path), model="another") as judge:
            ask(judge, [0])
            assert judge.counters()["cache_hits"] == 0


def test_own_rubric_is_sent_and_cached_apart(tmp_path):
    form = '<thoughts-${fence}>\n${thoughts}\n</thoughts-${fence}>\n{"code": "${code}", "total": ...}'
    rubric, cache = tmp_path / "rubric.txt", str(tmp_path / "cache")
    with JudgeServer() as server:
        for number, text in enumerate(("", "Be kind.", "Be kind.", "Be strict.")):
            rubric.write_text(f"{text}\n=== user ===\n{form}")
            with judge_at(server, cache=cache, rubric=str(rubric) if text else "") as judge:
                assert causes(ask(judge, [0])) == [""]
            assert server.count() == (1, 2, 2, 3)[number]
        systems = [call.body["messages"][0]["content"] for call in server.log]
    assert systems[1:] == ["Be kind.", "Be strict."]


def test_offline_replay_gives_the_same_verdicts(tmp_path, monkeypatch):
    with JudgeServer() as server, judge_at(server, cache=str(tmp_path)) as judge:
        online = ask(judge, range(10))
    monkeypatch.setitem(sys.modules, "openai", None)  # not even the package is needed
    for url in ("", f"http://127.0.0.1:{free_port()}/v1", "https://judge.example/v1"):
        with judge_at(url, cache=str(tmp_path), offline=True) as judge:
            offline = ask(judge, range(12))
            counters = judge.counters()
        assert offline[:10] == online
        assert causes(offline[10:]) == ["not_cached"] * 2
        assert (counters["calls"], counters["cache_hits"], counters["failed/not_cached"]) == (0, 10, 2)


@pytest.mark.parametrize("kind", ["500", "garbage", "html", "empty", "ungraded", "refusal"])
def test_failures_are_not_kept(tmp_path, kind):
    with JudgeServer(faults={kind: 1.0}) as server:
        with judge_at(server, cache=str(tmp_path), retries=0) as judge:
            assert causes(ask(judge, [0])) != [""]
        assert not [file for file in tmp_path.rglob("*") if file.is_file()]
        server.faults = {}
        with judge_at(server, cache=str(tmp_path)) as judge:
            assert causes(ask(judge, [0])) == [""]


def test_cut_cache_file_is_replaced(tmp_path):
    with JudgeServer() as server:
        with judge_at(server, cache=str(tmp_path)) as judge:
            first = ask(judge, [0])
        (file,) = tmp_path.rglob("*.json")
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with judge_at("", cache=str(tmp_path), offline=True) as judge:
            assert causes(ask(judge, [0])) == ["not_cached"]
        with judge_at(server, cache=str(tmp_path)) as judge:
            assert ask(judge, [0]) == first
        assert server.count() == 2
        assert file.read_bytes() == whole


def test_unwritable_cache_costs_no_score(tmp_path, caplog):
    folder = tmp_path / "file"
    folder.write_text("in the way")
    with JudgeServer() as server, judge_at(server, cache=str(folder)) as judge:
        assert causes(ask(judge, range(3))) == [""] * 3
    assert "could not be cached" in caplog.text


def test_no_secret_and_no_address_in_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with JudgeServer() as server, judge_at(server, cache=str(tmp_path)) as judge:
        ask(judge, [0])
        (file,) = tmp_path.rglob("*.json")
        text = file.read_text()
        assert KEY not in text
        assert server.base_url not in text
        assert json.loads(text)["reply"] == graded_reply(prompt(0), hashed_score(prompt(0)))


def test_counters_start_anew_and_count_cost():
    prices = {"price_input": 2.0, "price_output": 8.0}
    with JudgeServer(latency=0.05) as server, judge_at(server, **prices) as judge:
        ask(judge, range(7))
        counters = judge.counters()
        tokens = server.usage
        assert counters["calls"] == 7
        assert counters["tokens_in"] == tokens["prompt_tokens"] > 0
        assert counters["tokens_out"] == tokens["completion_tokens"] == 280
        cost = (2.0 * tokens["prompt_tokens"] + 8.0 * tokens["completion_tokens"]) / 1e6
        assert counters["cost"] == pytest.approx(cost, rel=1e-9)
        assert 0.05 <= counters["latency"] < 2.0
        assert all(type(value) is float for value in counters.values())
        empty = judge.counters()
        assert set(empty) == {"calls", "retries", "cache_hits", "tokens_in", "tokens_out", "cost"}
        assert sum(empty.values()) == 0


def test_proxies_are_left_out_on_this_machine(monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setitem(os.environ, name, f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    with JudgeServer() as server, judge_at(server) as judge:
        assert causes(ask(judge, [0])) == [""]
