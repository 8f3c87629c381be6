"""ToMBench: five shuffled tries and a vote, two languages, rows with all the quirks of the files."""

import collections
import json
import random
import re
from pathlib import Path

import pytest

from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks import tombench
from socialr1_jax.evaluation.tasks.tombench import TASK

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "tombench"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")
NAN = float("nan")
FALSE_BELIEF, FAUX_PAS, LINKS = "False Belief Task", "Faux-pas Recognition Test", "Knowledge-Attention Links"
BOX = ["box", "bag", "tin", "jar"]


def row(answer="A", ability="Belief: Location false beliefs", english=BOX, chinese=None, **more):
    """A row as json.dumps writes it: missing options become bare NaN. Chinese options repeat their letters."""
    chinese = [f"{x}. 中{text}" for x, text in zip("ABCD", english, strict=False)] if chinese is None else chinese
    found = {
        "能力\nABILITY": ability,
        "序号\nINDEX": 1,
        "故事": "故事。",
        "问题": "哪里？",
        "STORY": "Story.",
        "QUESTION": "Where?",
    }
    for i, letter in enumerate("ABCD"):
        found[f"OPTION-{letter}"] = english[i] if i < len(english) else NAN
        found[f"选项{letter}"] = chinese[i] if i < len(chinese) else NAN
    return found | {"答案\nANSWER": answer} | more


def written(folder, files=None):
    """All twenty files; those that are not named hold one plain row."""
    (folder / "data").mkdir(exist_ok=True)
    for name in tombench._FILES:
        rows = (files or {}).get(name.removesuffix(".jsonl"), [row()])
        lines = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows)
        (folder / "data" / name).write_text(lines, encoding="utf-8")
    return folder


def asked(folder, protocol="official", seed=0):
    return TASK.requests(TASK.load(folder), protocol, seed)


def of(found, task, language="en", number=1):
    return [one for one in found if one.item == f"{task}-{number}" and one.meta["language"] == language]


def test_missing_options_and_labels(tmp_path):
    rows = [
        row("B", english=["Yes", "No"]),
        row("B", english=["A. Yes", "B. No", "C. Maybe", "D. Never"], chinese=["A. 是", "B. 否"]),
    ]
    data = TASK.load(written(tmp_path, {FAUX_PAS: rows}))
    two, mixed = [item for item in data.items if item["task"] == FAUX_PAS]
    assert (two["en"]["options"], two["zh"]["options"]) == (("Yes", "No"), ("中Yes", "中No"))
    assert (mixed["en"]["options"], mixed["zh"]["options"]) == (("Yes", "No", "Maybe", "Never"), ("是", "否"))
    assert mixed["written"] == {"en": ["Yes", "No", "Maybe", "Never"], "zh": ["是", "否"]}
    found = TASK.requests(data, "official", 0)
    for one in of(found, FAUX_PAS):
        shown = one.messages[1]["content"].split("[Candidate Answers]\n")[1]
        assert shown in ("A. Yes\nB. No", "A. No\nB. Yes")
        assert TASK.grade(one, "official", "[[C]]") == Grade("", 0.0)
        assert TASK.grade(one, "official", "[[D]]") == Grade("", 0.0)
    assert all(set(one.meta["shown"]) == set("AB") for one in of(found, FAUX_PAS, "zh", 2))
    for one in of(found, FAUX_PAS, "en", 2):  # as the scripts, which look at the Chinese options
        assert one.messages[1]["content"].split("]\n")[-1] in ("A. Yes\nB. No", "A. No\nB. Yes")
    assert of(TASK.requests(data, "social_r1", 0), FAUX_PAS, "en", 2)[0].messages[0]["content"].count(". Never\n") == 1


def test_gold_and_abilities(tmp_path):
    rows = [
        row("A. ", "Knowledge: Information-knowledge links "),
        row("B", "Non-literal communication: Humor"),
        row("B", "Non-Literal Communication: Faux pas"),
        row("C", "Belief: Content false beliefs Belief: Second-order beliefs"),
    ]
    items = [item for item in TASK.load(written(tmp_path, {LINKS: rows})).items if item["task"] == LINKS]
    assert [item["en"]["gold"] for item in items] == ["A", "B", "B", "C"]
    assert [item["abilities"] for item in items] == [
        ["knowledge: information-knowledge links"],
        ["non-literal communication: humor"],
        ["non-literal communication: faux pas"],
        ["belief: content false beliefs", "belief: second-order beliefs"],
    ]


