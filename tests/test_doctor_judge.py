"""The doctor's check of the judge: one call to a server on loopback, and what each of its answers is told as."""

import socket
import time

import pytest
from judge_server import JudgeServer

from socialr1_jax.config import load_config
from socialr1_jax.training.doctor import DoctorConfig, examine, judge, runner

SECRET = "sk-not-for-anyone-1234"


@pytest.fixture
def ask(monkeypatch, capfd):
    """ask(address, *settings) -> (status, all that the line says); nothing else is printed, and never the key."""
    monkeypatch.setenv("DOCTOR_KEY", SECRET)
    monkeypatch.setattr(runner, "CHECKS", {"judge": runner.CHECKS["judge"]})

    def call(address, *more):
        values = ["judge=endpoint", "model=judge", f"base_url={address}", "api_key_env=DOCTOR_KEY", *more]
        config = load_config(DoctorConfig, None, [f"rewards.structure.{value}" for value in values])
        (line,) = examine(config)
        assert capfd.readouterr() == ("", "")
        assert SECRET not in repr(line)
        assert bool(line.fix) == (line.status == "problem")
        return line.status, f"{line.found}\nfix: {line.fix}"

    return call


def test_one_call_is_made_and_its_time_told(ask):
    with JudgeServer(key=SECRET) as server:
        status, told = ask(server.base_url)
        assert [call.authorization for call in server.log] == [f"Bearer {SECRET}"]
    assert status == "ok"
    assert "gave a sample the grade" in told
    assert "DOCTOR_KEY is set" in told


def test_no_server_at_the_address(ask):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
        status, told = ask(address)
    assert status == "problem"
    assert "connection" in told
    assert "fix: no server at base_url" in told
    assert f"{address}/models" in told


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("401", "answers 401 (key from DOCTOR_KEY)"),
        ("404", "answers 404"),
        ("400", "fix: the server refuses the request"),
        ("429", "fix: too many requests"),
        ("500", "http_500"),
        ("html", "fix: that is not a chat completion"),
        ("ungraded", "fix: take a model that follows instructions"),
        ("refusal", "fix: the model declined"),
    ],
)
def test_what_a_server_may_answer(kind, found, ask):
    with JudgeServer(faults={kind: 1.0}) as server:
        status, told = ask(server.base_url)
        assert server.count() == (3 if kind in ("ungraded", "refusal") else 1)
    assert status == "problem"
    assert found in told


def test_the_wait_is_bounded(ask, monkeypatch):
    monkeypatch.setattr(judge, "JUDGE_SECONDS", 0.5)
    started = time.monotonic()
    with JudgeServer(plan=("hang",)) as server:
        status, told = ask(server.base_url)
    assert status == "problem"
    assert "timeout" in told
    assert time.monotonic() - started < 5


def test_no_key_for_a_server_elsewhere(ask, monkeypatch):
    monkeypatch.delenv("DOCTOR_KEY")
    status, told = ask("https://judge.invalid/v1")
    assert status == "problem"
    assert "the environment variable DOCTOR_KEY is not set" in told
    assert "fix: put a good key into DOCTOR_KEY" in told


def test_offline_answers(ask, tmp_path):
    status, told = ask("http://127.0.0.1:9/v1", "offline=true", f"cache={tmp_path / 'none'}")
    assert status == "problem"
    assert "no folder" in told
