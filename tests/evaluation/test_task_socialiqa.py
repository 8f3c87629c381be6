"""SocialIQA: dev rows, labels beside them, a letter that is read from a free reply."""

import json
from pathlib import Path

import pytest

from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks.socialiqa import TASK

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "socialiqa"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")


def row(number=1, **more):
    return {
        "context": f"Context {number}.",
        "question": "What next?",
        "answerA": "run ",
        "answerB": "rest",
        "answerC": "ask",
    } | more


def written(folder, rows, labels, part=""):
    text = "".join(json.dumps(one) + "\n" for one in rows)
    (folder / f"dev{part}.jsonl").write_text(text, encoding="utf-8")
    (folder / f"dev-labels{part}.lst").write_text("".join(f"{one}\n" for one in labels))
    return folder


def test_rows_and_labels_belong_together(tmp_path):
    data = TASK.load(written(tmp_path, [row(1), row(2), row(3)], [3, 1, 2]))
    assert set(data.files) == {"dev.jsonl", "dev-labels.lst"}
    found = TASK.requests(data, "official", 0)
    assert [(one.id, one.gold) for one in found] == [("dev-1", "C"), ("dev-2", "A"), ("dev-3", "B")]
    assert TASK.requests(data, "official", 5) == found
    content = found[0].messages[0]["content"]
    assert content.startswith("Context 1.\n\nQuestion: What next?\nA. run\nB. rest\nC. ask\n")
    card = TASK.requests(data, "social_r1", 0)[0]
    assert card.messages[0]["content"].startswith("Context 1.\n\nWhat next?\nA. run\nB. rest\nC. ask\n\nYou should")
    assert (card.gold, TASK.grade(card, "social_r1", "<Answer>C</Answer>")) == ("C", Grade("C", 1.0))


def test_the_likeliest_option_is_the_answer(tmp_path):
    """The prompt and options as they are, joined by a blank; the first of equals."""
    (one,) = TASK.requests(TASK.load(written(tmp_path, [row(1)], [2])), "likelihood", 0)
    assert one.messages[0]["content"] == "Q: Context 1. What next?\nA:"
    assert (one.continuations, one.gold) == ((" run ", " rest", " ask"), "B")
    for reply, grade in {"[-9, -8.5, -9]": ("B", 1), "[-1, -1, -2]": ("A", 0), "[-9, -8, -7]": ("C", 0)}.items():
        assert TASK.grade(one, "likelihood", reply) == grade


def test_part_is_noted_and_the_whole_goes_first(tmp_path):
    written(tmp_path, [row(1)], [1], part=".first1")
    data = TASK.load(tmp_path)
    assert set(data.files) == {"dev.first1.jsonl", "dev-labels.first1.lst"}
    assert data.notes[0] == "1 of 1954 questions"
    assert sum("is a part of the published file" in note for note in data.notes) == 2
    data = TASK.load(written(tmp_path, [row(1), row(2)], [1, 2]))
    assert len(data.items) == 2
    assert sum("is not the published file" in note for note in data.notes) == 2


def test_option_is_named_by_letter_or_text(tmp_path):
    (one,) = TASK.requests(TASK.load(written(tmp_path, [row(1)], [2])), "official", 0)
    replies = {
        "B": "B",
        "rest": "B",
        "**Rest.**": "B",
        "B\n\nA and C are wrong.": "B",
        "B\n\nOthers say the answer is C.": "B",
        "The answer is B. rest\n\nA runner would say that the answer is A.": "B",
        "The answer is rest.\n\nIt could be C.": "B",
        "A friend would rest.": "",
        "D": "",
    }
    assert {reply: TASK.grade(one, "official", reply).answer for reply in replies} == replies


def test_figures_by_hand(tmp_path):
    """Right, wrong, nothing, right: 2 of 4; s of (1, 0, 0, 1) is 0.577, the standard error half of it."""
    asked = TASK.requests(TASK.load(written(tmp_path, [row(i) for i in range(4)], [1, 2, 3, 2])), "official", 0)
    graded = [Graded(one, TASK.grade(one, "official", x)) for one, x in zip(asked, ["A", "C", "?", "(B)"], strict=True)]
    found = TASK.metrics(graded, "official")
    assert list(found) == ["accuracy"]
    assert (found["accuracy"].value, found["accuracy"].n) == (0.5, 4)
    assert found["accuracy"].stderr == pytest.approx((1 / 3) ** 0.5 / 2)


def test_bad_input_is_told(tmp_path):
    for rows, labels, reason in [
        ([row()], [1, 2], r"dev-labels\.lst: 2 labels for 1 question"),
        ([row()], [4], r"dev-labels\.lst, line 1: the label is '4'"),
        ([row(context="")], [1], r"dev\.jsonl, row 1: 'context' is empty"),
        ([{"context": "x", "question": "y"}], [1], "no field 'answerA'"),
        ([row(answerB=3)], [1], "'answerB' is int instead of str"),
        (["text"], [1], "str instead of an object"),
    ]:
        with pytest.raises(BenchmarkError, match=reason):
            TASK.load(written(tmp_path, rows, labels))
    (tmp_path / "dev.jsonl").write_text("{]")
    with pytest.raises(BenchmarkError, match="line 1: not JSON"):
        TASK.load(tmp_path)
    (tmp_path / "dev-labels.lst").unlink()
    with pytest.raises(BenchmarkError, match=r"there is no dev-labels\.lst"):
        TASK.load(tmp_path)


@real
def test_the_real_files():
    data = TASK.load(REAL)
    assert not any("not the published file" in note for note in data.notes)
    asked = TASK.requests(data, "official", 0)
    assert len(asked) == len({one.id for one in asked}) == len(TASK.requests(data, "social_r1", 0))
    golds = [one.gold for one in asked]
    counts = {600: [200, 202, 198], 1954: [643, 654, 657]}
    assert [golds.count(letter) for letter in "ABC"] == counts[len(asked)]
