"""Plot templates: the cast of a story and its events, before a twin moves one of them.

Two kinds of plot keep the rules of `audit.py`, which read no minds, near chance:

* Paths: one fact takes as many values as the question has options (a thing is in the box, then the tin, then the jar),
  each mentioned once. The value that a person believes depends on when they left.
* Two witnesses: each of two people sees or misses an event. Both leave and return once in every story, and the options
  are the four groups: neither, the one, the other, both.

`two_things` and `search` ask where a thing is or was at first. A second thing is moved, too, or people look into places
without the thing, so that the answer may have any rank in order of mention.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from socialr1_jax.stories.scripts import OBJECTS, Cast, Script
from socialr1_jax.stories.world import Event, ImpossibleEvent, Kind

BELIEFS = ("belief", "second_order_belief")
_FRAGILE = ("cup", "doll", "egg", "kite", "toy")
_FOOD = ("apple", "cake", "egg")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """Input of a plot that writes a script.

    options: number of options of the question; rank: target rank of the right answer among the values in order of
    mention, or among the groups of witnesses (a target only, since perceptions occur at random moments).
    """

    plot: str
    cast: Cast
    rng: random.Random
    options: int
    question_type: str
    rank: int

    @property
    def order(self) -> int:
        """The depth to which minds must be simulated for this type of question."""
        return {"second_order_belief": 2, "third_order_belief": 3}.get(self.question_type, 1)

    @property
    def places(self) -> tuple[str, ...]:
        """The containers on a path of places."""
        return self.cast.containers[: self.options]


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot template.

    types: supported question types; people: number of people; fixed: number of sentences, not counting one for each
    value of a path; values: "places" or "things" on its path, "" for two witnesses; objects: number of further objects;
    things: suitable objects; write: function from a draft to a script.
    """

    name: str
    types: tuple[str, ...]
    fixed: int
    write: Callable[[Draft], Script]
    values: str = "places"
    people: int = 2
    objects: int = 1
    things: tuple[str, ...] = OBJECTS

    def sentences(self, options: int) -> int:
        """Return the number of sentences in its stories without distractors."""
        return self.fixed + (options if self.values else 0)

    def ranks(self, options: int) -> int:
        """Return the number of possible answers."""
        return options if self.values else 4


def _does(person: str, *kinds: Kind) -> list[Event]:
    return [Event(kind=kind, who=person) for kind in kinds]


def _path(draft: Draft, mover: str, things: Sequence[str], places: Sequence[str]) -> list[Event]:
    """Bring the things to the places in order: the first event is by anyone, later ones by the mover."""
    events: list[Event] = []
    for thing, place in zip(things, places, strict=True):
        first = all(event.thing != thing for event in events)
        who = draft.rng.choice(draft.cast.people) if first and not events else mover
        events.append(Event(kind="put" if first else "move", who=who, thing=thing, place=place))
    return events


def _scattered(script: Script, sequences: Sequence[Sequence[Event]], rng: random.Random) -> Script:
    """Insert the perceptions of each sequence, in order, at random moments between the script's events."""
    end = len(script.events) - script.closing
    while True:
        events = list(script.events[:end])
        for sequence in sequences:
            at = 1
            for event in sequence:
                at = rng.randint(at, len(events))
                events.insert(at, event)
                at += 1
        candidate = replace(script, events=(*events, *script.events[end:]))
        try:
            candidate.play()
        except ImpossibleEvent:
            continue
        return candidate


def _script(draft: Draft, events: Sequence[Event], *sequences: Sequence[Event], **more: Any) -> Script:
    """Build a script; people are named in random order, so that it carries no information."""
    named = list(draft.cast.people)
    draft.rng.shuffle(named)
    asked, other = draft.cast.people[:2]
    roles: dict[str, Any] = {"asked": asked, "other": other, "thing": draft.cast.objects[0]} | more
    script = Script(
        plot=draft.plot, room=draft.cast.room, people=tuple(named), events=tuple(events), order=draft.order, **roles
    )
    return _scattered(script, sequences, draft.rng)


# ----------------------------------------------------------------------------------------------------- a path of places


def _one_thing(draft: Draft, *sequences: Sequence[Event], closing: Sequence[Event] = (), **more: Any) -> Script:
    """Write a script in which a person who stays moves the thing through all places."""
    places, thing = draft.places, draft.cast.objects[0]
    events = [*_path(draft, draft.cast.people[-1], [thing] * len(places), places), *closing]
    return _script(draft, events, *sequences, values=places, closing=len(closing), **more)


