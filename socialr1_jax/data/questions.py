"""Questions put to the simulated minds: the gold text, the tempting wrong texts, and why the gold text is right.

Every gold text is read from a played `World`; a script only says whom and what to ask about.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations

from socialr1_jax.data.scripts import CONTAINERS, OBJECTS, Script, join_names
from socialr1_jax.data.world import Fact, World


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about one played script.

    gold: the right option's text; wrong: texts of wrong options, the most tempting first, none equal to gold or to
    each other. about: the people whose view of the thing's place the trace has to work out; why: what the trace infers
    beyond that; goal: what the question is after.
    """

    text: str
    gold: str
    wrong: tuple[str, ...]
    goal: str
    about: tuple[str, ...] = ()
    why: str = ""


def ask(script: Script, world: World, question_type: str, rng: random.Random) -> Question | None:
    """The question of this type to the played script; None when the mind asked has no answer to it."""
    match question_type:
        case "knowledge":
            return _knowledge(script, world, rng)
        case "intention":
            return _INTENTIONS[script.plot](script, world, rng)
        case "desire":
            return (_gift_desire if script.plot == "gift" else _reach_desire)(script, world, rng)
        case "emotion":
            return _EMOTIONS[script.plot](script, world, rng)
        case "non_literal":
            return _NON_LITERAL[script.plot](script, world)
        case _:
            return _place(script, world, question_type, rng)


def _place(script: Script, world: World, question_type: str, rng: random.Random) -> Question | None:
    """Reality, memory, and belief of the first and second order: each answer is a container."""
    thing, asked, other = script.thing, script.asked, script.other
    fact: Fact = ("place", thing)
    about: tuple[str, ...] = (asked,)
    why = ""
    gold: str | None
    match question_type:
        case "reality":
            gold = world.facts[fact]
            text = f"Where is the {thing} really?"
            goal = f"What counts is the real place of the {thing}, not a view of it. That is the {gold}."
        case "memory":
            gold = world.first_place[thing]
            text = f"Where was the {thing} at first?"
            goal = f"What counts is the start, not the end: the place that the {thing} had first is the {gold}."
        case "belief":
            gold = world.thinks(asked, fact)
            text = f"Where will {asked} look for the {thing} first?"
            goal = f"What counts is the view of {asked}, true or not. To get the {thing}, {asked} goes to the {gold}."
        case "second_order_belief":
            gold = world.thinks_of(other, asked, fact)
            text = f"Where does {other} think that {asked} will look for the {thing}?"
            goal = f"What counts is how {other} sees {asked}. In that view, {asked} goes to the {gold}."
            about = (asked, other)
            why = _second_order_reason(script, world, gold)
        case _:
            raise ValueError(f"no question of type {question_type!r}")
    if gold is None:
        return None
    named = [event.place for event in script.events if event.place]
    tempting = [world.facts[fact], *rng.sample(named, len(named)), *rng.sample(CONTAINERS, len(CONTAINERS))]
    wrong = tuple(dict.fromkeys(place for place in tempting if place != gold))
    return Question(text=text, gold=gold, wrong=wrong, goal=goal, about=about, why=why)


def _second_order_reason(script: Script, world: World, gold: str | None) -> str:
    asked, other = script.asked, script.other
    own = world.thinks(asked, ("place", script.thing))
    if gold != own:
        return f"But {other} has no clue that {asked} found out: to {other}, {asked} has {gold} in mind."
    return f"{other} can tell this: to {other}, {asked} has {gold} in mind."


def _knowledge(script: Script, world: World, rng: random.Random) -> Question:
    """Who knows where the thing is. Wrong options are other groups of people, those off by one person first."""
    fact: Fact = ("place", script.thing)
    knowing = {person for person in script.people if world.knows(person, fact)}
    groups = [set(group) for size in range(len(script.people) + 1) for group in combinations(script.people, size)]
    rng.shuffle(groups)
    groups.sort(key=lambda group: (not group, len(group ^ knowing)))
    gold = _group(script, knowing)
    return Question(
        text=f"Who knows where the {script.thing} is?",
        gold=gold,
        wrong=tuple(_group(script, group) for group in groups if group != knowing),
        goal=f"What counts is who has the real place in mind: {gold}.",
        about=script.people,
    )