def test_every_try_leads_back_to_the_files_letters(tmp_path):
    files = {FALSE_BELIEF: [row("C", INDEX=i) for i in range(40)]}
    found = asked(written(tmp_path, files))
    assert len(found) == 2 * 5 * (40 + 19)
    assert len({one.id for one in found}) == len(found)
    orders = set()
    for one in found:
        shown = dict(line.split(". ", 1) for line in one.messages[1]["content"].split("]\n")[-1].split("\n"))
        originals = {letter: "ABCD"[BOX.index(text.removeprefix("中"))] for letter, text in shown.items()}
        assert one.meta["shown"] == originals
        orders.add("".join(originals.values()))
    assert len(orders) == 24
    five = of(found, FALSE_BELIEF)
    assert [one.id for one in five] == [f"False Belief Task-1-en-try{n}" for n in range(1, 6)]
    assert five[0].gold == "C"
    assert five[0].max_new_tokens == 4096
    assert json.loads(json.dumps(five[0].meta)) == five[0].meta


def test_orders_hang_on_seed_and_question_alone(tmp_path):
    one_row = asked(written(tmp_path, {FALSE_BELIEF: [row()]}))
    more = asked(written(tmp_path, {FALSE_BELIEF: [row(), row(), row()], LINKS: [row()] * 3}))
    assert of(one_row, FALSE_BELIEF) == of(more, FALSE_BELIEF)
    assert asked(tmp_path) == more
    assert [one.meta for one in asked(tmp_path, seed=1)] != [one.meta for one in more]


def test_prompts(tmp_path):
    found = asked(written(tmp_path))
    english, chinese = of(found, FALSE_BELIEF)[0], of(found, FALSE_BELIEF, "zh")[0]
    assert [message["role"] for message in english.messages] == ["system", "user"]
    assert "[[A]]" in english.messages[0]["content"]
    assert english.messages[1]["content"].startswith(
        "[Story]\nStory.\n\n[Question]\nWhere?\n\n[Candidate Answers]\nA. "
    )
    assert chinese.messages[1]["content"].startswith("[故事]\n故事。\n\n[问题]\n哪里？\n\n[答案选项]\nA. 中")
    assert "随机" in chinese.messages[0]["content"]


@pytest.mark.parametrize("answer", ["C", "A. "])
def test_answers_the_scripts_miss_are_right_here(tmp_path, answer):
    """The second of two options that read alike counts as the first, and "A. " is no letter."""
    rows = [row(answer, english=["Angry", "Glad", "Angry", "Sad"])]
    five = of(asked(written(tmp_path, {FALSE_BELIEF: rows})), FALSE_BELIEF)
    for one in five:
        assert sorted(one.meta["shown"].values()) == ["A", "A", "B", "D"]
        shown = next(letter for letter, original in one.meta["shown"].items() if original == "A")
        assert TASK.grade(one, "official", f"[[{shown}]]") == Grade("A", 0.0)
        assert TASK.kinder(one, "official", f"[[{shown}]]") == Grade("A", 1.0)
    assert of(asked(tmp_path, "social_r1"), FALSE_BELIEF)[0].gold == answer[0]


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return of(asked(written(tmp_path_factory.mktemp("tombench"))), FALSE_BELIEF)[0]


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("[[C]]", "C"),
        ("Not [[A]] but [[C]]", "A"),
        ("[[D]] [[B]]", "B"),
        ("[[D]], [A]", "D"),
        ("[C] or [B]", "B"),
        ("[[E]] D", "D"),
        ("I say C. Bye", "B"),
        ("It is C", "C"),
        ("答案是C。", "C"),
        ("c", "A"),
        ("", "A"),
        ("no idea", "A"),
        ("[[ B ]]", "B"),
        ("Ａ", "A"),
        ("[[b]]", "A"),
        ("【D】", "D"),
    ],
)
def test_which_letter_is_read(one, reply, letter):
    answer = one.meta["shown"][letter]
    assert TASK.grade(one, "official", reply) == Grade(answer, float(answer == "A"))


