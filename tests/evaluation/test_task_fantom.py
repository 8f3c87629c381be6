"""FANToM: six kinds of questions a set, figures over whole sets, weighted F1, embeddings for the free beliefs."""

import json
import math
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation import embeddings
from socialr1_jax.evaluation.metrics import Grade, Graded
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.scoring import score
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.evaluation.tasks.fantom import TASK
from socialr1_jax.evaluation.tasks.fantom_scores import embed_grades, weighted_f1, word_f1

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "fantom"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")


def one_set(
    set_id="0-0-0",
    access="inaccessible",
    beliefs=(("inaccessible", "first-order"),),
    binaries=("no", "yes", "no:long"),
    right=("Ana", "Bo"),
    wrong=("Cy",),
    fact="The old cat.",
    short="Ana: Hi.\n",
):
    listed = {"question": "List them.", "correct_answer": right and list(right), "wrong_answer": right and list(wrong)}
    names = ("Cy", "Ana", "Di", "Bo", "Ed")
    people = [
        {"question": f"Does {name} know?", "correct_answer": answer, "missed_info_accessibility": access}
        for name, answer in zip(names, binaries, strict=False)
    ]
    return {
        "set_id": set_id,
        "full_context": "Di: Bye.\nAna: Hi.",
        "short_context": short,
        "factQA": {"question": "Whose pet?", "correct_answer": fact},
        "beliefQAs": [
            {
                "question": f"What does Cy believe {i}?",
                "tom_type": kind,
                "correct_answer": f"Cy knows {i}",
                "wrong_answer": f"Cy wonders {i}",
                "missed_info_accessibility": its,
            }
            for i, (its, kind) in enumerate(beliefs)
        ],
        "answerabilityQA_list": listed | {"missed_info_accessibility": access},
        "infoAccessibilityQA_list": listed | {"missed_info_accessibility": access},
        "answerabilityQAs_binary": people,
        "infoAccessibilityQAs_binary": people,
    }


def written(folder, sets, name="fantom_v1_recovered.json"):
    (folder / name).write_text(json.dumps(sets), encoding="utf-8")
    return folder


def asked_of(folder, sets, protocol="official"):
    return {one.id: one for one in TASK.requests(TASK.load(written(folder, sets)), protocol, 0)}


