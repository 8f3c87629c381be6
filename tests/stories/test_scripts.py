"""Scripts: the sentence of each event, variants with one perception moved, and scripts as JSON, forged ones too."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from typing import get_args

import pytest

from socialr1_jax.stories.scripts import Script, sentence, variants
from socialr1_jax.stories.stories import generate_stories
from socialr1_jax.stories.world import Event, Kind

APPLE = Event(kind="put", who="Ben", thing="apple", place="box", to="Anna")
SCRIPT = Script(
    plot="leave",
    room="hall",
    people=("Ben", "Anna"),
    events=(
        Event(kind="put", who="Ben", thing="apple", place="box"),
        Event(kind="leave", who="Ben"),
        Event(kind="watch", who="Ben"),
        Event(kind="move", who="Anna", thing="apple", place="tin"),
        Event(kind="move", who="Anna", thing="apple", place="jar"),
    ),
    asked="Ben",
    other="Anna",
    thing="apple",
    values=("box", "tin", "jar"),
)

SENTENCES = {
    "put": "Ben puts the apple in the box.",
    "move": "Ben moves the apple to the box.",
    "fill": "Ben empties the box and puts the apple in.",
    "leave": "Ben leaves the hall.",
    "enter": "Ben comes to the hall.",
    "watch": "Ben secretly watches through the window.",
    "listen": "Ben secretly listens at the door.",
    "look": "Ben looks in the box.",
    "open": "Ben opens the box.",
    "reach": "Ben goes straight to the box.",
    "tell": "Ben tells Anna that the apple is in the box.",
    "want": "Ben asks for the apple.",
    "bring": "Ben brings Anna a gift.",
    "break": "Ben breaks the apple and hides it.",
    "spoil": "Ben spills salt on the apple.",
    "taste": "Ben tastes the apple.",
    "say": 'Ben says to Anna: "asks for"',
}


def test_every_kind_of_event_has_one_sentence():
    assert list(SENTENCES) == list(get_args(Kind))
    for kind, text in SENTENCES.items():
        words = "asks for" if kind in ("want", "say") else ""
        assert sentence(replace(APPLE, kind=kind, words=words), "hall") == text
    assert sentence(Event(kind="look", who="Ben"), "hall") == "Ben looks into everything."
    told = replace(APPLE, kind="tell", words="where")
    assert sentence(told, "hall") == "Ben tells Anna where the apple is."


def kinds(script: Script) -> str:
    return " ".join(event.kind for event in script.events)


def test_variants_move_one_perception_or_two_together():
    found = list(variants(SCRIPT, random.Random(0)))
    assert {kinds(script) for script, _ in found} == {
        "put leave move watch move",
        "put leave move move watch",
        "put move leave watch move",
        "put move move leave watch",
    }
    for script, world in found:
        assert sorted(map(str, script.events)) == sorted(map(str, SCRIPT.events))
        assert world.minds == script.play().minds
    thought = {kinds(script): world.thinks("Ben", ("place", "apple")) for script, world in found}
    assert thought["put leave move move watch"] == "box"
    assert thought["put leave move watch move"] == "jar"


def test_variants_keep_what_may_not_move():
    closed = replace(SCRIPT, closing=1)
    assert {kinds(script) for script, _ in variants(closed, random.Random(0))} == {
        "put leave move watch move",
        "put move leave watch move",
    }
    assert {kinds(s) for s, _ in variants(replace(SCRIPT, movable=("watch",)), random.Random(0))} == {
        "put leave move watch move",
        "put leave move move watch",
    }
    assert list(variants(replace(SCRIPT, movable=()), random.Random(0))) == []


# -------------------------------------------------------------------------------------------------------------- as JSON


def test_scripts_of_all_plots_survive_json():
    for example in generate_stories(120, seed=1, difficulty="hard"):
        text = example.meta["script"]
        script = Script.from_json(text)
        assert script.to_json() == text
        assert script.text() == example.story
        assert "\n" not in text
    assert Script.from_json(SCRIPT.to_json()) == SCRIPT


def event(**changes: object) -> dict[str, object]:
    return {"events": [{"kind": "put", "who": "Ben", "thing": "apple", "place": "box"} | changes]}


FORGED = {
    "no JSON": "Ben is in the hall.",
    "nothing": "",
    "null": "null",
    "number": "3",
    "list": "[]",
    "word": '"Ben"',
    "empty object": "{}",
    "not a number": '{"events": NaN}',
    "nested list": "[" * 100_000,
    "nested object": '{"events":' * 100_000,
    "huge number": '{"closing":' + "9" * 10_000 + "}",
    "infinite closing": {"closing": 1e999},
    "closing beyond the events": {"closing": 6},
    "closing below 0": {"closing": -1},
    "closing is a truth value": {"closing": True},
    "order 0": {"order": 0},
    "order 4": {"order": 4},
    "order is a truth value": {"order": True},
    "plot is a number": {"plot": 1},
    "room is null": {"room": None},
    "unknown field": {"color": "red"},
    "people is a word": {"people": "BA", "asked": "B", "other": "A"},
    "people is an object": {"people": {"Ben": 1, "Anna": 1}},
    "people has a number": {"people": ["Ben", "Anna", 1]},
    "one person twice": {"people": ["Ben", "Anna", "Ben"]},
    "many people": {"people": ["Ben", "Anna", *map(str, range(50))]},
    "no people": {"people": []},
    "asked is not there": {"asked": "Carl"},
    "third is not there": {"third": "Carl"},
    "absent is not there": {"absent": ["Carl"]},
    "values has a list": {"values": [["box"]]},
    "events is a word": {"events": "put"},
    "events is an object": {"events": {"kind": "put"}},
    "event is null": {"events": [None]},
    "event is a list": {"events": [["put", "Ben"]]},
    "event of no kind": event(kind="fly"),
    "kind is a list": event(kind=["put"]),
    "person is a list": event(who=["Ben"]),
    "person is nested": event(who=[[[["Ben"]]]]),
    "unknown field of an event": event(color="red"),
    "moved before it was put": event(kind="move"),
    "person who is not there": event(who="Carl"),
    "stranger comes and tastes": {
        "events": [{"kind": "enter", "who": "Carl"}, {"kind": "taste", "who": "Carl", "thing": "cake"}]
    },
    "told of a thing that is not there": event(kind="tell", to="Anna"),
    "a gift without a wish": event(kind="bring", to="Anna"),
    "many events": {"events": [{"kind": "say", "who": "Ben", "to": "Anna", "words": "So?"}] * 101},
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED.keys())
def test_forged_scripts_are_refused_in_one_line(change):
    text = change if isinstance(change, str) else json.dumps(json.loads(SCRIPT.to_json()) | change)
    with pytest.raises(ValueError, match=r"^not a script of generate_stories: .") as refused:
        Script.from_json(text)
    assert "\n" not in str(refused.value)
