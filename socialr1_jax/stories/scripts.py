"""Vocabulary and sentences of generated stories, and scripts: the events from which a story's text is written.

`variants` moves one perception of a script to another moment, which makes adversarial twins: the same words, but the
people saw something else.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property

from pydantic import ConfigDict, TypeAdapter, ValidationError

from socialr1_jax.stories.world import Event, ImpossibleEvent, Kind, World

# fmt: off
NAMES = (
    "Anna", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo", "Iris", "Jack",
    "Kate", "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tina", "Zoe",
)
HELD_OUT_NAMES = ("Adam", "Bella", "Clara", "David", "Felix", "Grace", "Henry", "Julia")
OBJECTS = (
    "apple", "ball", "book", "cake", "coin", "cup", "doll", "egg",
    "hat", "horn", "kite", "map", "pen", "ring", "shoe", "toy",
)
CONTAINERS = ("bag", "basket", "box", "bucket", "case", "chest", "crate", "drawer", "jar", "pot", "sack", "tin")
ROOMS = ("attic", "bedroom", "cellar", "garage", "garden", "hall", "kitchen", "office")
# fmt: on
# The content words of the stories; all other words are phrasing.
WORDS = (*NAMES, *HELD_OUT_NAMES, *OBJECTS, *CONTAINERS, *ROOMS)

# Moving one of these to another moment only changes who perceives what.
PERCEPTIONS: tuple[Kind, ...] = ("leave", "enter", "watch", "listen", "look")


@dataclass(frozen=True, kw_only=True)
class Cast:
    """The words drawn for one story, each in random order."""

    people: tuple[str, ...]
    objects: tuple[str, ...]
    containers: tuple[str, ...]
    room: str


@dataclass(frozen=True, kw_only=True)
class Script:
    """The events and roles of one story.

    people: in telling order; asked: the person whose mind the questions probe; other: the person who has a belief about
    that mind, or the second witness; third: the person who has a belief about that belief; thing: the object in
    question; values: the options in order of mention, () if the options are groups of people; absent: people who start
    outside; closing: number of final events that stay last in every variant; movable: the perceptions that a variant
    may move; order: depth to which minds are simulated.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    plot: str
    room: str
    people: tuple[str, ...]
    events: tuple[Event, ...]
    asked: str
    other: str
    third: str = ""
    thing: str = ""
    values: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()
    closing: int = 0
    movable: tuple[Kind, ...] = PERCEPTIONS
    order: int = 2

    @property
    def start(self) -> tuple[str, ...]:
        """The people in the room when the story starts."""
        return tuple(person for person in self.people if person not in self.absent)

    def play(self) -> World:
        """Return the world after the last event. It is cached: do not change it.

        Raises ImpossibleEvent if the order of events is impossible.
        """
        return self._played

    @cached_property
    def _played(self) -> World:
        world = World(self.people, absent=self.absent, order=self.order)
        for event in self.events:
            world.apply(event)
        return world

    def views(self, person: str) -> list[str | None]:
        """Return the person's belief about the thing's place after each event; None for no belief."""
        world = World(self.people, absent=self.absent, order=1)
        views = []
        for event in self.events:
            world.apply(event)
            views.append(world.thinks(person, ("place", self.thing)))
        return views

    def event(self, kind: Kind) -> Event:
        """Return the first event of this kind. Raises StopIteration if there is none."""
        return next(event for event in self.events if event.kind == kind)

    def play_until(self, kind: Kind) -> World:
        """Return the world just before the first event of this kind."""
        return replace(self, events=self.events[: self.events.index(self.event(kind))]).play()

    def text(self) -> str:
        """Return the story's text: the people in the room, then one short sentence per event."""
        verb = "is" if len(self.start) == 1 else "are"
        opening = f"{join_names(self.start)} {verb} in the {self.room}."
        return " ".join([opening, *(sentence(event, self.room) for event in self.events)])

    def to_json(self) -> str:
        """Return the script as one line of JSON for `from_json`; default values are left out."""
        values = {name: getattr(self, name) for name in _DEFAULTS if getattr(self, name) != _DEFAULTS[name]}
        events = [{name: value for name, value in vars(event).items() if value} for event in self.events]
        return json.dumps(values | {"events": events}, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Script":
        """Parse the output of `to_json`. Raises ValueError for any other text, and for impossible events."""
        try:
            script = _SCRIPT.validate_json(text, strict=True)
            if len(set(script.people)) != len(script.people) or len(script.people) > _MOST_PEOPLE:
                raise ValueError(f"people has {len(script.people)} names")
            if script.order not in (1, 2, 3) or len(script.events) > _MOST_EVENTS:
                raise ValueError(f"order {script.order} with {len(script.events)} events")
            if not {script.asked, script.other, *script.absent, *filter(None, [script.third])} <= set(script.people):
                raise ValueError("it has people who are not in the list of people")
            if not 0 <= script.closing <= len(script.events):
                raise ValueError(f"closing {script.closing} of {len(script.events)} events")
            script.play()
        except ValidationError as error:
            raise ValueError(f"not a script of generate_stories: {error.errors()[0]['msg']}") from error
        except (ValueError, KeyError) as error:
            raise ValueError(f"not a script of generate_stories: {error}") from error
        return script


_DEFAULTS = {field.name: field.default for field in fields(Script)}
_MOST_PEOPLE, _MOST_EVENTS = 6, 100  # limits for `from_json`; generated scripts have fewer
_SCRIPT = TypeAdapter(Script)


def join_names(names: Sequence[str]) -> str:
    """Join names: `Anna`, `Anna and Ben`, `Anna, Ben and Carl`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


_SENTENCES: dict[Kind, str] = {
    "put": "{who} puts the {thing} in the {place}.",
    "move": "{who} moves the {thing} to the {place}.",
    "fill": "{who} empties the {place} and puts the {thing} in.",
    "leave": "{who} leaves the {room}.",
    "enter": "{who} comes to the {room}.",
    "watch": "{who} secretly watches through the window.",
    "listen": "{who} secretly listens at the door.",
    "look": "{who} looks in the {place}.",
    "open": "{who} opens the {place}.",
    "reach": "{who} goes straight to the {place}.",
    "tell": "{who} tells {to} that the {thing} is in the {place}.",
    "want": "{who} {words} the {thing}.",
    "bring": "{who} brings {to} a gift.",
    "break": "{who} breaks the {thing} and hides it.",
    "spoil": "{who} spills salt on the {thing}.",
    "taste": "{who} tastes the {thing}.",
    "say": '{who} says to {to}: "{words}"',
}


def sentence(event: Event, room: str) -> str:
    """Return the sentence for an event."""
    if event.kind == "look" and not event.place:
        return f"{event.who} looks into everything."
    if event.kind == "tell" and event.words:
        return f"{event.who} tells {event.to} {event.words} the {event.thing} is."
    return _SENTENCES[event.kind].format(**vars(event), room=room)


def variants(script: Script, rng: random.Random) -> Iterator[tuple[Script, World]]:
    """Yield all possible scripts with one perception moved, in random order, with their worlds.

    Two consecutive perceptions of one person (leaving, then watching from outside) may also move together.
    """
    seen = {script.events}
    moves = list(_moves(script))
    rng.shuffle(moves)
    for start, size, target in moves:
        events = list(script.events)
        moved = events[start : start + size]
        del events[start : start + size]
        events[target:target] = moved
        if tuple(events) in seen:
            continue
        seen.add(tuple(events))
        variant = replace(script, events=tuple(events))
        try:
            world = variant.play()
        except ImpossibleEvent:
            continue
        yield variant, world


def _moves(script: Script) -> Iterator[tuple[int, int, int]]:
    """Yield (start, size, target) for each block of one or two perceptions and each possible target."""
    events = script.events[: len(script.events) - script.closing]
    for size in (1, 2):
        for start in range(len(events) - size + 1):
            block = events[start : start + size]
            if all(event.kind in script.movable and event.who == block[0].who for event in block):
                for target in range(1, len(events) - size + 1):  # the first event stays first
                    yield start, size, target
