"""Words and plot templates of the generated stories: who may do what, in which order, and how a sentence says it.

A plot draws its cast and returns a `Script`: the events in telling order. `variants` reorders one perception of a
script, which is how adversarial twins come about: the same words, another sight of things.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from socialr1_jax.data.world import Event, ImpossibleEvent, World

NAMES = tuple("Anna Ben Carl Dora Emma Finn Gina Hugo Iris Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Zoe".split())
HELD_OUT_NAMES = tuple("Adam Bella Clara David Felix Grace Henry Julia".split())
OBJECTS = tuple("apple ball book cake coin cup doll egg hat key kite map pen ring shoe toy".split())
CONTAINERS = tuple("basket box bucket case chest crate drawer jar pot sack tin bag".split())
ROOMS = tuple("attic bedroom cellar garage garden hall kitchen office".split())


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The words drawn for one story. people, objects and containers are in random order."""

    people: tuple[str, ...]
    objects: tuple[str, ...]
    containers: tuple[str, ...]
    room: str


@dataclass(frozen=True, kw_only=True)
class Script:
    """One story before it is told: the cast, who starts outside, the events, and whom the questions are about.

    asked: the person whose mind the questions probe; other: the person who thinks about `asked`; thing: the object
    in question; spares: containers that the story does not name, for wrong options.
    """

    plot: str
    cast: Cast
    people: tuple[str, ...]
    events: tuple[Event, ...]
    asked: str
    other: str
    thing: str
    absent: tuple[str, ...] = ()
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def room(self) -> str:
        """The room the story plays in."""
        return self.cast.room

    def play(self) -> World:
        """The world after the last event. Raises ImpossibleEvent when the order of events makes no sense."""
        world = World(self.people, absent=self.absent)
        for event in self.events:
            world.apply(event)
        return world

    def text(self) -> str:
        """The story as told, one short sentence an event."""
        start = [person for person in self.people if person not in self.absent]
        verb = "is" if len(start) == 1 else "are"
        sentences = [f"{join_names(start)} {verb} in the {self.room}."]
        sentences += [sentence(event, self.room) for event in self.events]
        return " ".join(sentences)


def join_names(names: Sequence[str]) -> str:
    """`Anna`, `Anna and Ben`, `Anna, Ben and Carl`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def sentence(event: Event, room: str) -> str:
    """The one way a story tells this event."""
    who, thing, place = event.who, event.thing, event.place
    match event.kind:
        case "put":
            return f"{who} puts the {thing} in the {place}."
        case "move":
            return f"{who} moves the {thing} to the {place}."
        case "leave":
            return f"{who} leaves the {room}."
        case "enter":
            return f"{who} comes to the {room}."
        case "watch":
            return f"{who} secretly watches through the window."
        case "look":
            return f"{who} looks in the {place}."
        case _:
            raise ValueError(f"no sentence for {event.kind}")


# Moving one of these to another moment changes only who perceives what.
PERCEPTIONS = ("leave", "enter", "watch", "look", "taste")


def variants(script: Script) -> Iterator[Script]:
    """Every other script that makes sense with one perception told at another moment, nearest moments first."""
    moves = [
        (abs(target - source), source, target)
        for source, event in enumerate(script.events)
        if event.kind in PERCEPTIONS
        for target in range(len(script.events))
        if target != source
    ]
    told = {script.events}
    for _, source, target in sorted(moves):
        events = list(script.events)
        events.insert(target, events.pop(source))
        if tuple(events) in told:
            continue
        told.add(tuple(events))
        variant = replace(script, events=tuple(events))
        try:
            variant.play()
        except ImpossibleEvent:
            continue
        yield variant


@dataclass(frozen=True)
class Plot:
    """A template: the cast it needs, the question types it can answer, the least number of sentences, its writer."""

    name: str
    types: tuple[str, ...]
    people: int
    objects: int
    containers: int
    sentences: int
    write: Callable[[Cast, random.Random, int], Script]


def _put(who: str, thing: str, place: str) -> Event:
    return Event(kind="put", who=who, thing=thing, place=place)


def _move(who: str, thing: str, place: str) -> Event:
    return Event(kind="move", who=who, thing=thing, place=place)


def _leave(who: str) -> Event:
    return Event(kind="leave", who=who)


def _enter(who: str) -> Event:
    return Event(kind="enter", who=who)


def _either(rng: random.Random, cast: Cast) -> str:
    return rng.choice(cast.people[:2])


def _script(plot: str, cast: Cast, rng: random.Random, events: list[Event], people: int = 2) -> Script:
    """A script about the first person's mind, as the second person sees it; the people are named in random order."""
    named = list(cast.people[:people])
    rng.shuffle(named)
    asked, other = cast.people[:2]
    return Script(
        plot=plot, cast=cast, people=tuple(named), events=tuple(events), asked=asked, other=other, thing=cast.objects[0]
    )


