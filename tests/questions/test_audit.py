"""The audit: each rule on stories where its answer is known, figures by type and pair, files, bad input, speed."""

import importlib.util
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.evaluation.audit_files import read_source
from socialr1_jax.evaluation.card import card_example, card_request
from socialr1_jax.questions.audit import audit_examples, rule_interval, strong_shortcuts
from socialr1_jax.stories.stories import generate_stories

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "benchmarks"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")
STORY = "Ann saw the red box. Ben put a cup in the bag, then in the red box, then in the bag, and the bag near the tin."
YES_NO = ("yes", "no")
OPTIONS = ("the bag", "the red box", "the tin", "the shelf")


@pytest.fixture(scope="module")
def main():
    spec = importlib.util.spec_from_file_location("audit_script", ROOT / "scripts" / "audit_questions.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def example(number=0, story=STORY, question="Where is the cup?", options=OPTIONS, answer="A", **meta):
    return Example(id=str(number), story=story, question=question, options=options, answer=answer, meta=meta)


def accuracies(examples, **how):
    return {name: rule["accuracy"] for name, rule in audit_examples(examples, **how)["rules"].items()}


@pytest.mark.parametrize(
    ("rule", "options", "best"),
    [
        ("first_mentioned", OPTIONS, "B"),
        ("last_mentioned", OPTIONS, "C"),
        ("second_to_last_mentioned", OPTIONS, "A"),
        ("most_mentioned", OPTIONS, "A"),
        ("least_mentioned", OPTIONS, "D"),
        ("least_mentioned", ("a shelf", "the bag", "the wall"), "AC"),  # ties share the credit
        ("first_mentioned", ("a shelf", "the wall", "a door"), "ABC"),  # none is mentioned: a guess
        ("last_mentioned", ("in the box of Ann", "in the bag of Ben"), "B"),  # by content words
        ("first_mentioned", ("BOX", "bag"), "A"),
        ("overlap", ("a shelf", "the cup in the bag", "the red"), "B"),
        ("question_overlap", ("where it stood", "is the cup", "the red box"), "B"),
        ("longest", ("box", "a bag", "the tin"), "C"),
        ("shortest", ("box", "a bag", "the tin"), "A"),
        ("letter_A", ("box", "bag"), "A"),
        ("most_mentioned", ("...", "箱子", "🙂"), "ABC"),
    ],
)
def test_each_rule_takes_its_option(rule, options, best):
    for letter in LETTERS[: len(options)]:
        if rule == f"letter_{letter}" or not rule.startswith("letter"):
            found = accuracies([example(options=options, answer=letter)], learned=False)
            assert found[rule] == pytest.approx((letter in best) / len(best)), letter


def test_letter_is_the_most_frequent_one():
    found = accuracies([example(i, answer="AABBB"[i], options=("a", "b")) for i in range(5)], learned=False)
    assert found["letter_B"] == pytest.approx(0.6)


def stories(count, rng, answer):
    """Questions with a story of their own; `answer` says the gold option of the drawn words."""
    words = ["apple", "pear", "plum", "nut", "fig", "date"]
    made = []
    for number in range(count):
        drawn = rng.sample(words, 3)
        gold = answer(drawn, number)
        made.append(
            example(number, f"Story {number} has {drawn[0]}.", "Which one?", tuple(drawn), LETTERS[drawn.index(gold)])
        )
    return made


def test_counting_rules_learn_without_seeing_the_answer():
    """A fixed order of preference is learned; golds drawn at random stay at chance, so folds do not leak."""
    rng = random.Random(0)
    learned = accuracies(stories(150, rng, lambda drawn, _: max(drawn)))
    assert learned["no_story"] > 0.9
    assert learned["constant"] > 0.9
    drawn = audit_examples(stories(300, rng, lambda drawn, _: rng.choice(drawn)))["rules"]
    for rule in ("constant", "no_story", "bag_of_words"):
        assert abs(drawn[rule]["accuracy"] - 1 / 3) < 4 * drawn[rule]["stderr"]


def test_bag_of_words_reads_the_story():
    rng = random.Random(1)
    made = []
    for number in range(400):
        sunny = rng.random() < 0.5
        word = "sun" if sunny else "rain"
        options = ("hat", "coat") if rng.random() < 0.5 else ("coat", "hat")
        gold = LETTERS[options.index("hat" if sunny else "coat")]
        made.append(example(number, f"Day {number} brought {word}.", "What is worn?", options, gold))
    found = accuracies(made)
    assert found["bag_of_words"] > 0.9
    assert found["no_story"] < 0.65


def test_constant_answers_follow_the_form_of_the_question():
    names = ["Ann", "Ben", "Cid", "Dan"]
    made = [
        example(f"{word}{day}", f"{names[day % 4]} is in, day {day}.", f"{word} {names[day % 4]} see?", YES_NO, answer)
        for day in range(24)
        for word, answer in (("Did", "A"), ("Will", "B"))
    ]
    assert accuracies(made, learned=False)["constant"] == 1


def twins(count, answer="AB"):
    """Two stories each, of the same words but for one, with answers that `answer` gives."""
    return [
        example(
            f"{pair}-{place}",
            f"Pair {pair}: Ann {verb} the bag, then a tin.",
            "Where?",
            ("bag", "tin"),
            answer[place],
            twin_id=f"{pair}",
            type="belief" if pair % 2 else "reality",
        )
        for pair in range(count)
        for place, verb in enumerate(("saw", "missed"))
    ]


def test_pairs_and_types():
    audit = audit_examples(twins(20), learned=False)
    assert audit["n"] == 40
    assert {name: part["n"] for name, part in audit["by_type"].items()} == {"belief": 20, "reality": 20}
    pair = audit["pair"]
    assert (pair["n"], pair["chance"]) == (20, 0.25)
    assert pair["rules"]["first_mentioned"]["accuracy"] == 0  # right on one of each pair
    assert pair["rules"]["shortest"]["accuracy"] == 0.25  # a tie on both
    assert audit["rules"]["first_mentioned"] == {"accuracy": 0.5, "stderr": 0.0}  # over pairs it does not vary
    assert audit_examples(twins(20, "AA"), learned=False)["pair"]["rules"]["first_mentioned"]["accuracy"] == 1


def test_groups_of_one_story_differ_in_their_answers():
    asked = [("Does Ann know?", "A"), ("Does Ben know?", "B"), ("Where is it?", "A")]
    made = [
        example(f"{story}{place}", f"Ann and Ben, day {story}.", question, ("yes", "no"), answer)
        for story in range(5)
        for place, (question, answer) in enumerate(asked)
    ]
    assert audit_examples(made, learned=False)["pair"]["n"] == 5
    same = [example(one.id, one.story, one.question, one.options, "A") for one in made]
    assert audit_examples(same, learned=False)["pair"]["n"] == 0


def test_standard_error_is_over_stories():
    """Copies of a question make the sample no larger."""
    rng = np.random.default_rng(0)
    once = [example(i, f"Day {i}: bag, box.", options=("bag", "box"), answer="AB"[rng.integers(2)]) for i in range(50)]
    copies = [replace(one, id=f"{one.id}-{number}") for one in once for number in (1, 2)]
    first, second = (audit_examples(part, learned=False)["rules"]["first_mentioned"] for part in (once, copies))
    assert first == pytest.approx(second)
    share = first["accuracy"]
    assert first["stderr"] == pytest.approx((share * (1 - share) / 49) ** 0.5)


@pytest.mark.parametrize(
    ("count", "share", "found"), [(40, 1.0, True), (400, 0.72, True), (400, 0.65, False), (20, 1.0, False)]
)
def test_strong_shortcuts(count, share, found):
    made = [
        example(i, f"Day {i}: bag, box.", options=("bag", "box"), answer="A" if i < share * count else "B")
        for i in range(count)
    ]
    rng = random.Random(0)
    turned = [replace(one, options=one.options[::-1], answer="BA"["AB".index(one.answer)]) for one in made]
    made = [rng.choice(both) for both in zip(made, turned, strict=True)]
    lines = strong_shortcuts(audit_examples(made, learned=False))
    assert bool(lines) == found
    assert not lines or "(chance 0.50)" in lines[0]


@pytest.mark.parametrize("examples", [[], [example(options=(), answer="free")], [example()]])
def test_little_to_audit(examples):
    audit = audit_examples(examples)
    assert audit["n"] == sum(bool(one.options) for one in examples)
    json.dumps(audit, allow_nan=False)
    assert strong_shortcuts(audit) == []


def test_same_figures_again():
    made = generate_stories(200, seed=3)
    assert audit_examples(made) == audit_examples(made)


# ----------------------------------------------------------------------------------------------------------- the script


def rows(count, **more):
    asked = {"question": "Where?", "options": ["bag", "box"]}
    return [{"id": i, "story": f"Day {i}: bag, box.", "answer": "AB"[i % 2]} | asked | more for i in range(count)]


def put(file, made):
    file.write_text("".join(json.dumps(row) + "\n" for row in made))
    return str(file)


def test_files_audited_and_bad_ones_reported(main, tmp_path, capsys):
    good = put(tmp_path / "good.jsonl", rows(30))
    single = put(tmp_path / "single.jsonl", rows(1))
    other = put(tmp_path / "other.jsonl", rows(10, options=["wall", "door"]))
    wrong = {"id": "x\x1b[31m", "story": "", "question": "q", "options": ["a"]}
    mixed = put(tmp_path / "mixed.jsonl", [*rows(9), wrong])
    bad = {
        "free.jsonl": rows(3, options=None, answer="somewhere"),
        "no_gold.jsonl": [{"story": "s", "question": "q", "options": ["a", "b"]}],
        "no_json.jsonl": ["\x1b[31m\ud800"],
    }
    files = [put(tmp_path / name, made) for name, made in bad.items()]
    output, plot = tmp_path / "audit.json", tmp_path / "audit.png"
    given = [*files, str(tmp_path / "absent.jsonl"), "stories:0", good, single, other, mixed, "stories:40"]
    assert main([*given, "--output", str(output), "--plot", str(plot)]) == 0
    printed = capsys.readouterr()
    audits = json.loads(output.read_text())
    assert list(audits) == [good, single, other, mixed, "stories:40"]
    assert {name: audit["n"] for name, audit in audits.items()} == {
        good: 30,
        single: 1,
        other: 10,
        mixed: 9,
        "stories:40": 40,
    }
    assert {"accuracy", "stderr"} == set(audits[good]["rules"]["bag_of_words"])
    assert plot.read_bytes().startswith(b"\x89PNG")
    lines = printed.err.splitlines()
    for file in (*files, str(tmp_path / "absent.jsonl"), "stories:0"):
        assert sum("not audited" in line and file in line for line in lines) == 1, file
    assert sum(f"{single}: only one question" in line for line in lines) == 1
    assert sum(f"{other}: the story mentions no option in 10 of 10" in line for line in lines) == 1
    assert sum(f"{mixed}: left out 1 row" in line for line in lines) == 1
    assert "\x1b" not in printed.err + printed.out
    assert f"{good}: 30 questions, chance 0.500" in printed.out
    assert main([good, "--output", str(output), "--plot", str(plot)]) == 0  # its own files are replaced
    assert main(files) == 2


def test_columns_where_and_first_label(main, tmp_path, capsys):
    made = [{"split": split, **row} for split in ("a", "b") for row in rows(6)]
    made = [{**row, "id": place, "gold": row.pop("answer")} for place, row in enumerate(made)]
    file = put(tmp_path / "named.jsonl", made)
    assert main([file, "--columns", "{answer: gold}", "--where={split: a}"]) == 0
    assert "6 questions" in capsys.readouterr().out
    for wrong in (("--columns", "[1]"), ("--first_label", "2")):
        with pytest.raises(SystemExit, match="2"):
            main([file, *wrong])
        assert len(capsys.readouterr().err.splitlines()) == 1
    numbered = put(tmp_path / "numbered.jsonl", [{**row, "answer": 1 + "AB".index(row["answer"])} for row in rows(6)])
    assert main([numbered]) == 2
    assert "they count from 1, not from 0; set first_label to 1" in capsys.readouterr().err
    output = tmp_path / "numbered.json"
    assert main([numbered, "--first_label", "1", "--output", str(output)]) == 0
    lettered, _ = read_source(put(tmp_path / "lettered.jsonl", rows(6)), {}, {})
    assert json.loads(output.read_text()) == {numbered: audit_examples(lettered)}


def test_a_folder_is_one_source(main, tmp_path, capsys):
    for name in ("a", "b"):
        put(tmp_path / f"{name}.jsonl", [{**row, "id": f"{name}{row['id']}"} for row in rows(5)])
    assert main([str(tmp_path)]) == 0
    assert f"{tmp_path}: 10 questions" in capsys.readouterr().out


def test_without_scikit_learn(main, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert main([put(tmp_path / "good.jsonl", rows(30))]) == 0
    printed = capsys.readouterr()
    assert printed.err.splitlines()[0].endswith("pip install -e '.[audit]'")
    assert "constant" in printed.out
    assert "bag_of_words" not in printed.out


# ------------------------------------------------------------------------------------------------------ the benchmarks


@pytest.mark.parametrize("story", ["", "One.\n\nTwo."])
def test_questions_of_cards_are_read_back(story):
    options = ["a", "b.\nC. not an option", "D. d"]
    request = card_request(id="i", item="s", story=story, question="Q\nq?", options=options, gold="B", meta={"kind": 1})
    found = card_example(request)
    assert (found.id, found.story, found.question, found.answer) == ("i", story, "Q\nq?", "B")
    assert found.options[0] == "a"
    assert found.meta == {"story_id": "s", "kind": "1"}


@real
@pytest.mark.parametrize(
    ("folder", "part", "figure"),
    [
        ("hitom", "order_4", 0.533),
        ("simpletom", "mental_state", 1.000),
        ("simpletom", "behavior", 0.997),
        ("simpletom", "judgment", 1.000),
        ("tombench", "", 0.421),
        ("socialiqa", "", 0.395),
    ],
)
def test_published_shortcuts_are_found_again(folder, part, figure, audits):
    """The figures of issue 23 are within the 95 % interval of the best rule."""
    audit = audits(folder)
    found = audit["by_type"][part] if part else audit
    rule = found["rules"][found["best_rule"]]
    low, high = rule_interval(rule, found["n"])
    assert low <= figure <= high


@pytest.fixture(scope="module")
def audits():
    kept = {}

    def audit(folder):
        if folder not in kept:
            kept[folder] = audit_examples(read_source(str(REAL / folder), {}, {})[0])
        return kept[folder]

    return audit


@real
@pytest.mark.parametrize(("folder", "count"), [("emobench", 600), ("motivebench", 300), ("tactfultom", 1152)])
def test_benchmarks_that_only_their_tasks_read(folder, count):
    examples, _ = read_source(str(REAL / folder), {}, {})
    assert len(examples) == count
    assert all(one.meta["type"] and one.meta["story_id"] for one in examples)


def test_speed():
    """10,000 questions in 30 s of the processor; here 1,000 in a fifth of their share."""
    made = generate_stories(1000, seed=0, options=4)
    begin = time.process_time()
    audit_examples(made, learned=False)
    cheap = time.process_time() - begin
    audit_examples(made)
    assert cheap < 1.0
    assert time.process_time() - begin - cheap < 3.0
