"""The runner of benchmarks: who answers, what is kept, what is scored, and what results say."""

import json
import math
import runpy
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from socialr1_jax.chat.answers import Reply
from socialr1_jax.config.evaluation import TASKS, EvaluateConfig
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.evaluation import evaluate as whole
from socialr1_jax.evaluation.card import card_example, card_request
from socialr1_jax.evaluation.metrics import Grade, Metric, accuracy, mean_metric
from socialr1_jax.evaluation.question_file import open_questions_task
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.rescore import rescore
from socialr1_jax.evaluation.respondents import Asked, Endpoint
from socialr1_jax.evaluation.results import checkpoint_text, figure_table, headline_table
from socialr1_jax.evaluation.rows import ReplyFile
from socialr1_jax.evaluation.runner import TaskResult, ask, drawn_with, requests_of, run_task
from socialr1_jax.evaluation.scoring import baselines, figures, sample_row, score
from socialr1_jax.evaluation.task import BenchmarkError, Data, Decoding, Task
from socialr1_jax.evaluation.tasks import get_task
from socialr1_jax.rewards.parsing import without_thoughts

ITEMS = [{"id": str(i), "gold": "AB"[i % 2]} for i in range(10)]
score_main = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "score.py"))["main"]
ASKS = {"official": "official", "official_cot": "official_cot", "social_r1": "social_r1 <Answer>"}
TOY = Task(
    name="hitom",  # a name that the settings know
    title="a toy",
    source="nowhere",
    licence="none",
    load=lambda folder: Data(items=ITEMS, files={"toy.json": "0" * 64}),
    requests=lambda data, protocol, seed: [
        Request(
            id=item["id"],
            item=item["id"],
            gold=item["gold"],
            meta={},
            max_new_tokens=8,
            messages=({"role": "user", "content": f"{ASKS[protocol]} {item['id']}"},),
        )
        for item in data.items
    ],
    grade=lambda request, protocol, reply: Grade(reply[:1], float(reply[:1] == request.gold)),
    metrics=lambda graded, protocol: {"accuracy": accuracy(graded)},
)


class Scripted:
    """Says `say(asked, sample)`, in reverse order; raises at a given call."""

    def __init__(self, say, fail_at=None):
        self.say, self.fail_at, self.calls = say, fail_at, []

    def identity(self):
        return {"model": "scripted"}

    def replies(self, asked) -> Iterator[tuple[int, int, Reply]]:
        for i, one in reversed(list(enumerate(asked))):
            for sample in one.samples:
                if len(self.calls) == self.fail_at:
                    raise KeyboardInterrupt
                self.calls.append((one.key, sample))
                yield i, sample, self.say(one, sample)

    def close(self):
        pass


def right_or_wrong(asked: Asked, sample: int) -> Reply:
    return Reply(f"<think>hm</think>{'AB'[(int(asked.key[-1]) + sample) % 2]}", "stop", 3)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    monkeypatch.setattr(whole, "get_task", lambda name: TOY)
    monkeypatch.setattr("socialr1_jax.evaluation.rescore.get_task", lambda name: TOY)
    (tmp_path / "data" / "hitom").mkdir(parents=True)

    def config(**changes) -> EvaluateConfig:
        folders = {"data_dir": str(tmp_path / "data"), "output": str(tmp_path / "out")}
        return EvaluateConfig(**{"model": "m", "tasks": ("hitom",), "temperature": 1.0, **folders, **changes})

    return config


def run(config, respondent):
    with ReplyFile(Path(config.output) / "replies.jsonl", respondent.identity()) as replies:
        data = TOY.load(Path(config.data_dir))
        return run_task(TOY, data, requests_of(TOY, data, config), config, respondent, replies, lambda text: None)


def test_samples_are_averaged_and_voted(toy):
    result = run(toy(num_samples=3), Scripted(right_or_wrong))
    # samples 0 and 2 are right, sample 1 is wrong
    assert result.metrics["official/accuracy"] == (pytest.approx(2 / 3), pytest.approx(0.0), 10)
    assert result.metrics["social_r1/maj@3/accuracy"].value == 1.0
    assert result.metrics["official/pass@3/accuracy"].value == 1.0
    assert result.status["official"]["ok"] == 1.0
    assert result.replies == 60


