"""Protocols beside `official` and `social_r1`: reasoning first, EmoBench's paper, more orders, Hi-ToM's VP rows."""

import json
import runpy
from dataclasses import replace
from pathlib import Path
from statistics import pvariance

import pytest

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.compare import compare
from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.rescore import refuse_lost_figures
from socialr1_jax.evaluation.scoring import figures, score
from socialr1_jax.evaluation.task import GREEDY, BenchmarkError, Data, Decoding
from socialr1_jax.evaluation.tasks import emobench_paper, get_task
from socialr1_jax.evaluation.tasks.motivebench import MORE_ORDERS, ORDERS

EU = {
    "part": "EU",
    "qid": "1",
    "language": "en",
    "scenario": "Event {one}.",
    "subject": "Ana",
    "coarse_category": "c",
    "emotion_choices": ["Joy & Pride", "Fear", "Anger", "Awe", "Shame", "Relief"],
    "emotion_label": "Fear",
    "cause_choices": ["She lost", "She won", "It rained."],
    "cause_label": "She won",
}
EA = {
    "part": "EA",
    "qid": "1",
    "language": "en",
    "scenario": "S",
    "subject": "Bo",
    "category": "Personal-Self",
    "question type": "Action",
    "choices": ["Run", "Rest", "Call", "Hide"],
    "label": "Rest",
}
SAMPLE = {
    "task": "socialiqa",
    "protocol": "social_r1",
    "id": "1",
    "item": "1",
    "sample": 0,
    "status": "ok",
    "gold": "A",
    "answer": "A",
    "value": 1.0,
    "reply": "<Answer>A</Answer>",
    "finish_reason": "stop",
    "tokens": 1,
    "messages": [{"role": "user", "content": "q <Answer>"}],
    "meta": {},
}


@pytest.mark.parametrize(
    ("name", "protocols"),
    [
        ("tombench", {"official": GREEDY, "official_cot": GREEDY, "social_r1": GREEDY}),
        ("tombench_hard", {"official": GREEDY, "social_r1": GREEDY}),
        ("socialiqa", {"official": GREEDY, "likelihood": GREEDY, "social_r1": GREEDY}),
        ("simpletom", {"official": GREEDY, "official_cot": GREEDY, "social_r1": GREEDY}),
        (
            "emobench",
            {
                **dict.fromkeys(("official", "official_cot"), Decoding(0.6)),
                "paper": Decoding(0.6, 0.9),
                "social_r1": GREEDY,
            },
        ),
        (
            "motivebench",
            {
                **dict.fromkeys(("official", "official_cot", "official_18"), Decoding(0.0, 1.0, 1.05)),
                "social_r1": GREEDY,
            },
        ),
        ("hitom", {"official": GREEDY, "official_vp": GREEDY, "social_r1": GREEDY}),
        ("tactfultom", {**dict.fromkeys(("official", "official_cot"), Decoding(0.2)), "social_r1": GREEDY}),
        ("fantom", {**dict.fromkeys(("official", "official_cot"), Decoding(0.0, 0.95)), "social_r1": GREEDY}),
    ],
)
def test_each_protocol_has_its_authors_decoding(name, protocols):
    assert get_task(name).protocols == protocols


@pytest.mark.parametrize(
    ("name", "meta", "reply", "answer"),
    [
        ("tombench", {"shown": {"A": "B", "B": "A"}}, "Ann knows, so [A]. No: [[B]]", "A"),
        ("emobench", {"part": "EA"}, '```json\n{"reasoning": "A {or} B", "answer": "B"}\n```', "B"),
        ("emobench", {"part": "EA"}, 'I think B.\n{"answer": "B"}', ""),
        ("motivebench", {}, "A is odd.\n\n**B**", "B"),
        ("motivebench", {}, "B.\n\nBecause she is", "E"),
        ("motivebench", {}, "So the answer is F'", "F"),
        ("motivebench", {}, "", ""),
        ("simpletom", {}, "(A) first. Therefore, the answer is: (B)", "B"),
        ("simpletom", {}, "THE ANSWER IS: B. No, the answer is A", "A"),
        ("simpletom", {}, "the answer is (B) or (A)", "A"),
        ("simpletom", {}, "the answer\nis (B), not (A", "B"),
        ("simpletom", {}, "Answer: (B)", "B"),  # the word alone is left as it is, and has no capital B
        ("tactfultom", {"form": "choice", "options": 4}, "1 is out. Final answer: 2", "2"),
        ("tactfultom", {"form": "yes_no"}, "No.", "no"),
        ("fantom", {"kind": "belief_choice"}, "(b)? Answer: (a)", "a"),
    ],
)
def test_replies_with_reasons_are_read_like_the_authors(name, meta, reply, answer):
    request = Request(id="1", item="1", messages=(), gold="a" if name == "fantom" else "B", meta=meta)
    assert get_task(name).grade(request, "official_cot", reply).answer == answer