def graded_as(requests, answers):
    return [
        Graded(one, Grade(answer, float(answer == one.gold))) for one, answer in zip(requests, answers, strict=True)
    ]


@pytest.mark.parametrize(
    ("answers", "right"),
    [
        ("AAABB", 1),
        ("BBBAA", 0),
        ("ABABC", 1),
        ("BABAC", 0),
        ("ABCDD", 0),
        ("CABDA", 1),
        ("-A-AA", 1),
        ("-A-AB", 0),
        ("-----", 0),
        ("ABCD-", 1),
        ("-ABCD", 0),
    ],
)
def test_votes_by_hand(tmp_path, answers, right):
    """Gold A; "-" is a letter that was no option, and a vote as others. Of equals the first wins."""
    five = of(asked(written(tmp_path)), FALSE_BELIEF)
    graded = graded_as(five, ["" if x == "-" else x for x in answers])
    random.Random(0).shuffle(graded)
    found = TASK.metrics(graded, "official")
    assert next(iter(found)) == "ours/accuracy_en"
    assert {one.value for one in found.values()} == {right}
    assert set(found) == {
        "ours/accuracy_en",
        "tasks_en/False Belief Task",
        "groups_en/belief",
        "abilities_en/belief: location false beliefs",
    }
    assert found["ours/accuracy_en"].n == 1


def test_figures_by_hand(tmp_path):
    """Two belief questions, one with two abilities; one question of a file that is no task. English 2 of 3 right."""
    files = {
        FALSE_BELIEF: [row(), row(ability="Belief: Content false beliefs Belief: Second-order beliefs")],
        LINKS: [row(ability="Knowledge: Knowledge-attention links")],
    }
    found = asked(written(tmp_path, files))
    wanted = [one for one in found if one.meta["task"] in files]
    right = {("False Belief Task-1", "en"), (f"{LINKS}-1", "en"), ("False Belief Task-2", "zh")}
    answers = ["A" if (one.item, one.meta["language"]) in right else "B" for one in wanted]
    values = {name: (one.value, one.n) for name, one in TASK.metrics(graded_as(wanted, answers), "official").items()}
    assert values == {
        "ours/accuracy_en": (pytest.approx(2 / 3), 3),
        "tasks_en/False Belief Task": (0.5, 2),
        "groups_en/knowledge": (1, 1),
        "groups_en/belief": (0.5, 2),
        "abilities_en/belief: content false beliefs": (0, 1),
        "abilities_en/belief: location false beliefs": (1, 1),
        "abilities_en/belief: second-order beliefs": (0, 1),
        "abilities_en/knowledge: knowledge-attention links": (1, 1),
        "ours/accuracy_zh": (pytest.approx(1 / 3), 3),
        "tasks_zh/False Belief Task": (0.5, 2),
        "groups_zh/knowledge": (0, 1),
        "groups_zh/belief": (0.5, 2),
        "abilities_zh/belief: content false beliefs": (1, 1),
        "abilities_zh/belief: location false beliefs": (0, 1),
        "abilities_zh/belief: second-order beliefs": (1, 1),
        "abilities_zh/knowledge: knowledge-attention links": (0, 1),
    }


def noise(draw):
    """A reply of brackets, letters, prose, other alphabets, or nothing."""
    pieces = [
        "[[A]]",
        "[[B]]",
        "[[C]]",
        "[[D]]",
        "[A]",
        "[B]",
        "[C]",
        "[D]",
        "A",
        "B",
        "C",
        "D",
        "[[E]]",
        "(B)",
        "Because",
        "the answer is",
        "答案",
        "Ｂ",
        "😀",
        "\n",
        " ",
        "[[",
        "]]",
        "d",
        "Anna and Dora",
        "é",
        "</think>",
        "\\boxed{C}",
    ]
    return "".join(draw.choice(pieces) for _ in range(draw.choice([0, 1, 1, 1, 2, 3, 6])))