def test_interrupted_run_asks_only_missing_questions(toy, tmp_path):
    whole_run = run(toy(output=str(tmp_path / "whole"), num_samples=2), Scripted(right_or_wrong))
    first, second = Scripted(right_or_wrong, fail_at=13), Scripted(right_or_wrong)
    config = toy(num_samples=2)
    with pytest.raises(KeyboardInterrupt):
        run(config, first)
    with (tmp_path / "out" / "replies.jsonl").open("a") as file:
        file.write('{"key": "cut')  # a kill while a line was written
    again = run(config, second)
    assert set(first.calls).isdisjoint(second.calls)
    assert len(first.calls) + len(second.calls) == 40
    assert again.metrics == whole_run.metrics
    samples = [(folder / "samples_hitom.jsonl").read_text() for folder in (tmp_path / "whole", tmp_path / "out")]
    assert samples[0] == samples[1]
    third = Scripted(right_or_wrong, fail_at=0)
    assert run(config, third).metrics == again.metrics


def test_another_model_or_prompt_is_asked_anew(toy, tmp_path):
    asked = Asked("hitom/official/1", ({"role": "user", "content": "q"},), 8)
    with ReplyFile(tmp_path / "r.jsonl", {"model": "a"}) as replies:
        replies.add(asked, 0, Reply("x", "stop", 1))
        replies.add(asked, 1, Reply("", "error", 0))
    with ReplyFile(tmp_path / "r.jsonl", {"model": "a"}) as replies:
        assert replies.get(asked, 0) == Reply("x", "stop", 1)
        assert replies.get(asked, 1) is None  # what failed is tried again
        assert replies.get(Asked(asked.key, asked.messages, 9), 0) is None
    with ReplyFile(tmp_path / "r.jsonl", {"model": "b"}) as replies:
        assert replies.get(asked, 0) is None


@pytest.mark.parametrize(
    ("text", "reason", "status", "value"),
    [
        ("<think>x</think>A", "stop", "ok", 1.0),
        ("A", "stop", "ok", 1.0),
        ("<think>x</think>B", "stop", "ok", 0.0),
        ("<think>A is it, A", "length", "truncated", 0.0),
        ("<think>A is it, A", "stop", "truncated", 0.0),  # unclosed, however it ended
        ("<think>x</think>A and on", "length", "truncated", 1.0),
        ("x</think>A", "stop", "ok", 1.0),  # the template opened the thoughts
        ("<think>x</think>", "stop", "unparsable", 0.0),
        ("", "error", "error", math.nan),
        ("", "too_long", "too_long", math.nan),
        ("", "refused", "refused", math.nan),
    ],
)
def test_the_status_of_a_reply(text, reason, status, value):
    request = Request(id="0", item="0", messages=(), gold="A")
    found = score(TOY, "official", request, 0, Reply(text, reason, 1))
    assert found.status == status
    assert found.grade.value == pytest.approx(value, nan_ok=True)


TWO_CALLS = replace(
    TOY,
    protocols={"official": Decoding(), "official_cot": Decoding(temperature=0.3), "social_r1": Decoding()},
    requests=lambda data, protocol, seed: [
        replace(one, follow_up=protocol == "official_cot") for one in TOY.requests(data, protocol, seed)
    ],
    follow_up=lambda request, protocol, reply: replace(
        request, messages=({"role": "user", "content": f"{request.id}: {reply}, so?"},), follow_up=False
    ),
)


def reasons(asked: Asked, sample: int) -> Reply:
    """Thinks aloud in the first call, and answers in the second one; question 3 fails, question 4 thinks for ever."""
    said = asked.messages[0]["content"]
    if said.endswith("so?"):
        return Reply("AB"[int(said[0]) % 2], "stop", 1)
    if said[-1] == "3":
        return Reply("", "error", 0)
    return Reply("<think>on and on" if said[-1] == "4" else f"<think>hm</think>because of {sample}", "stop", 3)


def test_an_answer_may_take_a_second_call(toy, tmp_path):
    config, data, said = toy(protocols=("official_cot",), num_samples=2), TOY.load(tmp_path), []
    respondent = Scripted(reasons)

    def ran(respondent):
        with ReplyFile(tmp_path / "out" / "replies.jsonl", {}) as replies:
            asked = requests_of(TWO_CALLS, data, config)
            return run_task(TWO_CALLS, data, asked, config, respondent, replies, said.append)

    result = ran(respondent)
    assert len(said) == 40  # a step of progress for each of two calls, also where the second one is not made
    assert (result.metrics["official_cot/accuracy"].value, result.metrics["official_cot/accuracy"].n) == (8 / 9, 9)
    assert result.status["official_cot"] == {
        "ok": 0.8,
        "truncated": 0.1,
        "unparsable": 0.0,
        "too_long": 0.0,
        "refused": 0.0,
        "error": 0.1,
    }
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples_hitom.jsonl").read_text().splitlines()]
    assert [(row["id"], row["sample"]) for row in rows[:3]] == [("0", 0), ("0", 1), ("1", 0)]
    assert rows[1]["messages"][0]["content"] == "0: because of 1, so?"
    assert rows[8]["reply"] == "<think>on and on"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socialr1_jax.evaluation.rescore.get_task", lambda name: TWO_CALLS)
        assert rescore(tmp_path / "out" / "samples_hitom.jsonl")["status"]["hitom"] == result.status
    again = Scripted(reasons)
    assert ran(again).metrics == result.metrics
    assert again.calls == [("hitom/official_cot/3", 0), ("hitom/official_cot/3", 1)]  # what failed, and no more


