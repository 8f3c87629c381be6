"""Hi-ToM: only CoTP rows, five orders a story, fifteen options compared by their text, joint accuracy."""

import json
import random
from pathlib import Path

import pytest

from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks.hitom import TASK

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "hitom"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")
PLACES = [
    "blue_box",
    "red_box",
    "green_box",
    "blue_crate",
    "red_crate",
    "green_crate",
    "blue_bag",
    "red_bag",
    "green_bag",
    "blue_treasure_chest",
    "red_treasure_chest",
    "green_jar",
    "red",
    "blue_jar",
    "box",
]
CHOICES = ", ".join(f"{letter}. {place}" for letter, place in zip("ABCDEFGHIJKLMNO", PLACES, strict=True))


def row(sample, order, answer="red_box", length=1, deception=False, kind="CoTP", **more):
    return {
        "prompting_type": kind,
        "deception": deception,
        "story_length": length,
        "question_order": order,
        "sample_id": sample,
        "story": f"1 Story of {sample}.\n\n",
        "question": "Where is it?",
        "choices": CHOICES,
        "answer": answer,
    } | more


def block(length=1, deception=False, start=0, count=2, answers=PLACES):
    """As the file has it: order by order, the stories of a cell in the same order each time."""
    return [
        row(start + order * count + place, order, answers[(order + place) % len(answers)], length, deception)
        for order in range(5)
        for place in range(count)
    ]


def written(folder, rows):
    (folder / "Hi-ToM_data.json").write_text(json.dumps({"data": rows}), encoding="utf-8")
    return folder


def test_only_cotp_rows_joined_by_their_place(tmp_path):
    rows = block() + block(deception=True, start=50) + [row(90 + i, i, kind="VP") for i in range(5)]
    random.Random(1).shuffle(rows)
    data = TASK.load(written(tmp_path, rows))
    assert len(data.items) == 20
    assert data.notes[0] == "20 of 600 CoTP questions"
    asked = TASK.requests(data, "official", 0)
    assert [one.id for one in asked[:5]] == ["CoTP-0", "CoTP-2", "CoTP-4", "CoTP-6", "CoTP-8"]
    assert {one.item for one in asked[:5]} == {"no_tell-length1-0"}
    assert [one.meta["order"] for one in asked] == [0, 1, 2, 3, 4] * 4
    assert [one.item for one in asked[15:]] == ["tell-length1-1"] * 5
    assert TASK.requests(data, "official", 3) == asked


def test_prompts(tmp_path):
    data = TASK.load(written(tmp_path, block()))
    one = TASK.requests(data, "official", 0)[0]
    content = one.messages[0]["content"]
    assert content.startswith("Here is a story, with a question and its choices. Consider it step by step;")
    assert f"Story:\n1 Story of 0.\n\nQuestion: Where is it?\nChoices: {CHOICES}\n\nNote: " in content
    assert all(f"({number})" in content for number in (1, 2, 3, 4))
    third = content.split("(3)")[1].split("(4)")[0]
    assert all(words in third for words in ("tend to lie", "tendency to trust", "order in which they left"))
    assert one.meta["options"] == PLACES
    card = TASK.requests(data, "social_r1", 0)[0]
    assert card.messages[0]["content"].startswith("1 Story of 0.\n\nWhere is it?\nA. blue_box\nB. red_box\n")
    assert "\nO. box\n\nYou should first think" in card.messages[0]["content"]
    assert (one.gold, card.gold) == ("blue_box", "A")
    assert json.loads(json.dumps(one.meta)) == one.meta


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = written(tmp_path_factory.mktemp("hitom"), block(answers=["red_box"]))
    return TASK.requests(TASK.load(folder), "official", 0)[0]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("B", "red_box"),
        ("B. red_box\nBecause ...", "red_box"),
        ("Answer: (K)", "red_treasure_chest"),
        ("**Answer:** B. red_box", "red_box"),
        ("B. blue_box", "red_box"),
        ("O", "box"),
        ("P", ""),
        ("The answer is Z.", ""),
        ("I think it is in the red_box.", "red_box"),
        ("It is the Red Treasure Chest.", "red_treasure_chest"),
        ("red_box or blue_box", ""),
        ("It is in a box.", "box"),
        ("redbox", ""),
        ("", ""),
        ("bag_boxes", ""),
        ("All of it is red.", "red"),
        ("She saw blue_bag, so the answer is N", "blue_jar"),
        ("I. green_bag", "green_bag"),
        # The answer first, then a blank line and the explanation, which decides nothing.
        ("B\n\nBen says the answer is C, but nobody trusts him.", "red_box"),
        ("B. red_box\n\nBen would say the answer is C. green_box.", "red_box"),
        ("**Answer:** B\n\nBen's answer is C.", "red_box"),
        ("Answer:\n\nB\n\nThe answer is C for Ben.", "red_box"),
        ("The answer is red_box.\n\nHe thinks it must be C.", "red_box"),
        ("B\n\n- A\n- C\nare both wrong", "red_box"),
        ("It is in the red_box.\n\nBefore, it was in the blue_box.", "red_box"),
        ("Ben took it from the blue_box to the red_box.\n\nSo the answer is C.", "green_box"),
        ("The answer is B.\n\nWait, he left before. The answer is C.", "green_box"),
        ("B\n\nC", ""),
        ("A. blue_box\n\nB. red_box\n\nThe answer is B.", "red_box"),
    ],
)
def test_which_option_is_read(one, reply, answer):
    assert TASK.grade(one, "official", reply) == Grade(answer, float(answer == "red_box"))


