"""Plot templates: which cast a story needs and in which order things happen before any twin reorders them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from socialr1_jax.data.scripts import OBJECTS, Cast, Script
from socialr1_jax.data.world import Event, ImpossibleEvent

PLACE_TYPES = ("reality", "memory", "knowledge", "belief", "second_order_belief")
_FRAGILE = ("cup", "doll", "egg", "kite", "toy")
_FOOD = ("apple", "cake", "egg")


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A template.

    types: the question types it can answer; people, objects: how many it draws; sentences: how many it tells;
    things: the objects that fit; write: the cast to a script.
    """

    name: str
    types: tuple[str, ...]
    sentences: int
    write: Callable[[Cast, random.Random], Script]
    people: int = 2
    objects: int = 1
    things: tuple[str, ...] = OBJECTS


def _put(who: str, thing: str, place: str) -> Event:
    return Event(kind="put", who=who, thing=thing, place=place)


def _move(who: str, thing: str, place: str) -> Event:
    return Event(kind="move", who=who, thing=thing, place=place)


def _leave(who: str) -> Event:
    return Event(kind="leave", who=who)


def _enter(who: str) -> Event:
    return Event(kind="enter", who=who)


def _script(
    plot: str,
    cast: Cast,
    rng: random.Random,
    events: Sequence[Event],
    *,
    asked: str,
    other: str,
    absent: str = "",
    closed: bool = False,
) -> Script:
    """The people are named in random order, so that nothing hangs on who comes first."""
    named = list(cast.people)
    rng.shuffle(named)
    return Script(
        plot=plot,
        room=cast.room,
        people=tuple(named),
        events=tuple(events),
        asked=asked,
        other=other,
        thing=cast.objects[0],
        absent=(absent,) if absent else (),
        closed=closed,
    )


def _closed_by(script: Script, plot: str, event: Event) -> Script:
    return replace(script, plot=plot, events=(*script.events, event), closed=True)


def _write_leave(cast: Cast, rng: random.Random) -> Script:
    """One leaves and the other moves the thing (the Sally-Anne test)."""
    (asked, other), thing, (first, second) = cast.people, cast.objects[0], cast.containers[:2]
    events = (_put(rng.choice(cast.people), thing, first), _leave(asked), _move(other, thing, second))
    return _script("leave", cast, rng, events, asked=asked, other=other)


def _write_return(cast: Cast, rng: random.Random) -> Script:
    """One is away for a time: the move may fall into it or not."""
    script = _write_leave(cast, rng)
    return replace(script, plot="return", events=(*script.events, _enter(script.asked)))


def _write_two_moves(cast: Cast, rng: random.Random) -> Script:
    """The thing is moved twice; one leaves at some point."""
    (asked, other), thing, (first, second, third) = cast.people, cast.objects[0], cast.containers[:3]
    start = _put(rng.choice(cast.people), thing, first)
    if rng.random() < 0.5:
        events = (start, _leave(asked), _move(other, thing, second), _move(other, thing, third))
    else:
        events = (start, _move(rng.choice(cast.people), thing, second), _leave(asked), _move(other, thing, third))
    return _script("two_moves", cast, rng, events, asked=asked, other=other)


def _write_watch(cast: Cast, rng: random.Random) -> Script:
    """One leaves but secretly watches through the window, from before or after the move."""
    script = _write_leave(cast, rng)
    put, leave, move = script.events
    return replace(script, plot="watch", events=(put, leave, Event(kind="watch", who=script.asked), move))


def _write_look(cast: Cast, rng: random.Random) -> Script:
    """One comes back after the move and looks into the new place, or looked there before it."""
    script = _write_return(cast, rng)
    look = Event(kind="look", who=script.asked, place=cast.containers[1])
    return replace(script, plot="look", events=(*script.events, look))


