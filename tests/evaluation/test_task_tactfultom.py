"""TactfulToM: eleven categories, numbered options shuffled by the seed, yes/no by word, names by exact set."""

import json
import random
import string
from pathlib import Path

import numpy as np
import pytest

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.compare import compare
from socialr1_jax.evaluation.metrics import Grade, Graded, Metric
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.scoring import rescored, sample_row, score
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks import tactfultom
from socialr1_jax.evaluation.tasks.tactfultom import CATEGORIES, TASK
from socialr1_jax.evaluation.tasks.words import english_words

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "tactfultom"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")


def conversation(set_id="0-1-0-0", **more):
    def question(name, number=0, **fields):
        return {"question": f"{name}?", "question_type": "t", "q_id": f"{set_id}-{name}-{number}"} | fields

    wrong = ["Bo and Cy did.", "Cy did.", "Di did."]
    return {
        "set_id": set_id,
        "lie_type": "pareto_white_lies",
        "full_context": f"**Ana**: hello {set_id}",
        "short_context": "x",
        "comprehensionQA": [question("comprehension", correct_answer="No", wrong_answer="Yes")],
        "justificationQA": [question("justification", correct_answer="Because.", wrong_answer=wrong)],
        "fact_reasonQA": [question("fact_reason", correct_answer="Ana did.", wrong_answer=wrong)],
        "fact_truthQA": [],
        "beliefQAs": [
            question("belief", 0, correct_answer="Ana thinks so.", wrong_answer=wrong, tom_type="first-order:A"),
            question("belief", 1, correct_answer="Ana thinks so.", wrong_answer="Ana does not."),
        ],
        "infoAccessibilityQA_list": [
            question("info_list", information="It rained", correct_answer=["Ana", "Bo"], wrong_answer=["Cy"])
        ],
        "infoAccessibilityQAs_binary": [question("info_binary", information="It rained", correct_answer="yes")],
        "answerabilityQA_list": [
            question("ans_list", fact_question_truth="Who came?", correct_answer=["Ana"], wrong_answer=["Cy"])
        ],
        "answerabilityQAs_binary": [question("ans_binary", fact_question_real_reason="Why so?", correct_answer="no")],
        "liedetectabilityQAs_list": [
            question("lie_list", comprehension_q="Was it true?", correct_answer=["Ana"], wrong_answer=["Cy"])
        ],
        "liedetectabilityQAs_binary": [question("lie_binary", comprehension_q="Was it true?", correct_answer="no")],
        "lieabilityQAs": [question("lieability", correct_answer="It is so.", wrong_answer=wrong)],
    } | more


def written(folder, rows, name="Tactful_conv_set_0.json"):
    (folder / "final_set").mkdir(exist_ok=True)
    (folder / "final_set" / name).write_text(json.dumps(rows), encoding="utf-8")
    return folder


def asked_of(folder, protocol="official", seed=0):
    return {one.id.removeprefix("0-1-0-0-"): one for one in TASK.requests(TASK.load(folder), protocol, seed)}


@pytest.fixture
def asked(tmp_path):
    return asked_of(written(tmp_path, [conversation()]))


def graded_all(asked, replies, protocol="official"):
    return [Graded(one, TASK.grade(one, protocol, reply)) for one, reply in zip(asked, replies, strict=True)]


def test_loads_subsets_and_says_what_is_missing(tmp_path):
    written(tmp_path, [conversation()], "Tactful_conv_set_1.json")
    data = TASK.load(written(tmp_path, [conversation("0-2-0-0")], "Tactful_conv_set_0.first9.json"))
    assert [item["set_id"] for item in data.items] == ["0-2-0-0", "0-1-0-0"]
    notes = " ".join(data.notes)
    for part in ("set_0.json: 1 of 36", "set_2.json: not here (14", "set_3.json: not here", "set_4.json: not here"):
        assert part in notes


def test_what_is_asked(asked):
    """Free and choice for belief, fact, lie ability and justification; free and yes/no for comprehension."""
    assert list(asked) == [
        "comprehension-0-free",
        "comprehension-0-yes_no",
        "fact_reason-0-free",
        "fact_reason-0-choice",
        "belief-0-free",
        "belief-0-choice",
        "belief-1-free",
        "belief-1-choice",
        "info_list-0-list",
        "info_binary-0-yes_no",
        "ans_list-0-list",
        "ans_binary-0-yes_no",
        "lieability-0-free",
        "lieability-0-choice",
        "lie_list-0-list",
        "lie_binary-0-yes_no",
        "justification-0-free",
        "justification-0-choice",
    ]
    assert len(CATEGORIES) == 11
    assert asked["belief-1-choice"].meta["options"] == 2  # one wrong answer, a text
    assert asked["belief-1-free"].meta["wrong"] == ["Ana does not."]
    assert asked["comprehension-0-yes_no"].gold == "no"


