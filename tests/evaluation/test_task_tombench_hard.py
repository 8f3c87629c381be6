"""ToMBench-Hard: a table whose header is not known, the cards' prompt, accuracy by dimension."""

import csv
import json
import random
from pathlib import Path

import pytest

from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks.tombench_hard import TASK

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "tombench_hard"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")
HEAD = ["Story", "Question", "Option A", "Option B", "Option C", "Option D", "Answer", "Dimension"]
LINE = ["Ann left.", "Where?", "box", "bag", "tin", "jar", "B", "Belief: x"]


def table(folder, head, *lines, name="ToMBench_Hard_val.csv"):
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([head, *lines])
    return folder


def test_likely_names_are_found(tmp_path):
    data = TASK.load(table(tmp_path, HEAD, LINE, ["", "Why?", "x", "y", "", "NaN", "A. x", "desire"]))
    assert [dict(item) for item in data.items] == [
        {
            "story": "Ann left.",
            "question": "Where?",
            "options": ["box", "bag", "tin", "jar"],
            "gold": "B",
            "dimension": "belief",
        },
        {"story": "", "question": "Why?", "options": ["x", "y"], "gold": "A", "dimension": "desire"},
    ]
    assert set(data.files) == {"ToMBench_Hard_val.csv"}
    assert "options = Option A, Option B, Option C, Option D; answer = Answer" in data.notes[0]
    assert "2 questions, not the 100 of the held-out set" in data.notes[1]


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("STORY|QUESTION|OPTION-A|OPTION-B|答案\nANSWER|能力\nABILITY|选项A", "s|q|x|y|B|belief|z"),
        ("context|question|choices|label|category", "s|q|A. x, B. y|y|Belief"),
        ("scenario|query|options|gold|type", "s|q|['x', 'y']|B|BELIEF"),
        ("passage|question|options|ground_truth|ATOMS", 's|q|{"A": "x", "B": "y"}|(B)|belief'),
        ("story|question|A|B|Correct Answer|ToM Dimension", "s|q|x|y|B|belief: y"),
        ("story|question|Question?|A|B|answer|dimension", "s|q|no|x|y|B|belief"),
        ("type|dimension|story|question|choice_a|choice_b|answer", "mcq|belief|s|q|x|y|B"),
    ],
)
def test_other_headers(tmp_path, head, line):
    (item,) = TASK.load(table(tmp_path, head.split("|"), line.split("|"))).items
    assert dict(item) == {"story": "s", "question": "q", "options": ["x", "y"], "gold": "B", "dimension": "belief"}


def test_other_files(tmp_path):
    rows = [{"story": "s", "question": "q", "options": ["x", "y"], "answer": "B", "dimension": "belief"}]
    for name, text in [
        ("val.jsonl", json.dumps(rows[0]) + "\n"),
        ("test.json", json.dumps(rows)),
        ("ToMBench_Hard_val.first1.jsonl", json.dumps(rows[0])),
    ]:
        (tmp_path / name).write_text(text)
        data = TASK.load(tmp_path)
        assert (set(data.files), len(data.items)) == ({name}, 1)
        (tmp_path / name).unlink()


def test_columns_come_from_a_file(tmp_path):
    folder = table(tmp_path, ["t", "q", "o1", "o2", "key", "kind", "story"], ["s", "w", "x", "y", "B", "belief", "no"])
    columns = {"story": "t", "question": "q", "options": ["o1", "o2"], "answer": "key", "dimension": "kind"}

    def loaded(configured):
        (folder / "columns.json").write_text(json.dumps(configured))
        return TASK.load(folder).items

    with pytest.raises(BenchmarkError, match="no column looks like the question"):
        TASK.load(folder)
    assert [(item["story"], item["dimension"]) for item in loaded(columns)] == [("s", "belief")]
    assert loaded(columns | {"dimension": ""})[0]["dimension"] == "none"
    for wrong, reason in [
        ({"answers": "key"}, "'answers' is not one of the fields story, question, options, answer, dimension"),
        ({"answer": "keys"}, r"has no column 'keys' \(did you mean 'key'"),
        ({"answer": 3}, "answer is 3, no column or list"),
        ({"question": ""}, "no column looks like the question"),
    ]:
        with pytest.raises(BenchmarkError, match=reason):
            loaded(columns | wrong)
    with pytest.raises(BenchmarkError, match=r"columns\.json: list instead of an object"):
        loaded([])


