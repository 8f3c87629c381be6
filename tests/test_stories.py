"""The generated stories against a second reading of their text, and what holds for every example."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

from socialr1_jax.data.examples import Example
from socialr1_jax.data.plots import PLOTS
from socialr1_jax.data.scripts import HELD_OUT_NAMES, NAMES, OBJECTS
from socialr1_jax.data.stories import ALL_PLOTS, ALL_TYPES, generate_stories

SHORT_PLOTS = ("leave", "return", "two_moves", "watch", "look", "third")
SHORT_TYPES = ("reality", "knowledge", "belief")
PLACE_TYPES = ("reality", "memory", "knowledge", "belief", "second_order_belief")


# --- a second reading of the told text, which shares nothing with the simulator

PATTERNS = {
    "put": r"(\w+) (?:puts|moves) the (\w+) (?:in|to) the (\w+)$",
    "leave": r"(\w+) leaves the \w+$",
    "enter": r"(\w+) comes to the \w+$",
    "watch": r"(\w+) secretly watches through the window$",
    "listen": r"(\w+) secretly listens at the door$",
    "look": r"(\w+) looks in the (\w+)$",
    "tell": r"(\w+) tells (\w+) that the \w+ is in the (\w+)$",
    "want": r"(\w+) asks for the \w+$",
}


def read(story: str) -> tuple[list[str], list[tuple[str, tuple[str, ...]]]]:
    """Who is there at first, and (kind, words) of every further sentence."""
    first, *rest = [part.strip() for part in story.split(".") if part.strip()]
    start = re.findall(r"[A-Z][a-z]+", first)
    events = []
    for text in rest:
        hits = [(kind, match.groups()) for kind, pattern in PATTERNS.items() if (match := re.match(pattern, text))]
        assert len(hits) == 1, text
        events += hits
    return start, events


def true_places(story: str) -> list[str]:
    return [words[2] for kind, words in read(story)[1] if kind == "put"]


def view(story: str, person: str, *, of: str | None = None) -> str | None:
    """Where `person` thinks the thing is, or where `person` thinks that `of` does, walking through the sentences.

    A step counts for the view of a view when both perceive it and `of` is openly in the room.
    """
    start, events = read(story)
    inside, window, door = set(start), set(), set()
    thought, certain, real = None, False, None
    mind = of or person
    for kind, words in events:
        who = words[0]
        if kind == "put":
            real = words[2]
            sees = person in inside | window and (of is None or of in inside)
            if sees:
                thought, certain = real, True
        elif kind == "leave":
            inside.discard(who)
            if who == mind and (of is None or person in inside | window):
                certain = False
        elif kind == "enter":
            inside.add(who)
            window.discard(who)
            door.discard(who)
        elif kind == "watch":
            window.add(who)
        elif kind == "listen":
            door.add(who)
        elif kind == "look" and who == mind:
            if of is None:
                thought = real if words[1] == real else None if thought == words[1] else thought
                certain = certain or words[1] == real
            elif person in inside | window:
                own = view(story[: story.index(f"{who} looks in the {words[1]}.")], person)
                thought = own if words[1] == own else None if thought == words[1] else thought
                certain = certain or words[1] == own
        elif kind == "tell" and mind != who:
            hears = person in inside | door and (of is None or of in inside)
            if hears and not certain:
                thought = words[2]
    return thought


@cache
def stories(types: tuple[str, ...], plots: tuple[str, ...] = (), **arguments) -> tuple[Example, ...]:
    return tuple(generate_stories(400, seed=11, question_types=types, plots=plots, **arguments))


def gold_text(example: Example) -> str:
    return example.options["ABCD".index(example.answer)]


@pytest.mark.parametrize("distractors", [0, 3])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_gold_equals_a_second_reading_of_the_story(split, distractors):
    examples = stories(PLACE_TYPES, split=split, distractors=distractors)
    checked = Counter()
    for example in examples:
        names = [name for name in NAMES if re.search(rf"\b{name}\b", example.question)]
        names.sort(key=example.question.index)
        kind = example.meta["type"]
        if kind == "reality":
            expected = true_places(example.story)[-1]
        elif kind == "memory":
            expected = true_places(example.story)[0]
        elif kind == "belief":
            expected = view(example.story, *names)
        elif kind == "second_order_belief":
            expected = view(example.story, names[0], of=names[1])
        else:
            people = dict.fromkeys(name for name in re.findall(r"\w+", example.story) if name in NAMES)
            knowing = {name for name in people if view(example.story, name) == true_places(example.story)[-1]}
            got = set(re.findall(r"[A-Z]\w+", gold_text(example)))
            assert got == knowing, example
            expected = gold_text(example)
        assert gold_text(example) == expected, example
        checked[kind] += 1
    assert set(checked) == set(PLACE_TYPES)
    assert min(checked.values()) > 70


def test_true_and_false_beliefs_are_about_equally_frequent():
    examples = stories(("belief",), ("leave", "return", "look", "watch"))
    true = sum(gold_text(example) == true_places(example.story)[-1] for example in examples)
    assert true == len(examples) // 2
    assert all(true_places(example.story)[-1] in example.options for example in examples)


def test_a_lie_means_to_fool_and_a_mistake_to_help():
    for example in stories(("intention",), ("report",)):
        speaker, said = re.match(r"Why does (\w+) say that the \w+ is in the (\w+)\?", example.question).groups()
        aim = "help" if view(example.story, speaker) == said else "fool"
        assert gold_text(example).startswith(f"to {aim} ")


def test_anger_is_at_lies_only():
    for example in stories(("emotion",), ("report",)):
        speaker, said = re.search(r"(\w+) tells \w+ that the \w+ is in the (\w+)\.", example.story).groups()
        assert gold_text(example) == ("not angry" if view(example.story, speaker) == said else "angry")


@pytest.mark.parametrize(
    ("plot", "kind", "tail"),
    [("wish", "intention", r"\Z"), ("show", "emotion", r"\w+ opens"), ("hint", "non_literal", r"\w+ says")],
)
def test_steps_feelings_and_hints_follow_the_belief(plot, kind, tail):
    golds = Counter()
    for example in stories((kind,), (plot,)):
        told = example.story[: re.search(tail, example.story).start()]
        thought = view(told, re.search(r"(?:will|does) (\w+)", example.question)[1])
        as_real = thought == true_places(told)[-1]
        expected = {
            "wish": f"look in the {thought}",
            "show": "calm" if as_real else "surprised",
            "hint": "please give me" if as_real else "tell me what",
        }[plot]
        assert gold_text(example).startswith(expected), example
        golds[as_real] += 1
    assert golds[True] == golds[False]


@pytest.mark.parametrize("kind", ["intention", "desire"])
def test_one_goes_where_the_wanted_thing_seems_to_be(kind):
    for example in stories((kind,), ("swap",)):
        who, goal = re.search(r"(\w+) goes straight to the (\w+)\.", example.story).groups()
        here, believed = set(re.findall(r"[A-Z]\w+", example.story.split(".")[0])), {}
        for text in example.story.split(". ")[1:]:
            step = re.match(r"(\w+) (?:puts|moves) the (\w+) (?:in|to) the (\w+)", text)
            if step and who in here:
                believed[step[2]] = step[3]
            if re.match(r"\w+ leaves", text):
                here.discard(text.split()[0])
            elif re.match(r"\w+ comes", text):
                here.add(text.split()[0])
        wanted = [thing for thing, place in believed.items() if place == goal]
        assert len(wanted) == 1
        assert gold_text(example).endswith(f"the {wanted[0]}")


@pytest.mark.parametrize("kind", ["intention", "desire", "emotion"])
def test_gifts_follow_the_wish_that_was_heard(kind):
    for example in stories((kind,), ("gift",)):
        giver, wisher = re.search(r"(\w+) brings (\w+) a gift", example.story).groups()
        present, heard, wish = True, None, None
        for text in example.story.split(". ")[1:]:
            present = {f"{giver} leaves": False, f"{giver} comes": True}.get(" ".join(text.split()[:2]), present)
            if "asks for" in text:
                wish = text.split()[-1]
                heard = wish if present else heard
        if kind == "emotion":
            assert gold_text(example) == ("happy" if heard == wish else "let down")
        else:
            assert gold_text(example).endswith(f"the {heard}")
            assert wisher in (example.question + gold_text(example))


def test_praise_is_irony_for_one_who_saw_the_break():
    for example in stories(("non_literal",), ("praise",)):
        speaker, breaker = re.search(r"(\w+) says to (\w+):", example.story).groups()
        crash = example.story.index(f"{breaker} breaks")
        saw = f"{speaker} leaves" not in example.story[:crash] or f"{speaker} comes" in example.story[:crash]
        assert gold_text(example) == f"{breaker} is {'not ' if saw else ''}careful"


def test_praise_is_a_white_lie_for_one_who_knows_of_the_salt():
    for example in stories(("non_literal",), ("taste",)):
        guest, food = re.search(r"(\w+) tastes the (\w+)", example.story).groups()
        salt = example.story.index("spills salt")
        there = f"{guest} leaves" not in example.story[:salt] or f"{guest} comes" in example.story[:salt]
        knows = there or example.story.index("tastes") > salt
        assert gold_text(example) == f"the {food} is {f'bad, but {guest} is kind' if knows else 'good'}"


# --- what holds for every example


@pytest.mark.parametrize("options", [3, 4])
def test_options_letters_and_types_are_balanced(options):
    for count in (1, 7, 400):
        examples = generate_stories(count, seed=2, options=options)
        assert len(examples) == count == len({example.id for example in examples})
        letters = Counter(example.answer for example in examples)
        shares = [letters["ABCD"[place]] for place in range(options)]
        assert max(shares) - min(shares) <= 1
        for example in examples:
            assert len(example.options) == len(set(example.options)) == options
    types = Counter(example.meta["type"] for example in examples)
    assert set(types) == set(ALL_TYPES)
    assert max(types.values()) - min(types.values()) <= 2


def words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text))


def test_twins_have_the_same_words_and_another_answer():
    examples = stories(ALL_TYPES)
    by_id = {example.id: example for example in examples}
    paired = [example for example in examples if "twin_of" in example.meta]
    assert len(paired) > len(examples) * 0.7
    for example in paired:
        twin = by_id[example.meta["twin_of"]]
        assert twin.meta["twin_of"] == example.id
        assert twin.meta["twin_id"] == example.meta["twin_id"]
        assert words(twin.story) == words(example.story)
        assert twin.story != example.story
        assert (twin.question, twin.options) == (example.question, example.options)
        assert gold_text(twin) != gold_text(example)
    # The count may cut the last pair in two.
    kinds = {example.meta["type"] for example in examples[:-1] if "twin_of" not in example.meta}
    assert kinds == {"reality", "memory"}
    assert all("twin_of" not in example.meta for example in generate_stories(50, seed=1, twins=False))


def repetition(text: str) -> float:
    grams = [text[start : start + 16] for start in range(len(text) - 15)]
    return (len(grams) - len(set(grams))) / len(grams)


@pytest.mark.parametrize("options", [3, 4])
def test_traces_have_the_four_stages_and_end_with_the_answer(options):
    for example in stories(ALL_TYPES, options=options):
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
        assert repetition(example.thoughts) <= 0.1
        assert 400 <= len(example.thoughts) <= 1200
        assert example.meta["source"] == "stories"
        assert example.meta["plot"] in ALL_PLOTS


@pytest.mark.parametrize("distractors", [0, 3])
def test_what_traces_say_of_minds_and_witnesses_is_what_the_story_tells(distractors):
    says = [
        r"for (\w+) it is in the (\w+)",
        r"(\w+) also has the (\w+) in mind",
        r"(\w+) thinks (\w+)(?: too)?\.",
        r"(\w+) still thinks of the (\w+)",
        r"(\w+) too was away and keeps the old (\w+)",
        r"(\w+) knows of the (\w+)",
    ]
    used: Counter[str] = Counter()
    for example in stories(PLACE_TYPES, distractors=distractors):
        encode, interpret = example.thoughts.split("\n")[:2]
        for pattern in says:
            for person, place in re.findall(pattern, interpret):
                assert view(example.story, person) == place, example
                used[pattern] += 1
        assert f"By now it is in the {true_places(example.story)[-1]}." in interpret
        told = [
            text for text in re.split(r"(?<=\.) ", encode) if re.search("seen by|with only|just|can see|eyes", text)
        ]
        steps = [text for text in example.story.split(".") if re.search("puts|moves", text)]
        assert len(told) == len(steps)
        for text, step in zip(told, steps, strict=True):
            before = example.story[: example.story.index(step) + len(step) + 1]
            place = step.split()[-1]
            people = re.findall(r"[A-Z][a-z]+", example.story)
            seeing = {name for name in people if name in NAMES and view(before, name) == place}
            assert set(re.findall(r"[A-Z][a-z]+", text.split(", ", 1)[1])) == seeing, (text, example.story)
    assert set(used) == set(says)


def test_short_plots_have_short_stories_and_traces_in_the_length_window():
    examples = stories(SHORT_TYPES, SHORT_PLOTS, options=3)
    lengths = [len(example.thoughts) for example in examples]
    assert min(lengths) >= 440
    assert max(lengths) <= 680
    assert 500 <= sum(lengths) / len(lengths) <= 600
    assert all(20 <= len(example.story.split()) <= 50 for example in examples)
    vocabulary = set()
    for example in examples:
        vocabulary |= set(words(f"{example.story} {example.question} {' '.join(example.options)} {example.thoughts}"))
    assert len(vocabulary) < 250


def test_distractors_lengthen_stories_up_to_the_limit():
    longer = generate_stories(300, seed=4, plots=("leave",), distractors=6, max_events=8)
    counts = Counter(example.story.count(".") for example in longer)
    assert min(counts) == 4
    assert max(counts) == 8
    assert all(repetition(example.thoughts) <= 0.1 for example in longer)
    plots = {example.meta["plot"] for example in generate_stories(300, seed=4, max_events=5)}
    assert plots == {name for name, plot in PLOTS.items() if plot.sentences <= 5}
    for example in generate_stories(300, seed=4):
        assert len(re.findall(r"[.?!]", example.story)) == PLOTS[example.meta["plot"]].sentences


# --- splits and seeds


def cast(example: Example) -> tuple[set[str], set[str]]:
    told = set(words(example.story))
    return told & {*NAMES, *HELD_OUT_NAMES}, told & set(OBJECTS)


def test_no_name_meets_an_object_in_both_splits():
    pairs = {}
    for split in ("train", "heldout"):
        pairs[split] = set()
        for seed in (1, 2):
            for example in generate_stories(800, seed=seed, split=split):
                names, things = cast(example)
                pairs[split] |= {(name, thing) for name in names for thing in things}
    assert not pairs["train"] & pairs["heldout"]
    assert len(pairs["train"] | pairs["heldout"]) > 0.95 * len(NAMES) * len(OBJECTS)
    assert {name for name, _ in pairs["train"]} == {name for name, _ in pairs["heldout"]} == set(NAMES)


def test_held_out_names_and_plots():
    held = generate_stories(200, seed=1, split="heldout", hold_out_names=True, hold_out_plots=("look", "gift"))
    assert all(cast(example)[0] <= set(HELD_OUT_NAMES) for example in held if example.meta["plot"] == "look")
    assert {example.meta["plot"] for example in held} == {"look", "gift"}
    train = generate_stories(200, seed=1, hold_out_names=True, hold_out_plots=("look", "gift"))
    assert not {example.meta["plot"] for example in train} & {"look", "gift"}
    assert all(cast(example)[0] <= set(NAMES) for example in train)
    assert not set(NAMES) & set(HELD_OUT_NAMES)


def test_the_same_arguments_give_the_same_stories_in_any_process():
    program = (
        "import hashlib; from socialr1_jax.data.stories import generate_stories; "
        "print(hashlib.sha256(repr(generate_stories(120, seed=9)).encode()).hexdigest())"
    )
    seen = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run(
            [sys.executable, "-c", program],
            cwd=Path(__file__).parents[1],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        seen.add(run.stdout)
    assert len(seen) == 1
    assert generate_stories(120, seed=9) == generate_stories(120, seed=9)
    assert generate_stories(120, seed=9) != generate_stories(120, seed=10)


def test_stories_hardly_repeat_within_a_call():
    examples = generate_stories(2000, seed=3, question_types=SHORT_TYPES, plots=SHORT_PLOTS, split="heldout")
    assert len({(example.story, example.question) for example in examples}) == len(examples)


# --- bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test"}, "split has 'test'; allowed: train, heldout"),
        ({"options": 5}, "options has 5; allowed: 3, 4"),
        ({"count": -1}, "count is -1; allowed: 0 or more"),
        ({"distractors": -2}, "distractors is -2; allowed: 0 or more"),
        ({"question_types": ("belief", "mood")}, "question_types has 'mood'; allowed: reality, memory"),
        ({"plots": ("leave", "flight")}, "plots has 'flight'; allowed: leave, return"),
        ({"plots": ("leave",), "hold_out_plots": ("gift",)}, "hold_out_plots has 'gift'; allowed: leave"),
        (
            {"question_types": ("desire",), "plots": ("leave",)},
            "question_types has 'desire', which the train split cannot ask with plots leave .*allowed: reality",
        ),
        (
            {"question_types": ("belief",), "max_events": 3},
            "the train split has nothing to tell with plots leave.*max_events 3",
        ),
        ({"plots": ("leave",), "question_types": ("belief",), "hold_out_plots": ("leave",)}, r"plots \(none\)"),
    ],
)
def test_bad_arguments_name_the_argument_the_value_and_what_is_allowed(arguments, message):
    arguments = {"count": 3, **arguments}
    with pytest.raises(ValueError, match=message):
        generate_stories(arguments.pop("count"), seed=0, **arguments)


def test_every_plot_answers_every_type_it_names_in_both_splits():
    for plot in PLOTS.values():
        for kind in plot.types:
            for split in ("train", "heldout"):
                examples = generate_stories(4, seed=0, question_types=(kind,), plots=(plot.name,), split=split)
                assert [example.meta["type"] for example in examples] == [kind] * 4
