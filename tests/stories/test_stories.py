"""The generated stories against a second reading of their text, and what holds for every example."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import mean

import pytest
from story_reader import PERCEPTIONS, Scene, answer, is_in, last_perceived, scenes, sentences, view

from socialr1_jax.data.examples import Example
from socialr1_jax.questions.audit import audit_examples
from socialr1_jax.stories.plots import PLOTS
from socialr1_jax.stories.scripts import HELD_OUT_NAMES, NAMES, OBJECTS, Script
from socialr1_jax.stories.stories import ALL_PLOTS, ALL_TYPES, generate_stories

PATHS = [name for name, plot in PLOTS.items() if plot.values]
PLOT_TYPES = {(plot.name, kind) for plot in PLOTS.values() for kind in plot.types}
# The rules may be so much better than a guess on 2,000 questions; the standard error of 200 of a type is 0.03.
MARGINS = dict.fromkeys(ALL_TYPES, 0.08) | dict.fromkeys(
    ("belief", "second_order_belief", "third_order_belief", "knowledge"), 0.05
)


@cache
def stories(options: int, distractors: int = 5) -> tuple[Example, ...]:
    seed = 10 + distractors
    return tuple(generate_stories(1000, seed=seed, options=options, distractors=distractors, difficulty="hard"))


def every_story() -> list[Example]:
    return [example for options in (3, 4) for distractors in (0, 5) for example in stories(options, distractors)]


def gold_text(example: Example) -> str:
    return example.options["ABCD".index(example.answer)]


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text))


# --------------------------------------------------------------------------------------------------------- gold answers


@pytest.mark.parametrize("distractors", [0, 5])
@pytest.mark.parametrize("options", [3, 4])
def test_gold_equals_a_second_reading_of_the_story(options, distractors):
    examples = stories(options, distractors)
    for example in examples:
        assert gold_text(example) == answer(example.story, example.question), example
    for plot, kind in sorted(PLOT_TYPES):
        few = {"plots": (plot,), "question_types": (kind,), "options": options, "distractors": distractors}
        for example in generate_stories(4, seed=0, max_events=20, **few):
            assert (example.meta["plot"], example.meta["type"]) == (plot, kind)
            assert gold_text(example) == answer(example.story, example.question), example


def test_every_order_of_belief_has_own_answers():
    """Views of views would pass the test above as plain views if these were always the same."""
    differ: Counter[str] = Counter()
    for example in every_story():
        match = re.fullmatch(
            r"Where does (\w+) think that (?:(\w+) thinks that )?(\w+) .* the (\w+)\?", example.question
        )
        if match:
            third, other, asked, thing = match.groups()
            story = scenes(example.story)
            differ[example.meta["type"]] += gold_text(example) != view(story, thing, asked)
            if other:
                differ["of third"] += gold_text(example) != view(story, thing, third, asked)
                differ["of other"] += gold_text(example) != view(story, thing, other, asked)
    assert min(differ[name] for name in ("second_order_belief", "third_order_belief", "of third", "of other")) > 20


# -------------------------------------------------------------------------------------------------------------- balance


@pytest.mark.parametrize("options", [3, 4])
def test_letters_and_types_are_balanced(options):
    for examples in (*(generate_stories(count, seed=2, options=options) for count in (1, 7, 90)), stories(options)):
        assert len({example.id for example in examples}) == len(examples)
        letters = Counter(example.answer for example in examples)
        shares = [letters["ABCD"[place]] for place in range(options)]
        assert max(shares) - min(shares) <= 1
        for example in examples:
            assert len(example.options) == len(set(example.options)) == options
    types = Counter(example.meta["type"] for example in stories(options))
    assert set(types) == set(ALL_TYPES)
    assert max(types.values()) - min(types.values()) <= 2


def mentions(example: Example) -> list[int]:
    """Where the story first mentions each option of a path."""
    told = re.findall(r"\w+", example.story)
    return [told.index(option.split()[-1]) for option in example.options]


@pytest.mark.parametrize("options", [3, 4])
def test_answers_of_paths_are_mentioned_anywhere_alike(options):
    ranks: defaultdict[str, Counter[int]] = defaultdict(Counter)
    for example in (*stories(options, 0), *stories(options, 5)):
        if example.meta["plot"] in PATHS:
            at = mentions(example)  # every option is in the story
            assert all(re.search(rf"\b{option.split()[-1]}\b", example.story) for option in example.options)
            ranks[example.meta["type"]][sorted(at).index(at["ABCD".index(example.answer)])] += 1
    assert len(ranks) == 7
    for kind, counts in ranks.items():
        numbers = [counts[rank] for rank in range(options)]
        assert max(numbers) - min(numbers) <= 0.08 * sum(numbers), (kind, counts)


@pytest.mark.parametrize("options", [3, 4])
def test_answers_about_witnesses_are_each_group_alike(options):
    groups: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in (*stories(options, 0), *stories(options, 5)):
        if example.meta["plot"] not in PATHS:
            a, b = re.search(r"([A-Z]\w+) (?:and|or) ([A-Z]\w+)", example.question).groups()
            names = {"neither": "neither", f"only {a}": "first", f"only {b}": "second", f"{a} and {b}": "both"}
            assert set(example.options) <= set(names)
            groups[example.meta["type"]][names[gold_text(example)]] += 1
    assert set(groups) == {"knowledge", "emotion", "intention", "non_literal"}
    for kind, counts in groups.items():
        shares = [counts[name] / counts.total() for name in ("neither", "first", "second", "both")]
        assert max(shares) - min(shares) < 0.06, (kind, counts)


def test_order_of_leaving_reveals_no_witness():
    """One of the two alone is the answer in half of the stories: such a rule is right in a quarter."""
    right: defaultdict[tuple[str, int], list[bool]] = defaultdict(list)
    for example in every_story():
        if example.meta["plot"] not in PATHS:
            pair = re.search(r"([A-Z]\w+) (?:and|or) ([A-Z]\w+)", example.question).groups()
            for verb in ("leaves", "comes"):
                people = [who for who in re.findall(rf"(\w+) {verb}", example.story) if who in pair]
                for place in (0, -1):
                    right[verb, place].append(gold_text(example) == f"only {people[place]}")
    assert len(right["comes", 0]) > 1000
    assert {rule: mean(found) for rule, found in right.items() if not 0.2 < mean(found) < 0.3} == {}


@pytest.mark.parametrize("options", [3, 4])
def test_mindless_rules_are_no_better_than_guessing(options):
    audit = audit_examples([*stories(options, 0), *stories(options, 5)], learned=False)
    assert audit["n"] == 2000
    for kind, part in audit["by_type"].items():
        assert part["n"] == 200
        for name, rule in part["rules"].items():
            assert rule["accuracy"] <= 1 / options + MARGINS[kind], (kind, name)
    pair = audit["pair"]
    assert pair["n"] > 700
    assert pair["best_rule_accuracy"] <= pair["chance"] + 0.02  # each twin has another answer


# ---------------------------------------------------------------------------------------------------------------- twins


def one_perception_moved(told: list[str], other: list[str]) -> bool:
    """Whether one perception, or two of one person in a row, taken out of both leaves the same sentences."""

    def without(texts: list[str], start: int, size: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return tuple(texts[start : start + size]), (*texts[:start], *texts[start + size :])

    for size in (1, 2):
        others = {without(other, start, size) for start in range(len(other) - size + 1)}
        for start in range(len(told) - size + 1):
            block, rest = without(told, start, size)
            if (block, rest) in others and len({text.split()[0] for text in block}) == 1:
                return True
    return False


def test_twins_differ_in_the_moment_of_one_perception():
    examples = every_story()
    twins = [(one, two) for one, two in pairwise(examples) if one.meta.get("twin_of") == two.id]
    assert len(twins) > 0.39 * len(examples)  # all but reality and memory
    for one, two in twins:
        assert two.meta["twin_of"] == one.id
        assert two.meta["twin_id"] == one.meta["twin_id"]
        assert words(two.story) == words(one.story)
        assert (two.question, two.options) == (one.question, one.options)
        assert gold_text(two) != gold_text(one)
        assert one_perception_moved(sentences(one.story)[1:], sentences(two.story)[1:]), (one.story, two.story)
        kinds = [[scene.kind for scene in scenes(example.story)] for example in (one, two)]
        moved = {kind for at, kind in enumerate(kinds[0]) if kinds[1][at] != kind}
        assert not moved or moved & set(PERCEPTIONS)
    alone = {example.meta["type"] for example in examples if "twin_of" not in example.meta}
    assert alone == {"reality", "memory"}
    assert all("twin_of" not in example.meta for example in generate_stories(50, seed=1, twins=False))


# --------------------------------------------------------------------------------------------------------------- traces


def repetition(text: str) -> float:
    grams = [text[start : start + 16] for start in range(len(text) - 15)]
    return (len(grams) - len(set(grams))) / len(grams)


def test_traces_have_four_stages_and_the_answer():
    for example in every_story():
        lines = example.thoughts.split("\n")
        assert [line.split(":")[0] for line in lines] == ["Encode", "Interpret", "Goal", "Respond"]
        assert all(len(line.split(": ", 1)[1]) > 20 for line in lines)
        before, respond = "\n".join(lines[:3]), lines[3]
        assert not re.search(r"\b[A-D]\b", before)
        weighed = [
            f"{letter}. {text}, {'yes, that is it' if letter == example.answer else 'no, not this one'}."
            for letter, text in zip("ABCD", example.options, strict=False)
        ]
        assert respond == f"Respond: {' '.join(weighed)} So the answer is {example.answer}."
        assert gold_text(example) in lines[2]
        assert example.meta["source"] == "stories"
        assert example.meta["plot"] in ALL_PLOTS


# (plots, longest trace in characters, largest share of repeated 16-character grams)
@pytest.mark.parametrize(("difficulty", "longest", "repeated"), [("easy", 900, 0.1), ("medium", 1100, 0.12)])
def test_traces_are_short_and_repeat_little(difficulty, longest, repeated):
    for example in generate_stories(300, seed=3, difficulty=difficulty):
        assert 400 <= len(example.thoughts) <= longest
        assert repetition(example.thoughts) <= repeated


def perceived_in_trace(clause: str) -> set[str] | None:
    """Whom a clause of the encode stage names as perceiving the event, or as being there after it."""
    match = re.search(
        r", (?:seen by|with only|and just|before the eyes of|heard by|but nobody hears|so)\b(.*)|"
        r" (?:leaves|goes as well), (.*)|, and (.*) can (?:see|hear) it",
        clause,
    )
    return match and set(re.findall(r"[A-Z][a-z]+", "".join(filter(None, match.groups()))))


# What the interpret stage says, and whether that is so in the story: the scenes, the thing asked about, the words.
SAYS = {
    r"By now the (\w+) is in the (\w+)": lambda story, _, thing, place: is_in(story, thing, place),
    r"By now (\w+) wants the (\w+)": lambda story, _, who, thing: last_perceived(story, "want", who)[1] == thing,
    r"for (\w+) it is in the (\w+)": lambda story, thing, who, place: view(story, thing, who) == place,
    r"(\w+) still thinks of the (\w+)": lambda story, thing, who, place: view(story, thing, who) == place,
    r"(\w+) knows of the (\w+)": lambda story, thing, who, place: view(story, thing, who) == place,
    r"[tT]o (\w+), (\w+) has (\w+) in mind": lambda story, thing, other, who, place: (
        view(story, thing, other, who) == place
    ),
    r"as (\w+) sees it, to (\w+) (\w+) has (\w+) in mind": lambda story, thing, third, other, who, place: (
        view(story, thing, third, other, who) == place
    ),
    r"to (\w+) the (\w+) is (?:still )?in there": lambda story, _, who, thing: (
        last_perceived(story, "fill", who)[2] == thing
    ),
    r"to (\w+) the (\w+) is (?:still )?the wish": lambda story, _, who, thing: (
        last_perceived(story, "want", who)[1] == thing
    ),
}


@pytest.mark.parametrize("options", [3, 4])
def test_traces_agree_with_the_story(options):
    used: Counter[str] = Counter()
    for example in stories(options):
        encode, interpret = example.thoughts.split("\n")[:2]
        story = scenes(example.story)
        clauses = re.split(r"(?<=\.) ", encode)[1:]
        assert len(clauses) == len(story)
        for number, (clause, scene) in enumerate(zip(clauses, story, strict=True), start=1):
            event, *state = re.split(r", so (?=now|it gets|\w+ (?:still thinks|knows no place))", clause)
            named = perceived_in_trace(event)
            if named is not None:
                assert named == named_in_story(scene), (clause, example.story)
                used[scene.kind] += 1
            if state and (thinks := re.match(r"(?:now )?(\w+) (?:still )?(?:thinks|knows no) (\w+)", state[0])):
                who, place = thinks.groups()
                assert (view(story[:number], scene.words[1], who) or "place") == place, (clause, example.story)
                used["by then"] += 1
        thing = Script.from_json(example.meta["script"]).thing
        for pattern, is_so in SAYS.items():
            for match in re.finditer(pattern, interpret):
                assert is_so(story, thing, *match.groups()), (match[0], example)
                used[pattern] += 1
    kinds = {"put", "fill", "leave", "enter", "tell", "want", "break", "spoil"}
    assert set(used) == {*kinds, *SAYS, "by then"}
    assert min(used.values()) >= 5, used


def named_in_story(scene: Scene) -> set[str]:
    if scene.kind in ("leave", "enter"):
        return set(scene.inside)
    return set(scene.perceivers) - ({scene.who} if scene.kind in ("tell", "want") else set())


# --------------------------------------------------------------------------------------------------- length, difficulty


@pytest.mark.parametrize(
    ("difficulty", "longest", "plots", "people"),
    [
        ("easy", 8, {"leave", "return", "watch", "two_things", "search", "witness"}, {2, 3}),
        ("medium", 12, set(ALL_PLOTS) - {"chain"}, {2, 3, 4}),
        ("hard", 20, set(ALL_PLOTS), {2, 3, 4}),
    ],
)
def test_difficulty_sets_plots_and_length(difficulty, longest, plots, people):
    examples = generate_stories(600, seed=5, difficulty=difficulty)
    counts = {name: set() for name in ALL_PLOTS}
    for example in examples:
        counts[example.meta["plot"]].add(len(sentences(example.story)))
    assert {example.meta["plot"] for example in examples} == plots
    assert {len(cast(example)[0]) for example in examples} == people
    for name in plots:
        least = PLOTS[name].sentences(4)
        assert min(counts[name]) >= least
        assert max(counts[name]) <= (least if difficulty != "hard" else min(longest, least + 6))
    assert difficulty != "hard" or max(map(max, counts.values())) > 14
    assert ("third_order_belief" in {example.meta["type"] for example in examples}) == (difficulty == "hard")


def test_distractors_lengthen_stories_up_to_the_limit():
    longer = generate_stories(200, seed=4, plots=("leave",), distractors=6, max_events=9)
    assert {len(sentences(example.story)) for example in longer} == {6, 7, 8, 9}
    for example in longer:
        events = Script.from_json(example.meta["script"]).events
        extra = [event for event in events if event.place and event.place not in example.options]
        assert len(events) - len(extra) == 5  # four places and one who leaves
    plots = {example.meta["plot"] for example in generate_stories(200, seed=4, max_events=7)}
    assert plots == {name for name, plot in PLOTS.items() if plot.sentences(4) <= 7}


# ----------------------------------------------------------------------------------------------------- splits and seeds


def cast(example: Example) -> tuple[set[str], set[str]]:
    told = set(words(example.story))
    return told & {*NAMES, *HELD_OUT_NAMES}, told & set(OBJECTS)


def test_no_name_meets_an_object_in_both_splits():
    pairs: dict[str, set[tuple[str, str]]] = {}
    for split, seed in (("train", 1), ("heldout", 2)):
        pairs[split] = set()
        for example in generate_stories(500, seed=seed, split=split, distractors=2, max_events=14):
            names, things = cast(example)
            pairs[split] |= {(name, thing) for name in names for thing in things}
    assert not pairs["train"] & pairs["heldout"]
    assert len(pairs["train"] | pairs["heldout"]) > 0.95 * len(NAMES) * len(OBJECTS)
    assert {name for name, _ in pairs["train"]} == {name for name, _ in pairs["heldout"]} == set(NAMES)


def test_held_out_names_and_plots():
    held = generate_stories(60, seed=1, split="heldout", hold_out_names=True, hold_out_plots=("look", "gift"))
    assert all(cast(example)[0] <= set(HELD_OUT_NAMES) for example in held)
    assert {example.meta["plot"] for example in held} == {"look", "gift"}
    train = generate_stories(60, seed=1, hold_out_names=True, hold_out_plots=("look", "gift"))
    assert not {example.meta["plot"] for example in train} & {"look", "gift"}
    assert all(cast(example)[0] <= set(NAMES) for example in train)
    assert not set(NAMES) & set(HELD_OUT_NAMES)


def test_equal_arguments_give_equal_stories_across_processes():
    program = (
        "import hashlib; from socialr1_jax.stories.stories import generate_stories; "
        "print(hashlib.sha256(repr(generate_stories(60, seed=9, difficulty='hard')).encode()).hexdigest())"
    )
    seen = set()
    for hash_seed in ("1", "2"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        seen.add(run.stdout)
    assert len(seen) == 1
    assert generate_stories(60, seed=9) == generate_stories(60, seed=9)
    assert generate_stories(60, seed=9) != generate_stories(60, seed=10)


def test_stories_hardly_repeat_within_a_call():
    examples = generate_stories(1500, seed=3, question_types=("belief", "reality"), options=3, max_events=5)
    assert len({(example.story, example.question) for example in examples}) == len(examples)


# -------------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split has 'test'; allowed: train, heldout"),
        ({"options": 5}, "options has 5; allowed: 3, 4"),
        ({"count": -1}, "count is -1; allowed: 0 or more"),
        ({"distractors": -2}, "distractors is -2; allowed: 0 or more"),
        ({"difficulty": "brutal"}, "difficulty has 'brutal'; allowed: easy, medium, hard"),
        ({"question_types": ("belief", "mood")}, "question_types has 'mood'; allowed: belief, second_order_belief"),
        ({"plots": ("leave", "flight")}, "plots has 'flight'; allowed: leave, return"),
        ({"plots": ("leave",), "hold_out_plots": ("gift",)}, "hold_out_plots has 'gift'; allowed: leave"),
        (
            {"question_types": ("desire",), "plots": ("leave",)},
            "question_types has 'desire', which the train split cannot ask with plots leave .*allowed: belief",
        ),
        (
            {"question_types": ("third_order_belief",)},
            "question_types has 'third_order_belief', which the train split cannot ask with plots leave",
        ),
        (
            {"question_types": ("belief",), "max_events": 3},
            "the train split has nothing to tell with plots leave.*max_events 3",
        ),
        ({"plots": ("leave",), "question_types": ("belief",), "hold_out_plots": ("leave",)}, r"plots \(none\)"),
    ],
)
def test_bad_arguments_name_argument_value_and_range(arguments, message):
    arguments = {"count": 3, **arguments}
    with pytest.raises(ValueError, match=message):
        generate_stories(arguments.pop("count"), seed=0, **arguments)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_every_plot_answers_its_types_in_both_splits(split):
    for plot, kind in sorted(PLOT_TYPES):
        examples = generate_stories(2, seed=0, question_types=(kind,), plots=(plot,), split=split)
        assert [(example.meta["type"], example.meta["plot"]) for example in examples] == [(kind, plot)] * 2
    assert generate_stories(0, seed=0, split=split) == []
