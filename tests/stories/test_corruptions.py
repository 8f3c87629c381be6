"""Pairs by corruption against a second reading of story and trace: one fault each, really one, and not told by length.

The reading below shares nothing with the simulator or with the corruptions.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
import zlib
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from story_reader import places, scenes, view

from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.data.pairs import Pair
from socialr1_jax.rewards import judge_thoughts
from socialr1_jax.stories.corruptions import KINDS, corruption_pairs, egocentric, telling_of
from socialr1_jax.stories.scripts import CONTAINERS, HELD_OUT_NAMES, NAMES, WORDS, Script
from socialr1_jax.stories.stories import ALL_PLOTS, generate_stories

STAGES = ("Encode", "Interpret", "Goal", "Respond")
COUNT = 320


@cache
def examples(**arguments) -> dict[str, Example]:
    return {example.id: example for example in generate_stories(COUNT, seed=23, **arguments)}


@cache
def pairs(kind: str = "", stage: str = "") -> tuple[Pair, ...]:
    if not kind:
        return tuple(corruption_pairs(list(examples().values()), seed=4, single_stages=True))
    return tuple(pair for pair in pairs() if pair.meta["kind"] == kind and pair.stage == stage)


def example_of(pair: Pair) -> Example:
    return examples()[pair.meta["story_id"]]


def lines(text: str) -> dict[str, str]:
    found = dict(line.split(": ", 1) for line in text.split("\n"))
    assert set(found) <= set(STAGES)
    return found


def forms(example: Example) -> dict[str, str]:
    """The reference, full and brief (only the right option weighed), put together by hand."""
    text = example.options["ABCD".index(example.answer)]
    brief = f"Respond: {example.answer}. {text}, yes, that is it. So the answer is {example.answer}."
    return {"full": example.thoughts, "brief": "\n".join([*example.thoughts.split("\n")[:3], brief])}


def sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.?!]) ", text)


# --- every pair


def test_every_kind_for_every_story_and_its_stages():
    for kind in KINDS:
        told = [pair.meta["story_id"] for pair in pairs(kind)]
        missing = {example.meta["plot"] for name, example in examples().items() if name not in told}
        assert missing <= ({"search"} if kind == "wrong_perceiver" else set())  # where nobody missed the one step
        assert told == [name for name in examples() if name in told]
        assert len(told) > 0.9 * len(examples())
    assert {(p.meta["kind"], p.stage) for p in pairs() if p.stage} == {
        (kind, stage) for kind in ("wrong_perceiver", "ungrounded_claim") for stage in ("encode", "interpret")
    }
    assert {p.meta["plot"] for p in pairs()} == set(ALL_PLOTS) - {"chain"}  # of the third order: hard stories alone
    assert len({pair.id for pair in pairs()}) == len(pairs())


def test_chosen_text_is_the_reference_of_the_story():
    used = set()
    for pair in pairs():
        example = example_of(pair)
        assert (pair.story, pair.question, pair.margin) == (example.story, example.question, 0.0)
        assert {name: pair.meta.get(name) for name in ("type", "plot", "twin_id")} == {
            name: example.meta.get(name) for name in ("type", "plot", "twin_id")
        }
        if pair.stage:
            assert pair.chosen == lines(example.thoughts)[pair.stage.capitalize()]
        else:
            used.add(next(form for form, text in forms(example).items() if text == pair.chosen))
        assert pair.chosen.split() != pair.rejected.split()
    assert used == {"full", "brief"}


def test_single_stages_are_parts_of_the_pair():
    whole = {(p.meta["kind"], p.meta["story_id"]): p for p in pairs() if not p.stage}
    staged = {(p.meta["kind"], p.meta["story_id"], p.stage): p for p in pairs() if p.stage}
    expected = {}
    for (kind, story), pair in whole.items():
        for stage in ("encode", "interpret"):
            texts = tuple(lines(text).get(stage.capitalize()) for text in (pair.chosen, pair.rejected))
            if kind in ("wrong_perceiver", "ungrounded_claim") and texts[0] != texts[1]:
                expected[kind, story, stage] = texts
    assert {key: (pair.chosen, pair.rejected) for key, pair in staged.items()} == expected


# --- wrong perceiver


def perceivers(story: str) -> list[set[str]]:
    """Who was in the room, or at the window, for each step that puts or moves something."""
    first, *rest = [part.strip() for part in story.split(".") if part.strip()]
    inside, window, seen = set(re.findall(r"[A-Z]\w+", first)), set[str](), []
    for text in rest:
        who = text.split()[0]
        if re.search(r" (puts|moves) the \w+ (in|to) the ", text):
            seen.append(inside | window)
        elif " leaves the " in text:
            inside = inside - {who}
        elif " comes to the " in text:
            inside, window = inside | {who}, window - {who}
        elif " watches through " in text:
            window = window | {who}
    return seen


def told_perceivers(encode: str) -> list[set[str]]:
    """Those whom the trace names for each of these steps."""
    found = []
    for sentence in sentences(encode):
        step = re.match(r"\w+ (?:puts|moves|takes|brings) .*?(?:in|to) the \w+, (.*?), so ", sentence)
        if step:
            found.append(set(re.findall(r"[A-Z]\w+", step[1])))
    return found


def people(story: str) -> set[str]:
    return set(re.findall(r"\w+", story)) & set(NAMES)


def told_views(interpret: str) -> dict[str, str | None]:
    """Where the trace says that each person takes the thing to be."""
    found = {}
    for sentence in sentences(interpret):
        if re.search(r"no idea where| saw the last| was away", sentence):
            places = [word for word in re.findall(r"\w+", sentence) if word in CONTAINERS]
            found[sentence.split()[0]] = places[-1] if places else None
    return found


def test_a_wrong_perceiver_is_false_in_the_story():
    found = Counter()
    for pair in pairs("wrong_perceiver"):
        example = example_of(pair)
        false = set()
        if example.meta["plot"] not in ("gift", "gifts", "praise", "taste", "swap"):  # other sentences
            story, thing = scenes(example.story), Script.from_json(example.meta["script"]).thing
            seen, thought = perceivers(example.story), {p: view(story, thing, p) for p in people(example.story)}
            assert told_perceivers(lines(pair.chosen)["Encode"]) == seen
            assert told_views(lines(pair.chosen)["Interpret"]).items() <= thought.items()
            if told_perceivers(lines(pair.rejected)["Encode"]) != seen:
                false.add("perceiver")
            if not told_views(lines(pair.rejected)["Interpret"]).items() <= thought.items():
                false.add("view")
        # The gold answer is checked against the story by test_stories.py: another one is a wrong view.
        if re.search(r"the answer is (\w)\.$", pair.rejected)[1] != example.answer:
            false.add("answer")
        assert false, pair
        found.update(false)
    assert min(found["perceiver"], found["answer"]) > COUNT / 3
    assert found["view"] > COUNT / 5  # the traces of some types state no views


def test_a_wrong_perceiver_changes_perceptions_only():
    for pair in pairs("wrong_perceiver"):
        chosen, rejected = (
            re.findall(r"\w+ (?:puts|moves|takes|brings) .*? the \w+,", t) for t in (pair.chosen, pair.rejected)
        )
        assert chosen == rejected


def test_twins_are_each_others_rejected_text():
    chosen = {p.meta["story_id"]: forms(example_of(p)).values() for p in pairs("wrong_perceiver")}
    twins = [p for p in pairs("wrong_perceiver") if example_of(p).meta.get("twin_of") in examples()]
    assert len(twins) > 0.7 * COUNT
    for pair in twins:
        assert pair.rejected in chosen[example_of(pair).meta["twin_of"]]


# --- ungrounded claim


def test_ungrounded_claim_exchanges_two_words():
    fresh, swapped = 0, 0
    for pair in pairs("ungrounded_claim"):
        encode, wrong = lines(pair.chosen)["Encode"], lines(pair.rejected)["Encode"]
        changed = {word for word in re.findall(r"\w+", wrong) if word in WORDS} - set(re.findall(r"\w+", pair.story))
        assert len(changed) <= 1
        assert changed.isdisjoint(HELD_OUT_NAMES)
        if changed:  # put the story's own word back
            fresh += 1
            missing = {word for word in re.findall(r"\w+", encode) if word in WORDS} - set(re.findall(r"\w+", wrong))
            assert len(missing) == 1
            assert re.sub(rf"\b{changed.pop()}\b", missing.pop(), wrong) == encode
        else:
            swapped += 1
            claims = [[sentence.split(",")[0] for sentence in sentences(text)] for text in (encode, wrong)]
            assert claims[1] != claims[0]  # the reference tells every event of the story, in order
    assert fresh > COUNT / 2
    assert swapped > COUNT / 50


def test_exchanged_word_keeps_its_usual_neighbours():
    """No name beside a thing that the split keeps from it: else the rejected text could be told without the story."""
    met = set()
    for example in examples().values():
        words = set(re.findall(r"\w+", example.story))
        met |= {(name, word) for name in words & set(NAMES) for word in words}
    for pair in pairs("ungrounded_claim"):
        told = set(re.findall(r"\w+", lines(pair.rejected)["Encode"])) & set(WORDS)
        things = {word for word in told if re.search(rf"\bthe {word}\b", pair.question)}
        assert {(name, thing) for name in told & set(NAMES) for thing in things} <= met


# --- faults of form


def test_a_skipped_stage_is_gone_or_empty():
    seen = set()
    for pair in pairs("skipped_stage"):
        rejected = lines(pair.rejected)
        base = next(b for b in map(lines, forms(example_of(pair)).values()) if len(rejected.items() & b.items()) == 3)
        gone = next(stage for stage in STAGES if rejected.get(stage) != base[stage])
        assert list(rejected) == [stage for stage in STAGES if stage in rejected]
        words = set(re.findall(r"\w+", rejected.get(gone, "")))
        assert words.isdisjoint(set(WORDS) | set("ABCD") - {"A"})
        seen.add((gone, gone in rejected))
    # Without the first stage, the longest, a text would be too short beside any other.
    assert seen >= {(stage, emptied) for stage in STAGES for emptied in (True, False)} - {("Encode", False)}


def said_once(stages: dict[str, str]) -> dict[str, list[str]]:
    return {stage: list(dict.fromkeys(sentences(text))) for stage, text in stages.items()}


def test_a_loop_says_the_same_sentences_again():
    for pair in pairs("loop"):
        rejected = lines(pair.rejected)
        bases = [
            base for base in map(lines, forms(example_of(pair)).values()) if said_once(base) == said_once(rejected)
        ]
        assert len(bases) == 1
        assert sum(len(sentences(rejected[s])) - len(sentences(bases[0][s])) for s in STAGES) >= 3
        assert sum(rejected[s] != bases[0][s] for s in STAGES) == 1


def test_option_first_moves_only_the_answer():
    for pair in pairs("option_first"):
        base = next(b for b in forms(example_of(pair)).values() if b == pair.chosen)
        said = sentences(base.replace("\n", " "))
        answer = example_of(pair).answer
        added = [s for s in sentences(pair.rejected.replace("\n", " ")) if s not in said and "Encode: " + s not in said]
        added = [re.sub(r"^\w+: ", "", sentence) for sentence in added]
        early = [s for s in added if s not in base]
        assert all(
            re.fullmatch(rf"(It is|The answer is|Option) {answer}( is right, and here is why)?\.", s) for s in early
        )
        assert re.search(rf"\b{answer}\b", pair.rejected).start() < pair.rejected.index("Interpret:") + 60


@pytest.mark.parametrize("kind", ["skipped_stage", "loop", "option_first"])
def test_the_rules_judge_sees_the_fault(kind):
    wanted = {"skipped_stage": "skipped|thin", "loop": "loop", "option_first": "option_before|backward|reversed"}[kind]
    for pair in pairs(kind):
        chosen, rejected = judge_thoughts(pair.chosen), judge_thoughts(pair.rejected)
        assert chosen.violations == ()
        assert rejected.score < chosen.score
        assert re.search(wanted, " ".join(rejected.violations)), (pair, rejected)


@pytest.mark.parametrize("kind", ["wrong_perceiver", "ungrounded_claim"])
def test_rules_judge_does_not_see_false_claims(kind):
    assert {judge_thoughts(pair.rejected).violations for pair in pairs(kind)} <= {(), ("thin:respond",)}


# --- what a reward model could learn instead


@pytest.mark.parametrize("kind", KINDS)
def test_the_length_does_not_tell(kind):
    shorter = np.mean([np.sign(len(p.chosen) - len(p.rejected)) for p in pairs(kind)])
    assert abs(shorter) < 0.15
    assert np.quantile([len(p.rejected) / len(p.chosen) for p in pairs(kind)], [0.05, 0.95]) == pytest.approx(
        1, abs=0.51
    )


def test_brief_forms_are_as_frequent_on_either_side():
    def brief(side):
        return np.mean(["not this one" not in getattr(p, side) for p in pairs() if not p.stage])

    assert abs(brief("chosen") - brief("rejected")) < 0.06


def bag(text: str, width: int = 4096) -> np.ndarray:
    """Counts of words and pairs of words, hashed."""
    words, counts = re.findall(r"\w+|[.,\n]", text), np.zeros(width, np.float32)
    for gram in (*words, *map(" ".join, itertools.pairwise(words))):
        counts[zlib.crc32(gram.encode()) % width] += 1
    return counts


def accuracy_without_the_story(found: tuple[Pair, ...]) -> float:
    """Of a linear reward model on the words of the text alone, held out by story, twins together."""
    x = np.array([bag(pair.chosen) - bag(pair.rejected) for pair in found])
    groups = [pair.meta.get("twin_id", pair.meta["story_id"]) for pair in found]
    heldout = np.array([zlib.crc32(group.encode()) % 3 == 0 for group in groups])
    trained, w = x[~heldout], np.zeros(x.shape[1], np.float32)
    for _ in range(200):
        w += 0.05 * (trained / (1 + np.exp(np.clip(trained @ w, -30, 30)))[:, None]).mean(0) - 1e-4 * w
    scores = x[heldout] @ w
    return float(np.mean((scores > 0) + 0.5 * (scores == 0)))


@pytest.mark.parametrize("kind", ["wrong_perceiver", "ungrounded_claim"])
def test_false_claims_need_the_story_to_tell(kind):
    assert accuracy_without_the_story(pairs(kind)) < 0.62  # some 110 held out; measured with 500: 0.51 and 0.53


def test_faults_of_form_need_no_story():
    """The same model does learn what is in the text, so that the test above could fail."""
    assert accuracy_without_the_story(pairs("option_first")) > 0.95


# --- arguments


def test_equal_arguments_give_equal_pairs():
    code = (
        "from socialr1_jax.stories.stories import generate_stories\n"
        "from socialr1_jax.stories.corruptions import corruption_pairs\n"
        "import zlib; print(zlib.crc32(repr(corruption_pairs(generate_stories(20, seed=2), seed=1)).encode()))"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(runs) == 1


def test_pair_depends_on_story_and_kind_alone():
    some = list(examples().values())[:8]
    every = corruption_pairs(some, seed=4)
    assert corruption_pairs(some, seed=4, kinds=["loop", "skipped_stage"]) == [
        pair
        for story in some
        for kind in ("loop", "skipped_stage")
        for pair in every
        if pair.id == f"{story.id}-{kind}"
    ]
    assert [p.rejected for p in corruption_pairs(some, seed=5)] != [p.rejected for p in every]


@pytest.mark.parametrize(
    "arguments",
    [
        {"options": 3, "split": "heldout"},
        {"difficulty": "hard"},
        {"twins": False},
        {"hold_out_names": True, "split": "heldout"},
    ],
    ids=str,
)
def test_every_story_has_its_script(arguments):
    """`telling_of` raises unless the script gives story, question, answer and thoughts again, word for word."""
    telling = [telling_of(example) for example in examples(**arguments).values()]
    assert [one.script.text() for one in telling] == [example.story for example in examples(**arguments).values()]


def test_without_the_twin_another_perception_is_moved():
    alone = [example for example in examples().values() if example.meta.get("twin_of", "") > example.id]
    found = corruption_pairs(alone, seed=0, kinds=["wrong_perceiver"])
    assert len(found) > 0.9 * len(alone)
    for pair in found:
        if (example := example_of(pair)).meta["plot"] in ("leave", "return", "third", "two_things"):
            assert told_perceivers(lines(pair.rejected)["Encode"]) != perceivers(example.story)


def test_an_egocentric_reference_is_wrong_about_minds_alone():
    told = generate_stories(200, seed=3, question_types=("belief", "second_order_belief", "reality"))
    wrong = 0
    for example in told:
        other, story = egocentric(example), scenes(example.story)
        thing = Script.from_json(example.meta["script"]).thing
        assert other.options[LETTERS.index(other.answer)] == places(story, thing)[-1]
        assert replace(other, answer=example.answer, thoughts=example.thoughts) == example
        assert told_perceivers(lines(other.thoughts)["Encode"]) == told_perceivers(lines(example.thoughts)["Encode"])
        assert (other == example) == (example.meta["type"] == "reality" or other.thoughts == example.thoughts)
        wrong += other.answer != example.answer
    assert wrong > 80


def test_bad_arguments():
    example = next(iter(examples().values()))
    with pytest.raises(ValueError, match="kinds has 'typo'; use some of wrong_perceiver, ungrounded_claim"):
        corruption_pairs([example], seed=0, kinds=["loop", "typo"])
    for change in (
        {"thoughts": example.thoughts + " "},
        {"story": example.story.replace(" leaves ", " quits ")},
        {"story": "It was a dark night."},
        {"meta": {}},
        {"question": "Why?"},
    ):
        with pytest.raises(ValueError, match=f"example {example.id}: .* not those of generate_stories"):
            corruption_pairs([replace(example, **change)], seed=0)
    assert corruption_pairs([], seed=0) == []