def _group(script: Script, group: set[str]) -> str:
    names = [person for person in script.people if person in group]
    return f"only {names[0]}" if len(names) == 1 else join_names(names) or "nobody"


def _wrong(rng: random.Random, gold: str, tempting: list[str], others: list[str]) -> tuple[str, ...]:
    rest = tempting + rng.sample(others, len(others))
    return tuple(dict.fromkeys(text for text in rest if text != gold))


def _next_step(script: Script, world: World, rng: random.Random) -> Question | None:
    """What one does who wants the thing: look where one thinks it is."""
    asked, thing = script.asked, script.thing
    thought = world.thinks(asked, ("place", thing))
    if thought is None:
        return None
    named = [event.place for event in script.events if event.place]
    others = [f"look in the {place}" for place in CONTAINERS if place not in named]
    return Question(
        text=f"What will {asked} do next?",
        gold=f"look in the {thought}",
        wrong=_wrong(rng, f"look in the {thought}", [f"look in the {place}" for place in named], others),
        goal=f"{asked} wants the {thing}, and one goes where one thinks it is: {asked} will look in the {thought}.",
        about=(asked,),
    )


def _why_say(script: Script, world: World, rng: random.Random) -> Question:
    """Why one names a place: to help when one believes it, to fool when one does not."""
    speaker, listener, thing = script.asked, script.other, script.thing
    said = script.event("tell").place
    thought = script.play_until("tell").thinks(speaker, ("place", thing))
    gold, fooled = f"to help {listener}", f"to fool {listener}"
    if thought != said:
        gold, fooled = fooled, gold
    verdict = "so this is meant well" if thought == said else "so this is a lie"
    others = [f"to thank {listener}", f"to make {listener} laugh", f"to get the {said}"]
    return Question(
        text=f"Why does {speaker} say that the {thing} is in the {said}?",
        gold=gold,
        wrong=_wrong(rng, gold, [fooled], others),
        goal=f"The aim behind the words of {speaker} is asked. It is {gold}.",
        about=(speaker,),
        why=f"What {speaker} says is {said}, what {speaker} has in mind is {thought or 'no place'}, {verdict}.",
    )


def _wanted(script: Script, world: World) -> str | None:
    """The one thing that the asked person thinks is in the container gone to; None when it is not one thing."""
    place = script.event("reach").place
    inside = [thing for kind, thing in world.facts if world.thinks(script.asked, (kind, thing)) == place]
    return inside[0] if len(inside) == 1 else None


def _reach_reason(script: Script, world: World) -> str:
    asked, place = script.asked, script.event("reach").place
    views = [f"the {thing} is in the {world.thinks(asked, (kind, thing))}" for kind, thing in world.facts]
    return f"In the mind of {asked}, {' and '.join(views)}. The goal of the walk is the {place}."


def _reach_desire(script: Script, world: World, rng: random.Random) -> Question | None:
    wanted = _wanted(script, world)
    if wanted is None:
        return None
    named = [f"the {event.thing}" for event in script.events if event.thing]
    return Question(
        text=f"What does {script.asked} want?",
        gold=f"the {wanted}",
        wrong=_wrong(rng, f"the {wanted}", named, [f"the {thing}" for thing in OBJECTS]),
        goal=f"People go where the wanted thing seems to be. So {script.asked} wants the {wanted}.",
        why=_reach_reason(script, world),
    )


