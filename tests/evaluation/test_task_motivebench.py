"""MotiveBench: six option orders with the gold carried along, three types, all three right."""

import json
import random
from pathlib import Path

import pytest

from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks.motivebench import TASK

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "motivebench"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")
WORDS = ["rest", "run. Fast", "eat", "it's 'her'", "D. C.", "sleep"]
QUESTIONS = {
    "Motivation Reasoning Question": 1,
    "Behavior Reasoning Question": 2,
    "Motivation and Behavior Reasoning Question": 3,
}


def scenario(idx, golds="ABC", **more):
    found = {"idx": idx}
    for name, number in QUESTIONS.items():
        found[name] = f"{name} of {idx}?"
        found[f"Options {number}"] = [f"{letter}. {word}" for letter, word in zip("ABCDEF", WORDS, strict=True)]
        found[f"Correct Answer {number}"] = golds[number - 1]
    return found | more


def written(folder, amazon, blog=None, persona=None, subset=".first25"):
    for source, rows in (("Amazon", amazon), ("Blog", blog or [scenario(0)]), ("Persona", persona or [scenario(0)])):
        (folder / source).mkdir(exist_ok=True)
        tail = "" if source == "Amazon" else subset
        (folder / source / f"{source}_questions{tail}.json").write_text(json.dumps(rows))
    return folder


def test_loads_originals_and_subsets(tmp_path):
    data = TASK.load(written(tmp_path, [scenario(0), scenario(1)]))
    assert [(item["source"], item["idx"]) for item in data.items] == [
        ("Amazon", 0),
        ("Amazon", 1),
        ("Blog", 0),
        ("Persona", 0),
    ]
    assert set(data.files) == {
        "Amazon_questions.json",
        "Blog_questions.first25.json",
        "Persona_questions.first25.json",
    }
    notes = " ".join(data.notes)
    assert "Persona: 1 of 100 scenarios" in notes
    assert "Blog_questions.first25.json is not the published file" in notes


def test_the_orders_by_hand(tmp_path):
    """Gold B under [3,1,6,5,4,2] is shown last: F. Under [4,6,2,1,3,5] it is C."""
    data = TASK.load(written(tmp_path, [scenario(0, "BBB")]))
    asked = {one.id: one for one in TASK.requests(data, "official", 0)}
    golds = [asked[f"Amazon-0-motivation-order{n}"].gold for n in range(1, 7)]
    assert golds == ["B", "E", "F", "A", "D", "C"]
    third = asked["Amazon-0-both-order3"]
    shown = [f"A. {WORDS[2]}", f"B. {WORDS[0]}", f"C. {WORDS[5]}", f"D. {WORDS[4]}", f"E. {WORDS[3]}", f"F. {WORDS[1]}"]
    system, user = (message["content"] for message in third.messages)
    assert system == "You answer questions about what moves people."
    assert f"\nOptions: {shown}\n" in user
    assert user.startswith("A question of motivational and behavioral reasoning follows")
    assert third.max_new_tokens == 4096


def test_shown_letter_always_leads_to_gold(tmp_path):
    rows = [scenario(i, "".join(random.Random(i).choices("ABCDEF", k=3))) for i in range(20)]
    data = TASK.load(written(tmp_path, rows))
    for one in TASK.requests(data, "official", 0):
        source, idx, kind, _ = one.id.split("-")
        number = ["motivation", "behavior", "both"].index(kind) + 1
        item = next(item for item in data.items if (item["source"], item["idx"]) == (source, int(idx)))
        listed = one.messages[1]["content"].split("\nOptions: ")[1].split("\n\n")[0]
        texts = {text[0]: text[3:] for text in eval(listed)}
        assert texts[one.gold] == WORDS["ABCDEF".index(item[f"Correct Answer {number}"])]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    folder = written(tmp_path_factory.mktemp("motivebench"), [scenario(0, "BBB")])
    return TASK.requests(TASK.load(folder), "official", 0)[0]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("B", "B"),
        ("b", "B"),
        (" **B** ", "B"),
        ("'B'.", "B"),
        ("B. run", "B"),
        ("The answer is B", ""),
        ("", ""),
        ("...", ""),
        ("Answer: B", "A"),
        ("G", ""),
        ("2", ""),
        ("answer: B", ""),
        ("assistant\n\nB", "B"),
        (" assistant\n\nB", "A"),
        ("B. rest", "B"),
        ("**'B'**", ""),
        ("'**B**'", "B"),
        ("\"'B'\"", ""),
        ("'\"B\"'.", "B"),
        ("\n.B", "B"),
        ("an E", "E"),
        ("Ｂ", ""),
    ],
)
def test_first_character_counts_after_stripping(one, reply, answer):
    assert TASK.grade(one, "official", reply) == Grade(answer, float(answer == "B"))


def test_the_figures_by_hand(tmp_path):
    """One scenario a source. Amazon: all right under orders 1 to 3, only motivation under the rest: 12 of 18."""
    asked = TASK.requests(TASK.load(written(tmp_path, [scenario(0)])), "official", 0)
    graded = []
    for one in asked:
        right = one.meta["source"] == "Amazon" and (one.meta["order"] <= 3 or one.meta["type"] == "motivation")
        graded.append(Graded(one, TASK.grade(one, "official", one.gold if right else "x")))
    found = {name: one.value for name, one in TASK.metrics(graded, "official").items()}
    assert next(iter(found)) == "ours/accuracy"
    assert found["Amazon/accuracy"] == pytest.approx(12 / 18)
    assert (found["Amazon/motivation"], found["Amazon/behavior"], found["Amazon/all_three"]) == (1, 0.5, 0.5)
    assert found["Blog/accuracy"] == found["Persona/all_three"] == 0
    assert found["ours/accuracy"] == pytest.approx(12 / 54)
    assert found["all_three"] == pytest.approx(3 / 18)


