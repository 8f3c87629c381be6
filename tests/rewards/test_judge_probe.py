"""A judge on a server is asked for one grade before a run loads anything: each fault is one line with the address."""

import re
import socket
import time

import pytest
from judge_server import JudgeServer, graded_reply

from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.rewards.judge_probe import judge_fault

SECRET = "sk-not-for-anyone-1234"
KEY = "PROBE_KEY"


@pytest.fixture
def fault(monkeypatch, caplog):
    """fault(address, **settings): what is wrong; in one line, with the address, without the key, and nothing logged."""
    monkeypatch.setenv(KEY, SECRET)

    def call(address, **changed):
        fields = {"judge": "endpoint", "model": "judge", "base_url": address, "api_key_env": KEY, "retries": 0}
        found = judge_fault(StructureConfig.model_validate(fields | {"call_timeout": 2.0} | changed))
        assert found.isprintable()
        assert not found or address in found
        assert SECRET not in found
        # Other tests of the process may have lowered the level of all logs.
        assert not [record for record in caplog.records if record.name.startswith("socialr1_jax")]
        return found

    return call


def test_grading_judge_is_asked_once(fault):
    with JudgeServer(key=SECRET) as server:
        assert fault(server.base_url) == ""
        assert server.count() == 1


def test_judge_that_fails_by_chance_is_retried(fault):
    with JudgeServer(plan=("ungraded", "refusal")) as server:
        assert fault(server.base_url) == ""
        assert len({call.prompt for call in server.log}) == 3


@pytest.mark.parametrize(
    ("kind", "calls", "found"),
    [
        ("401", 1, ("answers 401 (key from PROBE_KEY)", "put a good key into PROBE_KEY")),
        ("404", 1, ("answers 404", "set rewards.structure.model to one that this lists: curl ")),
        ("400", 1, ("no grade (http_400): you get 400", "rewards.structure.options")),
        ("503", 1, ("no grade (http_503): you get 503", "the server's log")),
        ("html", 1, ("no grade (html)", "must go up to /v1")),
        ("drop", 1, ("no grade (connection)", "start it or correct base_url")),
        ("ungraded", 3, ('(unreadable): it replied "A fine piece of reasoning. <Score>1.0</Score>"', "max_tokens")),
        ("empty", 3, ('(no_answer): it replied ""', "a model that follows instructions")),
        ("refusal", 3, ("(refusal): I will not.", "take another judge")),
    ],
)
def test_each_fault_is_one_line(kind, calls, found, fault):
    with JudgeServer(faults={kind: 1.0}) as server:
        told = fault(server.base_url)
        assert server.count() == calls
    assert all(part in told for part in found), told


def test_no_server_at_the_address(fault):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        told = fault(f"http://127.0.0.1:{free.getsockname()[1]}/v1", retries=1)
    assert "no grade (connection): no connection; no server at base_url" in told


def test_the_wait_is_bounded(fault):
    started = time.monotonic()
    with JudgeServer(plan=("hang",)) as server:
        assert "no grade (timeout)" in fault(server.base_url, call_timeout=0.3)
    assert time.monotonic() - started < 5


def test_a_reply_is_shown_cut_and_clean(fault):
    hostile = "\x1b[2J\x07\u202e" + "words and words " * 100
    with JudgeServer(reply=lambda prompt, score: hostile) as server:
        told = fault(server.base_url)
    assert r"\x1b[2J\x07\u202ewords and words" in told
    assert len(told) < 600


def test_a_rubric_of_the_users_own_is_sent(fault, tmp_path):
    (tmp_path / "rubric.txt").write_text(
        "Be kind.\n=== user ===\n<thoughts-${fence}>\n${thoughts}\n</thoughts-${fence}>\n"
        '{"code": "${code}", "total": ...}'
    )
    with JudgeServer(reply=graded_reply) as server:
        assert fault(server.base_url, rubric=str(tmp_path / "rubric.txt")) == ""
        assert server.log[0].body["messages"][0]["content"] == "Be kind."


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"judge": "rules", "model": "", "base_url": ""}, ""),
        (
            {"base_url": "http://judge.invalid/v1", "api_key_env": "NOT_SET"},
            "the environment variable NOT_SET is not set",
        ),
        ({"rubric": "/none.txt"}, "rubric /none.txt: cannot be read (No such file or directory)"),
        ({"offline": True, "cache": "/none"}, "offline takes answers from /none, which is not a folder"),
    ],
)
def test_faults_without_a_server(changed, found):
    fields = {"judge": "endpoint", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    told = judge_fault(StructureConfig.model_validate(fields | changed))
    assert re.match(re.escape(found), told)
    assert bool(told) == bool(found)
