"""scripts/score_responses.py: rows in, rows with reward and terms out, or one clear error and no file."""

import importlib.util
import json
import sys
from contextlib import closing
from pathlib import Path

import pytest
from judge_server import JudgeServer

from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.data.question_files import read_examples
from socialr1_jax.rewards import judge_thoughts, social_r1_reward
from socialr1_jax.rewards.scorer import Scorer

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "score_responses.py"
THOUGHTS = (
    "Encode: Anna put the coin in the drawer. Anna left the kitchen. Ben moved the coin to the shelf.\n"
    "Interpret: Anna did not see Ben move the coin, so she still thinks that it is in the drawer.\n"
    "Goal: say where Anna will look first for the coin.\n"
    "Respond: Anna acts on her own belief. A: drawer, yes. B: shelf, no. So the answer is A."
)
ROW = {
    "story": "Anna put the coin in the drawer.",
    "question": "Where will Anna look?",
    "options": ["drawer", "shelf"],
    "answer": "A",
    "response": f"<think>\n{THOUGHTS}\n</think>\n\n<Answer>A</Answer>",
    "id": "kept",
}


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("score_responses", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


@pytest.fixture
def score(main, tmp_path):
    """Run the script over rows (or raw text) and return (exit status, rows written or None)."""

    def run(rows, *arguments):
        source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
        if isinstance(rows, bytes):
            source.write_bytes(rows)
        else:
            source.write_text("\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
        status = main(["--input", str(source), "--output", str(target), *arguments])
        assert {path.name for path in tmp_path.iterdir()} <= {"in.jsonl", "out.jsonl"}
        found = [json.loads(line) for line in target.read_text().splitlines()] if target.exists() else None
        return status, found

    return run


def test_rewards_and_terms(score, capsys):
    wrong = ROW | {"response": ROW["response"].replace("<Answer>A", "<Answer>B")}
    status, (first, second, third) = score([ROW, wrong, ROW | {"response": "A"}], "--preset", "no_content")
    assert status == 0
    assert {name: value for name, value in first.items() if name not in ("reward", "status", "terms")} == ROW
    structure = judge_thoughts(THOUGHTS).score
    expected = social_r1_reward(ROW["response"], "A", structure, None, preset="no_content")
    assert first["reward"] == expected.total
    assert first["terms"] == {
        "format": 1.0,
        "outcome": 1.0,
        "structure": structure,
        "content": None,
        "length_window": expected.length_window,
        "repetition": expected.repetition,
    }
    assert second["reward"] == pytest.approx(0.2 * 2 * structure * expected.length_window)
    assert (third["reward"], third["terms"]["format"]) == (0.0, 0.0)
    captured = capsys.readouterr()
    assert "3 responses" in captured.out
    assert "format rate 0.6667, accuracy 0.3333, unscorable 0" in captured.out
    assert captured.err == ""


def test_functions_of_ones_own(score, capsys, monkeypatch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "scored.py").write_text(
        "def short(records):\n    assert all(record['meta'] == {'level': 3, 'type': '5'} for record in records)\n"
        "    return [-float(len(record['response']) < 5) for record in records]\n\n\n"
        "def bad(records):\n    return [1 / (len(record['response']) > 5) for record in records]\n"
    )
    monkeypatch.chdir(folder)
    rows = [ROW | more | {"type": 5} for more in ({"level": 3}, {"meta": {"level": 3}, "response": "A"})]
    extra = ["rewards.extra.short.function=scored.py:short", "rewards.extra.short.weight=3"]
    found = {gated: score(rows, *extra, f"rewards.extra.short.gated={gated}")[1] for gated in ("true", "false")}
    (_, plain) = score(rows)
    assert [[row["reward"] for row in scored] for scored in found.values()] == [
        [plain[0]["reward"], 0.0],
        [plain[0]["reward"], -3.0],
    ]
    assert [row["terms"]["short"] for row in found["true"]] == [0.0, -1.0]
    capsys.readouterr()
    status, _ = score(rows, *extra, "rewards.extra.worse.function=scored.py:bad")
    error = capsys.readouterr().err
    assert status == 2
    assert (
        f"rewards.extra.worse: bad failed at response 2 of 2 (id 'kept'): {folder / 'scored.py'}:7: ZeroDivisionError"
        in error
    )
    for function, status in (("scored.py:short", 0), ("scored.py:long", 2)):
        with pytest.raises(SystemExit) as ended:
            score(rows, f"rewards.extra.one.function={function}", "--dry-run")
        assert ended.value.code == status
    assert "rewards.extra.one: scored.py has no function 'long'" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["A", "a", "(a)", "drawer", "A. drawer"])
def test_gold_answers_as_in_question_files(score, answer):
    status, (row,) = score([ROW | {"answer": answer}])
    assert (status, row["terms"]["outcome"], row["answer"]) == (0, 1.0, answer)
    (kept,) = score([ROW | {"options": ["B", "A"]}])[1]  # a letter stays one
    assert kept["terms"]["outcome"] == 1.0


def test_meta_is_that_of_training(main, tmp_path, monkeypatch):
    seen = tmp_path / "seen.py"
    seen.write_text("metas = []\n\ndef see(records):\n    metas.extend(r['meta'] for r in records)\n    return [0.0]\n")
    more = {"level": 2, "type": 5, "none": None, "a.b": 1, "a": {"b": 2, "c": {"d": True, "e": [1]}}, "list": [1]}
    row = ROW | more | {"meta": {"own": 1.5, "scoring": {"rater": "x", "gone": None}}, "thoughts": "t"}
    source = tmp_path / "in.jsonl"
    source.write_text(json.dumps(row))
    scored = ["--input", str(source), "--output", str(tmp_path / "out.jsonl"), f"rewards.extra.see.function={seen}:see"]
    assert main(scored) == 0
    (by_file,) = sys.modules["rewards_extra_seen"].metas
    del row["response"]
    source.write_text(json.dumps(row))
    (example,) = read_examples(source)
    config = RewardConfig(extra={"see": {"function": f"{seen}:see"}})
    with closing(Scorer(config)) as scorer:
        scorer.submit(0, ROW["response"], example)
        scorer.results(0)
    (by_run,) = sys.modules["rewards_extra_seen"].metas
    assert by_run == by_file
    assert by_run == {"level": 2, "type": "5", "a.b": 1, "a.c.d": True, "own": 1.5, "scoring.rater": "x"}


def test_full_needs_a_content_score(score, capsys):
    rows = [ROW, ROW | {"content": 0.5}, ROW | {"content": float("nan")}]
    status, found = score(rows, "--preset", "full", "--judge", "rules", "--step", "200")
    assert status == 0
    assert [row["reward"] is None for row in found] == [True, False, True]
    assert found[1]["terms"]["content"] == pytest.approx(2.5**1.2)
    expected = social_r1_reward(ROW["response"], "A", judge_thoughts(THOUGHTS).score, 0.5, step=200)
    assert found[1]["reward"] == expected.total
    assert [row["status"] for row in found] == ["unscorable", "scored", "unscorable"]
    assert [row.get("cause") for row in found] == ["content", None, "content"]
    error = capsys.readouterr().err
    assert "2 rewards are null: content 2" in error
    assert "preset full needs a content score" in error


def test_rows_with_twins_and_types_get_pair_accuracy(score, capsys):
    wrong = ROW["response"].replace("<Answer>A", "<Answer>B")
    meta = {"type": "belief\x1b[2J", "twin_id": "t"}
    rows = [
        ROW | {"meta": meta},  # right in 1 of 2 samples
        ROW | {"meta": meta, "response": wrong},
        ROW | {"meta": meta, "story": "Anna saw Ben put the coin on the shelf.", "answer": "B", "response": wrong},
    ]
    assert score(rows, "--preset", "no_content")[0] == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert "pair accuracy 0.5000; accuracy belief\\x1b[2J 0.7500; chance 0.5000" in line
    assert score([ROW | {"type": 3, "twin_id": None, "meta": [1]}], "--preset", "no_content")[0] == 0
    assert "pair accuracy" not in capsys.readouterr().out


def test_free_text_without_story(score):
    row = {
        "question": "Where?",
        "answer": "the drawer",
        "response": ROW["response"].replace("<Answer>A", "<Answer>The drawer."),
    }
    assert score([row])[1][0]["terms"]["outcome"] == 1.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**ROW, "answer": "C"}, r"the gold answer 'C' is not among the 2 options (drawer; shelf)"),
        ({**ROW, "answer": 1}, "'answer' is 1, not a text"),
        ({**ROW, "answer": " "}, "the gold answer is empty"),
        ({**ROW, "response": None}, "'response' is None, not a text"),
        ({**ROW, "options": "drawer"}, "'options' is 'drawer', not a list of texts"),
        ({**ROW, "content": "high"}, "'content' is 'high', not a number or null"),
        ({**ROW, "content": float("inf")}, "Infinity is not a number; write null"),
        ({**ROW, "content": 1e300}, "content score 1e+300 is too large"),
        ({name: ROW[name] for name in ROW if name != "response"}, "no 'response'; a row needs"),
        ([ROW], "a row is a JSON object, not list"),
    ],
)
def test_bad_row_names_its_line_and_writes_nothing(score, capsys, row, message):
    status, found = score([ROW, row])
    assert (status, found) == (2, None)
    error = capsys.readouterr().err
    assert "in.jsonl: line 3: " in error
    assert message in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"question": "q"', "line 1: not JSON"),
        (b'\n\n{"question": "\xff"}', "line 3: not UTF-8 text"),
        (b"\n \n", "the file holds no rows"),
        (b"", "the file holds no rows"),
    ],
)
def test_a_bad_file(score, capsys, text, message):
    assert score(text) == (2, None)
    assert message in capsys.readouterr().err