def scored(asked, wrong, protocol="official"):
    """All right but those (story, order)."""
    graded = []
    for one in asked:
        bad = (one.item, one.meta["order"]) in wrong
        reply = one.gold if protocol == "official" else f"<Answer>{one.gold}</Answer>"
        graded.append(Graded(one, TASK.grade(one, protocol, "?" if bad else reply)))
    return graded


@pytest.mark.parametrize("protocol", ["official", "social_r1"])
def test_figures_by_hand(tmp_path, protocol):
    """Two stories of length 1, one with deception of length 2. Wrong: order 1 of the first, 0 and 4 of the last.

    Right: 4 + 5 + 3 of 15. Joint: orders 0 of the first, all of the second, none of the last: 6 of 15.
    """
    data = TASK.load(written(tmp_path, block() + block(2, True, 20, 1)))
    asked = TASK.requests(data, protocol, 0)
    wrong = {("no_tell-length1-0", 1), ("tell-length2-0", 0), ("tell-length2-0", 4)}
    graded = scored(asked, wrong, protocol)
    random.Random(3).shuffle(graded)
    found = TASK.metrics(graded, protocol)
    assert list(found)[:2] == ["accuracy", "joint"]
    values = {name: pytest.approx(one.value) for name, one in found.items()}
    assert values == {
        "accuracy": 12 / 15,
        "joint": 6 / 15,
        "order_0": 2 / 3,
        "order_1": 2 / 3,
        "order_2": 1,
        "order_3": 1,
        "order_4": 2 / 3,
        "length_1": 9 / 10,
        "length_2": 3 / 5,
        "no_deception": 9 / 10,
        "deception": 3 / 5,
        "joint/order_0": 2 / 3,
        "joint/order_1": 1 / 3,
        "joint/order_2": 1 / 3,
        "joint/order_3": 1 / 3,
        "joint/order_4": 1 / 3,
        "joint/length_1": 6 / 10,
        "joint/length_2": 0,
        "joint/no_deception": 6 / 10,
        "joint/deception": 0,
    }
    assert {one.n for name, one in found.items() if name.endswith("order_2")} == {3}
    assert found["accuracy"].n == 3


def test_joint_needs_all_lower_orders(tmp_path):
    asked = TASK.requests(TASK.load(written(tmp_path, block())), "official", 0)
    found = TASK.metrics(scored([one for one in asked if one.meta["order"] != 1], set()), "official")
    assert "joint/order_2" not in found
    assert found["order_2"].value == found["joint/order_0"].value == 1


