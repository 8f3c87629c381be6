"""Training runs whose structure is judged over HTTP, by a server on loopback that fails as it is told."""

import importlib.util
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from judge_server import JudgeServer
from toys import changed, lines, steps_of

from socialr1_jax.config.loading import save_config
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.rewards import ParsedResponse, RewardTerms, scorer
from socialr1_jax.rewards.judge_probe import THOUGHTS
from socialr1_jax.run.run import TrainingStopped
from socialr1_jax.training import grpo

pytestmark = pytest.mark.usefixtures("programs_once")

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "train_grpo.py"
WEIGHTS = {"outcome": 1.0, "structure": 2.0, "content": 0.0, "tau": 1.0}


@pytest.fixture(autouse=True)
def whatever_is_said_is_thoughts(monkeypatch):
    """The toy's model says nothing well-formed: here every response is judged, and the judge's score is the reward."""

    def reward(text, gold, structure, *args, extra, **kwargs):
        weights = WEIGHTS | dict.fromkeys(extra, 1.0)
        return RewardTerms(structure, 1.0, 0.0, structure, math.nan, 1.0, 1.0, weights, extra)

    monkeypatch.setattr(scorer, "parse_response", lambda text, mode: ParsedResponse(text, "A", ()))
    monkeypatch.setattr(scorer, "social_r1_reward", reward)
    monkeypatch.setenv("JUDGE_KEY", "secret-of-the-test")


def judged(
    start: RunConfig, folder: Path, server: JudgeServer, steps: int = 4, call_timeout: float = 1.5, **rewards: object
) -> RunConfig:
    structure = {
        "judge": "endpoint",
        "model": "judge",
        "base_url": server.base_url,
        "api_key_env": "JUDGE_KEY",
        "call_timeout": call_timeout,
        "retries": 0,
        "deadline": 20.0,
    }
    return changed(start, folder, steps=steps, rewards=rewards | {"structure": structure})


def test_run_survives_a_fifth_of_failed_calls(start, tmp_path):
    faults = {"500": 0.05, "hang": 0.05, "garbage": 0.05, "slow": 0.05}
    with JudgeServer(plan=("ok",), faults=faults, slow=5.0, seed=3) as server:  # the sample before the run is graded
        config = judged(start, tmp_path, server, steps=6, most_unscorable=0.9)
        assert grpo.train_grpo(config)
        assert THOUGHTS[0] in server.log[0].prompt
        log = Counter(call.kind for call in server.log[1:])
    rows = lines(tmp_path / "metrics.jsonl")
    told = Counter()
    for row in rows:
        for name, value in row.items():
            if name.startswith("unscorable/"):
                told[name.removeprefix("unscorable/judge_")] += int(value)
    assert all(log[kind] for kind in faults), "every fault must have come up"
    assert told == {"http_500": log["500"], "not_json": log["garbage"], "timeout": log["hang"] + log["slow"]}
    steps = steps_of(tmp_path)
    assert sum(row["judge/calls"] for row in rows) == log.total()
    assert all(math.isfinite(row["loss"]) and row["judge/waited_seconds"] >= 0 for row in steps)
    # The others are compared as if those responses had never existed.
    kept = [row for row in lines(tmp_path / "rollouts.jsonl") if row["phase"] == "grpo"]
    for group in (kept[i : i + 4] for i in range(0, len(kept), 4)):
        assert len({row["id"] for row in group}) == 1
        scored = [row for row in group if row["reward"] is not None]
        rewards = np.array([row["reward"] for row in scored])
        if len(scored) > 1 and rewards.max() > rewards.min():
            expected = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-6)
            np.testing.assert_allclose([row["advantage"] for row in scored], expected, rtol=1e-5)
        assert all(row["advantage"] == 0 and row["unscorable"] for row in group if row["reward"] is None)
    text = "".join(file.read_text() for file in tmp_path.glob("*.*") if file.suffix in (".yaml", ".jsonl"))
    assert "secret-of-the-test" not in text


def test_dead_judge_stops_a_run_that_resumes_later(start, tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("train_grpo_script", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with JudgeServer(seed=1) as server:
        config = judged(start, tmp_path / "run", server, 6, call_timeout=20.0, most_unscorable=0.3, unscorable_window=4)
        save_config(config, tmp_path / "config.yaml")
        arguments = ["--config", str(tmp_path / "config.yaml")]
        server.plan, server.faults = ["ok"], {"503": 1.0}  # it dies after the sample before the run
        assert script.main(arguments) == 1
        error = capsys.readouterr().err
        assert "could not be scored (judge_http_503" in error
        assert "Run the same command to resume" in error
        stopped = steps_of(tmp_path / "run")
        assert 1 <= len(stopped) <= 4  # within the window
        assert all(row["reward/unscorable"] == 1 and row["skipped"] == 0 for row in stopped)
        # Steps in which nothing could be scored are done again.
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["0"]
        assert script.main(arguments) == 2
        error = capsys.readouterr().err
        assert f"rewards.structure: judge at {server.base_url} gave no grade (http_503)" in error
        assert len(error.splitlines()) == 1
        server.faults = {}
        assert script.main(arguments) == 0
    rows = steps_of(tmp_path / "run")
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["reward/unscorable"] for row in rows] == [0.0] * 6
    assert (tmp_path / "run" / "export" / "model.safetensors").exists()


def test_a_wrong_key_stops_before_anything_is_loaded(start, tmp_path, monkeypatch):
    with JudgeServer(key="another") as server:
        config = judged(start, tmp_path, server)
        with monkeypatch.context() as patch:
            patch.setattr(grpo, "first_model", None)  # nothing is loaded before
            with pytest.raises(ConfigError, match=r"answers 401 \(key from JUDGE_KEY\)"):
                grpo.train_grpo(config)
        assert not (tmp_path / "metrics.jsonl").exists()
        server.key = ""
        assert grpo.train_grpo(config)
    assert len(steps_of(tmp_path)) == 4


def test_missing_key_is_reported_before_loading(start, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JUDGE_KEY")
    monkeypatch.setattr(grpo, "first_model", None)
    with JudgeServer() as server:
        config = judged(start, tmp_path / "run", server)
        away = config.rewards.structure.model_copy(update={"base_url": "http://judge.invalid/v1"})
        config = config.model_copy(update={"rewards": config.rewards.model_copy(update={"structure": away})})
        with pytest.raises(ConfigError, match="JUDGE_KEY"):
            grpo.train_grpo(config)


def test_failing_user_function_stops_with_a_checkpoint(start, tmp_path, monkeypatch):
    body = "def reward(records):\n    assert records[0]['step'] < 1, 'lost'\n    return [1.0] * len(records)\n"
    (tmp_path / "failing.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fine.py").write_text("def short(records):\n    return [-1.0] * len(records)\n")
    functions = {
        "own": {"function": "failing:reward"},
        "short": {"function": "fine.py:short", "weight": 0.5, "gated": False},
    }
    config = changed(start, tmp_path / "run", steps=3, rewards={"extra": functions})
    message = r"rewards\.extra\.own: reward failed: .*failing\.py:2: AssertionError: lost"
    with pytest.raises(TrainingStopped, match=message):
        grpo.train_grpo(config)
    (step,) = steps_of(tmp_path / "run")
    assert (step["reward/own"], step["reward/short"], step["weight/short"]) == (1.0, -1.0, 1.0)
    response = lines(tmp_path / "run" / "rollouts.jsonl")[-1]
    assert (response["terms"]["own"], response["terms"]["short"]) == (1.0, -1.0)
    assert (tmp_path / "run" / "checkpoints" / "1").is_dir()