def test_an_old_output_survives_an_error(score, tmp_path):
    (tmp_path / "out.jsonl").write_text('{"old": 1}\n')
    assert score([ROW, {}]) == (2, [{"old": 1}])


def test_output_over_input(main, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(ROW))
    assert main(["--input", str(path), "--output", str(path)]) == 0
    assert json.loads(path.read_text())["reward"] > 0


def test_a_missing_file(main, tmp_path, capsys):
    assert main(["--input", str(tmp_path / "none.jsonl"), "--output", str(tmp_path / "o.jsonl")]) == 2
    assert "none.jsonl: No such file or directory" in capsys.readouterr().err


def test_judge_none_is_refused_where_it_is_needed(main, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--input", "a", "--output", "b", "--preset", "full", "--judge", "none"])
    assert stop.value.code == 2
    assert "judge is none" in capsys.readouterr().err


def test_silent_judge_is_one_line(main, tmp_path, capsys):
    pytest.importorskip("openai")
    (tmp_path / "in.jsonl").write_text(json.dumps(ROW))
    judge = [f"rewards.structure.{one}" for one in ("judge=endpoint", "base_url=http://127.0.0.1:9/v1", "model=m")]
    files = ("--input", str(tmp_path / "in.jsonl"), "--output", str(tmp_path / "out.jsonl"))
    assert main([*files, "--preset", "no_content", *judge, "rewards.structure.retries=0"]) == 2
    error = capsys.readouterr().err
    assert "rewards.structure: m at http://127.0.0.1:9/v1 gave no grade (connection)" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out.jsonl").exists()


def test_a_judge_that_stops_answering_is_status_1(score):
    pytest.importorskip("openai")
    with JudgeServer(plan=("ok",), faults={"503": 1.0}) as server:  # the sample is graded
        judge = ("--judge", "endpoint", "--judge-base-url", server.base_url, "--judge-model", "m")
        status, (row,) = score([ROW], "--preset", "no_content", *judge, "rewards.structure.retries=0")
    assert (status, row["reward"], row["cause"]) == (1, None, "judge_http_503")