@pytest.mark.parametrize(
    ("protocols", "message"),
    [
        (("paper",), r"^protocols: no task has paper; available: official, official_cot, social_r1$"),
        (("official", "official_18", "paper"), r"^protocols: no task has official_18, paper; available: off"),
    ],
)
def test_unknown_protocol_is_named_before_any_question(toy, monkeypatch, protocols, message):
    monkeypatch.setattr(whole, "make_respondent", lambda config: pytest.fail("asked"))
    monkeypatch.setattr(whole, "get_task", lambda name: TWO_CALLS)
    with pytest.raises(BenchmarkError, match=message):
        whole.evaluate(toy(protocols=protocols))


def test_task_leaves_out_what_it_lacks(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "make_respondent", lambda config: Scripted(right_or_wrong))
    monkeypatch.setattr(whole, "get_task", lambda name: TWO_CALLS if name == "hitom" else TOY)
    (tmp_path / "data" / "socialiqa").mkdir()
    (tmp_path / "quiz.csv").write_text(QUIZ)
    tasks = ("hitom", str(tmp_path / "quiz.csv"), "sotopia")
    config = toy(tasks=tasks, protocols=("social_r1, official_cot",), columns=MAPPED)
    content = json.loads(whole.evaluate(config).read_text())
    assert list(content["status"]["hitom"]) == ["social_r1", "official_cot"]  # in the order asked for
    assert content["notes"]["quiz.csv"] == ["left out, since quiz.csv has no such prompts: official_cot"]
    assert content["notes"]["sotopia"] == ["left out, since sotopia has no such prompts: social_r1, official_cot"]
    assert content["details"]["hitom"]["decoding"]["official_cot"]["temperature"] == 1.0  # given
    assert not content["failed"]


def test_samples_of_another_protocol_are_refused(toy, tmp_path):
    run(toy(limit=1), Scripted(right_or_wrong))
    file = tmp_path / "out" / "samples_hitom.jsonl"
    file.write_text(file.read_text().replace('"official"', '"paper"'))
    with pytest.raises(BenchmarkError, match=r"line 1: .*hitom has the protocols official, social_r1, not 'paper'"):
        rescore(file)


def test_the_last_end_of_thoughts_counts():
    assert without_thoughts("<think>a</think>b</think> c ") == "c"
    assert without_thoughts("<think>a") is None


def test_a_mean_over_clusters_by_hand():
    assert mean_metric([1.0, 0.0, 1.0, 1.0]) == (0.75, pytest.approx(0.25), 4)  # s = 0.5, over sqrt(4)
    # two clusters with sums of deviations +0.5 and -0.5: sqrt(2 x 0.5 / 1) / 4
    value, stderr, n = mean_metric([1.0, 1.0, 1.0, 0.0], ["a", "a", "b", "b"])
    assert (value, n) == (0.75, 2)
    assert stderr == pytest.approx(math.sqrt(0.5 * 2 / 1) / 4)
    assert math.isnan(mean_metric([]).value)
    assert math.isnan(mean_metric([1.0]).stderr)


def test_results_describe_the_run_and_rescore_alike(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "make_respondent", lambda config: Scripted(right_or_wrong))
    config = toy(limit=4)
    content = json.loads(whole.evaluate(config).read_text())
    assert content["results"]["hitom"]["official/accuracy"] == {"value": 1.0, "stderr": 0.0, "n": 4}
    assert content["reportable"] is False
    assert content["files"]["hitom"] == {"toy.json": "0" * 64}
    assert content["wording"] == {"hitom": "own wording"}
    assert content["model"] == {"model": "scripted"}
    for name, before in (("results.md", "\n"), ("results.html", "<p><strong>")):  # no heading
        assert f"{before}NOT REPORTABLE" in (tmp_path / "out" / name).read_text()
        assert "n: how many independent items" in (tmp_path / "out" / name).read_text()
        assert (tmp_path / "out" / name).read_text().count("own wording") == 2  # in the table, and in a note
    again = rescore(tmp_path / "out" / "samples_hitom.jsonl")
    assert again["results"] == content["results"]
    assert again["status"] == content["status"]
    with (tmp_path / "out" / "samples_hitom.jsonl").open("a") as file:
        file.write('{"task": "hitom"}\n')
    with pytest.raises(BenchmarkError, match="line 9: not a sample"):
        rescore(tmp_path / "out" / "samples_hitom.jsonl")