def test_the_official_prompt(asked):
    system, user = (message["content"] for message in asked["info_list-0-list"].messages)
    assert "commas" in system
    assert user == "# Context\n**Ana**: hello 0-1-0-0\n\n# Information\nIt rained\n\n# Question\ninfo_list?"
    user = asked["ans_binary-0-yes_no"].messages[1]["content"]
    assert "# Target Question\nWhy so?\n\n# Question\nans_binary?" in user
    assert "# Target Question\nWho came?" in asked["ans_list-0-list"].messages[1]["content"]
    assert "# Target Question\nWas it true?" in asked["lie_list-0-list"].messages[1]["content"]
    choice = asked["fact_reason-0-choice"]
    assert "ONLY include the option number" in choice.messages[0]["content"]
    options = choice.messages[1]["content"].split("# Options\n")[1].split("\n")
    assert [line[:3] for line in options] == ["1. ", "2. ", "3. ", "4. "]
    assert options[int(choice.gold) - 1][3:] == "Ana did."


def test_options_are_shuffled_by_seed_and_question(tmp_path):
    folder = written(tmp_path, [conversation(f"0-1-0-{i}") for i in range(40)])
    golds = {
        seed: [one.gold for one in asked_of(folder, seed=seed).values() if one.id.endswith("choice")] for seed in (0, 1)
    }
    assert golds[0] != golds[1]
    assert set(golds[0]) == {"1", "2", "3", "4"}
    again = [one.gold for one in asked_of(folder, seed=0).values() if one.id.endswith("choice")]
    assert again == golds[0]
    alone = asked_of(written(tmp_path, [conversation("0-1-0-7")]))
    assert alone["0-1-0-7-fact_reason-0-choice"].gold == golds[0][5 * 7]


def choice_request(gold="2", options=4):
    meta = {"form": "choice", "category": "belief", "lie_type": "x", "options": options}
    return Request(id="q", item="i", messages=(), gold=gold, meta=meta)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("2", "2"),
        ("2. Ana", "2"),
        (" **2** ", "2"),
        ("#2", "2"),
        ("Option 2", "2"),
        ("option: 2", "2"),
        ("OPTION 3.", "3"),
        ("\n2", ""),
        ("Option\n2", ""),
        ("2\n", "2"),
        ("Option 1. Answer: 2", "1"),
        ("Answer: 2\nReason: x", ""),
        ("First answer: 1. Final answer: 2", "2"),
        ("Answer:", ""),
        ("Answer: 2:", "2"),
        ("2: my answer", "2"),
        ("{1} The answer: 2", "2"),
        ("Answer: 2} or: 3", "2"),
        ("1 answer", "1"),
        ("Answer: 2", "2"),
        ("The final answer is: 2", "2"),
        ("So the answer:\n**2**", "2"),
        ("I choose 2", ""),
        ("(2)", ""),
        ("5", ""),
        ("0", ""),
        ("", ""),
        ("two", ""),
        ("\u0662", ""),
    ],
)
def test_choice_replies(reply, answer):
    assert TASK.grade(choice_request(), "official", reply) == Grade(answer, float(answer == "2"))


@pytest.mark.parametrize(("reply", "answer"), [("<think>1</think>\n2", "2"), ("\n2", ""), ("2\n", "2")])
def test_line_break_counts_unless_thoughts_precede_it(reply, answer):
    assert score(TASK, "official", choice_request(), 0, Reply(reply, "stop", 9)).grade.answer == answer


def test_a_third_option_of_two_is_no_answer():
    assert TASK.grade(choice_request(options=2), "official", "3") == Grade("", 0.0)


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Yes", "yes"),
        ("no.", "no"),
        ("**Yes**, she does", "yes"),
        ("No, yes", "yes"),
        ("Not", ""),
        ("yesno", ""),
        ("", ""),
    ],
)
def test_yes_no_replies(asked, reply, answer):
    assert TASK.grade(asked["info_binary-0-yes_no"], "official", reply) == Grade(answer, float(answer == "yes"))


