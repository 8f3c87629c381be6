"""Simulated minds against minds worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from socialr1_jax.data.scripts import Script, sentence, variants
from socialr1_jax.data.world import Event, ImpossibleEvent, World

APPLE = ("place", "apple")


def put(who: str, place: str) -> Event:
    return Event(kind="put", who=who, thing="apple", place=place)


def move(who: str, place: str) -> Event:
    return Event(kind="move", who=who, thing="apple", place=place)


def does(who: str, kind: str, **fields: str) -> Event:
    return Event(kind=kind, who=who, **fields)  # type: ignore[arg-type]


def tell(who: str, to: str, place: str) -> Event:
    return Event(kind="tell", who=who, to=to, thing="apple", place=place)


def play(*events: Event, people: tuple[str, ...] = ("Ben", "Anna"), absent: tuple[str, ...] = ()) -> World:
    world = World(people, absent=absent)
    for event in events:
        world.apply(event)
    return world


def test_sally_anne_first_and_second_order():
    world = play(put("Ben", "box"), does("Ben", "leave"), move("Anna", "basket"), does("Ben", "enter"))
    assert world.facts[APPLE] == "basket"
    assert world.thinks("Ben", APPLE) == "box"
    assert world.thinks("Anna", APPLE) == "basket"
    assert world.thinks_of("Anna", "Ben", APPLE) == "box"
    assert world.thinks_of("Ben", "Anna", APPLE) == "box"
    assert not world.knows("Ben", APPLE)
    assert world.knows("Anna", APPLE)


def test_who_stays_for_the_move_knows_and_is_known_to_know():
    world = play(put("Ben", "box"), move("Anna", "basket"), does("Ben", "leave"))
    assert world.thinks("Ben", APPLE) == "basket"
    assert world.thinks_of("Anna", "Ben", APPLE) == "basket"


def test_a_secret_watcher_sees_but_nobody_counts_on_it():
    world = play(put("Ben", "box"), does("Ben", "leave"), does("Ben", "watch"), move("Anna", "basket"))
    assert world.thinks("Ben", APPLE) == "basket"
    assert world.thinks_of("Anna", "Ben", APPLE) == "box"
    assert world.thinks_of("Ben", "Anna", APPLE) == "basket"


def test_an_eavesdropper_hears_the_telling_but_does_not_see_the_move():
    people = ("Anna", "Ben", "Carl")
    start = (put("Carl", "box"), does("Ben", "leave"), does("Carl", "leave"), does("Carl", "listen"))
    before = play(*start, move("Anna", "tin"), people=people)
    assert before.thinks("Carl", APPLE) == "box"
    world = play(*start, move("Anna", "tin"), does("Ben", "enter"), tell("Anna", "Ben", "tin"), people=people)
    assert world.thinks("Ben", APPLE) == world.thinks("Carl", APPLE) == "tin"
    assert world.thinks_of("Anna", "Ben", APPLE) == "tin"
    assert world.thinks_of("Anna", "Carl", APPLE) == "box"
    assert world.thinks_of("Carl", "Ben", APPLE) == "tin"


def test_a_watcher_at_the_window_does_not_hear():
    world = play(
        put("Anna", "box"),
        does("Carl", "leave"),
        move("Anna", "tin"),
        does("Carl", "watch"),
        tell("Anna", "Ben", "tin"),
        people=("Anna", "Ben", "Carl"),
    )
    assert world.thinks("Carl", APPLE) == "box"


def test_a_lie_takes_in_only_who_missed_the_move():
    away = play(
        put("Ben", "box"), does("Ben", "leave"), move("Anna", "tin"), does("Ben", "enter"), tell("Anna", "Ben", "jar")
    )
    assert away.thinks("Ben", APPLE) == "jar"
    assert away.thinks("Anna", APPLE) == "tin"
    assert away.thinks_of("Anna", "Ben", APPLE) == "jar"
    assert away.thinks_of("Ben", "Anna", APPLE) == "jar"
    there = play(put("Ben", "box"), move("Anna", "tin"), tell("Anna", "Ben", "jar"))
    assert there.thinks("Ben", APPLE) == "tin"
    assert there.thinks_of("Anna", "Ben", APPLE) == "tin"


def test_no_story_tells_a_lie_to_one_who_saw_and_left():
    with pytest.raises(ImpossibleEvent, match="Ben has reason to doubt Anna"):
        play(
            put("Ben", "box"),
            move("Anna", "tin"),
            does("Ben", "leave"),
            does("Ben", "enter"),
            tell("Anna", "Ben", "jar"),
        )


def test_coming_back_shows_nothing_and_looking_does():
    events = (put("Ben", "box"), does("Ben", "leave"), move("Anna", "basket"), does("Ben", "enter"))
    assert play(*events).thinks("Ben", APPLE) == "box"
    looked = play(*events, does("Ben", "look", place="basket"))
    assert looked.thinks("Ben", APPLE) == "basket"
    assert looked.thinks_of("Anna", "Ben", APPLE) == "basket"
    empty = play(*events, does("Ben", "look", place="box"))
    assert empty.thinks("Ben", APPLE) is None
    assert empty.thinks_of("Anna", "Ben", APPLE) is None


def test_opening_shows_everybody_there():
    world = play(
        put("Ben", "box"),
        does("Ben", "leave"),
        move("Anna", "tin"),
        does("Ben", "enter"),
        does("Anna", "open", place="tin"),
    )
    assert world.thinks("Ben", APPLE) == "tin"


def test_wishes_are_known_to_those_who_heard_them_and_gifts_follow_that():
    wish = does("Ben", "want", thing="kite")
    now = does("Ben", "want", thing="ball")
    world = play(wish, does("Anna", "leave"), now, does("Anna", "enter"), does("Anna", "bring", to="Ben"))
    assert world.facts[("want", "Ben")] == "ball"
    assert world.facts[("gift", "Ben")] == "kite"
    assert play(wish, now, does("Anna", "bring", to="Ben")).facts[("gift", "Ben")] == "ball"


def test_taste_is_known_from_tasting_or_from_seeing_the_salt():
    taste, salt = does("Ben", "taste", thing="cake"), does("Anna", "spoil", thing="cake")
    assert play(taste, does("Ben", "leave"), salt).thinks("Ben", ("taste", "cake")) == "good"
    assert play(taste, salt).thinks("Ben", ("taste", "cake")) == "bad"
    assert play(does("Ben", "leave"), salt, does("Ben", "enter"), taste).thinks("Ben", ("taste", "cake")) == "bad"


@pytest.mark.parametrize(
    "events",
    [
        (move("Ben", "box"),),
        (put("Ben", "box"), move("Anna", "box")),
        (does("Ben", "leave"), put("Ben", "box")),
        (does("Ben", "enter"),),
        (does("Ben", "watch"),),
        (put("Ben", "box"), does("Ben", "leave"), tell("Anna", "Ben", "tin")),
    ],
)
def test_what_cannot_happen_is_refused(events):
    with pytest.raises(ImpossibleEvent):
        play(*events)


def test_variants_move_one_perception_and_keep_the_words():
    script = Script(
        plot="leave",
        room="hall",
        people=("Ben", "Anna"),
        events=(put("Ben", "box"), does("Ben", "leave"), move("Anna", "tin")),
        asked="Ben",
        other="Anna",
        thing="apple",
    )
    told = [variant.text() for variant in variants(script)]
    assert told == [
        "Ben and Anna are in the hall. Ben puts the apple in the box. Anna moves the apple to the tin. "
        "Ben leaves the hall."
    ]  # Ben cannot leave before putting
    closed = replace(script, closed=True)
    assert list(variants(closed)) == []


def test_every_kind_of_event_has_one_sentence():
    assert sentence(move("Ben", "box"), "hall") == "Ben moves the apple to the box."
    assert sentence(tell("Ben", "Anna", "box"), "hall") == "Ben tells Anna that the apple is in the box."
    assert sentence(does("Ben", "leave"), "hall") == "Ben leaves the hall."