def _path_of(*perceptions: tuple[int, *tuple[Kind, ...]], **roles: int) -> Callable[[Draft], Script]:
    """Return a function that writes a plot in which the thing passes all places, and people perceive it or not.

    Each of the `perceptions` is the number of a person and what they do, in order. `roles` are numbers of people, too.
    """

    def write(draft: Draft) -> Script:
        people = draft.cast.people
        more: dict[str, Any] = {role: people[number] for role, number in roles.items()}
        return _one_thing(draft, *(_does(people[number], *kinds) for number, *kinds in perceptions), **more)

    return write


def _write_lie(draft: Draft) -> Script:
    """Write a lie: the mover names one more place to a person who may have missed moves."""
    asked, liar = draft.cast.people
    thing, (*visited, named) = draft.cast.objects[0], draft.places
    lie = Event(kind="tell", who=liar, thing=thing, place=named, to=asked)
    events = [*_path(draft, liar, [thing] * len(visited), visited), lie]
    return _script(draft, events, _does(asked, "leave", "enter"), values=draft.places)


def _write_overhear(draft: Draft) -> Script:
    """Write an overheard statement: the mover tells one person who missed moves; another may listen at the door."""
    asked, hearer, mover = draft.cast.people
    thing, places = draft.cast.objects[0], draft.places
    tell = Event(kind="tell", who=mover, thing=thing, place=places[-1], to=hearer, words="where")
    events = [*_path(draft, mover, [thing] * len(places), places), tell]
    listening = _does(asked, "leave", "listen")
    return _script(draft, events, listening, _does(hearer, "leave", "enter"), values=places, other=mover)


def _write_wish(draft: Draft) -> Script:
    """Write a wish: a person returns and wants the thing."""
    asked, thing = draft.cast.people[0], draft.cast.objects[0]
    want = Event(kind="want", who=asked, thing=thing, words="asks for")
    return _one_thing(draft, _does(asked, "leave", "enter"), closing=[want])


def _stops(draft: Draft) -> list[bool]:
    """Draw which of the places, in order of mention, the thing gets to; never all of them.

    The answer has the target rank: it is the last stop for a question on reality, and the first for one on memory.
    Beliefs need two stops.
    """
    last = draft.options - 1
    while True:
        stops = [draft.rng.random() < 0.5 for _ in range(draft.options)]
        if draft.question_type == "reality":
            stops[draft.rank :] = [True, *[False] * (last - draft.rank)]
        elif draft.question_type == "memory":
            stops[: draft.rank + 1] = [*[False] * draft.rank, True]
        if not all(stops) and sum(stops) >= (2 if draft.question_type in BELIEFS else 1):
            return stops


def _write_two_things(draft: Draft) -> Script:
    """Write a path of two things that share the places, so that either may be mentioned first, last or in between."""
    (asked, other), (thing, second), places = draft.cast.people, draft.cast.objects[:2], draft.places
    events = _path(draft, other, [thing if stop else second for stop in _stops(draft)], places)
    return _script(draft, events, _does(asked, "leave"), values=places)


def _write_search(draft: Draft) -> Script:
    """Write a search: the thing passes some places, and a person looks into the others without finding it."""
    (asked, other), thing, places = draft.cast.people, draft.cast.objects[0], draft.places
    stops = _stops(draft)
    passed = [place for place, stop in zip(places, stops, strict=True) if stop]
    path = iter(_path(draft, other, [thing] * len(passed), passed))
    looks = (Event(kind="look", who=other, place=place) for place in places)
    events = [next(path) if stop else look for stop, look in zip(stops, looks, strict=True)]
    return _script(draft, events, _does(asked, "leave"), values=places, movable=("leave",))


# ----------------------------------------------------------------------------------------------------- a path of things


def _write_gift(draft: Draft) -> Script:
    """Write a wish that changes several times while the giver may be out of the room."""
    giver, wisher = draft.cast.people
    things = draft.cast.objects[: draft.options]
    wishes = [
        Event(kind="want", who=wisher, thing=thing, words="now asks for" if number else "asks for")
        for number, thing in enumerate(things)
    ]
    events = [*wishes, Event(kind="bring", who=giver, to=wisher)]
    return _script(draft, events, _does(giver, "leave", "enter"), values=things, closing=1)


def _write_swap(draft: Draft) -> Script:
    """Write a container with changing contents; a person returns and goes to it."""
    (asked, other), things, place = draft.cast.people, draft.cast.objects[: draft.options], draft.cast.containers[0]
    fills = [Event(kind="fill", who=other, thing=thing, place=place) for thing in things]
    events = [*fills, Event(kind="reach", who=asked, place=place)]
    return _script(draft, events, _does(asked, "leave", "enter"), values=things, closing=1)


# -------------------------------------------------------------------------------------------------------- two witnesses

MISSED_MATTERS = ("show",)  # plots that ask who missed the event; the others ask who saw it


