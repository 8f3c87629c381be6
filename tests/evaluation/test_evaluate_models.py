"""The whole evaluation on models: one on the devices here, and one behind an endpoint on loopback."""

import json
import shutil

import pytest
from test_evaluate import TOY, loopback
from test_sotopia import written
from test_sotopia_judging import GOOD, coded, verdict

from socialr1_jax.config.evaluation import EvaluateConfig
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.evaluation import evaluate as whole
from socialr1_jax.evaluation.respondents import Asked, LocalModel
from socialr1_jax.evaluation.sotopia.episode import Utterance
from socialr1_jax.evaluation.sotopia.models import LocalSpeaker
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.grpo import token_logprobs
from socialr1_jax.run import checkpoints
from socialr1_jax.run import weights as run_weights
from socialr1_jax.weights.hf import load_hf, random_model
from socialr1_jax.weights.hf_export import save_hf

WORDS = [
    "You are the first agent. Turn #1: a S said something.",
    "Reply with one JSON object: action_type, argument.",
]


@pytest.fixture(scope="module")
def model(one_layer, tmp_path_factory):
    """A folder with a random model that is asked by chat."""
    folder = tmp_path_factory.mktemp("random")
    build_tokenizer(WORDS * 20, 600).save_pretrained(folder / "tokenizer")
    save_hf(random_model(folder / "tokenizer", "nano", 0), folder / "model")
    return folder / "model"


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "get_task", lambda name: TOY)
    (tmp_path / "data" / "hitom").mkdir(parents=True)
    (tmp_path / "data" / "sotopia").mkdir()
    written(tmp_path / "data" / "sotopia")
    return tmp_path / "data"


def evaluated(data, output, *overrides):
    """(results.json, lines of every file of samples and verdicts, sorted)."""
    config = load_config(EvaluateConfig, None, [f"data_dir={data}", f"output={output}", *overrides])
    whole.evaluate(config)
    rows = {file.name: sorted(file.read_text().splitlines()) for file in output.glob("*_*.jsonl")}
    return json.loads((output / "results.json").read_text()), rows


LOCAL = (
    "max_new_tokens=6",
    "judge_tokens=6",
    "thinking_tokens=4",
    "temperature=0.8",
    "thinking=off",
    "num_samples=2",
    "allow_self=true",
)


def test_local_model_answers_alike_in_every_batch(model, data, tmp_path, monkeypatch):
    who = (f"model={model}", f"judge={model}", "tasks=hitom,sotopia", *LOCAL)
    results, rows = evaluated(data, tmp_path / "a", *who)
    assert sorted(rows) == ["samples_hitom.jsonl", "samples_sotopia.jsonl", "verdicts_sotopia.jsonl"]
    assert results["replies"]["hitom"] == 40  # two protocols, ten questions, two samples
    details = results["details"]["sotopia"]
    assert details["all"]["counts"]["played"] == 8  # two pairs, two roles, two seeds
    assert details["all"]["counts"]["judge_failed"] == 8  # six tokens are no verdict
    assert results["results"]["sotopia"]["official_all/goal"]["n"] == 0
    assert results["status"]["sotopia"]["official_hard"]["judge_failed"] == 1.0
    assert not results["reportable"]
    # Rows with texts that differ, or nothing would show.
    assert len({row["reply"] for row in map(json.loads, rows["samples_hitom.jsonl"])}) > 10

    others, again = evaluated(data, tmp_path / "b", *who, "batch_size=3", "share_prefixes=false")
    assert again == rows
    assert others["results"] == results["results"]

    real = LocalSpeaker.submit

    def submit(self, key, messages, seed):
        assert "#judge" in key, "only what failed is asked again"
        real(self, key, messages, seed)

    def replies(self, asked):
        assert not asked, "everything is known"
        return iter(())

    monkeypatch.setattr(LocalModel, "replies", replies)
    monkeypatch.setattr(LocalSpeaker, "submit", submit)
    cached, once_more = evaluated(
        data, tmp_path / "a", *who, "predict_only=false", f"cache={tmp_path / 'b'}/replies.jsonl"
    )
    assert once_more["samples_hitom.jsonl"] == rows["samples_hitom.jsonl"]
    assert cached["results"]["hitom"] == results["results"]["hitom"]
    assert cached["results"]["sotopia"] == results["results"]["sotopia"]


def test_continuations_are_answered_with_their_log_probs(model):
    """As plain text behind the prompt, without a chat template; too long ones are not computed."""
    config = load_config(EvaluateConfig, None, [f"model={model}", "tasks=hitom"])
    respondent = LocalModel(config)
    tails = (" agent", " turn #1", " one JSON object: argument.")
    message = {"role": "user", "content": "Reply with"}
    long = {"role": "user", "content": "turn " * respondent.positions}
    asked = [
        Asked("a", (message,), 0, (0, 1), continuations=tails),
        Asked("b", (message,), 3),
        Asked("c", (long,), 0, continuations=tails),
    ]
    replies = {(i, sample): reply for i, sample, reply in respondent.replies(asked)}
    assert {key: reply.finish_reason for key, reply in replies.items()} == {
        (0, 0): "stop",
        (0, 1): "stop",
        (1, 0): "length",
        (2, 0): "too_long",
    }
    prompt = respondent._tokenizer("Reply with")["input_ids"]
    for tail, value in zip(tails, json.loads(replies[0, 1].text), strict=True):
        tokens = respondent._tokenizer(f"Reply with{tail}")["input_ids"]
        logp_bt = token_logprobs(load_hf(model), [tokens], [len(tokens)])
        assert value == pytest.approx(float(logp_bt[0, len(prompt) :].sum()), abs=1e-3)


