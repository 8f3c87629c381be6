"""Ask questions about the simulated minds: gold answer, wrong answers and explanation.

Gold answers are read from a played `World`; a script only determines the person and the topic. Wrong answers are from
the story: other values of the fact in question, or other groups of the two people.
"""

from dataclasses import dataclass
from typing import NamedTuple

from socialr1_jax.stories.plots import MISSED_MATTERS
from socialr1_jax.stories.scripts import Script
from socialr1_jax.stories.world import Fact, World


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question about one played script.

    gold: text of the right option; wrong: texts of all other options; rank: index of the right answer among all, in
    order of mention in the story, or in the order neither, the first, the second, both. about: the person whose belief
    about the thing's place the trace derives, or ""; why: further inferences of the trace; goal: aim of the question.
    """

    text: str
    gold: str
    wrong: tuple[str, ...]
    rank: int
    goal: str
    about: str = ""
    why: str = ""


def ask(script: Script, world: World, question_type: str) -> Question | None:
    """Build the question of this type about the played script; None if the person has no belief about it.

    Raises KeyError for a type that the script's plot does not support.
    """
    if not script.values:
        return _who(script, world, _WITNESSES[script.plot, question_type])
    match script.plot:
        case "gift":
            return _wish(script, world, question_type)
        case "swap":
            return _reach(script, world, question_type)
        case _:
            return _place(script, world, question_type)


def _valued(
    script: Script, value: str | None, form: str, *, text: str, goal: str, about: str = "", why: str = ""
) -> Question | None:
    """Build a question whose options are the script's values, formatted by `form`. `goal` gets the gold text."""
    if value not in script.values:
        return None
    gold = form.format(value)
    wrong = tuple(form.format(other) for other in script.values if other != value)
    rank = script.values.index(value)
    return Question(text=text, gold=gold, wrong=wrong, rank=rank, goal=goal.format(gold), about=about, why=why)


def _place(script: Script, world: World, question_type: str) -> Question | None:
    """Build a question on reality, memory, belief of any order, or a person's next step; options are containers."""
    thing, asked, other, third = script.thing, script.asked, script.other, script.third
    fact: Fact = ("place", thing)
    form, about, why = "{}", asked, ""
    match question_type:
        case "reality":
            value: str | None = world.facts[fact]
            text = f"Where is the {thing} really?"
            goal = f"What counts is the real place of the {thing}, not a view of it. That is the {{}}."
            about, why = "", f"By now the {thing} is in the {value}, and that is so for whoever looks."
        case "memory":
            value = world.first_place[thing]
            text = f"Where was the {thing} at first?"
            goal = f"What counts is the start, not the end: the place that the {thing} had first is the {{}}."
            about, why = "", f"At first the {thing} is in the {value}, and only later in any other place."
        case "belief":
            value = world.thinks(asked, fact)
            text = f"Where will {asked} look for the {thing} first?"
            goal = f"What counts is the view of {asked}, true or not. To get the {thing}, {asked} goes to the {{}}."
        case "intention" if script.plot == "wish":
            value, form = world.thinks(asked, fact), "look in the {}"
            text = f"What will {asked} do next?"
            goal = f"{asked} wants the {thing}, and one goes where one thinks it is: {asked} will {{}}."
        case "second_order_belief":
            value = world.thinks_of(other, asked, fact)
            text = f"Where does {other} think that {asked} will look for the {thing}?"
            goal = f"What counts is how {other} sees {asked}. In that view, {asked} goes to the {{}}."
            if value != world.thinks(asked, fact):
                why = f"But {other} does not know what {asked} found out: to {other}, {asked} has {value} in mind."
            else:
                why = f"{other} can tell this: to {other}, {asked} has {value} in mind."
        case "third_order_belief":
            value = world.minds[third, other, asked].get(fact)
            text = f"Where does {third} think that {other} thinks that {asked} will look for the {thing}?"
            goal = f"What counts is how {third} sees the view that {other} has of {asked}. That view is the {{}}."
            outer = world.thinks_of(third, asked, fact)
            why = (
                f"To {third}, {asked} has {outer or 'no place'} in mind. "
                f"And as {third} sees it, to {other} {asked} has {value} in mind."
            )
        case _:
            raise KeyError(question_type)
    return _valued(script, value, form, text=text, goal=goal, about=about, why=why)


def _reach(script: Script, world: World, question_type: str) -> Question | None:
    """Build a question on why a person goes to a container: for the thing that they think is in it."""
    asked, place = script.asked, script.event("reach").place
    fact: Fact = ("content", place)
    value = world.thinks(asked, fact)
    why = f"By now the {world.facts[fact]} is in the {place}. " + _late(script, world, fact, "saw it", "in there")
    if question_type == "desire":
        goal = f"People go where the wanted thing seems to be. So {asked} wants {{}}."
        return _valued(script, value, "the {}", text=f"What does {asked} want?", goal=goal, why=why)
    text = f"Why does {asked} go to the {place}?"
    goal = f"The reason is what {asked} hopes to find there, true or not. It is {{}}."
    return _valued(script, value, "to get the {}", text=text, goal=goal, why=why)