def test_agrees_with_an_oracle_on_random_replies(tmp_path):
    """The oracle scores the text that a reply's letter shows, from the prompt and the file alone."""
    draw = random.Random(11)
    abilities = [
        "Belief: Location false beliefs",
        "Belief: Content false beliefs Belief: Second-order beliefs",
        "Emotion: Hidden emotions",
        "Non-Literal Communication: Faux pas",
        "Non-literal communication: Humor",
    ]
    files = {
        task: [
            row(draw.choice("AB"), draw.choice(abilities), draw.choice([BOX, BOX[:2], ["x. y", "z"]]))
            for _ in range(12)
        ]
        for task in (FALSE_BELIEF, FAUX_PAS, LINKS)
    }
    found = asked(written(tmp_path, files))
    votes, graded = collections.defaultdict(list), []
    for one in found:
        reply = noise(draw)
        graded.append(Graded(one, TASK.grade(one, "official", reply)))
        # The rules again: sort what stands in double brackets, then in single ones, then the last capital, then A.
        double, single = (sorted(re.findall(p, reply)) for p in (r"\[\[([ABCD])\]\]", r"\[([ABCD])\]"))
        capitals = re.sub("[^ABCD]", "", reply)
        letter = (double[:1] or single[:1] or [capitals[-1:]])[0] or "A"
        listed = re.search(rf"^{letter}\. (.*)$", one.messages[1]["content"].split("\n\n")[-1], re.MULTILINE)
        votes[one.id.rsplit("-", 1)[0]].append(listed.group(1).replace("中", "") if listed else None)
    assert len(graded) == 2 * 5 * (36 + 17)
    scores = collections.defaultdict(list)
    for name, texts in votes.items():
        assert len(texts) == 5
        task, number, language = re.fullmatch(r"(.*)-(\d+)-(en|zh)", name).groups()
        source = files.get(task, [row()])[int(number) - 1]
        counts = [texts.count(text) for text in texts]
        right = texts[counts.index(max(counts))] == source[f"OPTION-{source['答案' + chr(10) + 'ANSWER']}"]
        keys = {f"ours/accuracy_{language}"}
        keys |= {f"tasks_{language}/{task}"} if task in (FALSE_BELIEF, FAUX_PAS) else set()
        for ability in re.findall(
            r"(?:belief|emotion|non-literal communication): .+?(?= belief:|$)", source["能力\nABILITY"].lower()
        ):
            keys |= {f"abilities_{language}/{ability}", f"groups_{language}/{ability.split(':')[0]}"}
        for key in keys:
            scores[key].append(right)
    figures = TASK.metrics(graded, "official")
    assert 0.2 < figures["ours/accuracy_en"].value < 0.8
    assert len(scores) > 16
    for key, values in scores.items():
        assert figures[key].value == pytest.approx(sum(values) / len(values)), key
        assert figures[key].n == len(values)


def test_the_cards_protocol(tmp_path):
    rows = [row("B", english=["Yes", "No"]), row("D")]
    found = asked(written(tmp_path, {FAUX_PAS: rows}), "social_r1")
    two, four = of(found, FAUX_PAS)[0], of(found, FAUX_PAS, "en", 2)[0]
    assert (two.id, two.gold, four.gold) == ("Faux-pas Recognition Test-1-en", "B", "D")
    assert two.messages[0]["content"].startswith("Story.\n\nWhere?\nA. Yes\nB. No\n\nYou should first think")
    assert of(found, FAUX_PAS, "zh")[0].messages[0]["content"].startswith("故事。\n\n哪里？\nA. 中Yes\nB. 中No\n\n")
    graded = [
        Graded(one, TASK.grade(one, "social_r1", f"<Answer>{x}</Answer>")) for one, x in ((two, "B"), (four, "C"))
    ]
    figures = TASK.metrics(graded, "social_r1")
    assert next(iter(figures)) == "accuracy_en"
    assert figures["accuracy_en"].value == figures["tasks_en/Faux-pas Recognition Test"].value == 0.5
    chinese = of(found, FAUX_PAS, "zh")[0]
    figures = TASK.metrics([*graded, Graded(chinese, TASK.grade(chinese, "social_r1", "B"))], "social_r1")
    assert (figures["accuracy_en"].value, figures["accuracy_zh"].value) == (0.5, 0)


