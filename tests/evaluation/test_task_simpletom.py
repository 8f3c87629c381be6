"""SimpleToM: three questions a story, the official reading of letters, and stories of ours where somebody knows."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks.simpletom import CONTROL_STORIES, TASK, TYPES
from socialr1_jax.stories.scripts import HELD_OUT_NAMES, NAMES

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "simpletom"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")
FILES = {"mental-state-qa": "aware", "behavior-qa": "action", "judgment-qa": "judge"}
OPTIONS = {"aware": ["Yes", "No"], "action": ["eat it", "throw it"], "judge": ["Reasonable", "Not reasonable"]}


def row(story, end, key="A", **more):
    choices = {"text": OPTIONS[end], "label": ["A", "B"]}
    return {
        "id": f"{story}_{end}",
        "story": f"Story {story}.",
        "question": f"Question {end}?",
        "scenario_name": "food",
        "choices": choices,
        "answerKey": key,
    } | more


def written(folder, rows):
    """rows: of each of the three files."""
    for (name, _), of_file in zip(FILES.items(), rows, strict=True):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "test.jsonl").write_text("".join(json.dumps(one) + "\n" for one in of_file), encoding="utf-8")
    return folder


def stories(folder, keys):
    """Stories s0_sev1, s1_sev1, ... with these golds, "BAA" for example."""
    return written(
        folder, [[row(f"s{i}_sev1", end, of[j]) for i, of in enumerate(keys)] for j, end in enumerate(FILES.values())]
    )


def test_stories_are_joined_by_id(tmp_path):
    folder = stories(tmp_path, ["BAA", "BBA"])
    lines = (folder / "behavior-qa" / "test.jsonl").read_text().splitlines()
    (folder / "behavior-qa" / "test.jsonl").write_text("\n".join(reversed(lines)) + "\n")
    data = TASK.load(folder)
    assert set(data.files) == {f"{name}/test.jsonl" for name in FILES}
    found = [one for one in TASK.requests(data, "official", 0) if one.meta["set"] == "simpletom"]
    assert [(one.id, one.item, one.gold) for one in found] == [
        ("s0_sev1_aware", "s0_sev1", "B"),
        ("s0_sev1_action", "s0_sev1", "A"),
        ("s0_sev1_judge", "s0_sev1", "A"),
        ("s1_sev1_aware", "s1_sev1", "B"),
        ("s1_sev1_action", "s1_sev1", "B"),
        ("s1_sev1_judge", "s1_sev1", "A"),
    ]
    system, user = (message["content"] for message in found[0].messages)
    assert system == "You answer questions about short stories."
    assert "Story:\nStory s0_sev1.\n\nQuestion: Question aware?\n(A) Yes\n(B) No\n" in user
    assert found[0].max_new_tokens == 20
    card = TASK.requests(data, "social_r1", 0)[1]
    assert card.messages[0]["content"].startswith("Story s0_sev1.\n\nQuestion action?\nA. eat it\nB. throw it\n\nYou")


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return TASK.requests(TASK.load(stories(tmp_path_factory.mktemp("simpletom"), ["BAA"])), "official", 0)[0]


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("(A)", "A"),
        ("(B)", "B"),
        ("(B), not (A)", "A"),
        ("Answer: (B)", "B"),
        ("The correct answer is (B) No", "B"),
        ("ANSWER:B", "B"),
        ("(B because", "B"),
        ("(A or (B", ""),
        ("B", "B"),
        ("A or B", ""),
        ("No", ""),
        ("", ""),
        ("Because", "B"),
        ("b", ""),
        ("(C)", ""),
        ("(C) (B)", "B"),
        ("B. Does not know", ""),
        ("A. Yes", "A"),
        ("Answer", ""),
        ("（B）", "B"),
        ("B (A", "A"),
    ],
)
def test_which_letter_is_read(one, reply, answer):
    assert TASK.grade(one, "official", reply) == Grade(answer, float(answer == "B"))


def test_figures_by_hand(tmp_path):
    """Story 0 all right; story 1 only the mental state, and once no answer; our controls all wrong."""
    asked = TASK.requests(TASK.load(stories(tmp_path, ["BAA", "BBA"])), "official", 0)
    replies = {
        "s0_sev1_aware": "(B)",
        "s0_sev1_action": "(A)",
        "s0_sev1_judge": "(A)",
        "s1_sev1_aware": "B",
        "s1_sev1_action": "none",
        "s1_sev1_judge": "(B)",
    }
    graded = [
        Graded(one, TASK.grade(one, "official", replies.get(one.id, "(B)" if one.gold == "A" else "(A)")))
        for one in asked
    ]
    found = TASK.metrics(graded, "official")
    assert next(iter(found)) == "ours/mean"
    values = {name: one.value for name, one in found.items()}
    assert values == {
        "ours/mean": pytest.approx(4 / 6),
        "mental_state": 1,
        "behavior": 0.5,
        "judgment": 0.5,
        "all_three": 0.5,
        "na_frac": pytest.approx(1 / 6),
        "na_frac/mental_state": 0,
        "na_frac/behavior": 0.5,
        "na_frac/judgment": 0,
    } | {f"ours/{name}/{key}": 0 for name in ("aware", "unaware") for key in ("accuracy", *TYPES, "all_three")}
    assert (found["ours/mean"].n, found["all_three"].n, found["na_frac"].n) == (2, 2, 2)
    cards = TASK.requests(TASK.load(tmp_path), "social_r1", 0)
    graded = [Graded(one, TASK.grade(one, "social_r1", "<Answer>A</Answer>")) for one in cards]
    found = TASK.metrics(graded, "social_r1")
    assert next(iter(found)) == "accuracy"
    assert found["accuracy"].value == pytest.approx(3 / 6)


def test_story_without_one_question_is_left_out(tmp_path):
    folder = written(tmp_path, [[row("s0", "aware"), row("s1", "aware")], [row("s0", "action")], [row("s0", "judge")]])
    data = TASK.load(folder)
    assert data.notes[:3] == (
        "mental-state-qa: 2 of 1147 questions",
        "behavior-qa: 1 of 1147 questions",
        "judgment-qa: 1 of 1147 questions",
    )
    graded = [Graded(one, TASK.grade(one, "official", f"({one.gold})")) for one in TASK.requests(data, "official", 0)]
    found = TASK.metrics(graded, "official")
    assert (found["all_three"].n, found["mental_state"].n) == (1, 2)


def sees_the_move(story, who):
    """Who is in the room when the thing is moved, read from the sentences alone."""
    here = True
    for sentence in story.split(". "):
        if sentence.startswith(f"{who} leaves"):
            here = False
        elif sentence.startswith(f"{who} comes"):
            here = True
        elif " moves the " in sentence:
            return here
    raise AssertionError(story)


def test_controls(tmp_path):
    """Who saw the move knows; the golds follow from the sentences, and no name is one of training."""
    data = TASK.load(stories(tmp_path, ["BAA"]))
    assert any("no part of SimpleToM" in note for note in data.notes)
    controls = [item for item in data.items if item["set"] != "simpletom"]
    assert len(controls) == CONTROL_STORIES * 2 * 3
    assert TASK.load(tmp_path).items == data.items
    told = {"aware": {}, "unaware": {}}
    for item in controls:
        story = item["story"]
        who = re.search(r"(\w+) asks for the", story).group(1)
        thing, naive = re.search(r"puts the (\w+) in the (\w+)", story).groups()
        found = re.search(rf"moves the {thing} to the (\w+)", story).group(1)
        knows = sees_the_move(story, who)
        assert knows == (item["set"] == "aware")
        gold = dict(zip("AB", item["choices"]["text"], strict=True))[item["answerKey"]]
        expected = {
            "mental_state": "Yes" if knows else "No",
            "behavior": f"look in the {found if knows else naive}",
            "judgment": "Not reasonable" if knows else "Reasonable",
        }
        assert gold == expected[item["type"]]
        assert who in item["question"]
        if item["type"] == "judgment":
            assert f'"look in the {naive}" and not "look in the {found}"' in item["question"]
        assert who in HELD_OUT_NAMES
        assert not set(re.findall(r"\w+", story)) & set(NAMES)
        told[item["set"]][item["story_id"].split("-")[1], item["type"]] = item
    for key, item in told["aware"].items():
        other = told["unaware"][key]
        assert sorted(item["story"].split(". ")) == sorted(other["story"].split(". ")) or sorted(
            re.findall(r"\w+", item["story"])
        ) == sorted(re.findall(r"\w+", other["story"]))
        assert (item["question"], item["choices"]) == (other["question"], other["choices"])
        assert item["answerKey"] != other["answerKey"]
    assert len({item["story"] for item in controls}) == 2 * CONTROL_STORIES
    for kind in TYPES:
        letters = [item["answerKey"] for item in controls if item["type"] == kind]
        assert letters.count("A") == CONTROL_STORIES
        aware = [item["answerKey"] for item in controls if item["type"] == kind and item["set"] == "aware"]
        assert 30 <= aware.count("A") <= 70


def test_nobody_knows_is_perfect_until_the_controls(tmp_path):
    asked = TASK.requests(TASK.load(stories(tmp_path, ["BAA", "BAA"])), "official", 0)
    by_id = {one.id: one for one in asked}
    replies = {
        one.id: by_id[one.id.replace("aware-", "unaware-", 1)].gold if one.meta["set"] == "aware" else one.gold
        for one in asked
    }
    found = TASK.metrics([Graded(one, TASK.grade(one, "official", replies[one.id])) for one in asked], "official")
    assert (found["ours/mean"].value, found["ours/unaware/all_three"].value) == (1, 1)
    assert found["ours/aware/accuracy"].value == 0


def oracle(reply):
    """The word "answer" dropped; (A) before (B); else an open bracket; else a lone capital; else nothing."""
    while (at := reply.lower().find("answer")) >= 0:
        end = at + 6
        reply = reply[:at] + "\0" + reply[end + (reply[end : end + 1] == ":") :]
    reply = reply.replace("\0", "")
    for letter in "ABCD":
        if reply.find(f"({letter})") >= 0:
            return letter if letter in "AB" else ""
    opened = {after for before, after in pairwise(reply) if before == "(" and after in "ABCD"}
    seen = opened or {sign for sign in reply if sign in "ABCD"}
    return "".join(seen) if len(seen) == 1 and seen <= {"A", "B"} else ""


def test_agrees_with_an_oracle_on_random_replies(tmp_path):
    draw = random.Random(4)
    keys = ["".join(draw.choices("AB", k=3)) for _ in range(300)]
    data = TASK.load(stories(tmp_path, keys))
    pieces = [
        "(A)",
        "(B)",
        "(A",
        "(B",
        "A",
        "B",
        "C",
        "(D)",
        "answer",
        "Answer:",
        "ANSWER",
        "the answer is ",
        " ",
        "\n",
        "No",
        "Because",
        "probably",
        "（A）",
        "答案",
        "é",
        "(C",
        ")",
        "😀",
        "anSWER:(",
        "ans",
    ]
    graded, sums, whole, missing = [], {}, {}, []
    for one in TASK.requests(data, "official", 0):
        reply = draw.choice([f"({one.gold})", "".join(draw.choices(pieces, k=draw.choice([0, 1, 1, 2, 3, 5])))])
        graded.append(Graded(one, TASK.grade(one, "official", reply)))
        expected = oracle(reply)
        assert graded[-1].grade.answer == expected, reply
        if one.meta["set"] == "simpletom":
            story, end = one.id.rsplit("_", 1)
            gold = keys[int(re.findall(r"\d+", story)[0])][list(FILES.values()).index(end)]
            sums.setdefault(end, []).append(expected == gold)
            whole.setdefault(story, []).append(expected == gold)
            missing.append(not expected)
    found = TASK.metrics(graded, "official")
    assert len(missing) == 900
    assert 0.1 < sum(missing) / 900 < 0.9
    means = {name: sum(sums[end]) / 300 for name, end in TYPES.items()}
    for name, mean in means.items():
        assert found[name].value == pytest.approx(mean)
    assert found["ours/mean"].value == pytest.approx(sum(means.values()) / 3)
    assert found["all_three"].value == pytest.approx(sum(map(all, whole.values())) / 300)
    assert found["na_frac"].value == pytest.approx(sum(missing) / 900)


def test_bad_input_is_told(tmp_path):
    for bad, reason in [
        (row("s", "action"), "does not end in _aware"),
        (row("s", "aware", "C"), "the answerKey is 'C'"),
        (row("s", "aware", choices={"text": ["x"], "label": ["A"]}), "not two texts labelled A and B"),
        (row("s", "aware", choices={"text": ["x", "y"], "label": ["B", "A"]}), "not two texts labelled A and B"),
        (row("s", "aware", choices=["x", "y"]), "'choices' is list instead of Mapping"),
        (row("s", "aware") | {"story": ""}, "'story' is empty"),
        ({"id": "s_aware"}, "no field 'story'"),
        ([], "list instead of an object"),
    ]:
        with pytest.raises(BenchmarkError, match=reason) as caught:
            TASK.load(written(tmp_path, [[row("ok", "aware"), bad], [], []]))
        assert "test.jsonl, row 2" in str(caught.value)
    with pytest.raises(BenchmarkError, match="'s_aware' occurs twice"):
        TASK.load(written(tmp_path, [[row("s", "aware")] * 2, [], []]))
    (tmp_path / "judgment-qa" / "test.jsonl").unlink()
    written_again = stories(tmp_path, ["BAA"])
    assert len(TASK.load(written_again).notes) == 7  # three counts, three checksums, the controls
    (tmp_path / "judgment-qa" / "test.jsonl").unlink()
    with pytest.raises(BenchmarkError, match=r"judgment-qa: there is no test\.jsonl"):
        TASK.load(tmp_path)


@real
def test_the_real_files():
    data = TASK.load(REAL)
    assert len(data.notes) == 1  # on the controls
    rows = [item for item in data.items if item["set"] == "simpletom"]
    assert len(rows) == 3441
    golds = {
        kind: {dict(zip("AB", i["choices"]["text"], strict=True))[i["answerKey"]] for i in rows if i["type"] == kind}
        for kind in TYPES
    }
    assert (golds["mental_state"], golds["judgment"]) == ({"No"}, {"Reasonable"})
    for protocol in ("official", "social_r1"):
        asked = TASK.requests(data, protocol, 0)
        assert len(asked) == len({one.id for one in asked}) == 3441 + 6 * CONTROL_STORIES
        shape = "({})" if protocol == "official" else "<Answer>{}</Answer>"
        found = TASK.metrics(
            [Graded(one, TASK.grade(one, protocol, shape.format(one.gold))) for one in asked], protocol
        )
        missing = [name for name in found if name.startswith("na_frac")]
        assert [found.pop(name).value for name in missing] == [0, 0, 0, 0]
        assert {one.value for one in found.values()} == {1.0}
        assert found["all_three"].n == 1147
