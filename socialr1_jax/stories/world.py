"""Simulate a world of people, a room and things, and the beliefs of each person.

A story is a list of `Event`s. Applying one changes the facts of the world and the minds of exactly those who perceive
it: the people in the room, and hidden observers. Minds are indexed by chains of people: `("Ben",)` is what Ben thinks,
`("Anna", "Ben")` is what Anna thinks that Ben thinks, and so on to the third order.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

from pydantic import ConfigDict

Kind = Literal[
    "put",
    "move",
    "fill",
    "leave",
    "enter",
    "watch",
    "listen",
    "look",
    "open",
    "reach",
    "tell",
    "want",
    "bring",
    "break",
    "spoil",
    "taste",
    "say",
]
Chain = tuple[str, ...]
Fact = tuple[str, str]  # ("place", "apple"), ("content", "tin"), ("want", "Ben"), ("state", "cup"), ("taste", "cake")

_FROM_OUTSIDE = ("enter", "watch", "listen")  # all other events happen in the room
_SPOKEN = ("tell", "want", "say")  # perceived by a listener at the door, but not by a watcher at the window


class ImpossibleEvent(ValueError):
    """Raised if an event cannot happen at this point of the story."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event of a story.

    kind: type of the event; who: the actor; thing: the object concerned (for `want`, the wanted object); place: the
    container ("" for a `look` into all of them); to: the person spoken to; words: the words spoken for `say`, the
    wording for `want` and `tell`.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    kind: Kind
    who: str
    thing: str = ""
    place: str = ""
    to: str = ""
    words: str = ""


@dataclass(frozen=True)
class Witnessed:
    """An event, the people in the room after it, and hidden people who secretly saw or heard it."""

    event: Event
    here: tuple[str, ...]
    hidden: tuple[str, ...]

    @property
    def seen_by(self) -> tuple[str, ...]:
        """All people who saw or heard the event."""
        return self.here + self.hidden


