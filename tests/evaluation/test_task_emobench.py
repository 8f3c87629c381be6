"""EmoBench: both letters for EU, JSON replies, English and Chinese apart."""

import json
import math
import random
import re
from pathlib import Path

import pytest

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.scoring import figures, score
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks.emobench import TASK

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "emobench"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")

EMOTIONS = ["Anger", "Joy", "Fear", "Pride", "Awe", "Shame"]
CAUSES = ["She lost", "She left", "She won", "It rained"]


def eu(qid, language="en", category="complex_emotions", emotion="Joy", cause="She won", **more):
    return {
        "qid": qid,
        "language": language,
        "coarse_category": category,
        "finegrained_category": "faux_pas",
        "scenario": f"Scenario {qid}.",
        "subject": "Ana",
        "emotion_choices": EMOTIONS,
        "emotion_label": emotion,
        "cause_choices": CAUSES,
        "cause_label": cause,
    } | more


def ea(qid, language="en", category="Personal-Self", kind="Action", label="Rest", **more):
    return {
        "qid": qid,
        "language": language,
        "category": category,
        "question type": kind,
        "scenario": f"Event {qid}.",
        "subject": "Bo",
        "choices": ["Run", "Shout", "Call Cy", "Rest"],
        "label": label,
    } | more


def written(folder, eu_rows, ea_rows):
    (folder / "data").mkdir(exist_ok=True)
    for name, rows in (("EU", eu_rows), ("EA", ea_rows)):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / "data" / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path):
    return written(tmp_path, [eu("1"), eu("1", "zh"), eu("2")], [ea("1"), ea("1", "zh", kind="Response")])


@pytest.fixture(scope="module")
def eu_request(tmp_path_factory):
    folder = written(tmp_path_factory.mktemp("emobench"), [eu("1")], [ea("1")])
    return TASK.requests(TASK.load(folder), "official", 0)[0]


def test_languages_share_ids_and_stay_apart(folder):
    data = TASK.load(folder)
    assert len(data.items) == 5
    assert set(data.files) == {"EU.jsonl", "EA.jsonl"}
    found = TASK.requests(data, "official", 0)
    assert [one.id for one in found] == ["EU-en-1", "EA-en-1", "EU-en-2", "EU-zh-1", "EA-zh-1"]
    assert [one.gold for one in found] == ["B,C", "D", "B,C", "B,C", "D"]
    assert TASK.requests(data, "official", 7) == found


def test_the_official_prompt(folder):
    first, second, _, chinese, _ = TASK.requests(TASK.load(folder), "official", 0)
    system, user = (message["content"] for message in first.messages)
    assert "Reply with one JSON object of this form" in system
    assert '"answer_q1"' in system
    assert '"answer_q2"' in system
    assert "Scenario 1." in user
    assert "A) Anger\nB) Joy\nC) Fear\nD) Pride\nE) Awe\nF) Shame" in user
    assert user.index("B) Joy") < user.index("A) She lost\nB) She left\nC) She won\nD) It rained")
    system, user = (message["content"] for message in second.messages)
    assert '"answer"' in system
    assert "answer_q1" not in system
    assert "Which action would help Bo most" in user
    assert "JSON" in chinese.messages[0]["content"]
    assert "## 场景\nScenario 1." in chinese.messages[1]["content"]


def test_the_cards_prompt_asks_emotion_and_cause_apart(folder):
    found = TASK.requests(TASK.load(folder), "social_r1", 0)
    assert [one.id for one in found[:3]] == ["EU-en-1-emotion", "EU-en-1-cause", "EA-en-1"]
    assert [one.gold for one in found[:3]] == ["B", "C", "D"]
    assert "\nB. Joy\n" in found[0].messages[0]["content"]
    assert "<Answer> </Answer>" in found[0].messages[0]["content"]
    assert len({one.id for one in found}) == len(found) == 8


JSON = '{"answer_q1": "B", "answer_q2": "C"}'