def embed(texts):
    """Letters counted: enough for "Cy knows 0" to be nearest to itself."""
    return np.array([[text.lower().count(letter) + 1e-3 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts])


def reply_for(one, right=True):
    """A reply that is right, or wrong in a readable way."""
    kind, gold = one.meta["kind"], one.gold
    if kind in ("fact", "belief_dist"):
        return gold if right else one.meta.get("wrong", "zzz")
    if kind == "belief_choice":
        return f"({gold if right else 'ab'.replace(gold, '')})"
    if kind.endswith("list"):
        return " and ".join(gold["correct"]) if right else "nobody"
    return gold if right else {"yes": "no", "no": "yes"}[gold]


def graded_all(asked, replies):
    return [Graded(one, TASK.grade(one, "official", reply)) for one, reply in zip(asked, replies, strict=True)]


def test_prompts_by_hand(tmp_path):
    asked = asked_of(tmp_path, [one_set()])
    text = {id.removeprefix("short/0-0-0/"): one.messages[0]["content"] for id, one in asked.items()}
    assert list(text)[:8] == [
        "fact",
        "belief_dist-0",
        "belief_choice-0",
        "answerability_list",
        "answerability_binary-0",
        "answerability_binary-1",
        "info_list",
        "info_binary-0",
    ]
    assert text["fact"] == "Ana: Hi.\n\nQuestion: Whose pet?\nAnswer:"
    assert text["belief_dist-0"] == "Ana: Hi.\n\nQuestion: What does Cy believe 0?\nAnswer:"
    assert text["answerability_list"] == "Ana: Hi.\n\nTarget: Whose pet?\nQuestion: List them.\nAnswer:"
    assert text["info_binary-0"] == (
        "Ana: Hi.\n\nInformation: Whose pet? The old cat.\nQuestion: Does Cy know? Answer yes or no.\nAnswer:"
    )
    assert text["full/0-0-0/fact"].startswith("Di: Bye.\nAna: Hi.\n\nQuestion")
    assert all(len(one.messages) == 1 for one in asked.values())  # no header, no system turn


def test_order_of_choices_is_seed_99(tmp_path):
    sets = [one_set(f"0-0-{i}", beliefs=[("inaccessible", None)] * (1 + i % 3)) for i in range(12)]
    sets[3]["short_context"] = None  # skipped, but its draws are not
    asked = asked_of(tmp_path, sets)
    random.seed(99)
    for item in sets:
        for i in range(len(item["beliefQAs"])):
            last = random.choice([True, False])
            for context in ("short", "full"):
                one = asked.get(f"{context}/{item['set_id']}/belief_choice-{i}")
                assert (one is None) == (context == "short" and item["short_context"] is None)
                if one:
                    assert one.gold == ("b" if last else "a")
                    assert f"\n({one.gold}) Cy knows {i}\n" in one.messages[0]["content"]
                    assert one.messages[0]["content"].endswith("\n\nChoose an answer from above:")


def test_people_of_the_long_context_only(tmp_path):
    """no:long is dropped with the short context, and is no with the full one."""
    asked = asked_of(tmp_path, [one_set()])
    assert "short/0-0-0/info_binary-2" not in asked
    assert asked["full/0-0-0/info_binary-2"].gold == "no"


def test_with_the_full_context_somebody_always_missed_it(tmp_path):
    """A set marked accessible counts as inaccessible where a list has wrong names or a binary is not yes."""
    item = one_set(access="accessible", beliefs=[("accessible", None)], binaries=("yes", "no:long"), wrong=("Di",))
    asked = asked_of(tmp_path, [item])
    assert asked["short/0-0-0/info_list"].meta["access"] == "accessible"
    assert asked["full/0-0-0/info_list"].meta["access"] == "inaccessible"
    assert asked["full/0-0-0/info_binary-0"].meta["access"] == "inaccessible"
    assert asked["full/0-0-0/belief_choice-0"].meta["access"] == "accessible"


def test_null_fields_are_skipped_and_counted(tmp_path):
    sets = [
        one_set("0-0-0"),
        one_set("0-0-1", fact=None),
        one_set("1-0-0", right=None, binaries=(None, "yes")),
        one_set("2-0-0", short=None),
    ]
    data = TASK.load(written(tmp_path, sets))
    notes = " ".join(data.notes)
    assert "4 of 870 sets" in notes
    short = next(note for note in data.notes if note.startswith("short"))
    # binaries: one unknown of 1-0-0, and Cy and Ana of 2-0-0, which has no short context (Di is no:long)
    assert "3 answerability_binary, 2 answerability_list, 1 belief_choice, 1 belief_dist, 2 fact" in short
    assert "5 info_binary, 3 info_list" in short
    assert short.endswith("1 of 4 sets are whole")
    asked = {one.id: one for one in TASK.requests(data, "official", 0)}
    assert "short/0-0-1/info_list" not in asked
    assert asked["short/0-0-1/answerability_list"].meta["skipped"] == ["info_binary", "info_list"]
    assert not [id for id in asked if id.startswith("short/2-0-0")]
    found = TASK.metrics(graded_all(asked.values(), [reply_for(one) for one in asked.values()]), "official")
    assert (found["short/ALL"].value, found["short/sets"].value) == (1, 1)
    assert found["short/answerability_ALL"].value == 1
    assert found["full/sets"].value == 2


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    ("reply", "right"),
    [
        ("(g) text", 1),
        ("g) text", 1),
        ("g.", 1),
        ("g: x", 1),
        ("g, x", 1),
        ("g", 1),
        ("G", 1),
        ("It is (g).", 1),
        ("(o) or (g)", 1),
        ("o", 0),
        ("(o)", 0),
        ("g text", None),
        ("", None),
        ("It is g)", None),
        ("x Answer: g", 1),
        ("(g) no. Answer: o", 0),
        ("Choose an answer from above: g", 1),
    ],
)
def test_choice_replies(last, reply, right):
    gold, other = ("b", "a") if last else ("a", "b")
    one = Request(id="q", item="i", messages=(), gold=gold, meta={"kind": "belief_choice"})
    letters = {"g": gold, "o": other, "G": gold.upper()}
    said = re.sub(r"\b[gGo]\b", lambda found: letters[found.group()], reply)
    grade = TASK.grade(one, "official", said)
    assert grade == Grade("" if right is None else gold if right else other, float(right or 0))