class World:
    """Facts, people and their minds.

    people: all people in the story, in telling order; absent: those who are outside at the start; order: depth to which
    minds are simulated (2: what one person thinks that another thinks).
    """

    def __init__(self, people: Sequence[str], *, absent: Sequence[str] = (), order: int = 2) -> None:
        self.people = tuple(people)
        self.present = {person for person in people if person not in absent}
        self.watching: set[str] = set()
        self.listening: set[str] = set()
        self.facts: dict[Fact, str] = {}
        self.first_place: dict[str, str] = {}
        chains: list[Chain] = [chain for size in range(1, order + 1) for chain in permutations(self.people, size)]
        self.minds: dict[Chain, dict[Fact, str]] = {chain: {} for chain in chains}
        # Facts that a chain saw and cannot have missed a change of since: hearsay does not override them.
        self.sure: dict[Chain, set[Fact]] = {chain: set() for chain in chains}
        self.source: dict[Chain, dict[Fact, Event]] = {chain: {} for chain in chains}
        self.log: list[Witnessed] = []
        self._here = self.here()

    def thinks(self, person: str, fact: Fact) -> str | None:
        """Return the value that `person` believes the fact has; None for no belief."""
        return self.minds[(person,)].get(fact)

    def thinks_of(self, person: str, other: str, fact: Fact) -> str | None:
        """Return the value that `person` thinks that `other` believes the fact has; None for no belief."""
        return self.minds[(person, other)].get(fact)

    def learned_by(self, person: str, fact: Fact) -> Event | None:
        """Return the event from which `person` has the current belief about the fact; None for no belief."""
        return self.source[(person,)].get(fact)

    def knows(self, person: str, fact: Fact) -> bool:
        """Return whether the person believes the true value."""
        return self.thinks(person, fact) == self.facts[fact]

    def here(self) -> tuple[str, ...]:
        """Return the people in the room, in telling order."""
        return tuple(person for person in self.people if person in self.present)

    def apply(self, event: Event) -> None:
        """Apply an event and update the minds of all who perceive it.

        Raises ImpossibleEvent if the actor, the listener or the thing is not where the event needs it.
        """
        who = event.who
        if (who in self.present) == (event.kind in _FROM_OUTSIDE):
            raise ImpossibleEvent(f"{who} cannot {event.kind} from where {who} is")
        if event.to and event.to not in self.present:
            raise ImpossibleEvent(f"{event.to} is not there to listen to {who}")
        match event.kind:
            case "put" | "move":
                fact = ("place", event.thing)
                if (fact in self.facts) != (event.kind == "move") or self.facts.get(fact) == event.place:
                    raise ImpossibleEvent(f"{event.thing} cannot be {event.kind} to the {event.place} now")
                self.first_place.setdefault(event.thing, event.place)
                self._happen(fact, event.place, event)
            case "leave":
                self.present.discard(who)
                for chain in self.minds:
                    if chain[-1] == who and (len(chain) == 1 or self._sees(chain[:-1])):
                        self.sure[chain].clear()
            case "enter":
                self.present.add(who)
                self.watching.discard(who)
                self.listening.discard(who)
            case "watch" | "listen":
                places = self.watching if event.kind == "watch" else self.listening
                if who in places:
                    raise ImpossibleEvent(f"{who} does so already")
                places.add(who)
            case "fill":
                if self.facts.get(("content", event.place)) == event.thing:
                    raise ImpossibleEvent(f"the {event.thing} is in the {event.place} already")
                self._happen(("content", event.place), event.thing, event)
            case "open":
                for fact in [fact for fact, value in self.facts.items() if fact[0] == "place" and value == event.place]:
                    self._happen(fact, event.place, event)
            case "look":
                self._look(event)
            case "tell":
                self._tell(event)
            case "want":
                self._happen(("want", who), event.thing, event)
            case "bring":
                wanted = self.thinks(who, ("want", event.to))
                if wanted is None:
                    raise ImpossibleEvent(f"{who} has no idea what {event.to} wants")
                self.facts[("gift", event.to)] = wanted
            case "break":
                self._happen(("state", event.thing), "broken", event)
            case "spoil":
                self._happen(("taste", event.thing), "bad", event)
            case "taste":
                taste = self.facts.setdefault(("taste", event.thing), "good")
                self._learn((who,), ("taste", event.thing), taste, event)
            case "reach" | "say":
                pass
        if event.kind in ("leave", "enter"):
            self._here = self.here()
        hidden: tuple[str, ...] = ()
        if outside := self._outside(event):
            hidden = tuple(person for person in self.people if person in outside - self.present)
        self.log.append(Witnessed(event, self._here, hidden))

    def _outside(self, event: Event) -> set[str]:
        return self.listening if event.kind in _SPOKEN else self.watching

    def _learn(self, chain: Chain, fact: Fact, value: str, event: Event, *, sure: bool = True) -> None:
        self.minds[chain][fact] = value
        self.source[chain][fact] = event
        if sure:
            self.sure[chain].add(fact)

    def _forget(self, chain: Chain, fact: Fact) -> None:
        del self.minds[chain][fact]
        del self.source[chain][fact]

    def _happen(self, fact: Fact, value: str, event: Event) -> None:
        """Set a fact. Those who perceive it believe it, also of the others in the room, but not of hidden people."""
        self.facts[fact] = value
        perceiving = self.present | self._outside(event)
        for chain in self.minds:
            if chain[0] in perceiving and (len(chain) == 1 or self.present.issuperset(chain[1:])):
                self._learn(chain, fact, value, event)

    def _sees(self, chain: Chain) -> bool:
        """Return whether the first person of the chain sees the room and the others are visibly in it."""
        return chain[0] in self.present | self.watching and self.present.issuperset(chain[1:])

    def _look(self, event: Event) -> None:
        """Apply a look: the person learns what is inside; others see only the look and infer from their own beliefs."""
        who = event.who
        for fact, value in list(self.facts.items()):
            if fact[0] != "place":
                continue
            seen = event.place or value  # a look into all containers finds the thing
            if value == seen:
                self._learn((who,), fact, value, event)
            elif self.thinks(who, fact) == seen:
                self._forget((who,), fact)
            for chain in self.minds:
                if chain[-1] != who or len(chain) == 1 or not self._sees(chain[:-1]):
                    continue
                supposed = self.minds[chain[:-1]].get(fact)
                if supposed is not None and event.place in ("", supposed):
                    self._learn(chain, fact, supposed, event)
                elif (before := self.minds[chain].get(fact)) is not None and event.place in ("", before):
                    self._forget(chain, fact)

    def _tell(self, event: Event) -> None:
        """Apply a statement: hearers believe it unless they saw the contrary, and others expect them to."""
        fact: Fact = ("place", event.thing)
        if fact not in self.facts:
            raise ImpossibleEvent(f"{event.thing} is not in the story yet")
        hearing = self.present | self.listening
        for person in hearing - {event.who}:
            if fact in self.sure[(person,)]:
                continue
            if self.knows(person, fact) and self.facts[fact] != event.place:
                # A person who saw the fact, left, and now hears the contrary: ambiguous, so stories avoid it.
                raise ImpossibleEvent(f"{person} has reason to doubt {event.who}")
            self._learn((person,), fact, event.place, event, sure=False)
        for chain in self.minds:
            if len(chain) == 1 or chain[0] not in hearing or not self.present.issuperset(chain[1:]):
                continue
            # Those who agree take the speaker to be sincere; a hearer is taken to believe the statement.
            if chain[-1] == event.who:
                believed = self.minds[chain[:-1]].get(fact) == event.place
            else:
                believed = fact not in self.sure[chain]
            if believed:
                self._learn(chain, fact, event.place, event, sure=False)