def test_missing_samples_are_searched_beside(tmp_path, capsys):
    (tmp_path / "samples_quiz.csv.jsonl").write_text("")
    assert score_main([str(tmp_path / "samples_quiz.jsonl")]) == 2
    assert capsys.readouterr().err.endswith("samples_quiz.jsonl; beside it: samples_quiz.csv.jsonl\n")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"protocol": "official_fancy"}, "hitom has the protocols official, social_r1, not "),
        ({"protocol": "official"}, "its prompt is not one of the protocol official"),
        ({"task": "sotopia"}, "SOTOPIA's episodes are scored by its judge alone"),
        ({"task": "hitomm"}, "the task 'hitomm' is neither a benchmark nor a question file"),
    ],
)
def test_samples_of_another_protocol_are_one_line(toy, tmp_path, capsys, changed, reason):
    requests = TOY.requests(Data(items=ITEMS, files={}), "social_r1", 0)
    rows = [
        sample_row("hitom", "social_r1", score(TOY, "social_r1", one, 0, Reply("A", "stop", 1))) for one in requests
    ]
    file, output = tmp_path / "samples_hitom.jsonl", tmp_path / "figures.json"
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert score_main([str(file), f"output={output}"]) == 0
    before = output.read_text()
    file.write_text("".join(json.dumps(one | changed) + "\n" for one in rows))
    capsys.readouterr()
    assert score_main([str(file), f"output={output}"]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert f"{file} line 1: not a sample of evaluate.py" in said.err
    assert reason in said.err
    assert output.read_text() == before


def test_wording_is_of_official_prompts_alone(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "make_respondent", lambda config: Scripted(right_or_wrong))
    content = json.loads(whole.evaluate(toy(protocols=("social_r1",), limit=2)).read_text())
    assert content["wording"] == {}
    assert "own wording" not in (tmp_path / "out" / "results.md").read_text()


@pytest.mark.parametrize(
    ("changes", "whole_data", "reason"),
    [
        ({}, True, ""),
        ({}, False, "a part of its questions"),
        ({"limit": 4}, True, "the first 4 prompts alone"),
        ({"protocols": ("official",)}, True, "no figure of social_r1"),
    ],
)
def test_published_figures_stand_beside_comparable_ones_alone(toy, tmp_path, monkeypatch, changes, whole_data, reason):
    monkeypatch.setattr(whole, "make_respondent", lambda config: Scripted(right_or_wrong))
    data = Data(items=ITEMS, files={}, whole=whole_data)
    monkeypatch.setattr(whole, "get_task", lambda name: replace(TOY, load=lambda folder: data))
    whole.evaluate(toy(**changes))
    said = (tmp_path / "out" / "results.md").read_text()
    assert ("0.7083" in said) is not bool(reason)
    assert (f"Not comparable with published figures: hitom ({reason})" in said) is bool(reason)


def test_what_was_not_asked_has_no_figure(toy):
    result = TaskResult(
        task="hitom",
        shares=True,
        replies=0,
        status={"official": {"ok": 1.0}},
        metrics={
            "official/accuracy": mean_metric([]),
            "official/first": Metric(1.0, 0.0, 8),
            "official/sets": Metric(0.0, math.nan, 0),
        },
    )
    assert headline_table([result])[1] == [["hitom", "official/accuracy", "–", "", "0", "none"]]
    assert figure_table(result)[1][1:] == [
        ["official/first", "1.0000", "0.6756 to 1.0000", "8"],
        ["official/sets", "–", "", "0"],
    ]
    asked = requests_of(replace(TOY, requests=lambda data, protocol, seed: []), TOY.load(Path()), toy())
    assert asked == {}


def test_the_step_of_a_checkpoint_is_told():
    assert checkpoint_text({"model": "runs/mine", "step": 0}) == "The checkpoint after step 0 of runs/mine."
    assert checkpoint_text({"model": "Qwen/Qwen3-8B", "step": ""}) == ""
    assert checkpoint_text({"model": "scripted"}) == ""


def test_prediction_alone_scores_nothing(toy, tmp_path):
    assert run(toy(predict_only=True), Scripted(right_or_wrong)).metrics == {}
    rows = [json.loads(line) for line in (tmp_path / "out" / "samples_hitom.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert {row["value"] for row in rows} == {None}
    assert rescore(tmp_path / "out" / "samples_hitom.jsonl")["results"]["hitom"]["official/accuracy"]["value"] == 1.0


def test_missing_data_are_reported_before_any_question(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "make_respondent", lambda config: pytest.fail("asked"))
    (tmp_path / "data" / "hitom").rmdir()
    with pytest.raises(BenchmarkError, match=r"hitom: there is no folder .*; get the data from nowhere"):
        whole.evaluate(toy())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (["tasks=hitomm"], "unknown hitomm; the tasks are tombench"),
        (["num_samples=2", "temperature=0"], "identical replies"),
        (["base_url=http://x", "thinking=budget"], "an endpoint takes on or off"),
        (["tasks=hitom", "by=type"], "by is about a question file, and tasks names none"),
        (["tasks=hitom", "columns={options: choices}"], "columns is about a question file"),
        (["tasks=hitom", "allow_bad_rows=true"], "allow_bad_rows is about a question file"),
        (["tasks=a/quiz.csv,b/quiz.csv"], "two would write samples_quiz.csv.jsonl; rename a file"),
        (["tasks=hitom,hitom.jsonl"], "two would write samples_hitom.jsonl; rename a file"),
        (
            ["tasks=hitom", "protocols=official,offical_cot"],
            "unknown offical_cot; the protocols are official, official_cot",
        ),
        (["tasks=hitom", "protocols=,"], "protocols: none is given; the protocols are official"),
        (["tasks=hitom", "protocol=both"], "unknown key 'protocol'; did you mean 'protocols'"),
        (["batch_size=many"], "batch_size"),
    ],
)
def test_settings_that_do_not_fit_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(EvaluateConfig, None, ["model=m", *override])


def test_groups_name_their_tasks():
    assert load_config(EvaluateConfig, None, ["model=m", "tasks=all", "judge=j", "partner=p"]).task_names == TASKS
    assert load_config(EvaluateConfig, None, ["model=m", "tasks=fantom,static,fantom"]).task_names[0] == "fantom"


# ------------------------------------------------------------------------------------------------ a question file


QUIZ = """number,text,ask,choices,gold,kind,level,twin_id
1,Anna left.,Where?,"A. box, B. bag, C. cup",A,belief,easy,t1
2,Anna stayed.,Where?,"A. box, B. bag, C. cup",C,belief,easy,t1
3,Ben left.,Where?,"A. box, B. bag",B,reality,easy,
4,Ben stayed.,Where?,"A. box, B. bag",B,reality,hard,
"""
MAPPED = {"id": "number", "story": "text", "question": "ask", "options": "choices", "answer": "gold"}


def test_question_file_has_columns_intervals_and_baselines(tmp_path, monkeypatch, capsys):
    def say(asked, sample):  # A everywhere but in the second question: 1 and 2 are right
        return Reply(f"<think>hm</think><Answer>{'C' if asked.key.endswith('/2') else 'A'}</Answer>", "stop", 3)

    monkeypatch.setattr(whole, "make_respondent", lambda config: Scripted(say))
    (tmp_path / "quiz.csv").write_text(QUIZ)
    settings = {"model": "m", "tasks": (str(tmp_path / "quiz.csv"),), "output": str(tmp_path / "out")}
    config = EvaluateConfig(**settings, columns=MAPPED, by=("kind,level",))
    content = json.loads(whole.evaluate(config).read_text())
    found = content["results"]["quiz.csv"]
    assert {name: (figure["value"], figure["n"]) for name, figure in found.items()} == {
        "social_r1/accuracy": (0.5, 3),  # twins are one item
        "social_r1/pair_accuracy": (1.0, 1),
        "social_r1/accuracy/kind=belief": (1.0, 1),
        "social_r1/accuracy/kind=reality": (0.0, 2),
        "social_r1/accuracy/level=easy": (pytest.approx(2 / 3), 2),
        "social_r1/accuracy/level=hard": (0.0, 1),
    }
    baselines = content["details"]["quiz.csv"]["baselines"]
    assert baselines["social_r1/accuracy"]["chance"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 2 + 1 / 2) / 4)
    assert baselines["social_r1/accuracy"]["accuracy"] >= 0.5  # B is right in two of four
    assert baselines["social_r1/accuracy/kind=reality"]["accuracy"] == 1.0
    assert baselines["social_r1/pair_accuracy"]["chance"] == pytest.approx(1 / 9)
    assert list(content["files"]["quiz.csv"]) == ["quiz.csv"]
    assert content["status"]["quiz.csv"].keys() == {"social_r1"}
    said = capsys.readouterr().out
    for word in ("chance", "best rule", "0.4167", "kind=reality"):
        assert word in said
    again = rescore(tmp_path / "out" / "samples_quiz.csv.jsonl")
    assert again["results"] == content["results"]