def _why_reach(script: Script, world: World, rng: random.Random) -> Question | None:
    wanted = _wanted(script, world)
    if wanted is None:
        return None
    named = [f"to get the {event.thing}" for event in script.events if event.thing]
    place = script.event("reach").place
    others = [f"to hide the {place}", f"to please {script.other}"]
    return Question(
        text=f"Why does {script.asked} go to the {place}?",
        gold=f"to get the {wanted}",
        wrong=_wrong(rng, f"to get the {wanted}", named, others),
        goal=f"The reason is what {script.asked} hopes to find there, true or not. It is to get the {wanted}.",
        why=_reach_reason(script, world),
    )


def _gift_reason(script: Script, world: World) -> str:
    giver, wisher = script.asked, script.other
    fact: Fact = ("want", wisher)
    wish, gift = world.facts[fact], world.facts[("gift", wisher)]
    heard = "heard the last wish" if wish == gift else "was away for the last wish and heard only the one before"
    return f"By now {wisher} wants the {wish}. {giver} {heard}, so for {giver} the wish is the {gift}."


def _gift_desire(script: Script, world: World, rng: random.Random) -> Question | None:
    giver, wisher = script.asked, script.other
    gold = f"the {world.facts[('gift', wisher)]}"
    named = [f"the {event.thing}" for event in script.events if event.thing]
    return Question(
        text=f"What does {giver} think that {wisher} wants?",
        gold=gold,
        wrong=_wrong(rng, gold, named, [f"the {thing}" for thing in OBJECTS]),
        goal=f"The view of {giver} is asked, whether it is right or not. In that view {wisher} wants {gold}.",
        why=_gift_reason(script, world),
    )


def _gift_intention(script: Script, world: World, rng: random.Random) -> Question | None:
    giver, wisher = script.asked, script.other
    gold = f"give {wisher} the {world.facts[('gift', wisher)]}"
    named = [f"give {wisher} the {event.thing}" for event in script.events if event.thing]
    return Question(
        text=f"What does {giver} plan to do?",
        gold=gold,
        wrong=_wrong(rng, gold, named, [f"give {wisher} the {thing}" for thing in OBJECTS]),
        goal=f"The plan follows the view of {giver}, right or wrong, and means to please. It is to {gold}.",
        why=_gift_reason(script, world),
    )


def _gift_emotion(script: Script, world: World, rng: random.Random) -> Question:
    wisher = script.other
    glad = world.facts[("want", wisher)] == world.facts[("gift", wisher)]
    gold, reverse = ("happy", "let down") if glad else ("let down", "happy")
    verb = "is" if glad else "is not"
    return Question(
        text=f"How does {wisher} feel when {wisher} sees the gift?",
        gold=gold,
        wrong=_wrong(rng, gold, [reverse], ["afraid", "jealous", "sorry"]),
        goal=f"The feeling hangs on wish and gift. The gift {verb} what {wisher} hoped for, so {wisher} is {gold}.",
        why=_gift_reason(script, world),
    )


def _show_emotion(script: Script, world: World, rng: random.Random) -> Question | None:
    """Surprise is a find that belief did not expect. The belief is the one before the container is opened."""
    asked, thing, opened = script.asked, script.thing, script.event("open")
    thought = script.play_until("open").thinks(asked, ("place", thing))
    if thought is None:
        return None
    gold, reverse = ("calm", "surprised") if thought == opened.place else ("surprised", "calm")
    verdict = "just as" if gold == "calm" else "not at all as"
    return Question(
        text=f"How does {asked} feel when {opened.who} opens the {opened.place}?",
        gold=gold,
        wrong=_wrong(rng, gold, [reverse], ["jealous", "proud", "sorry"]),
        goal=f"The feeling of {asked} at the sight is asked: it follows from view and fact, so {asked} is {gold}.",
        why=(
            f"Before it opens, {asked} has the {thought} in mind. Now {asked} finds the {thing} in the {opened.place}, "
            f"{verdict} {asked} thought."
        ),
    )


