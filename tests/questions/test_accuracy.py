"""Accuracy by type, of pairs, and of rules; twins stay together when questions are held out or picked."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.examples import Example
from socialr1_jax.data.twins import twin_groups, whole_groups
from socialr1_jax.questions.accuracy import accuracy_figures, baseline_figures
from socialr1_jax.questions.sources import open_questions
from socialr1_jax.run.questions import asked_questions, read_run_questions


def question(number: int, twin: str = "", kind: str = "", options: tuple[str, ...] = ("box", "bag", "cup")) -> Example:
    meta = {name: value for name, value in (("twin_id", twin), ("type", kind)) if value}
    answer = "A" if options else "the box"
    return Example(id=f"q{number}", story=f"{number}", question="Where?", options=options, answer=answer, meta=meta)


def of_twins(names: str) -> list[Example]:
    """Return a question for each letter; equal letters are twins, a dot has none."""
    return [question(number, name.strip(".")) for number, name in enumerate(names)]


@pytest.mark.parametrize(
    ("names", "accuracy_q", "expected", "stderr"),
    [
        ("aabb", [1, 0.5, 0.5, 0.5], 0.375, 0.125),  # (0.5 + 0.25) / 2; their spread over the root of 2
        ("abab", [1, 0.5, 0.5, 0.5], 0.375, 0.125),
        ("aaa.", [0.5, 0.5, 0.5, 0], 0.125, 0.0),
        ("aab.", [1, 1, 0, 0], 1.0, 0.0),  # the other twin of b was not asked
    ],
)
def test_pair_accuracy_by_hand(names, accuracy_q, expected, stderr):
    figures = accuracy_figures(of_twins(names), accuracy_q)
    assert figures["pair_accuracy"] == pytest.approx(expected)
    assert figures["pair_accuracy_stderr"] == pytest.approx(stderr)
    assert 0 <= figures["pair_accuracy_low"] < figures["pair_accuracy_high"] <= 1


@pytest.mark.parametrize("examples", [of_twins("...."), of_twins("abcd"), [question(i, "nan") for i in range(4)]])
def test_no_pair_accuracy_without_twins(examples):
    assert accuracy_figures(examples, [1, 1, 1, 1]) == {}


def test_pair_accuracy_is_the_share_of_right_pairs():
    right_qk = np.array([[1, 0, 1, 0, 0], [1, 1, 1, 0, 0]])
    share = np.mean([first and second for first, second in itertools.product(*right_qk)])
    assert share == pytest.approx(6 / 25)
    assert accuracy_figures(of_twins("aa"), right_qk.mean(axis=1))["pair_accuracy"] == pytest.approx(share)


def test_accuracy_by_type():
    examples = [question(0, kind="reality"), question(1, kind="belief"), question(2, kind="belief"), question(3)]
    assert accuracy_figures(examples, [0.25, 1, 0.5, 0])["accuracy_by_type"] == {"belief": 0.75, "reality": 0.25}


def told(number: int, gold: str, twin: str = "", kind: str = "", options: tuple[str, ...] = ("box", "bag", "cup")):
    """Return a question whose story mentions the box, the bag, then the cup; `gold` is a letter."""
    story = f"Story {number}: the box is here, the bag is there, and the cup is away."
    meta = {name: value for name, value in (("twin_id", twin), ("type", kind)) if value}
    return Example(id=f"q{number}", story=story, question="Where is it?", options=options, answer=gold, meta=meta)


def test_baselines_of_an_evaluation():
    """The gold option is the one mentioned last, but for one question whose twin has it too."""
    examples = [told(i, "C", kind="late") for i in range(4)]
    examples += [told(4, "A", "t", "twins"), told(5, "C", "t", "twins")]
    figures = baseline_figures(examples)
    assert figures["chance"] == pytest.approx(1 / 3)
    assert figures["best_rule"] in ("last_mentioned", "letter_C")
    assert figures["best_rule_accuracy"] == pytest.approx(5 / 6)
    assert figures["best_rule_accuracy_by_type"]["late"] == 1.0
    assert figures["best_rule_pair_accuracy"] < 0.5  # no rule of position tells twins apart
    assert "best_rule_pair_accuracy" not in baseline_figures(examples[:4])


@pytest.mark.parametrize("examples", [[], [question(0), question(1, options=())]])
def test_free_text_has_no_baselines(examples):
    assert baseline_figures(examples) == {}


@pytest.mark.parametrize(
    ("names", "order", "count", "expected"),
    [
        ("....", [3, 1, 2, 0], 2, [3, 1]),
        ("aabb", [0, 1, 2, 3], 3, [0, 1]),  # b does not fit
        ("aabb.", [0, 1, 2, 3, 4], 3, [0, 1, 4]),
        (".abab", [0, 1, 2, 3, 4], 3, [0, 1, 3]),
        ("a.a.", [2, 1, 3, 0], 3, [0, 2, 1]),
        ("aa", [0, 1], 1, []),
        ("..", [0, 1], 5, [0, 1]),
    ],
)
def test_whole_groups(names, order, count, expected):
    assert whole_groups(order, twin_groups(enumerate(of_twins(names))), count) == expected


def question_file(path: Path, names: str) -> str:
    rows = [
        {
            "id": e.id,
            "story": e.story,
            "question": e.question,
            "options": e.options,
            "answer": "A",
            "meta": dict(e.meta),
        }
        for e in of_twins(names)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def run_config(train: str, holdout: int) -> RunConfig:
    return RunConfig(model={"path": "m"}, data={"train": train, "holdout": holdout})


def test_twins_are_held_out_together(tmp_path):
    file = question_file(tmp_path / "twins.jsonl", "aabbccddeeff...")
    for holdout in (1, 2, 5, 9):
        train, sets = read_run_questions(run_config(file, holdout))
        parts = [{e.meta["twin_id"] for e in part if "twin_id" in e.meta} for part in (train, sets["heldout"])]
        assert not parts[0] & parts[1]
        assert (len(train), len(sets["heldout"])) == (15 - holdout, holdout)
    with pytest.raises(ConfigError, match=r"data\.holdout 1 is less than the questions of any group of twins"):
        read_run_questions(run_config(question_file(tmp_path / "pairs.jsonl", "aabb"), 1))


def test_questions_without_twins_are_held_out_as_ever(tmp_path):
    file = question_file(tmp_path / "plain.jsonl", "." * 20)
    places = sorted(np.random.default_rng(0).permutation(20)[:6])
    assert [example.id for example in read_run_questions(run_config(file, 6))[1]["heldout"]] == [
        f"q{i}" for i in places
    ]


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [("....", 2, "01"), ("ab.ab", 3, "032"), ("aabb", 3, "01"), ("aa..", 1, "2"), ("aa", 1, "0"), ("a.", 9, "01")],
)
def test_evaluations_ask_whole_groups_of_twins(tmp_path, names, count, expected):
    questions = open_questions([question_file(tmp_path / "twins.jsonl", names)])
    assert [example.id for example in asked_questions(questions, count)] == [f"q{place}" for place in expected]
    view = open_questions(["stories:3", tmp_path / "twins.jsonl"]).take(range(3, 3 + len(names)))
    assert [example.id for example in asked_questions(view, count)] == [f"q{place}" for place in expected]