def test_allowed_bad_rows_are_left_out_and_counted(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(whole, "make_respondent", lambda config: Scripted(right_or_wrong))
    file = tmp_path / "quiz.csv"
    settings = {"model": "m", "tasks": (str(file),), "columns": MAPPED, "output": str(tmp_path / "out")}
    file.write_text(QUIZ + '5,Cem left.,Where?,"A. box, B. bag",Z,belief,easy,\n')
    with pytest.raises(ValueError, match=r"quiz\.csv row 5: the gold answer 'Z'[^$]*allow_bad_rows=true"):
        whole.evaluate(EvaluateConfig(**settings))
    content = json.loads(whole.evaluate(EvaluateConfig(**settings, allow_bad_rows=True)).read_text())
    assert content["results"]["quiz.csv"]["social_r1/accuracy"]["n"] == 3
    (note,) = content["notes"]["quiz.csv"]
    assert note.startswith("left out 1 of 5 rows that cannot be used: ")
    assert "the gold answer 'Z' is not among the 2 options" in note
    assert f"quiz.csv: {note}" in capsys.readouterr().out
    file.write_text(QUIZ.splitlines()[0] + "\n1,Anna left.,Where?,A. box; B. bag,Z,belief,easy,\n")
    with pytest.raises(ValueError, match=r"1 of 1 row cannot be used"):
        whole.evaluate(EvaluateConfig(**settings, allow_bad_rows=True))


def test_stories_are_evaluated_by_type_as_they_come(tmp_path, monkeypatch):
    monkeypatch.setattr(whole, "make_respondent", lambda config: Scripted(right_or_wrong))
    config = EvaluateConfig(model="m", tasks=("stories:heldout:6",), output=str(tmp_path))
    found = json.loads(whole.evaluate(config).read_text())["results"]["stories:heldout:6"]
    assert {"social_r1/accuracy", "social_r1/pair_accuracy", "social_r1/accuracy/type=belief"} <= found.keys()
    assert (tmp_path / "samples_stories-heldout-6.jsonl").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"by": ("colour",)}, "by: .*quiz.csv has no column 'colour' .*'kind', 'level'"),
        ({"by": ("levle",)}, r"no column 'levle' \(did you mean 'level'\?\)"),
        ({"columns": {}}, "no column 'story'"),
        ({"where": {"kind": "desire"}}, "none of 4 rows has kind"),
        ({"tasks": ("gone.csv",)}, "gone.csv"),
    ],
)
def test_unusable_question_file_is_reported_first(tmp_path, monkeypatch, changes, message):
    monkeypatch.setattr(whole, "make_respondent", lambda config: pytest.fail("asked"))
    (tmp_path / "quiz.csv").write_text(QUIZ)
    settings = {"model": "m", "tasks": (str(tmp_path / "quiz.csv"),), "columns": MAPPED, "output": str(tmp_path / "o")}
    with pytest.raises(ValueError, match=message):
        whole.evaluate(EvaluateConfig(**settings | changes))