def test_lists_of_names_are_rescored_and_compared(asked, tmp_path):
    one = asked["info_list-0-list"]
    first = score(TASK, "official", one, 0, Reply("Bo, Ana", "stop", 3))
    row = json.loads(json.dumps(sample_row("tactfultom", "official", first)))
    assert rescored(TASK, row).grade == first.grade == Grade("Bo, Ana", 1.0)
    with pytest.raises(TypeError, match="gold is not of type str or list or dict"):
        rescored(TASK, row | {"gold": 3})
    files = [tmp_path / name / "samples_tactfultom.jsonl" for name in ("a", "b")]
    for file, changed in zip(files, ({}, {"answer": "Bo", "value": 0.0}), strict=True):
        file.parent.mkdir()
        file.write_text(json.dumps(row | changed) + "\n")
    (found,) = compare(*map(str, files))["comparisons"].values()
    assert found["changed"][0]["gold"] == '["Ana", "Bo"]'


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("Ana, Bo", 1),
        ("Bo,Ana", 1),
        ("Ana, Bo, Ana", 1),
        ("Ana", 0),
        ("Ana, Bo, Cy", 0),
        ("ana, bo", 0),
        ("Ana, Bo.", 0),
        ("", 0),
    ],
)
def test_lists_are_exact_sets(asked, reply, value):
    grade = TASK.grade(asked["info_list-0-list"], "official", reply)
    assert grade.value == value
    assert bool(grade.answer) == bool(reply)


def test_free_answers_by_hand(asked):
    """ "Ana did it." and "Ana did.": 3 words shared of 4 and 3, F1 6/7; the nearest wrong "Cy did." has 4/7.

    "ana did it" shares "did" of 3 and 3: marks and capitals count.
    """
    one = asked["fact_reason-0-free"]
    graded = Graded(one, TASK.grade(one, "official", "Ana did it."))
    assert graded.grade == Grade("Ana did it.", pytest.approx(6 / 7))
    assert TASK.grade(one, "official", "ana did it").value == pytest.approx(1 / 3)
    found = TASK.metrics([graded], "official")
    assert found["free/f1"].value == found["free/fact_reason"].value == pytest.approx(6 / 7)
    assert found["free/f1_wrong"].value == pytest.approx(4 / 7)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ana isn't sure, she'd go.", "Ana is n't sure , she 'd go ."),
        ("She left. Then Bo came!", "She left . Then Bo came !"),
        ("She left.Then Bo came", "She left.Then Bo came"),
        ("At 5 p.m. Mr. Lee met J. Bo in the U.S. office.", "At 5 p.m. Mr. Lee met J. Bo in the U.S. office ."),
        ('She said "no." Then left.', "She said `` no . '' Then left ."),
        ('"Yes" (I think)...', "`` Yes '' ( I think ) ..."),
        ("Cy's dogs' 'odd' idea: cannot, 3:15, $5", "Cy 's dogs ' ' odd ' idea : can not , 3:15 , $ 5"),
        ("“Well”—she’s gone -- gonna see*", "“ Well ” — she ’ s gone -- gon na see *"),
        ("“Mr. Lee” (Mr. Lee)", "“ Mr . Lee ” ( Mr. Lee )"),
        ("1. Ana 2. Bo", "1 . Ana 2 . Bo"),
        ("Both A and B. 4", "Both A and B . 4"),
        ("B. The reason. D. The reason", "B . The reason . D. The reason"),
        ("As Bo and I. Ana left", "As Bo and I. Ana left"),
        (
            "(B.) yes, at 5 p.m. They left. At 5 p.m. Ana left",
            "( B . ) yes , at 5 p.m . They left . At 5 p.m. Ana left",
        ),
        ("```json\n`Ana`\n```", "`` ` json ` Ana ` `` `"),
        ("\n", ""),
    ],
)
def test_words_are_those_of_the_penn_treebank(text, words):
    assert english_words(text) == words.split()


def test_cosines_of_free_answers():
    def embed(texts):
        return np.array([[1.0, 0.0] if "Ana" in text else [0.0, 2.0] if "Bo" in text else [3.0, 4.0] for text in texts])

    meta = {"form": "free", "category": "belief", "lie_type": "x", "wrong": ["Bo", "both"]}
    one = Request(id="q", item="i", messages=(), gold="Ana did.", meta=meta)
    found = tactfultom.embedded_figures([Graded(one, Grade("Ana", 0.5))], embed)
    assert found["free/cosine"].value == pytest.approx(1.0)
    assert found["free/cosine_wrong"].value == pytest.approx(0.6)


