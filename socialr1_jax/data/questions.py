"""Questions put to the simulated minds: the gold text, the tempting wrong texts, and what the question is after."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import combinations

from socialr1_jax.data.plots import CONTAINERS, Script, join_names
from socialr1_jax.data.world import Fact, World


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about one played script.

    gold: the right option's text; wrong: texts of wrong options, the most tempting first, none equal to gold or to
    each other; goal: what the question is after, as the trace says it; subject: the person whose mind is asked, "" for
    a question about facts.
    """

    type: str
    text: str
    gold: str
    wrong: tuple[str, ...]
    goal: str
    subject: str = ""


def ask(script: Script, world: World, question_type: str, rng: random.Random) -> Question | None:
    """The question of this type to the played script; None when the mind asked has no answer to it."""
    thing, asked, other = script.thing, script.asked, script.other
    place: Fact = ("place", thing)
    true_place = world.facts[place]
    match question_type:
        case "reality":
            goal = f"What counts is the real place of the {thing}, not a view of it. That is the {true_place}."
            return _place_question(script, world, "reality", f"Where is the {thing} really?", true_place, goal, rng)
        case "memory":
            first = world.first_place[thing]
            goal = f"What counts is the start, not the end: the place that the {thing} had first is the {first}."
            return _place_question(script, world, "memory", f"Where was the {thing} at first?", first, goal, rng)
        case "belief":
            thought = world.thinks(asked, place)
            text = f"Where will {asked} look for the {thing} first?"
            goal = f"What counts is the view of {asked}, true or not. To get the {thing}, {asked} goes to the {thought}."
            return _place_question(script, world, "belief", text, thought, goal, rng, subject=asked)
        case "second_order_belief":
            thought = world.thinks_of(other, asked, place)
            text = f"Where does {other} think that {asked} will look for the {thing}?"
            goal = f"What counts is the view that {other} has of {asked}. For {other}, {asked} goes to the {thought}."
            return _place_question(script, world, "second_order_belief", text, thought, goal, rng, subject=other)
        case "knowledge":
            return _knowledge(script, world, rng)
        case _:
            return None


def _place_question(
    script: Script,
    world: World,
    question_type: str,
    text: str,
    gold: str | None,
    goal: str,
    rng: random.Random,
    *,
    subject: str = "",
) -> Question | None:
    if gold is None:
        return None
    named = [event.place for event in script.events if event.place]
    tempting = [world.facts[("place", script.thing)], *rng.sample(named, len(named))]
    spare = [place for place in script.cast.containers if place not in named]
    spare += rng.sample(CONTAINERS, len(CONTAINERS))
    wrong = tuple(dict.fromkeys(place for place in tempting + spare if place != gold))
    return Question(type=question_type, text=text, gold=gold, wrong=wrong, goal=goal, subject=subject)


def _knowledge(script: Script, world: World, rng: random.Random) -> Question:
    """Who knows where the thing is. Wrong options are other groups of people, the ones off by one person first."""
    place: Fact = ("place", script.thing)
    knowing = {person for person in script.people if world.knows(person, place)}
    groups = [set(group) for size in range(len(script.people) + 1) for group in combinations(script.people, size)]
    rng.shuffle(groups)
    groups.sort(key=lambda group: (not group, len(group ^ knowing)))
    gold = _group(script, knowing)
    wrong = tuple(_group(script, group) for group in groups if group != knowing)
    text = f"Who knows where the {script.thing} is?"
    goal = f"What counts is who has the real place of the {script.thing} in mind: {gold}."
    return Question(type="knowledge", text=text, gold=gold, wrong=wrong, goal=goal)


def _group(script: Script, group: set[str]) -> str:
    names = [person for person in script.people if person in group]
    return f"only {names[0]}" if len(names) == 1 else join_names(names) or "nobody"