def test_bad_input_is_told(tmp_path):
    for bad, reason in [
        (row("E"), "'E' is not among the 4 options"),
        (row("C", english=["Yes", "No"]), "'C' is not among the 2 options"),
        (row(english=["Yes"]), r"the options OPTION-A to OPTION-D are \['Yes'\]"),
        (row(english=["x", NAN, "y"], chinese=BOX), r"the options OPTION-A to OPTION-D are \['x', '', 'y'\]"),
        (row(ability="Luck: Dice"), "'Luck: Dice' is in none of the groups"),
        (row(STORY=NAN), "'STORY' is NoneType instead of str"),
        ({"能力\nABILITY": "Belief: x"}, "no field 'OPTION-A'"),
        ({"STORY": "x"}, "no field"),
        (["x"], "list instead of an object"),
    ]:
        with pytest.raises(BenchmarkError, match=reason) as caught:
            TASK.load(written(tmp_path, {FALSE_BELIEF: [row(), bad]}))
        assert "False Belief Task.jsonl, row 2" in str(caught.value)
    written(tmp_path)
    (tmp_path / "data" / "Hinting Task Test.jsonl").write_text("{")
    with pytest.raises(BenchmarkError, match=r"Hinting Task Test.jsonl line 1: not JSON"):
        TASK.load(tmp_path)
    (tmp_path / "data" / "Hinting Task Test.jsonl").unlink()
    with pytest.raises(BenchmarkError, match=r"there is no Hinting Task Test.jsonl; socialr1 evaluate --list"):
        TASK.load(tmp_path)


def test_changed_files_are_noted(tmp_path):
    notes = TASK.load(written(tmp_path)).notes
    assert len(notes) == 21
    assert notes[0] == "20 of 2860 questions"
    assert all("is not the published file" in note for note in notes[1:])


@real
def test_the_real_files():
    data = TASK.load(REAL)
    assert (len(data.items), len(data.files), data.notes) == (2860, 20, ())
    counts = collections.Counter(item["task"] for item in data.items)
    assert [counts[task] for task in tombench.TASKS] == [300, 200, 100, 600, 200, 103, 407, 560]
    official, cards = (TASK.requests(data, protocol, 0) for protocol in ("official", "social_r1"))
    assert (len(official), len(cards)) == (28600, 5720)
    assert all(len({one.id for one in asked}) == len(asked) for asked in (official, cards))
    two = collections.Counter(one.meta["language"] for one in official if len(one.meta["shown"]) == 2)
    assert two == {"en": 5 * 484, "zh": 5 * 484}
    graded, odd = [], []
    for one in official:
        letter = next(letter for letter, original in one.meta["shown"].items() if original == one.gold[0])
        graded.append(Graded(one, TASK.grade(one, "official", f"[[{letter}]]")))
        if "letter" in one.meta:
            odd.append(TASK.kinder(one, "official", f"[[{letter}]]"))
    assert odd == [Grade("A", 1.0)] * 10  # the question whose answer is "A. ", in two languages
    figures = TASK.metrics(graded, "official")
    missed = {name for name, one in figures.items() if one.value < 1}
    assert {name for name in missed if "_en" in name} == {
        "ours/accuracy_en",
        "groups_en/knowledge",
        "abilities_en/knowledge: knowledge-attention links",
    }
    assert figures["ours/accuracy_en"].value == pytest.approx(2859 / 2860)
    for language in ("en", "zh"):
        groups = {name: figures[f"groups_{language}/{name}"].n for name in tombench.GROUPS}
        assert groups == {
            "belief": 882,
            "non-literal communication": 748,
            "emotion": 420,
            "intention": 340,
            "knowledge": 290,
            "desire": 180,
        }
        assert sum(name.startswith(f"abilities_{language}/") for name in figures) == 32
        assert figures[f"ours/accuracy_{language}"].n == 2860
    perfect = [Graded(one, TASK.grade(one, "social_r1", f"<Answer>{one.gold}</Answer>")) for one in cards]
    assert {one.value for one in TASK.metrics(perfect, "social_r1").values()} == {1.0}