def _write_leave(cast: Cast, rng: random.Random, room_for: int) -> Script:
    """The asked person leaves and the other moves the thing (the Sally-Anne test)."""
    (asked, other), thing, (first, second) = cast.people[:2], cast.objects[0], cast.containers[:2]
    events = [_put(_either(rng, cast), thing, first), _leave(asked), _move(other, thing, second)]
    if room_for and rng.random() < 0.5:
        events.append(_enter(asked))
    return _script("leave", cast, rng, events)


def _write_return(cast: Cast, rng: random.Random, room_for: int) -> Script:
    """The asked person is away for a time: the move may fall into it or not."""
    (asked, other), thing, (first, second) = cast.people[:2], cast.objects[0], cast.containers[:2]
    events = [_put(_either(rng, cast), thing, first), _leave(asked), _move(other, thing, second), _enter(asked)]
    return _script("return", cast, rng, events)


def _write_two_moves(cast: Cast, rng: random.Random, room_for: int) -> Script:
    """The thing is moved twice; the asked person leaves at some point."""
    (asked, other), thing, (first, second, third) = cast.people[:2], cast.objects[0], cast.containers[:3]
    events = [_put(_either(rng, cast), thing, first), _move(_either(rng, cast), thing, second)]
    events += [_leave(asked), _move(other, thing, third)]
    if rng.random() < 0.33:
        events = [events[0], _leave(asked), _move(other, thing, second), _move(other, thing, third)]
    if room_for and rng.random() < 0.5:
        events.append(_enter(asked))
    return _script("two_moves", cast, rng, events)


def _write_watch(cast: Cast, rng: random.Random, room_for: int) -> Script:
    """The asked person leaves but secretly watches through the window, from before or after the move."""
    (asked, other), thing, (first, second) = cast.people[:2], cast.objects[0], cast.containers[:2]
    events = [_put(_either(rng, cast), thing, first), _leave(asked), Event(kind="watch", who=asked)]
    events.append(_move(other, thing, second))
    return _script("watch", cast, rng, events)


def _write_look(cast: Cast, rng: random.Random, room_for: int) -> Script:
    """The asked person comes back after the move and looks into the new place, or looked there before it."""
    (asked, other), thing, (first, second) = cast.people[:2], cast.objects[0], cast.containers[:2]
    events = [_put(_either(rng, cast), thing, first), _leave(asked), _move(other, thing, second), _enter(asked)]
    events.append(Event(kind="look", who=asked, place=second))
    return _script("look", cast, rng, events)


def _write_third(cast: Cast, rng: random.Random, room_for: int) -> Script:
    """Two people leave at different moments, a third one moves the thing."""
    (asked, bystander, mover), thing, (first, second) = cast.people[:3], cast.objects[0], cast.containers[:2]
    events = [_put(_either(rng, cast), thing, first), _leave(asked), _move(mover, thing, second)]
    events.insert(rng.choice((1, 2, 3)), _leave(bystander))
    script = _script("third", cast, rng, events, people=3)
    return replace(script, other=mover)


SHORT_TYPES = ("reality", "memory", "knowledge", "belief", "second_order_belief")

PLOTS = {
    plot.name: plot
    for plot in (
        Plot("leave", SHORT_TYPES, 2, 1, 2, 4, _write_leave),
        Plot("return", SHORT_TYPES, 2, 1, 2, 5, _write_return),
        Plot("two_moves", SHORT_TYPES, 2, 1, 3, 5, _write_two_moves),
        Plot("watch", SHORT_TYPES, 2, 1, 2, 5, _write_watch),
        Plot("look", SHORT_TYPES, 2, 1, 2, 6, _write_look),
        Plot("third", SHORT_TYPES, 3, 1, 2, 5, _write_third),
    )
}
