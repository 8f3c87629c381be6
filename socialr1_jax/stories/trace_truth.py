"""Extract the statements of thoughts about a generated story, and check each against the simulated minds.

The forms below are those that `traces.py` writes, and a few that language models use on their own ("Anna thinks that it
is in the box"). A new form of a perception or belief in `traces.py` needs a line here: a test parses the reference
traces of all question types and fails for a sentence without a statement.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from socialr1_jax.data.examples import Example
from socialr1_jax.stories.scripts import Script
from socialr1_jax.stories.world import Chain, Event, Fact, Witnessed, World

Fields = Mapping[str, str]  # placeholder of a form -> matched words
Judge = Callable[["Story", Fields], bool]


@dataclass(frozen=True)
class Statement:
    """A statement as worded in the thoughts, and whether it is true of the story."""

    text: str
    true: bool


@dataclass(frozen=True)
class Story:
    """A generated story with the minds of its people.

    script: its events; world: the world after the last one; answer: the gold letter; size: number of true statements in
    the reference trace.
    """

    script: Script
    world: World
    answer: str
    size: int = 0
    # Cache of the statements by sentence: responses of a group share most sentences.
    read: dict[str, dict[object, Statement]] = field(default_factory=dict, repr=False, compare=False)


def read_story(example: Example) -> Story | None:
    """Return the story of an example of `generate_stories`; None for any other example.

    `meta["script"]` must reproduce the example's story, and the reference thoughts must have a true statement.
    """
    if "script" not in example.meta:
        return None
    try:
        script = Script.from_json(example.meta["script"])
        story = Story(script=script, world=script.play(), answer=example.answer)
        if script.text() != example.story:
            return None
        size = sum(statement.true for statement in read_thoughts(example.thoughts, story))
    except ValueError:
        return None
    return replace(story, size=size) if size else None


def read_thoughts(thoughts: str, story: Story) -> list[Statement]:
    """Return the distinct statements in the thoughts, in order; a paraphrase counts once."""
    statements: dict[object, Statement] = {}
    for sentence in ". ".join(thoughts.splitlines()).split(". "):
        if sentence not in story.read:
            story.read[sentence] = _read_sentence(sentence, story)
        statements |= story.read[sentence]
    return list(statements.values())


def _read_sentence(sentence: str, story: Story) -> dict[object, Statement]:
    """Return the statements by content: judge and fields, independent of the form."""
    statements: dict[object, Statement] = {}
    before = 0  # where the previous word begins
    for word in _WORDS.finditer(sentence):
        for form in _BY_WORD.get(word[0], ()):
            match = form.pattern.match(sentence, before if form.after_a_name else word.start())
            if match is None:
                continue
            fields = {name: value for name, value in match.groupdict().items() if value is not None}
            if _PRONOUNS.isdisjoint(fields.values()):
                key = (form.judge, form.kind, *sorted(fields.items()))
                people = {fields[name] for name in ("who", "other", "third", "to") if name in fields}
                true = people <= set(story.script.people) and form.judge(story, {"kind": form.kind} | fields)
                statements[key] = Statement(match[0], true)
        before = word.start()
    return statements


def share_of_truth(statements: list[Statement], story: Story) -> float:
    """Return the number of true statements over that of all, or of the reference trace if that is larger; 0 to 1.

    False and missing statements lower it; repeating a true statement does not raise it.
    """
    return sum(statement.true for statement in statements) / max(len(statements), story.size)


# -------------------------------------------------------------------------------------------------------- judges


def _events(story: Story, fields: Fields) -> list[Witnessed]:
    """Return the events that match the fields."""

    def fits(event: Event) -> bool:
        about = fields.get("about")
        return (
            event.kind == fields["kind"]
            and all(getattr(event, name) == fields[name] for name in ("who", "thing", "place", "to") if name in fields)
            and about in (None, event.thing, event.place)
        )

    return [seen for seen in story.world.log if fits(seen.event)]


def _happens(story: Story, fields: Fields) -> bool:
    return bool(_events(story, fields))


def _seen_by(story: Story, fields: Fields) -> bool:
    return any(set(seen.seen_by) == _names(fields["names"]) for seen in _events(story, fields))


def _heard_by(story: Story, fields: Fields) -> bool:
    heard = _names(fields["names"])
    return any(set(seen.seen_by) - {seen.event.who} == heard - {seen.event.who} for seen in _events(story, fields))


def _here(story: Story, fields: Fields) -> bool:
    return any(set(seen.here) == _names(fields["names"]) for seen in _events(story, fields))


def _at_first(story: Story, fields: Fields) -> bool:
    return set(story.script.start) == _names(fields["names"])


def _names(text: str) -> set[str]:
    return set(re.findall(r"[A-Z]\w*", text))


# Name of an event in a trace -> its kind.
_NAMED = {"move": "move", "last wish": "want", "break": "break", "spill": "spoil"}


def _saw(story: Story, fields: Fields) -> bool:
    """Return whether the person perceived the named event or, without a name, the last step."""
    script, log = story.script, story.world.log
    kinds = (_NAMED[fields["event"]],) if "event" in fields else ("put", "move")
    steps = [seen for seen in log if seen.event.kind in kinds and seen.event.thing == script.thing]
    steps = steps or [seen for seen in log if seen.event.kind in ("fill", "want")]
    return bool(steps) and fields["who"] in steps[-1].seen_by


def _missed(story: Story, fields: Fields) -> bool:
    return not _saw(story, fields)


def _view(story: Story, fields: Fields) -> bool:
    """Return whether a person, or a chain of two or three, believes that the thing is in this place."""
    chain = tuple(fields[name] for name in ("third", "other", "who") if name in fields)
    place = fields.get("place", "").replace("no place", "")
    return _thought(story, chain, ("place", fields.get("thing", story.script.thing))) == place


def _view_then(story: Story, fields: Fields) -> bool:
    """Return whether a person believes that the thing is in this place right after the event."""
    events, views = _events(story, fields), story.script.views(fields["other"])
    stated = fields["view"].replace("no place", "") or None
    return any(seen in events and view == stated for seen, view in zip(story.world.log, views, strict=True))


def _place_then(story: Story, fields: Fields) -> bool:
    return _happens(story, fields) and fields["place"] == fields["view"]


def _thought(story: Story, chain: Chain, fact: Fact) -> str:
    """Return the value that the chain of people believes the fact has; "" for no belief."""
    return story.world.minds.get(chain, {}).get(fact, "")


def _wants(story: Story, fields: Fields) -> bool:
    return story.world.facts.get(("want", fields["who"])) == fields["thing"]


def _takes_wish(story: Story, fields: Fields) -> bool:
    return _thought(story, (fields["who"],), ("want", story.script.other)) == fields["thing"]


def _is_inside(story: Story, fields: Fields) -> bool:
    facts, thing, place = story.world.facts, fields["thing"], fields["place"]
    return facts.get(("content", place)) == thing or facts.get(("place", thing)) == place


def _was_inside(story: Story, fields: Fields) -> bool:
    return story.world.first_place.get(fields["thing"]) == fields["place"]


def _takes_inside(story: Story, fields: Fields) -> bool:
    """Return whether the person believes that the thing is in the container of the `reach` event."""
    place = next((event.place for event in story.script.events if event.kind == "reach"), "")
    return _thought(story, (fields["who"],), ("content", place)) == fields["thing"]


def _is_right(story: Story, fields: Fields) -> bool:
    return fields["letter"] == story.answer


# --------------------------------------------------------------------------------------------------------- forms

_PLACEHOLDERS = {
    **{word: rf"(?P<{word.lower()}>[A-Z]\w*)" for word in ("WHO", "OTHER", "THIRD", "TO")},
    **{word: rf"(?P<{word.lower()}>\w+)" for word in ("THING", "PLACE", "ABOUT", "VIEW")},
    "NAMES": r"(?P<names>nobody|[A-Z]\w*(?:, [A-Z]\w*)*(?: and [A-Z]\w*)?)",
    "NAME": r"[A-Z]\w*",
    "EVENT": f"(?P<event>{'|'.join(_NAMED)})",
    "LETTER": r"(?P<letter>[A-Z])\b",
}
_PRONOUNS = frozenset(("He", "She", "It", "They", "This", "That", "Who", "it", "there", "here"))
_SAW = ", (?:seen by|with only|and just|and|before the eyes of) NAMES(?: alone| to see it| sees| can see it)?"
_HEARD = ", (?:heard by|and|but) NAMES(?: can hear it| hears it)?"
_THOUGHTS: tuple[tuple[Judge, str], ...] = (
    (_view_then, ", so now OTHER thinks VIEW"),
    (_view_then, ", so OTHER still thinks VIEW"),
    (_view_then, ", so OTHER knows (?P<view>)no place"),
    (_place_then, ", so (?:now it is in|it gets to) the VIEW"),
)
_STAY = r", NAMES stays?\b"

# Events stated together with the people who perceive them or are then in the room: two statements each. After a step of
# the thing, the belief of the person in question makes a third one.
# (kind of event, form of the event, form of the people, judge of the people)
_PERCEIVED: tuple[tuple[str, str, str, Judge], ...] = (
    ("put", "WHO puts the THING in the PLACE", _SAW, _seen_by),
    ("move", "WHO moves (?:it|the THING) to the PLACE", _SAW, _seen_by),
    ("move", "WHO takes (?:it|the THING) on to the PLACE", _SAW, _seen_by),
    ("move", "WHO brings (?:it|the THING) over to the PLACE", _SAW, _seen_by),
    ("fill", "By WHO, (?:now|then) the THING is in the PLACE", _SAW, _seen_by),
    ("fill", "By WHO, next the THING gets into the PLACE", _SAW, _seen_by),
    ("leave", "WHO leaves", _STAY, _here),
    ("leave", "WHO goes as well", _STAY, _here),
    ("enter", "WHO comes (?:in|too)", r", so NAMES (?:is|are) (?:in|there)\b", _here),
    ("tell", "WHO tells TO of the PLACE", _HEARD, _heard_by),
    ("want", "WHO wishes for the THING", _HEARD, _heard_by),
    ("want", "WHO turns to the THING", _HEARD, _heard_by),
    ("want", "WHO then likes the THING", _HEARD, _heard_by),
    ("break", "WHO breaks the THING", _SAW, _seen_by),
    ("spoil", "WHO gets salt on the THING", _SAW, _seen_by),
)
# (kind of event for the judge, judge, form)
_STATED: tuple[tuple[str, Judge, str], ...] = (
    ("watch", _happens, "WHO looks on from outside"),
    ("listen", _happens, "WHO can hear now but not see"),
    ("look", _happens, "WHO looks into the PLACE"),
    ("look", _happens, "WHO looks into (?P<place>)everything"),
    ("open", _happens, "WHO opens the PLACE"),
    ("reach", _happens, "WHO walks to the PLACE"),
    ("bring", _happens, "WHO has a gift for TO"),
    ("taste", _happens, "WHO tries the THING"),
    ("say", _happens, "WHO talks to TO about the ABOUT"),
    ("", _at_first, "At first NAMES (?:is|are) there"),
    ("", _saw, "WHO saw the last step"),
    ("", _saw, "WHO saw it(?=,)"),
    ("", _saw, "WHO heard it(?=,)"),
    ("", _missed, "WHO was away"),
    ("", _view, "for WHO it is in the PLACE"),
    ("", _view, "WHO still thinks of the PLACE"),
    ("", _view, r"WHO knows of the PLACE\b(?! on)"),
    ("", _view, "WHO has no idea where it is"),
    ("", _view, "WHO thinks (?:that )?(?:it|the THING) is (?:still )?in the PLACE"),
    ("", _view, "WHO believes (?:that )?(?:it|the THING) is (?:still )?in the PLACE"),
    ("", _view, "WHO knows (?:that )?(?:it|the THING) is (?:now )?in the PLACE"),
    ("", _view, "to OTHER, WHO has PLACE in mind"),
    ("", _view, r"To OTHER, WHO has (?P<place>no place|\w+) in mind"),
    ("", _view, "as THIRD sees it, to OTHER WHO has PLACE in mind"),
    ("", _wants, "By now WHO wants the THING"),
    ("", _takes_wish, "to WHO the THING is (?:still )?the wish"),
    ("", _is_inside, "By now the THING is in the PLACE"),
    ("", _was_inside, "At first the THING is in the PLACE"),
    ("", _takes_inside, "to WHO the THING is (?:still )?in there"),
    ("", _saw, "WHO was there for the EVENT"),
    ("", _saw, "NAME was there for the EVENT, and WHO was there too"),
    ("", _missed, "NAME was there for the EVENT, but WHO was out"),
    ("", _missed, "WHO was out at the EVENT"),
    ("", _missed, "NAME was out at the EVENT, and WHO was out too"),
    ("", _is_right, "the answer is LETTER"),
)


class _Form(NamedTuple):
    kind: str
    judge: Judge
    pattern: re.Pattern[str]
    after_a_name: bool  # the form begins one word before its index word


def _by_word() -> dict[str, list[_Form]]:
    """Index the forms by their first word that is not a placeholder."""
    stated = [*_STATED]
    for kind, event, people, judge in _PERCEIVED:
        stated += [(kind, _happens, event), (kind, judge, event + people)]
        if kind in ("put", "move"):
            stated += [(kind, judge, event + people + thought) for judge, thought in _THOUGHTS]
    forms: dict[str, list[_Form]] = {}
    for kind, judge, form in stated:
        first, second = re.findall(r"\w+", form)[:2]
        pattern = re.compile(re.sub(r"\b[A-Z]{3,}\b|\bTO\b", lambda word: _PLACEHOLDERS[word[0]], form))
        named = first in _PLACEHOLDERS
        forms.setdefault(second if named else first, []).append(_Form(kind, judge, pattern, named))
    return forms


_WORDS = re.compile(r"\w+")
_BY_WORD = _by_word()