@pytest.mark.parametrize(
    ("reply", "answer"),
    [
        ("Yes", "yes"),
        ("yes, she does", "yes"),
        ("true", "yes"),
        ("Well, yes.", "yes"),
        ("I say yes, he does", "yes"),
        ("Cy knows it", "yes"),
        ("No", "no"),
        ("False.", "no"),
        ("I think no.", "no"),
        ("Cy does not know it", "no"),
        ("Cy doesn't know it", "no"),
        ("No, but Bo knows it", "yes"),
        ("not sure", "no"),
        ("'yes'", "yes"),
        ('"No"', "no"),
        ("Cy", ""),
        ("", ""),
        ("Perhaps yes", ""),
        ("Answer: yes. Answer: no", "no"),
    ],
)
def test_binary_replies(tmp_path, reply, answer):
    one = asked_of(tmp_path, [one_set()])["short/0-0-0/info_binary-1"]
    assert TASK.grade(one, "official", reply) == Grade(answer, float(answer == "yes"))


@pytest.mark.parametrize(
    ("reply", "answer", "value"),
    [
        ("ANA and bo", "Ana, Bo", 1),
        ("Ana, Bo, Di", "Ana, Bo, Di", 1),
        ("Ana", "Ana", 0),
        ("Ana, Bo, Cy", "Ana, Bo, Cy", 0),
        ("Ana, Bo, Nancy", "Ana, Bo, Cy", 0),
        ("nobody", "Bo", 0),
        ("", "", 0),
        ("Cy? Answer: Ana, Bo", "Ana, Bo", 1),
    ],
)
def test_list_replies_are_substrings(tmp_path, reply, answer, value):
    one = asked_of(tmp_path, [one_set()])["short/0-0-0/info_list"]
    assert TASK.grade(one, "official", reply) == Grade(answer, value)


def test_wrong_name_within_a_right_one_stays(tmp_path):
    """Set 175-1-1 of the benchmark lists "and Cindy" as right and "Cindy" as wrong: nothing can be right."""
    item = one_set(right=("Ana", "and Cindy"), wrong=("Cindy",))
    one = asked_of(tmp_path, [one_set("1-0-0"), item])["short/0-0-0/info_list"]
    (note,) = [note for note in TASK.load(tmp_path).notes if note.startswith("lists that no reply can get right")]
    assert note.endswith(": 0-0-0")
    assert TASK.grade(one, "official", "Ana and Cindy") == Grade("Ana, and Cindy, Cindy", 0)


def test_word_f1_by_hand(tmp_path):
    """the old cat / the the cat sat: shared the, cat: 2 of 4 and 2 of 3: F1 4/7."""
    assert word_f1("the old cat", "the the cat sat") == pytest.approx(4 / 7)
    assert word_f1("a", "b") == word_f1("", "") == 0
    one = asked_of(tmp_path, [one_set()])["short/0-0-0/fact"]
    assert TASK.grade(one, "official", "Answer: THE OLD CAT.") == Grade("THE OLD CAT.", 1.0)