def test_reasons_are_asked_in_our_words_too():
    task, data = get_task("emobench"), Data(items=[EU, EA, EA | {"language": "zh"}], files={})
    direct, cot = (task.requests(data, protocol, 0) for protocol in ("official", "official_cot"))
    assert [one.max_new_tokens for one in (*direct, *cot)] == [512] * 3 + [2048] * 3
    assert [(one.id, one.gold, one.meta) for one in direct] == [(one.id, one.gold, one.meta) for one in cot]
    for one, other in zip(direct, cot, strict=True):
        system, reasoned = one.messages[0]["content"], other.messages[0]["content"]
        brief, steps = ("不要解释", "逐步推理") if "zh" in one.id else ("without explanations", "step by step")
        assert (brief in system, steps in system) == (True, False)
        assert (brief in reasoned, steps in reasoned) == (False, True)
        assert ('"reasoning"' in system, '"reasoning"' in reasoned) == (False, True)
        assert one.messages[1] == other.messages[1]


# ------------------------------------------------------------------------------------------------- EmoBench's paper


def paper(item=EU, seed=0):
    return get_task("emobench").requests(Data(items=[item], files={}), "paper", seed)


def test_the_paper_asks_five_times_under_four_orders():
    asked = paper()
    assert len(asked) == len({one.id for one in asked}) == 20
    assert asked == paper()
    assert asked != paper(seed=1)
    shown = [one.meta["options"] for one in asked]
    assert shown[0] == [EU["emotion_choices"], EU["cause_choices"]]
    assert all(shown[i] == shown[i - i % 5] for i in range(20))
    assert len({str(options) for options in shown}) == 4
    for one in asked:
        emotions, causes = one.meta["options"]
        gold = f"{'ABCDEF'[emotions.index('Fear')]},{'ABC'[causes.index('She won')]}"
        assert (one.gold, one.follow_up, one.max_new_tokens) == (gold, True, 75)
        assert f"(a) {emotions[0]}\n(b) {emotions[1]}" in one.messages[1]["content"]
    assert {one.follow_up for one in paper(EA)} == {False}


@pytest.mark.parametrize(
    ("reply", "letter", "emotion"),
    [("(B)", "B", "Fear"), ("(f)", "F", "Relief"), ("no idea", "-", "Relief"), ("Joy and pride", "A", "Joy & Pride")],
)
def test_cause_is_asked_with_the_replied_emotion(reply, letter, emotion):
    """The last emotion where none can be read, as in the authors' code."""
    first = paper()[0]
    second = get_task("emobench").follow_up(first, "paper", reply)
    assert (second.id, second.gold, second.follow_up, second.meta["emotion"]) == (first.id, first.gold, False, letter)
    text = second.messages[1]["content"]
    assert f"What makes Ana feel {emotion}?" in text
    assert "Event {one}." in text
    assert "(a) She lost\n(b) She won\n(c) It rained." in text
    assert get_task("emobench").grade(second, "paper", "(b)").answer == f"{letter},B"
    assert get_task("emobench").grade(second, "paper", "").answer == ("" if letter == "-" else f"{letter},-")
    assert json.loads(json.dumps(second.meta)) == second.meta