def test_the_figures_by_hand(asked):
    """Choice and yes/no: 8 questions, here only those of belief and comprehension right: 3 of 8."""
    right = [
        one.meta["category"] in ("belief", "comprehension") or one.meta["form"] == "list" for one in asked.values()
    ]
    golds = [", ".join(one.gold) if one.meta["form"] == "list" else one.gold for one in asked.values()]
    replies = [gold if ok else "?" for ok, gold in zip(right, golds, strict=True)]
    found = TASK.metrics(graded_all(asked.values(), replies), "official")
    assert next(iter(found)) == "ours/micro"
    assert found["ours/micro"].value == pytest.approx(3 / 8)
    values = {name: one.value for name, one in found.items()}
    assert (values["belief"], values["comprehension"], values["lie_ability"], values["info_access_list"]) == (
        1,
        1,
        0,
        1,
    )
    assert (values["form/choice"], values["form/yes_no"], values["form/list"]) == (0.5, 0.25, 1)
    assert values["free/belief"] == 1
    assert (values["set_0/belief"], values["set_0/lie_ability"]) == (1, 0)
    assert (values["justification"], values["ours/comprehension_and_justification"]) == (0, 0)


@pytest.mark.parametrize("protocol", ["official", "social_r1"])
@pytest.mark.parametrize(
    ("replies", "share", "both"),
    [
        ([("yes", "right"), ("no", 0)], 0.5, 0),
        ([("no", "right"), ("no", 0)], 0.5, 0.5),
        ([("no", "right"), ("no", "right")], 1, 1),
    ],
)
def test_justification_has_figures_of_its_own(tmp_path, protocol, replies, share, both):
    """(comprehension, justification) of two conversations: neither is in a mean with the other's categories."""
    rows = [conversation(f"0-1-0-{i}") for i in range(2)]
    graded = []
    for one in TASK.requests(TASK.load(written(tmp_path, rows)), protocol, 0):
        value, (comprehension, justification) = 0.25, replies[int(one.item[-1])]
        if one.meta["form"] != "free" and one.meta["category"] in ("comprehension", "justification"):
            value = comprehension == "no" if one.meta["category"] == "comprehension" else justification == "right"
        graded.append(Graded(one, Grade("x", float(value))))
    found = TASK.metrics(graded, protocol)
    comprehension = sum(first == "no" for first, _ in replies)
    assert found["comprehension"].value == comprehension / 2
    others = 0.25 * 2 * 7
    assert next(iter(found.values())).value == pytest.approx((others + comprehension) / 16)
    assert found["justification"] == Metric(share, pytest.approx(0.5 * (share == 0.5)), 2)
    assert found["ours/comprehension_and_justification"].value == both
    assert found["set_0/justification"] == found["justification"]
    assert ("free/justification" in found) == (protocol == "official")


def test_the_cards_protocol(tmp_path):
    asked = asked_of(written(tmp_path, [conversation()]), "social_r1")
    assert len(asked) == 9
    one = asked["ans_binary-0-yes_no"]
    assert one.gold == "B"
    assert "Target Question: Why so?\nans_binary?\nA. Yes\nB. No\n" in one.messages[0]["content"]
    assert "Information: It rained\n" in asked["info_binary-0-yes_no"].messages[0]["content"]
    choice = asked["fact_reason-0-choice"]
    assert f"\n{choice.gold}. Ana did.\n" in choice.messages[0]["content"]
    found = TASK.metrics(graded_all(asked.values(), ["<Answer>B</Answer>"] * 9, "social_r1"), "social_r1")
    assert next(iter(found)) == "ours/accuracy"
    justification = asked.pop("justification-0-choice").gold
    assert found["justification"].value == (justification == "B")
    assert found["ours/accuracy"].value == sum(one.gold == "B" for one in asked.values()) / 8