def _witnesses(
    draft: Draft,
    before: Sequence[Event],
    event: Event,
    *,
    newcomer: Sequence[Event] = (),
    closing: Sequence[Event] = (),
    absent: Sequence[str] = (),
) -> Script:
    """Write a script in which each witness is away once: during the event, or entirely before or after it."""
    rng, pair = draft.rng, draft.cast.people[:2]
    chosen = {person for person, bit in zip(pair, (1, 2), strict=True) if draft.rank & bit}
    saw = set(pair) - chosen if draft.plot in MISSED_MATTERS else chosen
    early = {person for person in pair if person in saw and rng.random() < 0.5}  # back before the event
    late = saw - early
    while True:
        earlier = [_does(p, "leave", "enter") if p in early else _does(p, "leave") for p in pair if p not in late]
        later = [_does(p, "leave", "enter") if p in late else _does(p, "enter") for p in pair if p not in early]
        named = list(draft.cast.people)
        rng.shuffle(named)
        script = Script(
            plot=draft.plot,
            room=draft.cast.room,
            people=tuple(named),
            events=(*before, *_merged(earlier, rng), event, *_merged([newcomer, *later], rng), *closing),
            asked=pair[0],
            other=pair[1],
            thing=event.thing,
            absent=tuple(absent),
            closing=len(closing),
            movable=("leave", "enter"),
            order=draft.order,
        )
        if in_fair_order(script):
            return script


def in_fair_order(script: Script) -> bool:
    """Return whether two witnesses return in the order in which they left.

    A sole witness is then the first to leave and return (before the event) in half of the stories, and the last in the
    other half, so the order is uninformative. With free returns, the last to return would tend to have missed it.
    """
    pair = (script.asked, script.other)
    order = {kind: [e.who for e in script.events if e.kind == kind and e.who in pair] for kind in ("leave", "enter")}
    return bool(script.values) or order["leave"] == order["enter"]


def _merged(sequences: Sequence[Sequence[Event]], rng: random.Random) -> list[Event]:
    """Interleave the sequences at random, keeping the order within each."""
    turns = [number for number, sequence in enumerate(sequences) for _ in sequence]
    rng.shuffle(turns)
    rest = [iter(sequence) for sequence in sequences]
    return [next(rest[turn]) for turn in turns]


def _moved(draft: Draft) -> tuple[list[Event], Event]:
    """Return a first placement of the thing, and its move to another place by the third person."""
    mover, thing, (first, second) = draft.cast.people[2], draft.cast.objects[0], draft.cast.containers[:2]
    put = Event(kind="put", who=draft.rng.choice(draft.cast.people[:3]), thing=thing, place=first)
    return [put], Event(kind="move", who=mover, thing=thing, place=second)


def _both_say(draft: Draft, to: str, words: str, thing: str = "", place: str = "") -> list[Event]:
    speakers = draft.rng.sample(draft.cast.people[:2], 2)
    return [Event(kind="say", who=who, to=to, thing=thing, place=place, words=words) for who in speakers]


def _write_witness(draft: Draft) -> Script:
    """Write a move of the thing that each of two people may have seen."""
    return _witnesses(draft, *_moved(draft))


def _write_show(draft: Draft) -> Script:
    """Write the opening of the new place in front of two people who may have missed the move."""
    before, move = _moved(draft)
    return _witnesses(draft, before, move, closing=[Event(kind="open", who=move.who, place=move.place)])


def _write_gifts(draft: Draft) -> Script:
    """Write a changed wish that each of two givers may have missed."""
    wisher, (first, second) = draft.cast.people[2], draft.cast.objects[:2]
    before = [Event(kind="want", who=wisher, thing=first, words="asks for")]
    wish = Event(kind="want", who=wisher, thing=second, words="now asks for")
    gifts = [Event(kind="bring", who=giver, to=wisher) for giver in draft.rng.sample(draft.cast.people[:2], 2)]
    return _witnesses(draft, before, wish, closing=gifts)


def _write_report(draft: Draft) -> Script:
    """Write two reports of the old place to a newcomer: a mistake if the speaker missed the move, else a lie."""
    newcomer = draft.cast.people[3]
    before, move = _moved(draft)
    thing, place = move.thing, before[0].place
    said = _both_say(draft, newcomer, f"The {thing} is in the {place}.", thing, place)
    enter = _does(newcomer, "enter")
    return _witnesses(draft, before, move, newcomer=enter, closing=said, absent=[newcomer])


def _write_praise(draft: Draft) -> Script:
    """Write praise for care with a thing, which is ironic if the speaker saw it broken."""
    breaker, thing = draft.cast.people[2], draft.cast.objects[0]
    put = Event(kind="put", who=draft.rng.choice(draft.cast.people), thing=thing, place=draft.cast.containers[0])
    said = _both_say(draft, breaker, f"You are so careful with the {thing}!", thing)
    return _witnesses(draft, [put], Event(kind="break", who=breaker, thing=thing), closing=said)