def test_weighted_f1_by_hand():
    """Gold yes 6: 4 yes, 1 no, 1 unreadable; gold no 4: 1 yes, 3 no.

    yes: precision 4/5, recall 4/6, F1 8/11; no: precision 3/4, recall 3/4, F1 3/4; 0.6 x 8/11 + 0.4 x 3/4.
    """
    cells = [("yes", "yes", 4), ("yes", "no", 1), ("yes", "", 1), ("no", "yes", 1), ("no", "no", 3)]
    graded = []
    for gold, answer, count in cells:
        for _ in range(count):
            one = Request(id=f"{len(graded)}", item=f"{len(graded) % 3}", messages=(), gold=gold)
            graded.append(Graded(one, Grade(answer, float(gold == answer))))
    found = weighted_f1(graded)
    assert found.value == pytest.approx(0.6 * 8 / 11 + 0.4 * 3 / 4)
    assert found.n == 3
    parts = [weighted_f1([one for one in graded if one.request.item != out]).value for out in "012"]
    spread = math.sqrt(2 / 3 * sum((part - sum(parts) / 3) ** 2 for part in parts))
    assert found.stderr == pytest.approx(spread)
    assert weighted_f1(graded[:1]).value == 1
    assert weighted_f1([graded[5]]).value == 0


def test_free_beliefs_wait_for_embeddings(tmp_path):
    sets = [one_set("0-0-0"), one_set("1-0-0", beliefs=[("inaccessible", "second-order:cyclic")])]
    asked = [one for id, one in asked_of(tmp_path, sets).items() if id.startswith("short")]
    replies = [reply_for(one, right=one.id != "short/1-0-0/belief_dist-0") for one in asked]
    graded = graded_all(asked, replies)
    assert sum(math.isnan(one.grade.value) for one in graded) == 2
    bare = TASK.metrics(graded, "official")
    assert next(iter(bare)) == "short/ALL"
    assert bare["short/ALL"].value == 1
    assert not {"short/ALL*", "short/belief_dist", "short/first_order"} & set(bare)
    found = TASK.metrics(embed_grades(graded, embed), "official")
    values = {name: one.value for name, one in found.items()}
    assert (values["short/ALL"], values["short/ALL*"], values["short/belief_dist"]) == (1, 0.5, 0.5)
    assert (values["short/first_order"], values["short/second_order"], values["short/second_order_cyclic"]) == (1, 0, 0)
    assert values["short/belief_true_word_f1"] == 1
    assert set(bare) < set(found)


def test_characters_errors_and_parts_by_hand(tmp_path):
    """Two sets of one part. In the first the answerability list leaves Bo out, and Ana's info question is denied.

    All is right about Cy of both sets and Ana of the second: 3 of 4; the denied answer contradicts the list: 3 of 4.
    """
    asked = asked_of(tmp_path, [one_set("0-0-0"), one_set("0-0-1")])
    odd = {"short/0-0-0/answerability_list": "Ana", "short/0-0-0/info_binary-1": "no", "full/0-0-1/info_binary-0": "?"}
    graded = graded_all(asked.values(), [odd.get(id) or reply_for(one) for id, one in asked.items()])
    found = TASK.metrics(embed_grades(graded, embed), "official")
    values = {name.removeprefix("short/"): one.value for name, one in found.items() if name.startswith("short/")}
    assert (values["ALL"], values["part/ALL"], values["ALL_character"], values["part/ALL_character"]) == (
        0.5,
        0,
        0.75,
        0.5,
    )
    assert (values["character_consistency"], values["part/character_consistency"]) == (0.75, 0.5)
    assert (values["part/answerability_ALL"], values["answerability_ALL"]) == (0, 0.5)
    errors = {name.removeprefix("errors/"): value for name, value in values.items() if name.startswith("errors/")}
    assert {name for name, value in errors.items() if value} == {"list/excluded_aware", "binary/false_negative"}
    assert "conversation/ALL" not in values  # the short context is that of a part
    assert found["full/conversation/ALL"].value == 0
    assert (found["full/errors/binary/irrelevant"].value, found["full/errors/binary/irrelevant"].n) == (1, 1)
    bare = TASK.metrics(graded, "official")
    assert "short/ALL_character" not in bare
    assert bare["short/character_consistency"].value == 0.75


