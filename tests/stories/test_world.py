"""Simulated minds against minds worked by hand."""

from __future__ import annotations

import pytest

from socialr1_jax.stories.world import Event, ImpossibleEvent, World

APPLE = ("place", "apple")


def put(who: str, place: str) -> Event:
    return Event(kind="put", who=who, thing="apple", place=place)


def move(who: str, place: str) -> Event:
    return Event(kind="move", who=who, thing="apple", place=place)


def does(who: str, kind: str, **fields: str) -> Event:
    return Event(kind=kind, who=who, **fields)  # type: ignore[arg-type]


def tell(who: str, to: str, place: str) -> Event:
    return Event(kind="tell", who=who, to=to, thing="apple", place=place)


def play(
    *events: Event, people: tuple[str, ...] = ("Ben", "Anna"), absent: tuple[str, ...] = (), order: int = 2
) -> World:
    world = World(people, absent=absent, order=order)
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


def test_those_who_stay_know_and_are_known():
    world = play(put("Ben", "box"), move("Anna", "basket"), does("Ben", "leave"))
    assert world.thinks("Ben", APPLE) == "basket"
    assert world.thinks_of("Anna", "Ben", APPLE) == "basket"


def test_secret_watcher_sees_but_is_not_expected():
    world = play(put("Ben", "box"), does("Ben", "leave"), does("Ben", "watch"), move("Anna", "basket"))
    assert world.thinks("Ben", APPLE) == "basket"
    assert world.thinks_of("Anna", "Ben", APPLE) == "box"
    assert world.thinks_of("Ben", "Anna", APPLE) == "basket"


def test_eavesdropper_hears_but_does_not_see():
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


def test_lie_deceives_only_those_who_missed_it():
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


def test_no_lie_is_told_to_a_witness():
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


def test_third_order_views_end_with_the_leaver():
    people = ("Anna", "Ben", "Carl", "Dora")
    places = ("box", "tin", "jar", "bag")
    leaves = [does(person, "leave") for person in people[:3]]
    moves = [put("Dora", places[0]), *(move("Dora", place) for place in places[1:])]
    events = [event for pair in zip(moves, leaves, strict=False) for event in pair]
    world = play(*events, moves[-1], people=people, order=3)
    views = {
        ("Anna",): "box",
        ("Ben",): "tin",
        ("Carl",): "jar",
        ("Dora",): "bag",
        ("Carl", "Ben"): "tin",
        ("Ben", "Carl"): "tin",
        ("Dora", "Carl", "Ben"): "tin",
        ("Carl", "Ben", "Anna"): "box",
        ("Ben", "Anna", "Dora"): "box",
    }
    assert {chain: world.minds[chain][APPLE] for chain in views} == views
    assert ("Dora", "Carl", "Ben", "Anna") not in world.minds


def test_look_everywhere_finds_the_thing():
    events = (put("Ben", "box"), does("Ben", "leave"), move("Anna", "basket"), does("Ben", "enter"))
    world = play(*events, does("Ben", "look"))
    assert world.thinks("Ben", APPLE) == world.thinks_of("Anna", "Ben", APPLE) == "basket"
    later = play(*events, does("Ben", "look"), does("Ben", "leave"), move("Anna", "tin"))
    assert later.thinks("Ben", APPLE) == later.thinks_of("Anna", "Ben", APPLE) == "basket"


def test_two_things_have_places_of_their_own():
    other = Event(kind="put", who="Anna", thing="ball", place="tin")
    world = play(put("Ben", "box"), other, does("Ben", "leave"), move("Anna", "basket"))
    assert world.thinks("Ben", APPLE) == "box"
    assert world.thinks("Ben", ("place", "ball")) == "tin"
    assert world.first_place == {"apple": "box", "ball": "tin"}


def test_a_container_holds_what_was_put_in_last():
    fills = [Event(kind="fill", who="Anna", thing=thing, place="box") for thing in ("cup", "egg", "hat")]
    world = play(fills[0], does("Ben", "leave"), fills[1], does("Ben", "watch"), fills[2], does("Ben", "enter"))
    assert world.facts["content", "box"] == world.thinks("Ben", ("content", "box")) == "hat"
    unseen = play(fills[0], does("Ben", "leave"), *fills[1:], does("Ben", "enter"))
    assert unseen.thinks("Ben", ("content", "box")) == unseen.thinks_of("Anna", "Ben", ("content", "box")) == "cup"


def test_the_log_says_who_perceived_each_event():
    wish = does("Anna", "want", thing="kite")
    world = play(
        put("Anna", "box"),
        does("Ben", "leave"),
        does("Ben", "listen"),
        move("Anna", "tin"),
        wish,
        does("Ben", "watch"),
        move("Anna", "jar"),
        does("Ben", "enter"),
    )
    seen = [(seen.event.kind, seen.here, seen.hidden) for seen in world.log]
    assert seen == [
        ("put", ("Ben", "Anna"), ()),
        ("leave", ("Anna",), ()),
        ("listen", ("Anna",), ()),
        ("move", ("Anna",), ()),
        ("want", ("Anna",), ("Ben",)),
        ("watch", ("Anna",), ("Ben",)),
        ("move", ("Anna",), ("Ben",)),
        ("enter", ("Ben", "Anna"), ()),
    ]


def test_opening_shows_everybody_there():
    world = play(
        put("Ben", "box"),
        does("Ben", "leave"),
        move("Anna", "tin"),
        does("Ben", "enter"),
        does("Anna", "open", place="tin"),
    )
    assert world.thinks("Ben", APPLE) == "tin"


def test_known_wishes_decide_the_gifts():
    wish = does("Ben", "want", thing="kite")
    now = does("Ben", "want", thing="ball")
    world = play(wish, does("Anna", "leave"), now, does("Anna", "enter"), does("Anna", "bring", to="Ben"))
    assert world.facts[("want", "Ben")] == "ball"
    assert world.facts[("gift", "Ben")] == "kite"
    assert play(wish, now, does("Anna", "bring", to="Ben")).facts[("gift", "Ben")] == "ball"


def test_taste_is_known_from_tasting_or_salt():
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
        (does("Ben", "leave"), does("Ben", "watch"), does("Ben", "watch")),
        (does("Ben", "leave"), does("Ben", "listen"), does("Ben", "listen")),
        (tell("Anna", "Ben", "tin"),),
        (does("Ben", "bring", to="Anna"),),
        (does("Ben", "fill", thing="cup", place="box"), does("Anna", "fill", thing="cup", place="box")),
    ],
)
def test_what_cannot_happen_is_refused(events):
    with pytest.raises(ImpossibleEvent):
        play(*events)