def _write_third(cast: Cast, rng: random.Random) -> Script:
    """Two people leave at different moments, a third one moves the thing."""
    (asked, bystander, mover), thing, (first, second) = cast.people, cast.objects[0], cast.containers[:2]
    events = [_put(rng.choice(cast.people), thing, first), _leave(asked), _move(mover, thing, second)]
    events.insert(rng.choice((1, 2, 3)), _leave(bystander))
    return _script("third", cast, rng, events, asked=asked, other=mover)


def _write_lie(cast: Cast, rng: random.Random) -> Script:
    """The one who moved the thing names a third place to the one who may not have seen it."""
    (asked, liar), thing, (first, second, third) = cast.people, cast.objects[0], cast.containers[:3]
    events = (
        _put(rng.choice(cast.people), thing, first),
        _leave(asked),
        _move(liar, thing, second),
        _enter(asked),
        Event(kind="tell", who=liar, thing=thing, place=third, to=asked),
    )
    return _script("lie", cast, rng, events, asked=asked, other=liar)


def _write_report(cast: Cast, rng: random.Random) -> Script:
    """The reporter names the old place to a newcomer: a mistake if the move was missed, else a lie."""
    (reporter, newcomer, mover), thing, (first, second) = cast.people, cast.objects[0], cast.containers[:2]
    events = (
        _put(rng.choice((reporter, mover)), thing, first),
        _leave(reporter),
        _move(mover, thing, second),
        _enter(reporter),
        _enter(newcomer),
        Event(kind="tell", who=reporter, thing=thing, place=first, to=newcomer),
    )
    return _script("report", cast, rng, events, asked=reporter, other=newcomer, absent=newcomer)


def _write_overhear(cast: Cast, rng: random.Random) -> Script:
    """Two miss the move; one is told the new place, the other may hear it at the door."""
    (asked, told, mover), thing, (first, second) = cast.people, cast.objects[0], cast.containers[:2]
    events = (
        _put(rng.choice(cast.people), thing, first),
        _leave(told),
        _leave(asked),
        _move(mover, thing, second),
        _enter(told),
        Event(kind="listen", who=asked),
        Event(kind="tell", who=mover, thing=thing, place=second, to=told),
    )
    return _script("overhear", cast, rng, events, asked=asked, other=mover)


def _write_wish(cast: Cast, rng: random.Random) -> Script:
    """One comes back wanting the thing."""
    script = _write_return(cast, rng)
    want = Event(kind="want", who=script.asked, thing=script.thing, words="asks for")
    return _closed_by(script, "wish", want)


def _write_swap(cast: Cast, rng: random.Random) -> Script:
    """Two things change places; one comes back and goes to one of the places: for which thing?"""
    (asked, other), (thing, second), (here, there) = cast.people, cast.objects, cast.containers[:2]
    events = (
        _put(rng.choice(cast.people), thing, here),
        _put(rng.choice(cast.people), second, there),
        _leave(asked),
        _move(other, thing, there),
        _move(other, second, here),
        _enter(asked),
        Event(kind="reach", who=asked, place=rng.choice((here, there))),
    )
    return _script("swap", cast, rng, events, asked=asked, other=other, closed=True)


def _write_show(cast: Cast, rng: random.Random) -> Script:
    """The new place is opened before the eyes of the one who may have missed the move."""
    script = _write_return(cast, rng)
    reveal = Event(kind="open", who=script.other, place=cast.containers[1], to=script.asked)
    return _closed_by(script, "show", reveal)


def _write_gift(cast: Cast, rng: random.Random) -> Script:
    """A wish changes, and the giver may have been out of the room."""
    (giver, wisher), (thing, second) = cast.people, cast.objects
    events = (
        Event(kind="want", who=wisher, thing=thing, words="asks for"),
        _leave(giver),
        Event(kind="want", who=wisher, thing=second, words="now asks for"),
        _enter(giver),
        Event(kind="bring", who=giver, to=wisher),
    )
    return _script("gift", cast, rng, events, asked=giver, other=wisher, closed=True)