def test_column_with_unique_values_is_refused(tmp_path):
    lines = [f"s{i},q,a,x{i}\n" for i in range(101)]
    (tmp_path / "free.csv").write_text("story,question,answer,place\n" + "".join(lines))
    source = str(tmp_path / "free.csv")
    with pytest.raises(BenchmarkError, match=r"column 'place' of .* has 101 values, more than 100"):
        open_questions_task(source, EvaluateConfig(model="m", tasks=(source,), by=("place",)))
    asks = {"prompt": "{{ story }} {{ question }}", "system": "Be brief."}
    inner = tmp_path / "inner.jsonl"  # by a name within an object
    rows = [{"story": "s", "question": f"{i}?", "answer": "x", "at": {"place": i % 2}} for i in range(4)]
    inner.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = EvaluateConfig(model="m", tasks=(str(inner),), by=("at.place",))
    assert [item["by"] for item in open_questions_task(str(inner), config)[1].items[:2]] == [
        {"at.place": "0"},
        {"at.place": "1"},
    ]
    task, data = open_questions_task(source, EvaluateConfig(model="m", tasks=(source,), **asks))
    messages = task.requests(data, "social_r1", 0)[7].messages
    assert [(one["role"], one["content"]) for one in messages] == [("system", "Be brief."), ("user", "s7 q")]
    # free text has no options, so no baselines
    requests = task.requests(data, "social_r1", 0)
    assert baselines(task, requests, task.examples(requests)) == {}


