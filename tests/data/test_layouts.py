"""Benchmark files are read without a mapping: each quirk on a file made here, and the real files where they are."""

import csv
import json
from pathlib import Path

import pytest

from socialr1_jax.data.layouts import LAYOUTS, lettered_columns, recognise
from socialr1_jax.data.question_files import read_examples
from socialr1_jax.data.tables import DataError
from socialr1_jax.questions.sources import open_questions
from socialr1_jax.stories.stories import generate_stories

BENCHMARKS = Path(__file__).resolve().parents[3] / "shared" / "benchmarks"
real = pytest.mark.skipif(not BENCHMARKS.exists(), reason="no benchmark files here")
CHINESE = {"story": "故事", "question": "问题", "options": "选项A, 选项B, 选项C, 选项D"}


def tombench(**change: object) -> dict:
    return {
        "能力\nABILITY": "Belief: Location false beliefs",
        "序号\nINDEX": 1,
        "故事": "小刚离开了。",
        "问题": "谁离开了？",
        **{f"选项{letter}": f"{letter}. 选{letter}" for letter in "ABCD"},
        "STORY": "Xiaogang left.",
        "QUESTION": "Who left?",
        **{f"OPTION-{letter}": f"person {letter}" for letter in "ABCD"},
        "答案\nANSWER": "B",
    } | change


def jsonl(path: Path, *rows: dict) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------------ ToMBench


def test_tombench_in_english_and_chinese(tmp_path):
    two = {name: float("nan") for name in ("选项C", "选项D", "OPTION-C", "OPTION-D")}
    path = jsonl(tmp_path / "Test.jsonl", tombench(), tombench(**two), tombench(**{"答案\nANSWER": "A. "}))
    assert "NaN" in path.read_text(encoding="utf-8")  # bare, as the published files have it
    first, second, third = read_examples(path)
    assert (first.id, first.story, first.question) == ("Test-1", "Xiaogang left.", "Who left?")
    assert first.options == ("person A", "person B", "person C", "person D")
    assert first.meta["能力\nABILITY"] == "Belief: Location false beliefs"
    assert (second.options, second.answer, third.answer) == (("person A", "person B"), "B", "A")
    chinese = read_examples(path, columns=CHINESE)
    assert (chinese[0].story, chinese[0].question) == ("小刚离开了。", "谁离开了？")
    assert [example.options for example in chinese] == [
        ("选A", "选B", "选C", "选D"),
        ("选A", "选B"),
        chinese[2].options,
    ]
    assert [example.answer for example in chinese] == ["B", "B", "A"]


@real
def test_all_of_tombench():
    paths = sorted((BENCHMARKS / "tombench/data").glob("*.jsonl"))
    for columns in ({}, CHINESE):
        questions = open_questions(paths, columns=columns)
        assert (len(questions), questions.bad_rows) == (2860, ())
        assert sum(len(example.options) == 2 for example in questions) == (483 if not columns else 484)
        assert len({example.meta["source"] for example in questions}) == 20


def test_a_table_with_another_header_takes_a_mapping(tmp_path):
    """ToMBench-Hard's header is not known."""
    path = tmp_path / "hard.csv"
    for header, options in (
        (["Text", "Q", "OPTION-A", "OPTION-B", "OPTION-C", "OPTION-D", "Gold", "Dimension"], ["w", "x", "y", "z"]),
        (["Text", "Q", "choices", "Gold", "Dimension"], ["A. w, B. x, C. y, D. z"]),
    ):
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([header, ["Anna left.", "Who?", *options, "C", "belief"]])
        (example,) = read_examples(path, columns={"story": "Text", "question": "Q", "answer": "Gold"})
        assert (example.story, example.options, example.answer) == ("Anna left.", ("w", "x", "y", "z"), "C")
        assert example.meta == {"Dimension": "belief"}


# -------------------------------------------------------------------------------------------------------------- Hi-ToM


def hitom(number: int, kind: str = "CoTP") -> dict:
    names = [f"red_{i}" for i in range(15)]
    return {
        "prompting_type": kind,
        "deception": False,
        "story_length": 1,
        "question_order": 0,
        "sample_id": number,
        "story": "1 Avery entered.",
        "question": "Where is it?",
        "answer": "red_10",
        "choices": ", ".join(f"{letter}. {name}" for letter, name in zip("ABCDEFGHIJKLMNO", names, strict=True)),
    }


def test_hitom_gives_its_cotp_rows(tmp_path):
    path = tmp_path / "Hi-ToM_data.json"
    path.write_text(json.dumps({"data": [hitom(0), hitom(1, "VP"), hitom(2)]}))
    examples = read_examples(path)
    assert [(example.id, len(example.options), example.answer) for example in examples] == [
        ("0", 15, "K"),
        ("2", 15, "K"),
    ]
    assert [example.id for example in read_examples(path, where={"prompting_type": "VP"})] == ["1"]
    assert read_examples(path, columns={"id": "question_order"}, where={"sample_id": "2"})[0].id == "0"