def test_agrees_with_an_oracle_on_random_replies(tmp_path):
    """The oracle knows questions by their id alone and reads replies character by character."""
    draw = random.Random(11)
    rows = []
    for i in range(60):
        row = conversation(f"0-1-0-{i}", lie_type=draw.choice(["pareto_white_lies", "altruistic_white_lies"]))
        for name in ("infoAccessibilityQAs_binary", "answerabilityQAs_binary", "liedetectabilityQAs_binary"):
            row[name][0]["correct_answer"] = draw.choice(["yes", "no"])
        row["fact_truthQA"] = [row["fact_reasonQA"][0] | {"q_id": f"0-1-0-{i}-fact_truth-0"}]
        rows.append(row)
    asked = TASK.requests(TASK.load(written(tmp_path, rows)), "official", 4)
    golds = {
        q["q_id"]: q["correct_answer"]
        for row in rows
        for value in row.values()
        if isinstance(value, list)
        for q in value
    }
    graded, tally, micro = [], {}, []
    for one in asked:
        id, form = one.id.rsplit("-", 1)
        if "justification" in id:
            continue
        if form == "choice":
            body = draw.choice(["1", "2", "3", "4", "4", "7", "none"])
            reply = draw.choice(["%s", "Option %s", "Answer: %s", "**%s**", "I say %s"]) % body
            lines = one.messages[1]["content"].split("# Options\n")[1].split("\n")
            shown = {line[0]: line[3:] for line in lines}
            right = not reply.startswith("I say") and shown.get(body) == golds[id]
        elif form == "yes_no":
            reply = draw.choice(
                ["Yes", "No", "yes!", "No, she does not.", "Well, no: yes", "I do not know", "none", "y"]
            )
            tokens = [word.strip(string.punctuation).lower() for word in reply.split()]
            said = "yes" if "yes" in tokens else "no" if "no" in tokens else None
            right = said == golds[id].lower()
        elif form == "list":
            picked = draw.sample(["Ana", "Bo", "Cy", "ana"], draw.choice([1, 1, 2, 2, 3]))
            reply = draw.choice([", ", ",", " and "]).join(picked)
            right = sorted(picked) == golds[id] and (len(picked) == 1 or " and " not in reply)
        else:
            continue
        graded.append(Graded(one, TASK.grade(one, "official", reply)))
        assert graded[-1].grade.value == right, (one.id, reply)
        tally.setdefault(id.split("-")[4], []).append(right)
        if form != "list":
            micro.append(right)
    assert len(graded) == 60 * 12
    found = TASK.metrics(graded, "official")
    names = {
        "comprehension": "comprehension",
        "fact_reason": "fact_reason",
        "fact_truth": "fact_truth",
        "belief": "belief",
        "info_list": "info_access_list",
        "info_binary": "info_access_binary",
        "ans_list": "answerability_list",
        "ans_binary": "answerability_binary",
        "lieability": "lie_ability",
        "lie_list": "lie_detectability_list",
        "lie_binary": "lie_detectability_binary",
    }
    assert set(tally) == set(names)
    for name, hits in tally.items():
        assert found[names[name]].value == pytest.approx(sum(hits) / len(hits)), name
    assert found["ours/micro"].value == pytest.approx(sum(micro) / len(micro))


def test_bad_input_is_told(tmp_path):
    with pytest.raises(BenchmarkError, match="Tactful_conv_set"):
        TASK.load(tmp_path)
    twice = conversation()
    twice["lieabilityQAs"][0]["q_id"] = twice["fact_reasonQA"][0]["q_id"]
    bare = conversation()
    del bare["fact_reasonQA"][0]["wrong_answer"]
    maybe = conversation()
    maybe["infoAccessibilityQAs_binary"][0]["correct_answer"] = "maybe"
    for rows, reason in [
        ([twice], "the q_id 0-1-0-0-fact_reason-0 occurs twice"),
        ([bare], "conversation 1, fact_reasonQA 1: no field 'wrong_answer'"),
        ([maybe], "'maybe', neither yes nor no"),
        ([conversation(beliefQAs=None)], "'beliefQAs' is NoneType instead of list"),
        ([{"set_id": "1"}], "no field 'full_context'"),
        ({}, "dict instead of a list"),
    ]:
        with pytest.raises(BenchmarkError, match=reason):
            TASK.load(written(tmp_path, rows))


@real
def test_the_real_files():
    data = TASK.load(REAL)
    assert len(data.items) == 32
    assert [note.split(":")[1][:9] for note in data.notes[:3]] == [" 9 of 36 ", " not here", " not here"]
    assert not any("not the published file" in note for note in data.notes)
    official, cards = (TASK.requests(data, protocol, 0) for protocol in ("official", "social_r1"))
    counts = {}
    for one in official:
        if one.meta["form"] != "free":
            counts[one.meta["category"]] = counts.get(one.meta["category"], 0) + 1
    assert sum(counts.values()) == 1272
    assert (counts["belief"], counts["fact_truth"], counts["lie_ability"]) == (612, 19, 55)
    assert len([one for one in official if one.meta["form"] == "choice" and one.meta["options"] == 2]) == 19
    assert all(len({one.id for one in asked}) == len(asked) for asked in (official, cards))
    assert counts.pop("justification") == 32
    assert len(cards) == sum(one.meta["form"] in ("choice", "yes_no") for one in official)
    golds = [", ".join(one.gold) if one.meta["form"] == "list" else one.gold for one in official]
    found = TASK.metrics(graded_all(official, golds), "official")
    assert {one.value for name, one in found.items() if name != "free/f1_wrong"} == {1.0}
