"""Words and sentences of the generated stories, and the script: a story's events before they are told.

`variants` tells one perception of a script at another moment, which is how adversarial twins come about: the same
words, another sight of things.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from socialr1_jax.data.world import Event, ImpossibleEvent, Kind, World

# fmt: off
NAMES = (
    "Anna", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Iris", "Jack",
    "Kate", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Zoe",
)
HELD_OUT_NAMES = ("Adam", "Bella", "Clara", "David", "Felix", "Grace", "Henry", "Julia")
OBJECTS = (
    "apple", "ball", "book", "cake", "coin", "cup", "doll", "egg",
    "hat", "key", "kite", "map", "pen", "ring", "shoe", "toy",
)
CONTAINERS = ("bag", "basket", "box", "bucket", "case", "chest", "crate", "drawer", "jar", "pot", "sack", "tin")
ROOMS = ("attic", "bedroom", "cellar", "garage", "garden", "hall", "kitchen", "office")
# fmt: on
# What a story is about; everything else in its text is phrasing.
WORDS = (*NAMES, *HELD_OUT_NAMES, *OBJECTS, *CONTAINERS, *ROOMS)

# Telling one of these at another moment changes who perceives what, and nothing else.
PERCEPTIONS = ("leave", "enter", "watch", "listen", "look", "taste")


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The words drawn for one story, each in random order."""

    people: tuple[str, ...]
    objects: tuple[str, ...]
    containers: tuple[str, ...]
    room: str


@dataclass(frozen=True, kw_only=True)
class Script:
    """One story before it is told.

    people: in telling order; absent: those who start outside; asked: whose mind the questions probe; other: who has a
    view of that mind; thing: the object in question; closed: the last event stays the last in every variant.
    """

    plot: str
    room: str
    people: tuple[str, ...]
    events: tuple[Event, ...]
    asked: str
    other: str
    thing: str
    absent: tuple[str, ...] = ()
    closed: bool = False

    @property
    def start(self) -> tuple[str, ...]:
        """The people in the room when the story starts."""
        return tuple(person for person in self.people if person not in self.absent)

    def play(self) -> World:
        """The world after the last event. Raises ImpossibleEvent when the order of events makes no sense."""
        world = World(self.people, absent=self.absent)
        for event in self.events:
            world.apply(event)
        return world

    def event(self, kind: Kind) -> Event:
        """The first event of this kind. Raises StopIteration when the script has none."""
        return next(event for event in self.events if event.kind == kind)

    def play_until(self, kind: Kind) -> World:
        """The world just before the first event of this kind."""
        return replace(self, events=self.events[: self.events.index(self.event(kind))]).play()

    def text(self) -> str:
        """The story as told: who is where, then one short sentence an event."""
        verb = "is" if len(self.start) == 1 else "are"
        opening = f"{join_names(self.start)} {verb} in the {self.room}."
        return " ".join([opening, *(sentence(event, self.room) for event in self.events)])


def join_names(names: Sequence[str]) -> str:
    """`Anna`, `Anna and Ben`, `Anna, Ben and Carl`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def sentence(event: Event, room: str) -> str:
    """The one way a story tells this event."""
    who, thing, place, to = event.who, event.thing, event.place, event.to
    told = {
        "put": f"{who} puts the {thing} in the {place}.",
        "move": f"{who} moves the {thing} to the {place}.",
        "leave": f"{who} leaves the {room}.",
        "enter": f"{who} comes to the {room}.",
        "watch": f"{who} secretly watches through the window.",
        "listen": f"{who} secretly listens at the door.",
        "look": f"{who} looks in the {place}.",
        "open": f"{who} opens the {place}.",
        "reach": f"{who} goes straight to the {place}.",
        "tell": f"{who} tells {to} that the {thing} is in the {place}.",
        "want": f"{who} {event.words} the {thing}.",
        "bring": f"{who} brings {to} a gift.",
        "break": f"{who} breaks the {thing} and hides it.",
        "spoil": f"{who} spills salt on the {thing}.",
        "taste": f"{who} tastes the {thing}.",
        "say": f'{who} says to {to}: "{event.words}"',
    }
    return told[event.kind]


def variants(script: Script) -> Iterator[Script]:
    """Every other script that makes sense with one perception told at another moment, nearest moments first.

    Two perceptions of one person in a row (leaving, then watching from outside) may also move together.
    """
    told = {script.events}
    for _, start, size, target in sorted(_moves(script)):
        events = list(script.events)
        moved = events[start : start + size]
        del events[start : start + size]
        events[target:target] = moved
        if tuple(events) in told:
            continue
        told.add(tuple(events))
        variant = replace(script, events=tuple(events))
        try:
            variant.play()
        except ImpossibleEvent:
            continue
        yield variant


def _moves(script: Script) -> Iterator[tuple[int, int, int, int]]:
    """(distance, start, size, target) of each block of one or two perceptions and each place it may go to."""
    events = script.events[:-1] if script.closed else script.events
    for size in (1, 2):
        for start in range(len(events) - size + 1):
            block = events[start : start + size]
            if all(event.kind in PERCEPTIONS and event.who == block[0].who for event in block):
                for target in range(len(events) - size + 1):
                    yield abs(target - start) + size - 1, start, size, target