def _report_emotion(script: Script, world: World, rng: random.Random) -> Question:
    """Anger at a lie, none at an honest mistake."""
    speaker, listener, thing = script.asked, script.other, script.thing
    said = script.event("tell").place
    thought = script.play_until("tell").thinks(speaker, ("place", thing))
    gold, reverse = ("not angry", "angry") if thought == said else ("angry", "not angry")
    verdict = "so it was an honest mistake" if thought == said else "so it was a lie"
    return Question(
        text=(
            f"{listener} finds no {thing} there and learns what {speaker} had seen. "
            f"How does {listener} feel about {speaker}?"
        ),
        gold=gold,
        wrong=_wrong(rng, gold, [reverse], ["thankful", "jealous", "proud"]),
        goal=f"The feeling of {listener} about {speaker} is asked. One is angry at a lie but not at a mistake: {gold}.",
        about=(speaker,),
        why=f"What {speaker} says is {said}, what {speaker} has in mind is {thought or 'no place'}, {verdict}.",
    )


def _praise_meaning(script: Script, world: World) -> Question:
    speaker, hearer, thing = script.asked, script.other, script.thing
    ironic = world.thinks(speaker, ("state", thing)) == "broken"
    gold, literal = f"{hearer} is careful", f"{hearer} is not careful"
    if ironic:
        gold, literal = literal, gold
    seen = f"saw {hearer} break the {thing}" if ironic else f"did not see {hearer} break the {thing}"
    tone = "the praise is irony and means the reverse" if ironic else "the praise is meant as it is said"
    return Question(
        text=f"What does {speaker} mean?",
        gold=gold,
        wrong=(literal, f"the {thing} is new", f"{hearer} should leave"),
        goal=f"The thought behind the words is asked, as {speaker} has it in mind: {gold}.",
        why=f"{speaker} {seen}, so {tone}.",
    )


def _taste_meaning(script: Script, world: World) -> Question | None:
    guest, cook, food = script.asked, script.other, script.thing
    view = world.thinks(guest, ("taste", food))
    if view is None:
        return None
    gold, reverse = f"the {food} is good", f"the {food} is bad, but {guest} is kind"
    if view == "bad":
        gold, reverse = reverse, gold
    known = f"knows of the salt on the {food}" if view == "bad" else f"knows the {food} only from before the salt"
    tone = f"are a white lie to spare {cook}" if view == "bad" else f"say what {guest} thinks"
    return Question(
        text=f"What does {guest} really think?",
        gold=gold,
        wrong=(reverse, f"the {food} is too small", f"{cook} should leave"),
        goal=f"The true view of {guest} is asked, and not the words alone: {gold}.",
        why=f"{guest} {known}, so the nice words {tone}.",
    )


def _hint_meaning(script: Script, world: World) -> Question | None:
    asked, other, thing = script.asked, script.other, script.thing
    named = script.event("say").place
    knows = world.thinks(asked, ("place", thing)) == named
    gold, reverse = f"please give me the {thing}", f"tell me what is in the {named}"
    if not knows:
        gold, reverse = reverse, gold
    tone = (
        f"{asked} knows what is in there and needs no answer. To ask is a hint to {other}"
        if knows
        else f"{asked} has no idea what is in there. To ask is just to ask {other}"
    )
    return Question(
        text=f"What does {asked} mean?",
        gold=gold,
        wrong=(reverse, f"the {named} is too old", "please leave"),
        goal=f"The wish behind the words is asked, in the mind of {asked}: {gold}.",
        about=(asked,),
        why=f"{tone}.",
    )


_INTENTIONS = {"wish": _next_step, "report": _why_say, "swap": _why_reach, "gift": _gift_intention}
_EMOTIONS = {"show": _show_emotion, "report": _report_emotion, "gift": _gift_emotion}
_NON_LITERAL = {"praise": _praise_meaning, "taste": _taste_meaning, "hint": _hint_meaning}