@pytest.mark.parametrize(
    ("reply", "letter"),
    [
        ("B", "B"),
        (" b. ", "B"),
        ("（C）", "C"),
        ("[c]", "C"),
        ("Answer: B", "B"),
        ("Option B", "B"),
        ("选项 C", "C"),
        ("(B) or (A)", "A"),  # of one form the first letter in alphabetical order
        ("[a] or (b)", "B"),  # of two forms the first of the table
        ("I feel: bad", "B"),  # ": b"
        ("(a)\n\n(b)\n", "B"),  # the last line with an answer
        ("(b)\nThat is all", "B"),
        ("she won, I think", "B"),
        ("B: so", "B"),
        ("B so", ""),
        ("B]", ""),
        ("it rained", ""),  # the option ends in a full stop, which the reply loses
        ("g", ""),
        ("", ""),
        ("D", "D"),
        ("A(rest)", "A"),
        ("A (rest)", ""),
        ("**B**", ""),
    ],
)
def test_paper_reads_the_last_line_with_answer(reply, letter):
    found = emobench_paper._letter(reply, ["She lost", "She won", "It rained."], {"part": "EU", "language": "en"})
    assert found == letter


@pytest.mark.parametrize(
    ("answers", "voted", "value"),
    [
        (["B,B", "B,B", "A,A", "A,A", "C,C"], "B,B", 1.0),  # of equals the first
        (["B,A", "B,B", "C,B", "B,C", "B,B"], "B,B", 1.0),  # each for itself
        (["", "", "", "B,B", "C,C"], "B,B", 1.0),  # no answer has no vote
        (["-,B", "-,B", "B,-", "B,-", "-,A"], "B,B", 1.0),
        (["", "", "", "", ""], "-,-", 0.0),
        (["A,B", "A,B", "A,B", "B,B", "B,B"], "A,B", 0.0),
    ],
)
def test_five_replies_have_a_majority(answers, voted, value):
    request = replace(paper()[0], gold="B,B")
    (one,) = emobench_paper.voted([Graded(request, Grade(answer, 0.0)) for answer in answers])
    assert one.grade == Grade(voted, value)


def test_figures_of_the_paper_are_means_over_orders():
    """EU is right under the order of the file alone, EA under two."""
    task, scored = get_task("emobench"), []
    for one in [*paper(), *paper(EA)]:
        eu, order = one.meta["part"] == "EU", one.meta["order"]
        said = [letter if order <= 2 - eu else "-" for letter in one.gold.split(",")]
        if eu:
            one = task.follow_up(one, "paper", f"({said[0]})")
        scored.append(score(task, "paper", one, 0, Reply(f"({said[-1]})", "stop", 1)))
    found = figures(task, "paper", scored)
    assert next(iter(found)) == "ours/mean_en"
    expected = {"EU_en": 0.25, "EA_en": 0.5, "ours/mean_en": 0.375, "order_1/EU_en": 1.0, "order_2/EU_en": 0.0}
    assert {name: found[name].value for name in expected} == expected
    assert found["EU_en"].n == 1
    assert not any("reader" in name for name in found)


# ------------------------------------------------------------------------------------------ orders, rows, and samples


def test_eighteen_orders_extend_the_six_with_variance():
    options = [f"{letter}. {letter.lower()}" for letter in "ABCDEF"]
    item = {"source": "Blog", "idx": 7}
    for number, field in enumerate(("Motivation", "Behavior", "Motivation and Behavior"), 1):
        item |= {f"{field} Reasoning Question": "Q", f"Options {number}": options, f"Correct Answer {number}": "A"}
    task, data = get_task("motivebench"), Data(items=[item], files={})
    six, eighteen = (task.requests(data, protocol, 0) for protocol in ("official", "official_18"))
    assert (len(six), len(eighteen)) == (18, 54)
    assert eighteen[:18] == six
    orders = (*ORDERS, *MORE_ORDERS)
    assert len(set(orders)) == 18
    assert {"".join(sorted(order)) for order in orders} == {"123456"}
    graded = [Graded(one, task.grade(one, "official_18", "A")) for one in eighteen]
    found = task.metrics(graded, "official_18")
    right = [float(order[0] == "1") for order in orders]  # the gold answer is shown as A
    assert sum(right) == 3
    assert found["Blog/motivation"].value == pytest.approx(3 / 18)
    for name in ("variance/motivation", "Blog/variance/all_three", "Blog/variance/accuracy"):
        assert (found[name].value, found[name].n) == (pytest.approx(pvariance(right)), 18)
    assert not any("variance" in name for name in task.metrics(graded[:18], "official"))