@pytest.mark.parametrize("at", [1, 4, 6])
def test_an_interrupted_conversation_goes_on(model, data, tmp_path, monkeypatch, at):
    who = (f"model={model}", "predict_only=true", "tasks=sotopia", "sotopia_rules=head", *LOCAL)
    _, rows = evaluated(data, tmp_path / "whole", *who)
    real, calls = LocalSpeaker.poll, [0]

    def poll(self, wait):
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        return real(self, wait)

    with monkeypatch.context() as patch:
        patch.setattr(LocalSpeaker, "poll", poll)
        with pytest.raises(KeyboardInterrupt):
            evaluated(data, tmp_path / "cut", *who)
    assert evaluated(data, tmp_path / "cut", *who)[1] == rows


def test_another_model_as_partner(model, data, tmp_path):
    other = tmp_path / "other"
    save_hf(random_model(model, "nano", 1), other)
    settings = (f"model={model}", "predict_only=true", "tasks=sotopia", "sotopia_set=hard", *LOCAL)
    _, alone = evaluated(data, tmp_path / "a", *settings)
    found, rows = evaluated(data, tmp_path / "b", *settings, f"partner={other}")
    who = found["details"]["sotopia"]
    assert who["tested"]["model"] == str(model)
    assert who["partner"]["model"] == str(other)
    assert rows != alone
    # The first turn of an episode that the tested model begins is its own in both.
    first = [
        {row["key"]: row["turns"][0]["reply"] for row in map(json.loads, some["samples_sotopia.jsonl"])}
        for some in (alone, rows)
    ]
    assert all((first[0][key] == first[1][key]) == (key[-3] == "0") for key in first[0])
    for changed in (f"partner={other}", "sotopia_rules=head", "temperature=0.7"):
        with pytest.raises(BenchmarkError, match="episodes of another model, partner or setting"):
            evaluated(data, tmp_path / "a", *settings, changed)


def test_equal_weights_of_two_names_never_meet(model, data, tmp_path):
    settings = (f"model={model}", "predict_only=true", "tasks=sotopia", *LOCAL, "allow_self=false")
    with pytest.raises(BenchmarkError, match=r"^partner: .*copy has the weights of another player; .*allow_self=true$"):
        evaluated(data, tmp_path / "a", *settings, f"partner={shutil.copytree(model, tmp_path / 'copy')}")


def test_prompt_beyond_the_limit_is_truncated(model, data, tmp_path):
    settings = (f"model={model}", "predict_only=true", "tasks=sotopia", *LOCAL, "prompt_tokens=20")
    found, rows = evaluated(data, tmp_path / "a", *settings)
    turns = [turn for row in map(json.loads, rows["samples_sotopia.jsonl"]) for turn in row["turns"]]
    assert all(turn["truncated"] and not turn["parsed"] for turn in turns)
    assert found["details"]["sotopia"]["all"]["rates"]["stale"] == 1.0


def test_results_name_the_best_step(model, tmp_path, monkeypatch):
    (tmp_path / checkpoints.MANIFEST).write_text("{}")
    monkeypatch.setattr(run_weights, "is_run", lambda folder: True)
    monkeypatch.setattr(run_weights, "find_checkpoint", lambda folder, which: tmp_path)
    monkeypatch.setattr(run_weights, "load_policy", lambda folder, mesh: load_hf(model, mesh))
    monkeypatch.setattr(checkpoints, "read_run", lambda folder: {"finished": 40})
    identity = LocalModel(EvaluateConfig(model="runs/mine", step="best", batch_size="4")).identity()
    assert (identity["model"], identity["step"]) == ("runs/mine", 40)


def test_sotopia_needs_a_judge():
    with pytest.raises(ConfigError, match="sotopia is scored by a model: give judge"):
        load_config(EvaluateConfig, None, ["model=m", "tasks=sotopia"])


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("judge=j", "sotopia: model and partner are both m; .*allow_self=true$"),
        ("judge=j partner=m", "model and partner are both m;"),
        ("predict_only=true", "model and partner are both m;"),
        ("judge=m partner=p", "model and judge are both m;"),
        ("judge=p partner=p", "partner and judge are both p;"),
        ("judge=m allow_self=true", ""),
        ("judge=j partner=p", ""),
        ("judge=m partner=m list=true", ""),
        ("judge=m tasks=hitom", ""),
        ("predict_only=true judge=m partner=p", ""),
        ("judge=j partner=p num_samples=2", ""),  # at 0.7
        ("judge=j partner=p num_samples=2 temperature=0", "num_samples > 1 at temperature 0"),
        ("judge=j partner=p num_samples=2 tasks=sotopia,hitom", "num_samples > 1 at temperature 0"),
        ("judge=j partner=p sotopia_rules=0.1.5", "^sotopia_rules[^\n]*'0.1.4'[^\n]*'head'[^\n]*$"),
        ("judge=j partner=p sotopia_rules=", "^sotopia_rules[^\n]*$"),
        ("judge=j partner=p sotopia_set=easy", "^sotopia_set[^\n]*'competitive'[^\n]*$"),
    ],
)
def test_who_plays_and_by_which_rules(given, fault):
    settings = ["model=m", "tasks=sotopia", *given.split()]
    if not fault:
        load_config(EvaluateConfig, None, settings)
        return
    with pytest.raises(ConfigError, match=fault) as raised:
        load_config(EvaluateConfig, None, settings)
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------------------------------------------- an endpoint


