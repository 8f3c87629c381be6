"""How the doctor runs its checks: no key in any line, and what ends or stops a check is a line, too."""

import subprocess
import sys

import pytest

from socialr1_jax.training.doctor import DoctorConfig, Line, examine, runner

SECRET = "sk-not-for-anyone-1234"


def test_no_key_is_ever_shown(monkeypatch):
    """Not even where a library would put it into its error's text."""
    for name in ("HF_TOKEN", "WANDB_API_KEY", "DOCTOR_KEY"):
        monkeypatch.setenv(name, f"{SECRET}-{name}")

    def leaks(config):
        yield Line("one", "ok", f"{SECRET}-HF_TOKEN")
        raise ValueError(f"bad key {SECRET}-WANDB_API_KEY, {SECRET}-DOCTOR_KEY")

    monkeypatch.setattr(runner, "CHECKS", {"leaks": (leaks, f"set {SECRET}-DOCTOR_KEY")})
    config = DoctorConfig(rewards={"structure": {"api_key_env": "DOCTOR_KEY"}})
    lines = list(examine(config))
    assert [line.found for line in lines] == ["[key]", "bad key [key], [key]"]
    assert SECRET not in repr(lines)


PROGRAM = """
import os, time

from socialr1_jax.training.doctor import DoctorConfig, Line, examine_apart, runner

def first(config):
    yield Line("first", "ok", "before it")

def fatal(config):
    FATAL
    yield

runner.CHECKS = {"first": (first, ""), "fatal": (fatal, "mend it"), "last": (first, "")}
runner.LONGEST_CHECK = 2.0
if __name__ == "__main__":
    for line in examine_apart(DoctorConfig()):
        print(line.name, line.status, line.found, line.fix, sep="|")
"""


@pytest.mark.parametrize(
    ("fatal", "found"),
    [
        ("os.abort()", "the process was killed by SIGABRT in this check"),
        ("os._exit(3)", "the process ended with status 3 in this check"),
        ("time.sleep(60)", "nothing after 2 s: the check hangs"),
    ],
)
def test_what_ends_or_stops_the_process_is_a_line(fatal, found, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.replace("FATAL", fatal))
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=40, check=True)
    lines = [line.split("|") for line in done.stdout.splitlines()]
    assert [line[:2] for line in lines] == [["first", "ok"], ["fatal", "problem"], ["last", "skipped"]]
    assert found in lines[1][2]
    assert lines[1][3] == "mend it"
    assert "Traceback" not in done.stderr