def _write_taste(draft: Draft) -> Script:
    """Write praise for food, which is a white lie if the speaker knows about the salt."""
    cook, food = draft.cast.people[2], draft.cast.objects[0]
    tastes = [Event(kind="taste", who=guest, thing=food) for guest in draft.rng.sample(draft.cast.people[:2], 2)]
    said = _both_say(draft, cook, f"I like your {food}.", food)
    return _witnesses(draft, tastes, Event(kind="spoil", who=cook, thing=food), closing=said)


def _write_hint(draft: Draft) -> Script:
    """Write a question about the new place, which is a hint if the speaker knows its content."""
    before, move = _moved(draft)
    said = _both_say(draft, move.who, f"What may be in the {move.place}?", place=move.place)
    return _witnesses(draft, before, move, closing=said)


# ---------------------------------------------------------------------------------------------------------- distractors


def with_distractors(script: Script, cast: Cast, rng: random.Random, count: int) -> Script:
    """Add up to `count` irrelevant events in places that no option names.

    People look into empty containers, and put and move other things. If the options are people, only other people act,
    since an action reveals who is in the room.
    """
    used = {event.place for event in script.events} | {event.thing for event in script.events}
    places = [place for place in cast.containers if place not in used]
    things = [thing for thing in cast.objects if thing not in used]
    people = script.people if script.values else [p for p in script.people if p not in (script.asked, script.other)]
    location: dict[str, str] = {}  # of each further thing
    at = 1
    for left in range(count, 0, -1):
        end = len(script.events) - script.closing
        at = rng.randint(at, max(at, end - (end - at) * (left - 1) // left))
        who, place = rng.choice(list(people)), rng.choice(places)
        thing = rng.choice([*things, *location, ""])
        if thing and location.get(thing) != place:
            extra = Event(kind="move" if thing in location else "put", who=who, thing=thing, place=place)
        else:
            extra = Event(kind="look", who=who, place=place)
        longer = replace(script, events=(*script.events[:at], extra, *script.events[at:]))
        try:
            longer.play()
        except ImpossibleEvent:
            continue
        script, at = longer, at + 1
        if extra.thing:
            things, location = [other for other in things if other != thing], location | {thing: place}
    return script


PLOTS = {
    plot.name: plot
    for plot in (
        Plot(name="leave", types=BELIEFS, fixed=2, write=_path_of((0, "leave"))),  # the Sally-Anne test
        Plot(name="return", types=BELIEFS, fixed=3, write=_path_of((0, "leave", "enter"))),
        Plot(name="watch", types=BELIEFS, fixed=3, write=_path_of((0, "leave", "watch"))),
        Plot(name="look", types=BELIEFS, fixed=4, write=_path_of((0, "leave", "enter"), (0, "look"))),
        Plot(name="third", types=BELIEFS, fixed=3, write=_path_of((0, "leave"), (1, "leave"), other=2), people=3),
        Plot(name="lie", types=BELIEFS, fixed=3, write=_write_lie),
        Plot(name="overhear", types=BELIEFS, fixed=6, write=_write_overhear, people=3),
        Plot(name="two_things", types=("reality", "memory", *BELIEFS), fixed=2, write=_write_two_things, objects=2),
        Plot(name="search", types=("reality", "memory", *BELIEFS), fixed=2, write=_write_search),
        Plot(
            name="chain",
            types=("third_order_belief",),
            fixed=4,
            write=_path_of((0, "leave"), (1, "leave"), (2, "leave"), third=2),
            people=4,
        ),
        Plot(name="wish", types=("intention",), fixed=4, write=_write_wish),
        Plot(name="swap", types=("intention", "desire"), fixed=4, write=_write_swap, values="things", objects=0),
        Plot(name="gift", types=("intention", "desire"), fixed=4, write=_write_gift, values="things", objects=0),
        Plot(name="witness", types=("knowledge",), fixed=7, write=_write_witness, values="", people=3),
        Plot(name="show", types=("emotion",), fixed=8, write=_write_show, values="", people=3),
        Plot(name="gifts", types=("emotion",), fixed=9, write=_write_gifts, values="", people=3, objects=2),
        Plot(name="report", types=("intention", "emotion"), fixed=10, write=_write_report, values="", people=4),
        Plot(name="praise", types=("non_literal",), fixed=9, write=_write_praise, values="", people=3, things=_FRAGILE),
        Plot(name="taste", types=("non_literal",), fixed=10, write=_write_taste, values="", people=3, things=_FOOD),
        Plot(name="hint", types=("non_literal",), fixed=9, write=_write_hint, values="", people=3),
    )
}