@pytest.fixture
def server():
    """Plays and judges; `refuses` JSON schemas with status 400, `fails` the first so many calls with 500."""
    pytest.importorskip("openai")

    def reply(server, body):
        text = body["messages"][-1]["content"]
        if "Judge how each participant" in text:
            said = coded(text, Utterance(verdict())).text
        else:
            turn = text.rpartition("it is turn #")[2].partition(".")[0]
            kind = "leave" if turn == "3" else "speak"
            said = json.dumps({"action_type": kind, "argument": f"turn {turn} by {body['model']}"})
        failing = len(server.bodies) <= server.fails
        refused = server.refuses and "response_format" in body
        return 500 if failing else 400 if refused else 200, {"content": said}

    for httpd in loopback(reply):
        httpd.refuses, httpd.fails = False, 0
        yield httpd


def behind(server):
    url = f"http://127.0.0.1:{server.server_port}/v1"
    return (
        "model=tested",
        f"base_url={url}",
        "partner=other",
        f"partner_url={url}",
        "judge=judging",
        f"judge_url={url}",
        "tasks=sotopia",
        "retries=0",
    )


@pytest.mark.parametrize("refuses", [False, True])
def test_endpoints_play_and_judge(server, data, tmp_path, refuses):
    server.refuses = refuses
    results, rows = evaluated(data, tmp_path / "a", *behind(server))
    found = results["results"]["sotopia"]
    assert (found["official_all/goal"]["value"], found["official_all/goal"]["n"]) == (GOOD["goal"], 2)
    names = {name.partition("/")[0] for name in found}
    assert names == {"official_all", "official_hard", "official_cooperative", "official_competitive"}
    assert found["official_competitive/partner/goal"] == {"value": GOOD["goal"], "stderr": None, "n": 1}
    details = results["details"]["sotopia"]
    assert (details["rules"], details["tested"]["temperature"], details["judge"]["temperature"]) == ("0.1.4", 0.7, 0.0)
    assert results["notes"]["sotopia"][0] == "rules of SOTOPIA 0.1.4, agents at temperature 0.7"
    assert {body["temperature"] for body in server.bodies if body["model"] != "judging"} == {0.7}
    assert found["official_all/overall"]["value"] == pytest.approx(sum(GOOD.values()) / 7)
    assert results["reportable"]
    for row in map(json.loads, rows["samples_sotopia.jsonl"]):
        assert row["ended"] == "left"
        by = [turn["argument"].rpartition(" ")[2] for turn in row["turns"]]
        names = ["tested", "other"] if row["tested"] == 0 else ["other", "tested"]
        assert by == names * 2
    forms = [body.get("response_format") for body in server.bodies if body["model"] == "judging"]
    assert any(forms)
    assert all(forms) is not refuses
    assert all("response_format" not in body for body in server.bodies if body["model"] != "judging")
    asked = len(server.bodies)
    assert evaluated(data, tmp_path / "a", *behind(server))[1] == rows
    assert len(server.bodies) == asked


def test_silent_judge_is_a_failure_and_asked_again(server, data, tmp_path):
    dead = [one if not one.startswith("judge_url") else "judge_url=http://127.0.0.1:9/v1" for one in behind(server)]
    results, rows = evaluated(data, tmp_path / "a", *dead)
    assert "no verdict of the judge: error: no reply: connection" in results["failed"]["sotopia"]
    assert {json.loads(row)["tries"] for row in rows["verdicts_sotopia.jsonl"]} == {0}
    results, _ = evaluated(data, tmp_path / "a", *behind(server))
    assert results["reportable"]
    asked = [body["messages"][-1]["content"] for body in server.bodies if body["model"] == "judging"]
    assert asked
    assert not any("could not be used" in text for text in asked)


def test_episode_with_a_failed_call_is_replayed(server, data, tmp_path):
    server.fails = 1
    results, rows = evaluated(data, tmp_path / "a", *behind(server), "concurrency=1")
    assert len(rows["samples_sotopia.jsonl"]) == 3
    assert any("1 episode abandoned (turn 0: no reply" in note for note in results["notes"]["sotopia"])
    assert not results["reportable"]
    results, rows = evaluated(data, tmp_path / "a", *behind(server))
    assert len(rows["samples_sotopia.jsonl"]) == 4
    assert results["reportable"]