@real
def test_all_of_hitom():
    questions = open_questions([BENCHMARKS / "hitom/Hi-ToM_data.json"])
    assert len(questions) == 600
    assert {example.meta["prompting_type"] for example in questions} == {"CoTP"}
    assert len({example.id for example in questions}) == 600


# ----------------------------------------------------------------------------------------------------------- SimpleToM


def simpletom(answer: str = "B") -> dict:
    choices = {"text": ["pay", "report"], "label": ["A", "B"]}
    return {"id": "chips_sev1", "story": "s", "question": "q?", "scenario_name": "shop", "choices": choices} | {
        "answerKey": answer
    }


def test_simpletom_has_its_ids_in_each_file(tmp_path):
    paths = [jsonl(tmp_path / kind / "test.jsonl", simpletom()) for kind in ("behavior-qa", "judgment-qa")]
    questions = open_questions(paths)
    assert [(example.id, example.options, example.answer) for example in questions] == [
        ("chips_sev1", ("pay", "report"), "B")
    ] * 2
    assert [example.meta["source"] for example in questions] == ["behavior-qa/test", "judgment-qa/test"]


@real
def test_all_of_simpletom():
    questions = open_questions(sorted((BENCHMARKS / "simpletom").glob("*/test.jsonl")))
    assert len(questions) == 3441
    golds = {example.meta["source"].split("/")[0]: set() for example in questions}
    for example in questions:
        golds[example.meta["source"].split("/")[0]].add(example.options[ord(example.answer) - ord("A")].lower())
    assert (golds["judgment-qa"], golds["mental-state-qa"]) == ({"reasonable"}, {"no"})


# ----------------------------------------------------------------------------------------------------------- SocialIQA


def socialiqa(number: int) -> dict:
    return {"context": f"c{number}", "question": "q?", "answerA": "x", "answerB": "y", "answerC": "z"}


def test_socialiqa_with_its_label_file(tmp_path):
    for name, labels in (("dev", "dev-labels"), ("dev.first3", "dev-labels.first3")):
        path = jsonl(tmp_path / f"{name}.jsonl", *map(socialiqa, range(3)))
        (tmp_path / f"{labels}.lst").write_text("3\n1\n2\n")
        assert [(e.story, e.options, e.answer) for e in read_examples(path)] == [
            ("c0", ("x", "y", "z"), "C"),
            ("c1", ("x", "y", "z"), "A"),
            ("c2", ("x", "y", "z"), "B"),
        ]
    # a bad row keeps its label
    path.write_text(path.read_text().replace('{"context": "c0"', '{"context" "c0"'))
    assert [e.answer for e in open_questions([path], allow_bad_rows=True)] == ["A", "B"]


def test_socialiqa_with_a_label_column_or_a_mapping(tmp_path):
    path = jsonl(tmp_path / "train.jsonl", socialiqa(0) | {"label": "2", "gold": "z"})
    assert read_examples(path)[0].answer == "B"
    assert read_examples(path, columns={"answer": "gold"})[0].answer == "C"
    with pytest.raises(DataError, match="the gold answer '4' is not among the 3 options"):
        read_examples(jsonl(tmp_path / "four.jsonl", socialiqa(0) | {"label": 4}))


def test_socialiqa_labels_that_do_not_fit(tmp_path):
    path = jsonl(tmp_path / "dev.jsonl", socialiqa(0), socialiqa(1))
    with pytest.raises(DataError, match=r"dev.jsonl: .*the labels beside it, dev-labels.lst, cannot be read \(No such"):
        read_examples(path)
    for labels in ("1\n", "1\n2\n3\n"):
        (tmp_path / "dev-labels.lst").write_text(labels)
        with pytest.raises(DataError, match=f"2 rows, but {len(labels) // 2} labels"):
            read_examples(path)


@real
def test_the_socialiqa_subset():
    questions = open_questions([BENCHMARKS / "socialiqa/dev.first600.jsonl"])
    letters = [example.answer for example in questions]
    assert [letters.count(letter) for letter in "ABC"] == [200, 202, 198]
    assert (questions[0].story[:10], questions[0].answer) == ("Tracy didn", "C")


# --------------------------------------------------------------------------------------------------------------- other


def test_generated_stories_read_back(tmp_path):
    stories = generate_stories(6, seed=1)
    rows = [vars(story) | {"options": list(story.options), "meta": dict(story.meta)} for story in stories]
    assert read_examples(jsonl(tmp_path / "stories.jsonl", *rows)) == stories


def test_layouts_exclude_each_other():
    for layout in LAYOUTS:
        assert [other.name for other in LAYOUTS if other.needs <= layout.needs] == [layout.name]
    assert recognise(["story", "question", "options", "answer"]).name == "plain"


def test_lettered_columns():
    assert lettered_columns(["q", "OPTION-B", "OPTION-A", "option c"]) == ("OPTION-A", "OPTION-B", "option c")
    assert lettered_columns(["OPTION-A", "OPTION-C", "options", "option"]) == ()