@pytest.mark.parametrize(
    ("reply", "official", "ours"),
    [
        (JSON, "B,C", "B,C"),
        (f" \n{JSON}\n", "B,C", "B,C"),
        (f"```json\n{JSON}\n```", "B,C", "B,C"),
        (f"Sure!\n```json{JSON}```\nAny more?", "B,C", "B,C"),
        (f'```json\n{JSON}\n```\n```json\n{{"answer_q1": "A", "answer_q2": "A"}}\n```', "B,C", "B,C"),
        ('{"answer_q1": "A", "answer_q2": "C", "answer_q1": "B"}', "B,C", "B,C"),
        (f"Here: {JSON}", "", "B,C"),
        (f"{JSON} done", "", "B,C"),
        (f"```\n{JSON}\n```", "", "B,C"),
        (f"```json\n{JSON}", "", "B,C"),
        (f"```JSON\n{JSON}\n```", "", "B,C"),
        (f"```jsonc\n{JSON}\n```", "", "B,C"),
        (f"```json\nA: {JSON}\n```", "", "B,C"),
        (f"[{JSON}]", "", "B,C"),
        (f'{{"answers": {JSON}}}', "", "B,C"),
        ('{"answer_q2": " C ", "answer_q1": "B"}', "B,-", "B,C"),
        (f'Sure: {{"note": {{"x": 1}}}} {JSON} done', "", "B,C"),
        ('{"answer_q1": "B", "answer_q2": "A"}', "B,A", "B,A"),
        ('{"answer_q1": "b", "answer_q2": "C)"}', "", ""),
        ('{"answer_q1": "B"}', "B,-", "B,-"),
        ('{"answer_q1": "B", "answer_q2": 3}', "B,-", "B,-"),
        ('{"answer_q1": "Joy", "answer_q2": ["C"]}', "", ""),
        ('{"answer": "B"}', "", ""),
        ('{"answer_q1": "B", "answer_q2": "C"', "", ""),
        ("B, C", "", ""),
        ("null", "", ""),
        ("", "", ""),
        ('{"a":' * 1200, "", ""),
    ],
)
def test_eu_replies(eu_request, reply, official, ours):
    """Officially the reply is one JSON object, by itself or in a closed block marked json; ours looks within text."""
    assert TASK.grade(eu_request, "official", reply) == Grade(official, float(official == "B,C"))
    assert TASK.kinder(eu_request, "official", reply) == Grade(ours, float(ours == "B,C"))


def test_our_reader_stands_beside_the_official_figures(folder):
    """EU in English: JSON, and JSON after a word: 1 of 2 officially, 2 of 2 by our reader."""
    asked = TASK.requests(TASK.load(folder), "official", 0)
    replies = {"EU-en-1": JSON, "EU-en-2": f"Here: {JSON}", "EA-en-1": '{"answer": "D"}'}
    scored = [score(TASK, "official", one, 0, Reply(replies.get(one.id, ""), "stop", 9)) for one in asked]
    found = {name: one.value for name, one in figures(TASK, "official", scored).items()}
    assert (found["EU_en"], found["ours/mean_en"]) == (0.5, 0.75)
    beside = {name: value for name, value in found.items() if name.startswith("ours/reader/")}
    assert beside == {
        f"ours/reader/{name}": value
        for name, value in {"mean_en": 1, "EU_en": 1, "EA_en": 1, "mean_zh": 0, "EU_zh": 0, "EA_zh": 0}.items()
    }


def test_the_figures_by_hand(folder):
    """EU: 1 of 2 both right, emotions 2 of 2, causes 1 of 2; EA: 1 of 1; the mean is 0.75."""
    asked = TASK.requests(TASK.load(folder), "official", 0)
    replies = [
        '{"answer_q1": "B", "answer_q2": "C"}',
        '{"answer": "D"}',
        '{"answer_q1": "B", "answer_q2": "A"}',
        "nothing",
        '{"answer": "A"}',
    ]
    graded = [Graded(one, TASK.grade(one, "official", reply)) for one, reply in zip(asked, replies, strict=True)]
    found = TASK.metrics(graded, "official")
    assert next(iter(found)) == "ours/mean_en"
    values = {name: one.value for name, one in found.items()}
    assert values["ours/mean_en"] == 0.75
    assert (values["EU_en"], values["EA_en"], values["EU_zh"], values["EA_zh"]) == (0.5, 1, 0, 0)
    assert (values["EU_en/emotion"], values["EU_en/cause"], values["EU_zh/cause"]) == (1, 0.5, 0)
    assert (values["EU_en/complex_emotions"], values["EA_en/Personal-Self"]) == (0.5, 1)
    assert found["ours/mean_en"].n == 3


def test_the_cards_figures_by_hand(folder):
    """Five English questions, three right; of two EU items one has both right."""
    asked = TASK.requests(TASK.load(folder), "social_r1", 0)
    right = {"EU-en-1-emotion": 1, "EU-en-1-cause": 1, "EA-en-1": 0, "EU-en-2-emotion": 1, "EU-en-2-cause": 0}
    replies = [f"<Answer>{one.gold if right.get(one.id) else 'Z'}</Answer>" for one in asked]
    graded = [Graded(one, TASK.grade(one, "social_r1", reply)) for one, reply in zip(asked, replies, strict=True)]
    found = TASK.metrics(graded, "social_r1")
    assert next(iter(found)) == "ours/accuracy_en"
    assert found["ours/accuracy_en"].value == pytest.approx(3 / 5)
    assert found["EU_en"].value == 0.5
    assert found["EU_en/emotion"].value == 1
    assert found["ours/accuracy_zh"].value == 0