def test_a_tie_and_a_cut_reply_are_wrong(tmp_path):
    one = asked_of(tmp_path, [one_set()])["short/0-0-0/belief_dist-0"]
    assert math.isnan(TASK.grade(one, "official", "").value)  # decided by the embeddings like any other
    empty = [Graded(one, score(TASK, "official", one, 0, Reply(" ", "stop", 1)).grade)]
    nearer = {"": [1.0, 0.1], one.gold: [1.0, 0.0], one.meta["wrong"]: [0.0, 1.0]}
    assert embed_grades(empty, lambda texts: np.array([nearer[text] for text in texts]))[0].grade == Grade("", 1.0)
    tie = embed_grades([Graded(one, Grade("anything", math.nan))], lambda texts: np.ones((len(texts), 2)))
    assert tie[0].grade == Grade("anything", 0.0)
    cut = Graded(one, Grade("", 0.0))
    assert embed_grades([cut], lambda texts: pytest.fail("nothing to embed")) == [cut]
    with pytest.raises(BenchmarkError, match="shape"):
        embed_grades([Graded(one, Grade("x", math.nan))], lambda texts: np.ones(3))


def test_without_sentence_transformers_it_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)
    with pytest.raises(BenchmarkError, match="pip install sentence-transformers"):
        embeddings.load_embedder()
    assert any(
        "ALL*" in note and "sentence-transformers" in note for note in TASK.load(written(tmp_path, [one_set()])).notes
    )
    monkeypatch.setattr(embeddings, "find_spec", lambda name: object())
    assert not any("ALL*" in note for note in TASK.load(tmp_path).notes)


def test_the_cards_protocol(tmp_path):
    asked = asked_of(tmp_path, [one_set()], "social_r1")
    assert [id for id in asked if id.startswith("short")] == [
        f"short/0-0-0/{name}"
        for name in (
            "belief_choice-0",
            "answerability_binary-0",
            "answerability_binary-1",
            "info_binary-0",
            "info_binary-1",
        )
    ]
    choice, binary = asked["short/0-0-0/belief_choice-0"], asked["short/0-0-0/info_binary-0"]
    assert f"\n{choice.gold}. Cy knows 0\n" in choice.messages[0]["content"]
    assert "Information: Whose pet? The old cat.\nDoes Cy know?\nA. Yes\nB. No\n" in binary.messages[0]["content"]
    assert binary.gold == "B"
    replies = ["<Answer>A</Answer>" if "binary" in id else f"<Answer>{one.gold}</Answer>" for id, one in asked.items()]
    graded = [
        Graded(one, TASK.grade(one, "social_r1", reply)) for one, reply in zip(asked.values(), replies, strict=True)
    ]
    found = TASK.metrics(graded, "social_r1")
    assert next(iter(found)) == "short/ours/accuracy"
    assert found["short/ours/accuracy"].value == pytest.approx(3 / 5)
    assert (found["short/info_binary"].value, found["short/belief_choice"].value) == (0.5, 1)
    assert found["full/ours/accuracy"].value == found["full/inaccessible"].value == pytest.approx(3 / 7)