@pytest.mark.parametrize(
    ("name", "given", "official", "social"),
    [
        ("hitom", {}, (0.0, 1.0, 1.0), (0.0, 1.0, 1.0)),
        ("emobench", {}, (0.6, 1.0, 1.0), (0.0, 1.0, 1.0)),
        ("tactfultom", {}, (0.2, 1.0, 1.0), (0.0, 1.0, 1.0)),
        ("motivebench", {}, (0.0, 1.0, 1.05), (0.0, 1.0, 1.0)),
        ("motivebench", {"temperature": 0.7}, (0.7, 1.0, 1.05), (0.7, 1.0, 1.0)),
        ("emobench", {"temperature": 0.0, "repetition_penalty": 1.2}, (0.0, 1.0, 1.2), (0.0, 1.0, 1.2)),
    ],
)
def test_official_replies_are_drawn_as_by_the_authors(name, given, official, social):
    config = EvaluateConfig(model="m", tasks=(name,), **given)
    assert drawn_with(config, get_task(name), "official") == official
    assert drawn_with(config, get_task(name), "social_r1") == social


def test_reply_is_identified_by_its_decoding(tmp_path):
    """Results name the decoding; what is drawn as the configuration says keeps the key that it had."""
    task, seen = replace(TOY, protocols={"official": Decoding(temperature=0.6), "social_r1": Decoding()}), []
    config, data = EvaluateConfig(model="m", tasks=("hitom",), output=str(tmp_path)), TOY.load(tmp_path)
    respondent = Scripted(lambda one, sample: seen.append(one) or Reply("A", "stop", 1))
    with ReplyFile(tmp_path / "r.jsonl", {}) as replies:
        result = run_task(task, data, requests_of(task, data, config), config, respondent, replies, lambda text: None)
        drawn = {one.key: one.decoding for one in seen}
        assert {drawn[key] for key in drawn if "official" in key} == {Decoding(temperature=0.6)}
        assert {drawn[key] for key in drawn if "social_r1" in key} == {None}
        official = next(one for one in seen if one.decoding)
        assert replies.key(official, 0) != replies.key(replace(official, decoding=None), 0)
    found = result.details["decoding"]
    assert (found["official"]["temperature"], found["social_r1"]["temperature"]) == (0.6, 0.0)
    assert found["official"]["max_new_tokens"] == 8 + 4096  # of the answer, and of thoughts


def test_a_benchmark_has_baselines_for_every_figure():
    """Of two stories with two questions of 2 and 4 options: the longest option is right in the first story alone."""
    requests = [
        card_request(
            id=f"{story}{order}",
            item=story,
            story=f"Story {story}.",
            question="Which?",
            gold=gold,
            options=["box", "a bag"] if order == 0 else ["one", "six", "fifteen", "two"],
            meta={"order": order, "length": 1, "deception": False},
        )
        for story, order, gold in (("x", 0, "B"), ("x", 1, "C"), ("y", 0, "A"), ("y", 1, "A"))
    ]
    assert [card_example(request).options[-1] for request in requests] == ["a bag", "two", "a bag", "two"]
    found = baselines(get_task("hitom"), requests, list(map(card_example, requests)))
    assert found["accuracy"].chance == pytest.approx((0.5 + 0.25) / 2)
    assert found["joint"].chance == pytest.approx((0.5 + 0.5 * 0.25) / 2)
    assert (found["order_1"].rule, found["order_1"].accuracy) == ("longest", 0.5)
    assert found["joint/order_1"].accuracy == 0.5  # both of x


# ------------------------------------------------------------------------------------------------------- an endpoint