def _write_praise(cast: Cast, rng: random.Random) -> Script:
    """Praise for care with a thing: ironic when the speaker saw it broken."""
    (speaker, breaker), thing = cast.people, cast.objects[0]
    events = (
        _put(rng.choice(cast.people), thing, cast.containers[0]),
        _leave(speaker),
        Event(kind="break", who=breaker, thing=thing),
        _enter(speaker),
        Event(kind="say", who=speaker, to=breaker, thing=thing, words=f"You are so careful with the {thing}!"),
    )
    return _script("praise", cast, rng, events, asked=speaker, other=breaker, closed=True)


def _write_taste(cast: Cast, rng: random.Random) -> Script:
    """Praise for food: a white lie when the speaker knows of the salt."""
    (guest, cook), food = cast.people, cast.objects[0]
    events = (
        Event(kind="taste", who=guest, thing=food),
        _leave(guest),
        Event(kind="spoil", who=cook, thing=food),
        _enter(guest),
        Event(kind="say", who=guest, to=cook, thing=food, words=f"I like your {food}."),
    )
    return _script("taste", cast, rng, events, asked=guest, other=cook, closed=True)


def _write_hint(cast: Cast, rng: random.Random) -> Script:
    """A question about the new place: a hint from one who knows what is in it."""
    script = _write_return(cast, rng)
    words = f"What may be in the {cast.containers[1]}?"
    ask = Event(kind="say", who=script.asked, to=script.other, place=cast.containers[1], words=words)
    return _closed_by(script, "hint", ask)


def with_distractors(script: Script, cast: Cast, rng: random.Random, count: int) -> Script:
    """The script with up to `count` more events that matter to nobody: people look into empty containers."""
    named = {event.place for event in script.events}
    empty = [place for place in cast.containers if place not in named]
    for place in empty[:count]:
        look = Event(kind="look", who=rng.choice(script.people), place=place)
        slots = list(range(1, len(script.events)))
        rng.shuffle(slots)
        for slot in slots:
            longer = replace(script, events=(*script.events[:slot], look, *script.events[slot:]))
            try:
                longer.play()
            except ImpossibleEvent:
                continue
            script = longer
            break
    return script


PLOTS = {
    plot.name: plot
    for plot in (
        Plot(name="leave", types=PLACE_TYPES, sentences=4, write=_write_leave),
        Plot(name="return", types=PLACE_TYPES, sentences=5, write=_write_return),
        Plot(name="two_moves", types=PLACE_TYPES, sentences=5, write=_write_two_moves),
        Plot(name="watch", types=PLACE_TYPES, sentences=5, write=_write_watch),
        Plot(name="look", types=PLACE_TYPES, sentences=6, write=_write_look),
        Plot(name="third", types=PLACE_TYPES, sentences=5, write=_write_third, people=3),
        Plot(name="lie", types=PLACE_TYPES, sentences=6, write=_write_lie),
        Plot(
            name="report",
            types=("reality", "memory", "knowledge", "belief", "intention", "emotion"),
            sentences=7,
            write=_write_report,
            people=3,
        ),
        Plot(name="overhear", types=PLACE_TYPES, sentences=8, write=_write_overhear, people=3),
        Plot(name="wish", types=(*PLACE_TYPES, "intention"), sentences=6, write=_write_wish),
        Plot(name="swap", types=("intention", "desire"), sentences=8, write=_write_swap, objects=2),
        Plot(name="show", types=("emotion",), sentences=6, write=_write_show),
        Plot(name="gift", types=("intention", "desire", "emotion"), sentences=6, write=_write_gift, objects=2),
        Plot(name="praise", types=("non_literal",), sentences=6, write=_write_praise, things=_FRAGILE),
        Plot(name="taste", types=("non_literal",), sentences=6, write=_write_taste, things=_FOOD),
        Plot(name="hint", types=("non_literal",), sentences=6, write=_write_hint),
    )
}