def oracle(sets, context, target, replies):
    """Figures of scoring.md, straight from the sets and the replies by id; free beliefs are left out."""
    per_set, binary, listed, choice = defaultdict(dict), defaultdict(Counter), defaultdict(list), []
    for item in sets:
        for i, belief in enumerate(item["beliefQAs"]):
            id = f"{context}/{item['set_id']}/belief_choice-{i}"
            if belief["missed_info_accessibility"] != target or id not in replies:
                continue
            prompt, said = replies[id]
            place = "a" if f"(a) {belief['correct_answer']}" in prompt else "b"
            said = said.lower()
            good = said == place or f"({place})" in said or (said[:1] == place and said[1:2] in tuple(").:,"))
            choice.append(good)
            per_set[item["set_id"]][id] = good
        for kind, name in (("answerability", "answerability"), ("info", "infoAccessibility")):
            qa, people = item[f"{name}QA_list"], item[f"{name}QAs_binary"]
            missed, missed_too = qa["missed_info_accessibility"], people[0]["missed_info_accessibility"]
            if context == "full":  # the official loader: somebody in the whole conversation does not know
                missed = "inaccessible" if qa["wrong_answer"] else missed
                missed_too = "inaccessible" if {one["correct_answer"] for one in people} - {"yes"} else missed_too
            id = f"{context}/{item['set_id']}/{kind}_list"
            if missed == target:
                said = replies[id][1].casefold()
                good = sum(n.casefold() in said for n in qa["correct_answer"]) == len(qa["correct_answer"])
                good &= sum(n.casefold() in said for n in qa["wrong_answer"]) == 0
                listed[kind].append(good)
                per_set[item["set_id"]][id] = good
            for i, person in enumerate(people):
                if missed_too != target or (context == "short" and person["correct_answer"] == "no:long"):
                    continue
                id = f"{context}/{item['set_id']}/{kind}_binary-{i}"
                guess = {"Y": 1, "N": 0, "?": -1}[replies[id][1][-1]]
                gold = int(person["correct_answer"] == "yes")
                binary[kind][gold, guess] += 1
                per_set[item["set_id"]][id] = gold == guess

    def share(rows):
        return sum(map(bool, rows)) / len(rows) if rows else None

    def only(part):
        rows = [[good for id, good in one.items() if f"/{part}" in id] for one in per_set.values()]
        return share([all(row) for row in rows if row])

    found = {"ALL": share([all(one.values()) for one in per_set.values()]), "belief_choice": share(choice)}
    for kind in ("answerability", "info"):
        found[f"{kind}_ALL"], found[f"{kind}_list"] = only(kind), share(listed[kind])
        table, score = binary[kind], 0
        for label in (0, 1):
            support = table[label, 0] + table[label, 1] + table[label, -1]
            said = table[0, label] + table[1, label]
            precision = table[label, label] / said if said else 0
            recall = table[label, label] / support if support else 0
            score += support * (2 * precision * recall / (precision + recall) if precision + recall else 0)
        found[f"{kind}_binary_f1"] = score / table.total() if table else None
    return found


def test_agrees_with_an_oracle_on_random_replies(tmp_path):
    """Binary replies end in Y, N or ? so that the oracle need not read them by our rule."""
    draw = random.Random(2)
    sets = []
    for i in range(60):
        access = draw.choice(["inaccessible", "inaccessible", "accessible"])
        beliefs = [
            (draw.choice([access, "accessible"]), draw.choice([None, "first-order"])) for _ in range(draw.randint(1, 3))
        ]
        binaries = (
            draw.choices(["yes", "no", "no:long"], k=draw.randint(2, 5)) if access == "inaccessible" else ["yes"] * 3
        )
        wrong = ["Cy"] if access == "inaccessible" else draw.choice([[], ["Di"]])
        sets.append(one_set(f"{i // 4}-0-{i % 4}", access, beliefs, binaries, wrong=wrong))
    asked = list(asked_of(tmp_path, sets).values())
    graded, replies = [], {}
    for one in asked:
        kind = one.meta["kind"]
        right = draw.random() < 0.8
        if kind == "belief_choice":
            reply = one.gold if right else draw.choice("ab")
            reply = draw.choice(["(%s)", "%s.", "%s", "So: (%s)", "%s text", "%s, yes"]) % reply
        elif kind.endswith("list"):
            reply = "Ana, Bo" if right else draw.choice(["Ana", "Ana, Bo, Cy", "ana bo di", "none"])
        elif kind.endswith("binary"):
            verdict = {"yes": "Y", "no": "N"}[one.gold] if right else draw.choice("YN?")
            options = {
                "Y": ["Yes, surely Y", "Cy knows it Y"],
                "N": ["No: N", "He doesn't know it N"],
                "?": ["Hard?", "?"],
            }
            reply = draw.choice(options[verdict])
        else:
            reply = reply_for(one, right)
        replies[one.id] = one.messages[0]["content"], reply
        graded.append(Graded(one, TASK.grade(one, "official", reply)))
    found = TASK.metrics(graded, "official")
    assert len(graded) > 1000
    compared = 0
    for context in ("short", "full"):
        for target, prefix in (("inaccessible", f"{context}/"), ("accessible", f"{context}/accessible/")):
            for name, value in oracle(sets, context, target, replies).items():
                if value is None:
                    assert math.isnan(found[prefix + name].value) if prefix + name in found else True
                    continue
                compared += 1
                assert found[prefix + name].value == pytest.approx(value), prefix + name
        facts = [
            one.grade.value for one in graded if one.request.id.startswith(context) and one.request.id.endswith("fact")
        ]
        assert found[f"{context}/fact_f1"].value == pytest.approx(sum(facts) / len(facts))
    assert compared >= 28
    assert 0.05 < found["short/ALL"].value < 0.95
    star = TASK.metrics(embed_grades(graded, embed), "official")
    frees = defaultdict(list)
    for one in asked:
        if (
            one.meta["kind"] == "belief_dist"
            and one.meta["access"] == "inaccessible"
            and one.meta["context"] == "short"
        ):
            frees[one.meta["set"]].append(replies[one.id][1] == one.gold)
    assert star["short/belief_dist"].value == pytest.approx(np.mean([hit for hits in frees.values() for hit in hits]))
    assert star["short/ALL*"].value <= star["short/ALL"].value == found["short/ALL"].value


