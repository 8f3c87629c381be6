"""Two runs compared on the same questions: figures by hand, the command, and what cannot be compared."""

import importlib.util
import json
import math
from pathlib import Path

import pytest
from scipy.stats import binomtest

from socialr1_jax.chat.answers import Reply
from socialr1_jax.config.evaluation import EvaluateConfig
from socialr1_jax.evaluation.compare import compare, difference_figures, text
from socialr1_jax.evaluation.metrics import mean_metric
from socialr1_jax.evaluation.question_file import open_questions_task
from socialr1_jax.evaluation.scoring import sample_row, score

ROOT = Path(__file__).resolve().parents[2]
COUNT = 40
# Of 40 questions 9 become right and 4 become wrong: right before are 16 to 35, right after 7 to 31.
BEFORE, AFTER = range(16, 36), range(7, 32)


def script(*arguments) -> int:
    spec = importlib.util.spec_from_file_location("compare_script", ROOT / "scripts" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main([str(argument) for argument in arguments])


def row(number: int, twins: int = 0, answer: str = "B") -> dict:
    twin = {"twin_id": f"t{number // twins}"} if twins else {}
    return {
        "id": f"q{number}",
        "story": f"Story {number}.",
        "question": f"Where is it in {number}?",
        "options": ["box", "bag"],
        "answer": answer,
        **twin,
    }


@pytest.fixture
def evaluation(tmp_path):
    """An output folder of evaluate.py in which the questions of these numbers are right; `rows` to change them."""

    def write(name, right, rows=None, samples=1, failed=()):
        rows = rows or [row(number) for number in range(COUNT)]
        source = tmp_path / "quiz.jsonl"
        source.write_text("".join(json.dumps(one) + "\n" for one in rows))
        task, data = open_questions_task(str(source), EvaluateConfig(model="m", tasks=(str(source),)))
        lines = []
        for number, request in enumerate(task.requests(data, "social_r1", 0)):
            other = "B" if request.gold == "A" else "A"
            letter = request.gold if number in right else other
            for sample in range(samples):
                reason = "error" if number in failed else "stop"
                reply = Reply(f"<think>hm</think><Answer>{letter}</Answer>", reason, 9)
                lines.append(sample_row(task.name, "social_r1", score(task, "social_r1", request, sample, reply)))
        folder = tmp_path / name
        folder.mkdir()
        (folder / "samples_quiz.jsonl").write_text("".join(json.dumps(one) + "\n" for one in lines))
        return folder

    return write


def test_settings_that_differ_are_named(evaluation):
    """Of those that change replies: where something lies, or how many are asked at once, is no matter."""
    folders = [evaluation("a", BEFORE), evaluation("b", AFTER)]
    assert "other settings" not in text(compare(*map(str, folders)))  # none are known
    for folder, tokens in zip(folders, (64, 256), strict=True):
        config = {"max_new_tokens": tokens, "temperature": 0.0, "output": str(folder), "batch_size": str(tokens)}
        (folder / "results.json").write_text(json.dumps({"config": config, "wording": {}}))
    found = compare(*map(str, folders))
    assert found["settings"] == {"max_new_tokens": [64, 256]}
    assert "settings differ, which may explain the difference: max_new_tokens 64 -> 256" in text(found)
    (folders[0] / "results.json").write_text('{"config": null}')  # edited by hand: the items are still compared
    assert compare(*map(str, folders))["settings"] == {}


def test_differing_wording_decoding_and_players_are_named(evaluation):
    """Of tasks that both have."""
    folders = [evaluation("a", BEFORE), evaluation("b", AFTER)]
    drawn = {"temperature": 0.0, "repetition_penalty": 1.05}
    of_a = {
        "config": {},
        "commit": "abc",
        "wording": {"hitom": "own wording", "simpletom": "12"},
        "details": {
            "motivebench": {"decoding": {"official": drawn, "social_r1": drawn}},
            "sotopia": {
                "rules": "0.1.4",
                "tested": {"model": "a"},
                "partner": {"model": "p", "temperature": 0.7},
                "judge": {"model": "j"},
                "tokens": 5,
            },
        },
    }
    of_b = {
        "config": {},
        "commit": "def",
        "wording": {"hitom": "34", "emobench": "56"},
        "details": {
            "motivebench": {"decoding": {"official": drawn | {"repetition_penalty": 1.0}}},
            "sotopia": {
                "rules": "head",
                "tested": {"model": "b"},
                "partner": {"model": "p", "temperature": 1.0},
                "judge": {"model": "k"},
                "tokens": 5,
            },
            "hitom": None,
        },
    }
    for folder, content in zip(folders, (of_a, of_b), strict=True):
        (folder / "results.json").write_text(json.dumps(content))
    found = compare(*map(str, folders))
    assert found["settings"] == {
        "wording.hitom": ["own wording", "34"],
        "decoding.motivebench.official.repetition_penalty": [1.05, 1.0],
        "sotopia.rules": ["0.1.4", "head"],
        "sotopia.partner.temperature": [0.7, 1.0],
        "sotopia.judge.model": ["j", "k"],
        "commit": ["abc", "def"],
    }
    assert "wording.hitom 'own wording' -> '34'" in text(found)
    (folders[1] / "results.json").write_text(json.dumps(of_a))
    assert compare(*map(str, folders))["settings"] == {}


def test_questions_in_other_words_are_counted(evaluation):
    folders = [evaluation("a", BEFORE), evaluation("b", AFTER)]
    assert "different prompts" not in text(compare(*map(str, folders)))
    file = folders[1] / "samples_quiz.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[0]["messages"][-1]["content"] += " Please."
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = compare(*map(str, folders))
    assert found["comparisons"]["quiz.jsonl, social_r1"]["other_prompts"] == 1
    assert "different prompts: 1 question\n" in text(found)


def test_of_several_replies_better_and_worse_are_counted(evaluation):
    folders = [evaluation("a", range(20), samples=2), evaluation("b", range(20), samples=2)]
    file = folders[1] / "samples_quiz.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for one in rows:
        if one["sample"] == 1 and one["id"] in ("q1", "q2", "q30"):  # 100 % to 50 %, and 0 % to 50 %
            one["value"] = 1.0 - one["value"]
    file.write_text("".join(json.dumps(one) + "\n" for one in rows))
    found = compare(*map(str, folders))
    (part,) = found["comparisons"].values()
    assert (part["better"], part["worse"], part["wrong_to_right"], part["right_to_wrong"]) == (1, 2, 0, 2)
    assert "(right: in more than half of its replies); 1 better, 2 worse" in text(found)


def test_a_comparison_of_single_items_by_hand(evaluation):
    found = compare(str(evaluation("a", BEFORE)), str(evaluation("b", AFTER)))["comparisons"]["quiz.jsonl, social_r1"]
    figures = found["accuracy"]
    assert (figures["a"], figures["b"], figures["difference"]) == pytest.approx((0.5, 0.625, 0.125))
    reach = 2.022691 * math.sqrt((13 / 40 - 0.125**2) / 39)  # t of 39
    assert (figures["low"], figures["high"]) == pytest.approx((0.125 - reach, 0.125 + reach), abs=1e-6)
    assert figures["p"] == pytest.approx(binomtest(9, 13).pvalue)  # McNemar's exact test
    assert figures["clusters"] == found["items"] == COUNT
    assert (found["wrong_to_right"], found["right_to_wrong"]) == (9, 4)
    assert figures["verdict"] == "+12.5 points, 95 % interval -6 to +31: not a difference yet"
    assert [one["id"] for one in found["changed"]] == [f"q{i}" for i in (*range(7, 16), *range(32, 36))]
    assert found["changed"][0] == {
        "id": "q7",
        "change": "wrong to right",
        "answer_a": "A",
        "answer_b": "B",
        "gold": "B",
        "value_a": 0.0,
        "value_b": 1.0,
        "question": "Where is it in 7?",
    }
    assert found["chance"] == 0.5
    assert found["best_rule_accuracy"] == 1.0  # B is always right


def test_twins_are_one_cluster_and_count_as_pairs(evaluation):
    rows = [row(number, twins=2) for number in range(COUNT)]
    found = compare(str(evaluation("a", BEFORE, rows)), str(evaluation("b", AFTER, rows)))
    found = found["comparisons"]["quiz.jsonl, social_r1"]
    differences = [(i in AFTER) - (i in BEFORE) for i in range(COUNT)]
    metric = mean_metric([float(one) for one in differences], [str(i // 2) for i in range(COUNT)])
    reach = 2.093024 * metric.stderr  # t of 19
    assert found["accuracy"]["clusters"] == 20
    assert found["accuracy"]["high"] == pytest.approx(0.125 + reach, abs=1e-6)
    pairs = found["pair_accuracy"]
    assert (pairs["a"], pairs["b"], pairs["clusters"]) == (10 / 20, 12 / 20, 20)


@pytest.mark.parametrize(
    ("a", "b", "clusters", "verdict"),
    [
        ([1, 0] * 5, [1, 0] * 5, range(10), "no difference: every item has the same grade in both"),
        ([0] * 4, [1] * 4, range(4), "+100.0 points, no interval (all differences are equal): not a difference yet"),
        ([1] * 9, [0] * 9, range(9), "-100.0 points, no interval (all differences are equal): the second is worse"),
        ([0, 0], [1, 0], "aa", "+50.0 points, no interval (one cluster): not a difference yet"),
        ([0] * 30, [1] * 20 + [0] * 10, range(30), "+66.7 points, 95 % interval +49 to +85: the second is better"),
        ([0] * 999, [1] * 20 + [0] * 979, range(999), "+2.0 points, 95 % interval +1.1 to +2.9: the second is better"),
    ],
)
def test_verdicts(a, b, clusters, verdict):
    assert difference_figures(a, b, [str(one) for one in clusters])["verdict"] == verdict


def test_items_of_one_run_are_counted_apart(evaluation):
    rows = [row(number) for number in range(COUNT)]
    first = evaluation("a", BEFORE, rows[:30], samples=2)
    found = compare(str(first), str(evaluation("b", AFTER, rows, failed=(3, 4))))
    part = found["comparisons"]["quiz.jsonl, social_r1"]
    assert (part["items"], part["only_a"], part["only_b"], part["ungraded"]) == (28, 0, 10, 2)
    said = text(found)
    for line in ("left out: 10 questions only in the second", "left out: 2 questions not graded"):
        assert line in said


def response(number: int, step: int, right: bool, phase: str = "eval") -> dict:
    return {
        "phase": phase,
        "step": step,
        "set": "heldout",
        "sample": 0,
        **row(number),
        "response": f"<think>hm</think><Answer>{'B' if right else 'A'}</Answer>",
        "terms": {"outcome": float(right)},
    }


@pytest.fixture
def run(tmp_path):
    """A run's folder: evaluated before its first step and after its second, and a line that a kill has cut."""
    rows = [response(i, 0, i in BEFORE) for i in range(COUNT)]
    rows += [response(0, 1, True, "grpo")]
    rows += [response(i, 2, i in AFTER) for i in range(COUNT)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rollouts.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows) + '{"phase": "ev')
    return tmp_path / "run"


@pytest.mark.parametrize(("first", "second", "change"), [("@0", "", (9, 4)), ("", "@0", (4, 9)), ("", "@2", (0, 0))])
def test_a_runs_evaluations_are_compared(run, first, second, change):
    part = compare(f"{run}{first}", f"{run}{second}")["comparisons"]["heldout"]
    assert (part["wrong_to_right"], part["right_to_wrong"]) == change
    file = compare(f"{run}{first}", str(run / "rollouts.jsonl"))["comparisons"]["heldout"]
    assert file["items"] == COUNT


def test_scored_responses_without_ids_are_compared(tmp_path):
    for name, right in (("a", BEFORE), ("b", AFTER)):
        rows = [response(i, 0, i in right) for i in range(COUNT)]
        for one in rows:
            for key in ("phase", "step", "set", "sample", "id"):
                del one[key]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows))
    part = compare(str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))["comparisons"]["responses"]
    assert (part["items"], part["accuracy"]["difference"]) == (COUNT, 0.125)