def test_agrees_with_an_oracle_on_random_replies(tmp_path):
    """The oracle goes order by order, as the rules say, and averages the six results."""
    draw = random.Random(5)
    sources = {
        name: [scenario(i, "".join(draw.choices("ABCDEF", k=3))) for i in range(n)]
        for name, n in (("Amazon", 9), ("Blog", 8), ("Persona", 12))
    }
    data = TASK.load(written(tmp_path, sources["Amazon"], sources["Blog"], sources["Persona"]))
    asked = TASK.requests(data, "official", 0)
    shapes = ["%s", "*%s*", "%s.", "It is %s", '"%s"']
    letters = {one.id: draw.choice([one.gold, one.gold, draw.choice("ABCDEFabcdef")]) for one in asked}
    replies = {id: draw.choice(shapes) % letter for id, letter in letters.items()}
    found = TASK.metrics([Graded(one, TASK.grade(one, "official", replies[one.id])) for one in asked], "official")
    assert len(asked) == 29 * 18
    turns = ["123456", "654321", "316542", "235614", "541263", "462135"]
    for name, rows in sources.items():
        per_order = []
        for turn, digits in enumerate(turns, 1):
            hits = []
            for row in rows:
                trio = []
                for number, kind in enumerate(("motivation", "behavior", "both"), 1):
                    said = replies[f"{name}-{row['idx']}-{kind}-order{turn}"]
                    said = said.lstrip("asitn\n").lstrip(".'\"*")
                    at = "ABCDEF".find(said[:1].upper() or "?")
                    trio.append(at >= 0 and "ABCDEF"[int(digits[at]) - 1] == row[f"Correct Answer {number}"])
                hits.append([*trio, all(trio)])
            per_order.append([sum(column) / len(rows) for column in zip(*hits, strict=True)])
        means = [sum(column) / 6 for column in zip(*per_order, strict=True)]
        for kind, mean in zip(("motivation", "behavior", "both", "all_three"), means, strict=True):
            assert found[f"{name}/{kind}"].value == pytest.approx(mean)
            assert found[f"{name}/{kind}"].n == len(rows)
        for turn, values in enumerate(per_order, 1):
            for kind, value in zip(("motivation", "behavior", "both", "all_three"), values, strict=True):
                assert found[f"{name}/order_{turn}/{kind}"].value == pytest.approx(value)


def test_the_cards_protocol_asks_once_in_file_order(tmp_path):
    asked = TASK.requests(TASK.load(written(tmp_path, [scenario(0, "BFA")])), "social_r1", 0)
    assert [one.id for one in asked[:3]] == ["Amazon-0-motivation", "Amazon-0-behavior", "Amazon-0-both"]
    assert [one.gold for one in asked[:3]] == ["B", "F", "A"]
    content = asked[0].messages[0]["content"]
    assert content.startswith("Motivation Reasoning Question of 0?\nA. rest\nB. run. Fast\n")
    replies = [f"<Answer>{letter}</Answer>" for letter in "BFB"] + ["none"] * 6
    graded = [Graded(one, TASK.grade(one, "social_r1", reply)) for one, reply in zip(asked, replies, strict=True)]
    found = TASK.metrics(graded, "social_r1")
    assert next(iter(found)) == "accuracy"
    assert found["accuracy"].value == pytest.approx(2 / 9)
    assert found["all_three"].value == 0


def test_bad_input_is_told(tmp_path):
    for rows, reason in [
        ([scenario(0, "XAA")], "Correct Answer 1 is 'X'"),
        ([scenario(0, **{"Options 2": ["A. x", "B. y"]})], "Options 2 are not six texts"),
        ([scenario(0), scenario(0)], "idx 0 occurs twice"),
        ([{"idx": 1}], "no field 'Motivation Reasoning Question'"),
        ([[1]], "list instead of an object"),
        ({"rows": []}, "dict instead of a list"),
    ]:
        with pytest.raises(BenchmarkError, match=reason) as caught:
            TASK.load(written(tmp_path, rows))
        assert "Amazon_questions.json" in str(caught.value)
    (tmp_path / "Blog" / "Blog_questions.first25.json").unlink()
    written(tmp_path, [scenario(0)])
    (tmp_path / "Persona" / "Persona_questions.first25.json").unlink()
    with pytest.raises(BenchmarkError, match="Persona_questions"):
        TASK.load(tmp_path)


@real
def test_the_real_files():
    data = TASK.load(REAL)
    assert len(data.items) == 100
    assert data.notes[:2] == ("Blog: 25 of 50 scenarios", "Persona: 25 of 100 scenarios")
    assert not any("not the published file" in note for note in data.notes)
    official, cards = (TASK.requests(data, protocol, 0) for protocol in ("official", "social_r1"))
    assert (len(official), len(cards)) == (1800, 300)
    assert all(len({one.id for one in asked}) == len(asked) for asked in (official, cards))
    found = TASK.metrics([Graded(one, TASK.grade(one, "official", one.gold)) for one in official], "official")
    assert {one.value for one in found.values()} == {1.0}
    assert (found["ours/accuracy"].n, found["Amazon/all_three"].n) == (100, 50)
    always_b = TASK.metrics([Graded(one, TASK.grade(one, "official", "B")) for one in official], "official")
    assert always_b["ours/accuracy"].value == pytest.approx(1 / 6)  # each gold is B under one order of six