def test_bad_input_is_told(tmp_path):
    with pytest.raises(BenchmarkError, match="fantom_v1"):
        TASK.load(tmp_path)
    odd = one_set()
    odd["infoAccessibilityQAs_binary"] = [odd["infoAccessibilityQAs_binary"][0] | {"correct_answer": "maybe"}]
    marked = one_set()
    marked["beliefQAs"][0]["missed_info_accessibility"] = "half"
    for sets, reason in [
        ({"a": 1}, "dict instead of a list"),
        ([one_set(), one_set()], "set 2: the set_id 0-0-0 occurs twice"),
        ([odd], "infoAccessibilityQAs_binary 1: the answer is 'maybe'"),
        ([marked], "missed_info_accessibility is 'half'"),
        ([one_set() | {"answerabilityQA_list": None}], "answerabilityQA_list: NoneType instead of an object"),
        ([one_set() | {"beliefQAs": {}}], "'beliefQAs' is dict instead of list"),
        ([{"set_id": "0-0-0"}], "no field 'full_context'"),
    ]:
        with pytest.raises(BenchmarkError, match=reason):
            TASK.load(written(tmp_path, sets))
    notes = TASK.load(written(tmp_path, [one_set()])).notes
    assert any("fantom_v1_recovered.json is not the published file" in note for note in notes)
    assert set(TASK.load(written(tmp_path, [one_set()], "fantom_v1.json")).files) == {"fantom_v1.json"}


@real
def test_the_real_file():
    data = TASK.load(REAL)
    assert len(data.items) == 870
    short, full = (next(note for note in data.notes if note.startswith(context)) for context in ("short", "full"))
    assert short.endswith("258 of 870 sets are whole")
    assert not any("not the published file" in note for note in data.notes)
    official, cards = (TASK.requests(data, protocol, 0) for protocol in ("official", "social_r1"))
    kinds = Counter((one.meta["context"], one.meta["kind"]) for one in official)
    assert kinds["full", "belief_dist"] == kinds["full", "belief_choice"] == 1540
    assert (kinds["full", "fact"], kinds["full", "answerability_list"]) == (315, 750)
    assert "555 fact" in full
    assert all(len({one.id for one in asked}) == len(asked) for asked in (official, cards))
    graded = graded_all(official, [reply_for(one) for one in official])
    hopeless = {one.request.meta["set"] for one in graded if one.grade.value == 0}
    # The benchmark's own names: Erik is wrong and in Erika, Cindy in "and Cindy".
    assert hopeless == {"163-1-0", "163-1-1", "175-1-1"}
    assert any(note.endswith(": 163-1-0, 163-1-1, 175-1-1") for note in data.notes)
    found = TASK.metrics(graded, "official")
    # 178 sets and the choice of one that is marked accessible with an inaccessible belief.
    assert found["short/sets"].value == 178 + 1
    assert found["short/belief_choice"].value == found["full/info_binary_f1"].value == 1
    assert found["short/ALL"].value > 0.98
    assert found["short/accessible/info_list"].n > 50