def test_agrees_with_an_oracle_on_random_replies(tmp_path):
    """The oracle reads replies by regular expressions and counts in plain loops."""
    draw = random.Random(3)
    categories = ["complex_emotions", "emotional_cues"]
    eu_rows = [
        eu(str(i), language, draw.choice(categories), draw.choice(EMOTIONS), draw.choice(CAUSES))
        for language in ("en", "zh")
        for i in range(250)
    ]
    ea_rows = [ea(str(i), lang, label=draw.choice(ea("0")["choices"])) for lang in ("en", "zh") for i in range(250)]
    asked = TASK.requests(TASK.load(written(tmp_path, eu_rows, ea_rows)), "official", 0)
    golds = {
        f"EU-{r['language']}-{r['qid']}": [EMOTIONS.index(r["emotion_label"]), CAUSES.index(r["cause_label"])]
        for r in eu_rows
    }
    golds |= {f"EA-{r['language']}-{r['qid']}": [r["choices"].index(r["label"])] for r in ea_rows}
    graded, sums = [], {}
    for one in asked:
        two = one.id.startswith("EU")
        keys = ["answer_q1", "answer_q2"] if two else ["answer"]
        letters = [draw.choice(["ABCDEF"[place], draw.choice("ABCDEF")]) for place in golds[one.id]]
        pairs = [f'"{key}": "{letter}"' for key, letter in zip(keys, letters, strict=True)]
        reply = draw.choice(
            [
                "{%s}",
                "```json\n{%s}\n```",
                "I think:\n```\n{ %s }\n```",
                "{%s",
                "%s",
                '{"reasoning": "hm", %s}',
                "{%s,}",
            ]
        ) % ", ".join(pairs[: draw.choice([1, 2, 2, 2])])
        graded.append(Graded(one, TASK.grade(one, "official", reply)))
        block = re.fullmatch(r"(?:```json\n)?\{([^{}]*[^{},])\}(?:\n```)?", reply)
        read = dict(re.findall(r'"(answer\w*)": "(.)"', block.group(1))) if block else {}
        right = [read.get(key) == "ABCDEF"[place] for key, place in zip(keys, golds[one.id], strict=True)]
        for name in [one.id[:5].replace("-", "_"), f"{one.id[:5].replace('-', '_')}/{one.meta['category']}"]:
            sums.setdefault(name, []).append(all(right))
    found = TASK.metrics(graded, "official")
    assert len(graded) == 1000
    for name, values in sums.items():
        assert found[name].value == pytest.approx(sum(values) / len(values)), name
        assert found[name].n == len(values)
    assert found["ours/mean_en"].value == pytest.approx((found["EU_en"].value + found["EA_en"].value) / 2)
    spread = math.sqrt(found["EU_en"].value * (1 - found["EU_en"].value) / 249)
    assert found["EU_en"].stderr == pytest.approx(spread)


def test_bad_input_is_told(folder, tmp_path):
    for rows, reason in [
        ([eu("1", emotion="Bliss")], "'Bliss' is 0 of the options"),
        ([eu("1"), eu("1")], "qid 1 occurs twice in en"),
        ([eu("1", language="de")], "neither en nor zh"),
        ([{"qid": "1"}], "no field 'language'"),
        ([eu("1", emotion_choices="Joy")], "'emotion_choices' is str instead of list"),
    ]:
        with pytest.raises(BenchmarkError, match=reason) as caught:
            TASK.load(written(tmp_path, rows, [ea("1")]))
        assert "EU.jsonl, line" in str(caught.value)
    with pytest.raises(BenchmarkError, match="neither Action nor Response"):
        TASK.load(written(tmp_path, [eu("1")], [ea("1", kind="Thought")]))
    (folder / "data" / "EA.jsonl").unlink()
    with pytest.raises(BenchmarkError, match=r"EA\.jsonl"):
        TASK.load(folder)


def test_a_file_of_other_content_is_noted(folder):
    notes = " ".join(TASK.load(folder).notes)
    assert "EU.jsonl is not the published file" in notes
    assert "EA.jsonl is not the published file" in notes


@real
def test_the_real_files():
    data = TASK.load(REAL)
    assert len(data.items) == 800
    assert data.notes == ()
    official, cards = (TASK.requests(data, protocol, 0) for protocol in ("official", "social_r1"))
    assert (len(official), len(cards)) == (800, 1200)
    assert all(len({one.id for one in asked}) == len(asked) for asked in (official, cards))
    graded = [Graded(one, TASK.grade(one, "social_r1", f"<Answer>{one.gold}</Answer>")) for one in cards]
    found = TASK.metrics(graded, "social_r1")
    assert {one.value for one in found.values()} == {1.0}
    assert (found["EU_en"].n, found["EA_zh"].n, found["EU_en/perspective_taking"].n) == (200, 200, 67)
    assert json.loads(json.dumps(official[0].meta)) == official[0].meta