def test_vp_rows_stand_apart_with_their_label_conflicts(tmp_path):
    choices = ", ".join(f"{letter}. place_{letter.lower()}" for letter in "ABCDEFGHIJKLMNO")

    def row(sample, order, kind, answer, story="1 Ann came."):
        return {
            "prompting_type": kind,
            "deception": False,
            "story_length": 1,
            "question_order": order,
            "sample_id": sample,
            "story": story,
            "question": f"Q{order}?",
            "choices": choices,
            "answer": answer,
        }

    rows = [row(i, i, "CoTP", "place_a", "1 Ann came.\n***" if i == 2 else "1 Ann came.") for i in range(5)]
    vps = [row(9 + i, i, "VP", "place_b" if i > 2 else "place_a", "Be brief.\n1 Ann came.") for i in range(5)]
    (tmp_path / "Hi-ToM_data.json").write_text(json.dumps({"data": [*rows, *vps]}))
    task = get_task("hitom")
    data = task.load(tmp_path)
    official, vp = (task.requests(data, protocol, 0) for protocol in ("official", "official_vp"))
    assert [one.id for one in vp] == [f"VP-{i}" for i in range(5)]
    assert {one.gold for one in official} == {"place_a"}
    assert [one.gold for one in vp] == ["place_a"] * 3 + ["place_b"] * 2
    assert "without any explanation.\n\nStory:\n1 Ann came.\n\nQuestion: Q0?" in vp[0].messages[0]["content"]
    found = task.metrics([Graded(one, task.grade(one, "official_vp", "A")) for one in vp], "official_vp")
    assert (found["accuracy"].value, found["accuracy_same_answer"].value) == (0.6, 1.0)
    assert (found["label_conflicts"].value, found["label_conflicts"].n) == (2.0, 5)
    assert [found[f"label_conflicts/order_{order}"].value for order in range(5)] == [0.0, 0.0, 0.0, 1.0, 1.0]
    assert task.requests(data, "social_r1", 0)[0].id == "CoTP-0"
    vps[1]["question"] = "Another?"  # no pair of the CoTP row
    (tmp_path / "Hi-ToM_data.json").write_text(json.dumps({"data": [*rows, *vps]}))
    assert len(task.requests(task.load(tmp_path), "official_vp", 0)) == 4


@pytest.mark.parametrize(
    ("protocol", "figure"), [("official", "mean_grade"), ("paper", "mean_grade"), ("social_r1", "accuracy")]
)
def test_runs_are_compared_protocol_by_protocol(tmp_path, protocol, figure):
    for name, value in (("a", 1.0), ("b", 0.0)):
        (tmp_path / name).mkdir()
        row = SAMPLE | {"task": "emobench", "protocol": protocol, "value": value, "meta": {"language": "en"}}
        (tmp_path / name / "samples_emobench.jsonl").write_text(json.dumps(row))
    found = compare(str(tmp_path / "a"), str(tmp_path / "b"))["comparisons"]
    assert found[f"emobench, {protocol}"][figure]["difference"] == -1.0


def test_figures_of_another_protocol_are_not_overwritten(tmp_path, capsys):
    samples, output = tmp_path / "samples.jsonl", tmp_path / "figures.json"
    main = runpy.run_path(str(Path(__file__).resolve().parents[2] / "scripts" / "score.py"))["main"]
    samples.write_text(json.dumps(SAMPLE))
    assert main([str(samples), f"output={output}"]) == main([str(samples), f"output={output}"]) == 0
    before = output.read_text()
    samples.write_text(json.dumps(SAMPLE | {"protocol": "official", "reply": "A", "messages": []}))
    capsys.readouterr()
    assert main([str(samples), f"output={output}"]) == 2
    said = capsys.readouterr().err
    assert "holds figures of social_r1 of socialiqa, which these samples do not have; name another output" in said
    assert len(said.splitlines()) == 1
    assert output.read_text() == before
    output.write_text(json.dumps({"results": {}, "status": {"hitom": {"official": {}, "official_cot": {}}}}))
    with pytest.raises(BenchmarkError, match="official_cot of hitom"):
        refuse_lost_figures(output, {"status": {"hitom": {"official": {}}}})