def test_the_command_prints_a_table_and_writes_json(evaluation, tmp_path, capsys):
    first, second = evaluation("a", BEFORE), evaluation("b", AFTER)
    assert script(first, second, "--output", tmp_path / "c.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[3] == "quiz.jsonl, social_r1: 40 questions in 40 clusters (twins and questions of one story are one)"
    assert lines[5].split() == ["accuracy", "50.0%", "62.5%", "+12.5", "-6", "to", "+31", "0.2668"]
    assert "  changed: 13 of 40 questions; 9 from wrong to right, 4 from right to wrong" in lines
    assert "    q7: wrong to right, A -> B, gold B: Where is it in 7?" in lines
    assert "    ... and 3 more (--output has all)" in lines
    assert "  accuracy: +12.5 points, 95 % interval -6 to +31: not a difference yet" in lines
    written = json.loads((tmp_path / "c.json").read_text())
    assert written == compare(str(first), str(second))
    assert script(second, first, "--output", tmp_path / "c.json") == 0  # its own file is replaced
    (tmp_path / "mine.json").write_text('{"a": 1}')
    assert script(first, second, "--output", tmp_path / "mine.json") == 2
    assert (tmp_path / "mine.json").read_text() == '{"a": 1}'
    assert "is there and is not a comparison of this program" in capsys.readouterr().err


def test_what_cannot_be_compared_is_one_line(evaluation, run, tmp_path, capsys):
    first = evaluation("a", BEFORE)
    others = evaluation("others", AFTER, [row(number, answer="A") for number in range(COUNT)])
    strangers = evaluation("strangers", AFTER, [row(number + 100) for number in range(COUNT)])
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd.jsonl").write_text('{"id": 1}\n')
    (tmp_path / "list.jsonl").write_text("[1]\n")
    (tmp_path / "trained.jsonl").write_text(json.dumps(response(0, 1, True, "grpo")) + "\n")
    (tmp_path / "none.jsonl").write_text("")
    for second, words in (
        (tmp_path / "gone", "there is no such file or folder"),
        (tmp_path / "empty", "holds no samples_<task>.jsonl and no rollouts.jsonl"),
        (tmp_path / "odd.jsonl", "line 1: neither a sample of evaluate.py nor a scored response"),
        (tmp_path / "list.jsonl", "line 1: not a JSON object"),
        (tmp_path / "trained.jsonl", "has no evaluation: see evaluation.every"),
        (tmp_path / "none.jsonl", "no graded replies; give a finished run"),
        (f"{run}@7", "has no evaluation at step 7"),
        (run, "nothing in common"),
        (others, "q0 has another gold answer"),
        (strangers, "have no question in common"),
    ):
        assert script(first, second) == 2, second
        said = capsys.readouterr()
        assert said.out == ""
        assert words in said.err
        assert said.err.count("\n") == 1