def loopback(reply) -> Iterator[ThreadingHTTPServer]:
    """An OpenAI-compatible endpoint on loopback: reply(server, body) is (status, message). `bodies`: what was asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                self.server.bodies.append(body)
                status, message = reply(self.server, body)
            choice = {"index": 0, "message": {"role": "assistant"} | message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 1, "completion_tokens": 5, "total_tokens": 6}
            about = {"id": "1", "object": "chat.completion", "created": 0, "model": "m"}
            answer = about | {"choices": [choice], "usage": usage} if status == 200 else {"error": {"message": "no"}}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *args):
            pass

    class Server(ThreadingHTTPServer):
        request_queue_size = 256  # 5 by default: a busy machine refuses some of 20 connections at once

    lock = threading.Lock()
    httpd = Server(("127.0.0.1", 0), Handler)
    httpd.bodies = []
    threading.Thread(target=httpd.serve_forever, args=(0.05,), daemon=True).start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()


@pytest.fixture
def server():
    """Repeats the prompt; `status` is what it answers with."""

    def reply(server, body):
        return server.status, {"content": "A " + body["messages"][-1]["content"]} | server.extra

    for httpd in loopback(reply):
        httpd.status, httpd.extra = 200, {}
        yield httpd


def endpoint(server, **changes) -> Endpoint:
    pytest.importorskip("openai")
    url = f"http://127.0.0.1:{server.server_port}/v1"
    settings = {"model": "m", "base_url": url, "retries": 0, "temperature": 0.5, "call_timeout": 20.0, **changes}
    return Endpoint(EvaluateConfig(**settings))


def test_endpoint_seeds_every_sample_apart(server):
    asked = [Asked(f"k{i}", ({"role": "user", "content": str(i)},), 8, (0, 1)) for i in range(6)]
    model = endpoint(server)
    found = {(i, s): reply for i, s, reply in model.replies(asked)}
    model.close()
    assert found[3, 1] == Reply("A 3", "stop", 5)
    assert len(found) == 12
    assert len({body["seed"] for body in server.bodies}) == 12
    assert {body["max_tokens"] for body in server.bodies} == {8}
    assert {body["temperature"] for body in server.bodies} == {0.5}
    assert not any("repetition_penalty" in body for body in server.bodies)


def test_an_endpoint_is_told_how_a_protocol_draws(server):
    model = endpoint(server)
    drawn = Decoding(temperature=0.2, repetition_penalty=1.05)
    list(model.replies([Asked("k", ({"role": "user", "content": "q"},), 8, decoding=drawn)]))
    model.close()
    assert {name: server.bodies[0][name] for name in Decoding._fields} == drawn._asdict()


def test_thoughts_that_a_server_cut_off_come_back(server):
    server.extra = {"reasoning_content": "hm"}
    model = endpoint(server, thinking="off")
    ((_, _, reply),) = model.replies([Asked("k", ({"role": "user", "content": "q"},), 8)])
    assert reply.text == "<think>hm</think>A q"
    assert server.bodies[0]["chat_template_kwargs"] == {"enable_thinking": False}


@pytest.mark.parametrize("status", [401, 404, 400])
def test_endpoint_that_refuses_all_ends_the_run(server, status):
    server.status = status
    asked = [Asked(f"k{i}", ({"role": "user", "content": "q"},), 8) for i in range(50)]
    with pytest.raises(BenchmarkError, match=f"answers {status}"):
        list(endpoint(server, concurrency=4).replies(asked))
    assert len(server.bodies) < 20


def test_failed_call_is_recorded_and_asked_again(server, toy, tmp_path):
    server.status = 500
    model = endpoint(server)
    request = TOY.requests(TOY.load(tmp_path), "official", 0)[0]
    with ReplyFile(tmp_path / "r.jsonl", model.identity()) as replies:
        ((_, _, reply),) = ask(TOY, {"official": [request]}, toy(), model, replies, lambda text: None)["official"]
    assert reply.finish_reason == "error"
    server.status = 200
    with ReplyFile(tmp_path / "r.jsonl", model.identity()) as replies:
        ((_, _, reply),) = ask(TOY, {"official": [request]}, toy(), model, replies, lambda text: None)["official"]
    assert reply.text == "A official 0"


def test_results_with_calls_that_failed_are_not_reportable(server, toy, capsys):
    server.status = 500
    url = f"http://127.0.0.1:{server.server_port}/v1"
    results = json.loads(whole.evaluate(toy(base_url=url, retries=0)).read_text())
    assert not results["reportable"]
    assert results["notes"]["hitom"][-1].startswith("20 of 20 replies failed (http_500 20: no); their items are")
    assert "NOT REPORTABLE: hitom: 20 of 20 replies failed" in " ".join(capsys.readouterr().out.split())
    assert (results["results"]["hitom"], results["failed"]) == ({}, {"hitom": "http_500 20: no"})
    server.status = 200
    assert json.loads(whole.evaluate(toy(base_url=url)).read_text())["reportable"]


def test_figures_without_replies_are_none():
    assert figures(TOY, "official", []) == {}
    assert Metric(1.0, 0.0, 1).n == 1