def _wish(script: Script, world: World, question_type: str) -> Question | None:
    """Build a question on a gift, which follows the last wish that the giver heard."""
    giver, wisher = script.asked, script.other
    fact: Fact = ("want", wisher)
    value = world.thinks(giver, fact)
    why = f"By now {wisher} wants the {world.facts[fact]}. " + _late(script, world, fact, "heard it", "the wish")
    if question_type == "desire":
        text = f"What does {giver} think that {wisher} wants?"
        goal = f"The view of {giver} is asked for, right or not. In that view {wisher} wants {{}}."
        return _valued(script, value, "the {}", text=text, goal=goal, why=why)
    goal = f"The plan follows the view of {giver}, right or wrong, and means to please. It is to {{}}."
    form = f"give {wisher} the {{}}"
    return _valued(script, value, form, text=f"What does {giver} plan to do?", goal=goal, why=why)


def _late(script: Script, world: World, fact: Fact, perceived: str, state: str) -> str:
    asked = script.asked
    value = world.thinks(asked, fact)
    if value == world.facts[fact]:
        return f"{asked} {perceived}, so to {asked} the {value} is {state}."
    return f"{asked} was away by then, so to {asked} the {value} is still {state}."


class _Who(NamedTuple):
    """A question about two witnesses: its text, the event that they saw or missed, the inference, and the fact.

    The fact is about the script's thing; for a wish, it is about the recipient of the last event.
    """

    text: str
    event: str
    rule: str
    fact: str = "place"


_WITNESSES = {
    ("witness", "knowledge"): _Who(
        "Who of {a} and {b} knows where the {thing} is?", "move", "Whoever was there knows the place"
    ),
    ("show", "emotion"): _Who(
        "Who of {a} and {b} is surprised when {who} opens the {place}?",
        "move",
        "Whoever was out is surprised to see it",
    ),
    ("gifts", "emotion"): _Who(
        "Whose gift makes {to} happy, that of {a} or {b}?",
        "last wish",
        "Whoever was there brings the right thing",
        "want",
    ),
    ("report", "intention"): _Who(
        "Who of {a} and {b} means to fool {to}?", "move", "Whoever was there knows better, and it is a lie"
    ),
    ("report", "emotion"): _Who(
        "{to} finds no {thing} there and learns what {a} and {b} had seen. At whom is {to} angry?",
        "move",
        "Whoever was there has lied, and the rest is a mistake",
    ),
    ("praise", "non_literal"): _Who(
        "Who of {a} and {b} means the opposite of these words?",
        "break",
        "Whoever was there knows better, and it is irony",
        "state",
    ),
    ("taste", "non_literal"): _Who(
        "Who of {a} and {b} says so only to be kind?",
        "spill",
        "Whoever was there knows of the salt, and it is a white lie",
        "taste",
    ),
    ("hint", "non_literal"): _Who(
        "Who of {a} and {b} asks as a hint to {to}?",
        "move",
        "Whoever was there knows what is in it, and needs no answer",
    ),
}


def _who(script: Script, world: World, kind: _Who) -> Question:
    """Build a question on which of two people know, or do not know, a fact: neither, one or both."""
    pair = (script.asked, script.other)
    closing = script.events[-1]
    fact: Fact = (kind.fact, closing.to if kind.fact == "want" else script.thing)
    before = script.play_until("open") if script.plot == "show" else world
    saw = [before.knows(person, fact) for person in pair]
    answer = [seen != (script.plot in MISSED_MATTERS) for seen in saw]
    rank = answer[0] + 2 * answer[1]
    a, b = pair
    texts = ("neither", f"only {a}", f"only {b}", f"{a} and {b}")
    if saw[0] == saw[1]:
        a_was, b_was = ("was there for", "was there") if saw[0] else ("was out at", "was out")
        why = f"{a} {a_was} the {kind.event}, and {b} {b_was} too."
    else:
        seeing, missing = pair if saw[0] else (b, a)
        why = f"{seeing} was there for the {kind.event}, but {missing} was out."
    words = {"a": a, "b": b, "thing": script.thing, "place": closing.place, "who": closing.who, "to": closing.to}
    return Question(
        text=kind.text.format(**words),
        gold=texts[rank],
        wrong=tuple(text for text in texts if text != texts[rank]),
        rank=rank,
        goal=f"{kind.rule}. What is asked for is who of {a} and {b} that is: {texts[rank]}.",
        why=why,
    )
