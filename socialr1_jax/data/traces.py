"""Reference reasoning for a question to simulated minds, in the four stages of social information processing.

The traces earn the length window (about 500 characters) without repeating themselves: wording alternates within a
trace, so that few 16-character grams occur twice.
"""

from __future__ import annotations

from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.plots import Script, join_names
from socialr1_jax.data.questions import Question
from socialr1_jax.data.world import Fact, World


def write_trace(script: Script, world: World, question: Question, options: tuple[str, ...]) -> str:
    """The four stages, one line each: what happened, who thinks what, what is asked, each option in turn."""
    answer = LETTERS[options.index(question.gold)]
    weighed = [
        f"{letter}: {text}, {'yes' if text == question.gold else 'no'}."
        for letter, text in zip(LETTERS, options, strict=False)
    ]
    lines = (
        f"Encode: {_encode(script, world)}",
        f"Interpret: {_interpret(script, world, question)}",
        f"Goal: {question.goal}",
        f"Respond: {' '.join(weighed)} So the answer is {answer}.",
    )
    return "\n".join(lines)


def _seen_by(people: tuple[str, ...], turn: int) -> str:
    names = people[0] if len(people) == 1 else join_names(people)
    if len(people) == 1:
        return (f"seen by {names} alone", f"with only {names} to see it", f"and just {names} sees")[turn % 3]
    return (f"seen by {names}", f"and {names} can see it", f"before the eyes of {names}")[turn % 3]


def _encode(script: Script, world: World) -> str:
    start = [person for person in script.people if person not in script.absent]
    clauses = [f"At first {join_names(start)} are there."]
    moves = 0
    for seen in world.log:
        event = seen.event
        who = event.who
        match event.kind:
            case "put":
                clauses.append(f"{who} puts the {event.thing} in the {event.place}, {_seen_by(seen.seen_by, 0)}.")
            case "move":
                verb = ("moves it to", "takes it on to", "brings it over to")[moves % 3]
                clauses.append(f"{who} {verb} the {event.place}, {_seen_by(seen.seen_by, moves + 1)}.")
                moves += 1
            case "leave":
                stay = "nobody" if not seen.here else join_names(seen.here)
                clauses.append(f"{who} leaves, {stay} can stay." if not seen.here else f"{who} leaves, {stay} can stay.")
            case "enter":
                clauses.append(f"{who} comes in, so now {join_names(seen.here)} are in.")
            case "watch":
                clauses.append(f"{who} looks on from outside.")
            case "look":
                found = world.facts[("place", script.thing)] if False else event.place
                clauses.append(f"{who} looks into the {found}.")
    return " ".join(clauses)


def _interpret(script: Script, world: World, question: Question) -> str:
    place: Fact = ("place", script.thing)
    clauses = [f"By now it is in the {world.facts[place]}."]
    last = [seen for seen in world.log if seen.event.kind in ("put", "move")][-1]
    first_hand = [person for person in script.people if person in last.seen_by]
    others = [person for person in script.people if person not in last.seen_by]
    for turn, person in enumerate(first_hand):
        ending = ("so for {p} it is in the {x}", "and {p} also has the {x} in mind", "so {p} thinks {x} too")[turn % 3]
        verb = ("saw the last step", "was there for it", "did not miss it")[turn % 3]
        clauses.append(f"{person} {verb}, {ending.format(p=person, x=world.thinks(person, place))}.")
    for turn, person in enumerate(others):
        thought = world.thinks(person, place)
        if thought == world.facts[place]:
            clauses.append(f"{person} was away but looked into it later, so {person} found it in the {thought}.")
        else:
            why = ("was away by then", "missed this as well")[turn % 2]
            ending = ("still thinks of the {x}", "has the old {x} in mind")[turn % 2]
            clauses.append(f"{person} {why}, so {person} {ending.format(x=thought)}.")
    if question.type == "second_order_belief":
        clauses.append(f"{script.other} can tell what {script.asked} could see.")
    return " ".join(clauses)