def test_agrees_with_an_oracle_on_random_replies(tmp_path):
    """The oracle knows which option each reply was made to name, and counts in a table of stories by orders."""
    draw = random.Random(9)
    rows, start = [], 0
    for length in (1, 2, 3):
        for deception in (False, True):
            cell = block(length, deception, start, 20)
            rows += [one | {"answer": draw.choice(PLACES)} for one in cell]
            start += 100
    asked = TASK.requests(TASK.load(written(tmp_path, rows)), "official", 0)
    golds = {f"CoTP-{one['sample_id']}": one for one in rows}
    letters = dict(zip("ABCDEFGHIJKLMNO", PLACES, strict=True))
    with_letter = [
        "{}",
        "({})",
        "**{}**",
        "{}. something",
        "Answer: {}",
        "the answer is ({}).",
        "Hm. So the answer is {}",
        "Answer: C? No: the answer is {}",
        "\\boxed{{{}}}",
        "答案 answer: {}",
        "**Answer:** {} 😀",
        '"{}"',
        "[{}]",
    ]
    with_text = ["It is in the {}.", "{}", "le {} é", "“{}”", "I would look in {}, I think", "Ben\n{}\n"]
    silent = ["", "I do not know", "A story.", "P", "answer", "red_box blue_box", "(p)", "It is in the attic", "箱"]
    graded, table = [], {}
    for one in asked:
        source = golds[one.id]
        named = draw.choice([source["answer"]] * 3 + [draw.choice(PLACES), ""])
        if named:
            letter = next(letter for letter, place in letters.items() if place == named)
            spelt = draw.choice([named, named.replace("_", " "), named.upper()])
            reply = draw.choice([draw.choice(with_letter).format(letter), draw.choice(with_text).format(spelt)])
        else:
            reply = draw.choice(silent)
        graded.append(Graded(one, TASK.grade(one, "official", reply)))
        assert graded[-1].grade.answer == named, reply
        place = source["sample_id"] % 20
        cell = (source["deception"], source["story_length"], place)
        table.setdefault(cell, [None] * 5)[source["question_order"]] = named == source["answer"]
    assert len(graded) == 600
    assert len(table) == 120
    found = TASK.metrics(graded, "official")
    joints = {cell: [all(values[: order + 1]) for order in range(5)] for cell, values in table.items()}
    for prefix, cells in (("", table), ("joint/", joints)):
        for order in range(5):
            assert found[f"{prefix}order_{order}"].value == pytest.approx(sum(v[order] for v in cells.values()) / 120)
        for length in (1, 2, 3):
            values = [sum(v) for (_, of, _), v in cells.items() if of == length]
            assert found[f"{prefix}length_{length}"].value == pytest.approx(sum(values) / 200)
        for told, name in ((True, "deception"), (False, "no_deception")):
            values = [sum(v) for (of, _, _), v in cells.items() if of is told]
            assert found[prefix + name].value == pytest.approx(sum(values) / 300)
    assert found["accuracy"].value == pytest.approx(sum(map(sum, table.values())) / 600)
    assert found["joint"].value == pytest.approx(sum(map(sum, joints.values())) / 600)
    assert found["joint"].value < found["accuracy"].value


def test_bad_input_is_told(tmp_path):
    for bad, reason in [
        (row(99, 0, "attic"), "the answer 'attic' is not one of the options"),
        (row(99, 0, choices="A. x, B. x", answer="x"), "the answer 'x' is not one of the options"),
        (row(99, 0, choices="x, y"), "cannot find the options"),
        (row(99, 5), "the question_order is 5"),
        (row(99, 0, kind="CoT"), "the prompting_type is 'CoT'"),
        (row(99, 0, deception="no"), "'deception' is str instead of bool"),
        (row(0, 0), "the sample_id 0 occurs twice"),
        ({"prompting_type": "CoTP"}, "no field 'deception'"),
        ("text", "str instead of an object"),
    ]:
        with pytest.raises(BenchmarkError, match=reason) as caught:
            TASK.load(written(tmp_path, [*block(), bad]))
        assert "Hi-ToM_data.json, row 11" in str(caught.value)
    with pytest.raises(BenchmarkError, match=r"have \[3, 2, 2, 2, 2\] CoTP rows"):
        TASK.load(written(tmp_path, [*block(), row(99, 0)]))
    file = tmp_path / "Hi-ToM_data.json"
    for content, reason in [
        ("[1]", "list instead of an object"),
        ('{"rows": []}', "no field 'data'"),
        ("{", "cannot be read as JSON"),
    ]:
        file.write_text(content)
        with pytest.raises(BenchmarkError, match=reason):
            TASK.load(tmp_path)
    file.unlink()
    with pytest.raises(BenchmarkError, match=r"there is no Hi-ToM_data\.json"):
        TASK.load(tmp_path)


def test_a_changed_file_is_noted(tmp_path):
    assert "Hi-ToM_data.json is not the published file" in TASK.load(written(tmp_path, block())).notes[1]


@real
def test_the_real_file():
    data = TASK.load(REAL)
    assert (len(data.items), data.notes) == (600, ())
    for protocol in ("official", "social_r1"):
        asked = TASK.requests(data, protocol, 0)
        assert len(asked) == len({one.id for one in asked}) == 600
        found = TASK.metrics(scored(asked, set(), protocol), protocol)
        assert {one.value for one in found.values()} == {1.0}
        assert (found["accuracy"].n, found["joint/order_4"].n, found["length_3"].n) == (120, 120, 40)
    # The orders of one story tell the same events, but for a line that separates nothing.
    told = {}
    for item in data.items:
        told.setdefault(item["story_id"], set()).add(item["story"].count("moved"))
    assert all(len(counts) == 1 for counts in told.values())