def test_what_is_asked_and_figures_by_hand(tmp_path):
    """Belief: 1 of 2; desire: 1 of 1, by hand 2 of 3."""
    lines = [LINE, [*LINE[:6], "C", "belief"], [*LINE[:6], "D", "Desire"]]
    data = TASK.load(table(tmp_path, HEAD, *lines))
    official, cards = (TASK.requests(data, protocol, 0) for protocol in ("official", "social_r1"))
    assert official == cards
    assert [(one.id, one.gold) for one in cards] == [("1", "B"), ("2", "C"), ("3", "D")]
    assert (
        cards[0].messages[0]["content"].startswith("Ann left.\n\nWhere?\nA. box\nB. bag\nC. tin\nD. jar\n\nYou should")
    )
    replies = ["<Answer>B</Answer>", "C", "<Answer> D. jar</Answer>"]
    graded = [Graded(one, TASK.grade(one, "official", reply)) for one, reply in zip(official, replies, strict=True)]
    assert [one.grade for one in graded] == [Grade("B", 1), Grade("", 0), Grade("D", 1)]
    found = TASK.metrics(graded, "official")
    assert {name: (one.value, one.n) for name, one in found.items()} == {
        "accuracy": (pytest.approx(2 / 3), 3),
        "dimension/belief": (0.5, 2),
        "dimension/desire": (1, 1),
    }
    assert next(iter(found)) == "accuracy"
    assert found["accuracy"].stderr == pytest.approx(1 / 3)


def oracle(reply):
    """The capital behind the first "<Answer>" that has one behind it and an end somewhere after it."""
    start = 0
    while (at := reply.find("<Answer>", start)) >= 0:
        behind = reply[at + len("<Answer>") :].lstrip()
        if behind[:1] in tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ") and "</Answer>" in behind:
            return behind[0]
        start = at + 1
    return ""


def test_agrees_with_an_oracle_on_random_replies(tmp_path):
    draw = random.Random(6)
    kinds = ["Belief", "desire", "Emotion: x", "intention", "Knowledge", "Non-Literal Communication"]
    lines = [[*LINE[:6], draw.choice("ABCD"), draw.choice(kinds)] for _ in range(600)]
    asked = TASK.requests(TASK.load(table(tmp_path, HEAD, *lines)), "official", 0)
    pieces = [
        "<Answer>",
        "</Answer>",
        "A",
        "B",
        "C",
        "D",
        "E",
        " ",
        "\n",
        "b",
        "(B)",
        "答",
        "é",
        "box",
        "<answer>",
        ".",
    ]
    graded, sums = [], {}
    for one, line in zip(asked, lines, strict=True):
        inner = "".join(draw.choices(pieces, k=draw.choice([0, 1, 2, 4])))
        reply = draw.choice(
            [f"<Answer>{line[6]}</Answer>", f"x <Answer>{inner}</Answer>", inner, f"<Answer>{inner}", inner * 3]
        )
        graded.append(Graded(one, TASK.grade(one, "official", reply)))
        expected = oracle(reply)
        assert graded[-1].grade == Grade(expected, float(expected == line[6])), reply
        name = line[7].split(":")[0].lower()
        sums.setdefault(f"dimension/{name}", []).append(expected == line[6])
        sums.setdefault("accuracy", []).append(expected == line[6])
    found = TASK.metrics(graded, "official")
    assert set(found) == set(sums)
    assert len(sums) == 7
    for name, values in sums.items():
        assert found[name].value == pytest.approx(sum(values) / len(values))
    share = found["accuracy"].value
    assert found["accuracy"].stderr == pytest.approx((share * (1 - share) / 599) ** 0.5)


def test_bad_input_is_told(tmp_path):
    with pytest.raises(BenchmarkError, match=r"there is no ToMBench_Hard_val\.csv .* Jincenzi/ToMBench_Hard"):
        TASK.load(tmp_path)
    for lines, reason in [
        ([], "holds no rows"),
        ([[*LINE[:6], "E", "belief"]], "row 1: the gold answer 'E' is not among the 4 options"),
        ([[*LINE[:6], "1", "belief"]], "the gold answer '1' is not among"),
        ([["s", "", *LINE[2:]]], "row 1: 'Question' is empty"),
        ([["s", "q", "x", "", "", "", "A", "d"]], r"row 1: the options are \['x'\]"),
        ([["s", "q", "x", "", "y", "", "A", "d"]], r"row 1: the options are \['x', '', 'y'\]"),
    ]:
        with pytest.raises(BenchmarkError, match=reason):
            TASK.load(table(tmp_path, HEAD, *lines))
    for lacking in ("Question", "Answer", "Dimension"):
        head = [f"{name} of it" if name == lacking else name for name in HEAD]
        with pytest.raises(BenchmarkError, match=f"no column looks like the {lacking.lower()} .*columns.json, such as"):
            TASK.load(table(tmp_path, head, LINE))
    with pytest.raises(BenchmarkError, match="no column looks like the options"):
        TASK.load(
            table(tmp_path, [f"{name}?1" for name in HEAD[:1]] + HEAD[1:2] + ["w", "x", "y", "z"] + HEAD[6:], LINE)
        )
    (tmp_path / "ToMBench_Hard_val.csv").write_bytes(b"Story\xff,Question\n1,2\n")
    with pytest.raises(BenchmarkError, match="not UTF-8"):
        TASK.load(tmp_path)


@real
def test_the_real_file():
    data = TASK.load(REAL)
    asked = TASK.requests(data, "official", 0)
    assert len(asked) == len({one.id for one in asked}) == 100
