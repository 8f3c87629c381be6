"""A second reading of the generated stories, from their sentences alone: it shares nothing with the simulator."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

PATTERNS = {
    "put": r"(\w+) (?:puts|moves) the (\w+) (?:in|to) the (\w+)\.",
    "fill": r"(\w+) empties the (\w+) and puts the (\w+) in\.",
    "leave": r"(\w+) leaves the \w+\.",
    "enter": r"(\w+) comes to the \w+\.",
    "watch": r"(\w+) secretly watches through the window\.",
    "listen": r"(\w+) secretly listens at the door\.",
    "look": r"(\w+) looks (?:in the (\w+)|into everything)\.",
    "open": r"(\w+) opens the (\w+)\.",
    "reach": r"(\w+) goes straight to the (\w+)\.",
    "tell": r"(\w+) tells (\w+) (?:that|where) the (\w+) is(?: in the (\w+))?\.",
    "want": r"(\w+) (?:now )?asks for the (\w+)\.",
    "bring": r"(\w+) brings (\w+) a gift\.",
    "break": r"(\w+) breaks the (\w+) and hides it\.",
    "spoil": r"(\w+) spills salt on the (\w+)\.",
    "taste": r"(\w+) tastes the (\w+)\.",
    "say": r'(\w+) says to (\w+): "([^"]+)"',
}
PERCEPTIONS = ("leave", "enter", "watch", "listen", "look", "taste")
SPOKEN = ("tell", "want", "say")


@dataclass(frozen=True)
class Scene:
    """One sentence of a story, and who is where once it is over."""

    text: str
    kind: str
    words: tuple[str | None, ...]
    inside: frozenset[str]
    window: frozenset[str]
    door: frozenset[str]

    @property
    def who(self) -> str:
        return self.words[0] or ""

    @property
    def perceivers(self) -> frozenset[str]:
        return self.inside | (self.door if self.kind in SPOKEN else self.window)


def sentences(story: str) -> list[str]:
    return re.split(r'(?<=[."]) (?=[A-Z])', story)


def scenes(story: str) -> list[Scene]:
    """The sentences after the first, which says who is there."""
    first, *rest = sentences(story)
    scene = Scene(first, "", (), frozenset(re.findall(r"[A-Z]\w+", first)), frozenset(), frozenset())
    found = []
    for text in rest:
        hits = [(kind, match) for kind, pattern in PATTERNS.items() if (match := re.fullmatch(pattern, text))]
        assert len(hits) == 1, text
        ((kind, match),) = hits
        who = frozenset([match[1]])
        assert (who <= scene.inside) == (kind not in ("enter", "watch", "listen")), text
        inside, window, door = scene.inside, scene.window, scene.door
        if kind == "leave":
            inside = inside - who
        elif kind == "enter":
            inside, window, door = inside | who, window - who, door - who
        elif kind == "watch":
            window = window | who
        elif kind == "listen":
            door = door | who
        scene = Scene(text, kind, match.groups(), inside, window, door)
        found.append(scene)
    return found


def places(story: list[Scene], thing: str) -> list[str]:
    """Where the thing was, in order."""
    return [scene.words[2] or "" for scene in story if scene.kind == "put" and scene.words[1] == thing]


def is_in(story: list[Scene], thing: str, place: str) -> bool:
    """Whether the thing is in the container after the last sentence."""
    into = [scene.words[2] for scene in story if scene.kind == "fill" and scene.words[1] == place]
    return into[-1:] == [thing] or places(story, thing)[-1:] == [place]


def view(story: list[Scene], thing: str, *chain: str) -> str | None:
    """Where the first of the chain thinks that the second thinks ... that the thing is; None for no idea.

    An event counts when the first one perceives it and the others are openly in the room.
    """
    *outer, mind = chain
    thought, certain = None, False
    for number, scene in enumerate(story):
        sees = chain[0] in scene.inside | scene.window and scene.inside.issuperset(chain[1:])
        hears = chain[0] in scene.inside | scene.door and scene.inside.issuperset(chain[1:])
        real = (places(story[: number + 1], thing) or [None])[-1]
        match scene.kind:
            case "put" if sees and scene.words[1] == thing:
                thought, certain = real, True
            case "open" if sees and scene.words[1] == real:
                thought, certain = real, True
            case "leave" if scene.who == mind:
                seen = not outer or (outer[0] in scene.inside | scene.window and scene.inside.issuperset(outer[1:]))
                certain = certain and not seen
            case "look" if scene.who == mind and sees:
                supposed = view(story[:number], thing, *outer) if outer else real
                into = scene.words[1]
                if supposed is not None and into in (None, supposed):
                    thought, certain = supposed, True
                elif thought is not None and into in (None, thought):
                    thought = None
            case "tell" if hears and scene.who != mind and scene.words[2] == thing and not certain:
                thought = scene.words[3] or view(story[:number], thing, scene.who)
    return thought


def last_perceived(story: list[Scene], kind: str, person: str) -> tuple[str | None, ...]:
    """The words of the last event of this kind that the person saw or heard."""
    return [scene.words for scene in story if scene.kind == kind and person in scene.perceivers][-1]


# ------------------------------------------------------------------------------------------------------------- answers


def _only(story: list[Scene], kind: str) -> Scene:
    (scene,) = (scene for scene in story if scene.kind == kind)
    return scene


def _knows(story: list[Scene], thing: str, person: str) -> bool:
    return view(story, thing, person) == places(story, thing)[-1]


def _next_step(story: list[Scene], person: str) -> str:
    return f"look in the {view(story, _only(story, 'want').words[1] or '', person)}"


def _goal(story: list[Scene], person: str) -> str:
    """The thing that the person thinks is in the container that they go to."""
    who, place = _only(story, "reach").words
    into = [s for s in story if s.kind == "fill" and s.words[1] == place and person in s.perceivers]
    assert who == person
    return f"the {into[-1].words[2]}"


def _wish(story: list[Scene], giver: str, wisher: str) -> str:
    who, thing = last_perceived(story, "want", giver)
    assert who == wisher
    return f"the {thing}"


def _plan(story: list[Scene], giver: str) -> str:
    _, wisher = _only(story, "bring").words
    return f"give {wisher} {_wish(story, giver, wisher or '')}"


def _surprised(story: list[Scene], person: str) -> bool:
    opened = story.index(_only(story, "open"))
    ((thing, place),) = {
        (s.words[1], s.words[2]) for s in story if s.kind == "put" and s.words[2] == story[opened].words[1]
    }
    return view(story[:opened], thing or "", person) != place


def _gives_the_right_thing(story: list[Scene], person: str) -> bool:
    wishes = [scene.words for scene in story if scene.kind == "want"]
    return last_perceived(story, "want", person) == wishes[-1]


def _lies(story: list[Scene], person: str) -> bool:
    words = next(scene.words[2] for scene in story if scene.kind == "say" and scene.who == person)
    match = re.fullmatch(r"The (\w+) is in the (\w+)\.", words or "")
    assert match
    return view(story, match[1], person) != match[2]


def _saw(kind: str) -> Callable[[list[Scene], str], bool]:
    return lambda story, person: person in _only(story, kind).perceivers


def _knows_of_the_salt(story: list[Scene], person: str) -> bool:
    salt = story.index(_only(story, "spoil"))
    return _saw("spoil")(story, person) or any(s.kind == "taste" and s.who == person for s in story[salt:])


def _hints(story: list[Scene], person: str) -> bool:
    words = next(scene.words[2] for scene in story if scene.kind == "say" and scene.who == person)
    match = re.fullmatch(r"What may be in the (\w+)\?", words or "")
    assert match
    things = {s.words[1] or "" for s in story if s.kind == "put" and s.words[2] == match[1]}
    return any(_knows(story, thing, person) for thing in things)


# (question, answer from the scenes and the words of the question)
_ONE: tuple[tuple[str, Callable[..., str | None]], ...] = (
    (r"Where is the (\w+) really\?", lambda story, thing: places(story, thing)[-1]),
    (r"Where was the (\w+) at first\?", lambda story, thing: places(story, thing)[0]),
    (r"Where will (\w+) look for the (\w+) first\?", lambda story, a, thing: view(story, thing, a)),
    (
        r"Where does (\w+) think that (\w+) will look for the (\w+)\?",
        lambda story, b, a, thing: view(story, thing, b, a),
    ),
    (
        r"Where does (\w+) think that (\w+) thinks that (\w+) will look for the (\w+)\?",
        lambda story, c, b, a, thing: view(story, thing, c, b, a),
    ),
    (r"What will (\w+) do next\?", _next_step),
    (r"Why does (\w+) go to the \w+\?", lambda story, a: f"to get {_goal(story, a)}"),
    (r"What does (\w+) want\?", _goal),
    (r"What does (\w+) think that (\w+) wants\?", _wish),
    (r"What does (\w+) plan to do\?", _plan),
)
# (question with the two people and perhaps the thing, whether the answer holds of one of them)
_TWO: tuple[tuple[str, Callable[..., bool]], ...] = (
    (
        r"Who of (?P<a>\w+) and (?P<b>\w+) knows where the (?P<thing>\w+) is\?",
        lambda story, person, thing: _knows(story, thing, person),
    ),
    (r"Who of (?P<a>\w+) and (?P<b>\w+) is surprised when \w+ opens the \w+\?", _surprised),
    (r"Whose gift makes \w+ happy, that of (?P<a>\w+) or (?P<b>\w+)\?", _gives_the_right_thing),
    (r"Who of (?P<a>\w+) and (?P<b>\w+) means to fool \w+\?", _lies),
    (
        r"\w+ finds no \w+ there and learns what (?P<a>\w+) and (?P<b>\w+) had seen\. At whom is \w+ angry\?",
        _lies,
    ),
    (r"Who of (?P<a>\w+) and (?P<b>\w+) means the opposite of these words\?", _saw("break")),
    (r"Who of (?P<a>\w+) and (?P<b>\w+) says so only to be kind\?", _knows_of_the_salt),
    (r"Who of (?P<a>\w+) and (?P<b>\w+) asks as a hint to \w+\?", _hints),
)


def answer(story: str, question: str) -> str | None:
    """The text of the right option."""
    told = scenes(story)
    for pattern, of_words in _ONE:
        if match := re.fullmatch(pattern, question):
            return of_words(told, *match.groups())
    for pattern, holds in _TWO:
        if match := re.fullmatch(pattern, question):
            words = match.groupdict()
            pair = [words.pop("a"), words.pop("b")]
            right = [person for person in pair if holds(told, person, **words)]
            return {0: "neither", 1: f"only {''.join(right)}"}.get(len(right), " and ".join(pair))
    raise AssertionError(question)
