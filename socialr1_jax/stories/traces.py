"""Write reference reasoning for a question about simulated minds, in the four stages of social information processing.

Traces of short plots have about 500 characters, nearly the full score of the reward's length window. Wording alternates
within a trace, so that few 16-character grams repeat (the repetition penalty starts at a share of 0.1).
"""

from collections import Counter

from socialr1_jax.data.examples import LETTERS
from socialr1_jax.stories.questions import Question
from socialr1_jax.stories.scripts import Script, join_names
from socialr1_jax.stories.world import Fact, Kind, Witnessed, World


def write_trace(
    script: Script, world: World, question: Question, options: tuple[str, ...], *, egocentric: bool = False
) -> str:
    """Write the four stages, one per line: events and their witnesses, beliefs, the question, and each option.

    An egocentric trace assumes that the person in question knows every step of the thing.
    """
    verdicts = [_weigh(letter, text, question.gold) for letter, text in zip(LETTERS, options, strict=False)]
    lines = (
        f"Encode: {_encode(script, world, question, egocentric)}",
        f"Interpret: {_interpret(script, world, question, egocentric)}",
        f"Goal: {question.goal}",
        f"Respond: {' '.join(verdicts)} So the answer is {LETTERS[options.index(question.gold)]}.",
    )
    return "\n".join(lines)


def _weigh(letter: str, text: str, gold: str) -> str:
    """Return an option, labelled as in the prompt, directly followed by its verdict.

    A small model then only has to match the option with the end of the inference. With the inferred place in between
    ("A. box against bag: no."), a model of a million parameters needs more than twice as many updates.
    """
    return f"{letter}. {text}, {'yes, that is it' if text == gold else 'no, not this one'}."


def _encode(script: Script, world: World, question: Question, egocentric: bool) -> str:
    """Return each event with its witnesses and, after each step of the thing, the belief of the person in question.

    A small model learns this fast: an inference needs only the current clause and the previous one, and most clauses
    end with the last word of the story's sentence, which locates the next one.
    """
    verb = "is" if len(script.start) == 1 else "are"
    clauses = [f"At first {join_names(script.start)} {verb} there."]
    turns: Counter[str] = Counter()
    who = question.about
    views = script.views(who) if who else [None] * len(script.events)
    for seen, view in zip(world.log, views, strict=True):
        clause, place = _retell(script, seen, turns), seen.event.place
        if seen.event.kind in ("put", "move"):
            if not who or seen.event.thing != script.thing:
                state = f"{('now it is in', 'it gets to')[turns[seen.event.kind] % 2]} the {place}"
            elif egocentric or who in seen.seen_by:
                state = f"now {who} thinks {place}"
            else:
                state = f"{who} still thinks {view}, not {place}" if view else f"{who} knows no place, not {place}"
            clause = f"{clause.removesuffix('.')}, so {state}."
        clauses.append(clause)
        turns[seen.event.kind] += 1
    return " ".join(clauses)


# Clauses for each kind of event; several forms alternate.
_CLAUSES: dict[Kind, tuple[str, ...]] = {
    "put": ("{who} puts the {thing} in the {place}, {seen}.",),
    "move": (
        "{who} moves {it} to the {place}, {seen}.",
        "{who} takes {it} on to the {place}, {seen}.",
        "{who} brings {it} over to the {place}, {seen}.",
    ),
    "fill": (
        "By {who}, now the {thing} is in the {place}, {seen}.",
        "By {who}, then the {thing} is in the {place}, {seen}.",
        "By {who}, next the {thing} gets into the {place}, {seen}.",
    ),
    "leave": ("{who} leaves, {stay} in the {room}.", "{who} goes as well, {stay} on."),
    "enter": ("{who} comes in, so {are} in the {room}.", "{who} comes too, so {are} there."),
    "watch": ("{who} looks on from outside.",),
    "listen": ("{who} can hear now but not see.",),
    "look": ("{who} looks into {inside}.",),
    "open": ("{who} opens the {place} for all to see.",),
    "reach": ("{who} walks to the {place}.",),
    "tell": ("{who} tells {to} of the {place}, heard by {hearers}.",),
    "want": (
        "{who} wishes for the {thing}, {heard}.",
        "{who} turns to the {thing}, {heard}.",
        "{who} then likes the {thing}, {heard}.",
    ),
    "bring": ("{who} has a gift for {to}.",),
    "break": ("{who} breaks the {thing}, {seen}.",),
    "spoil": ("{who} gets salt on the {thing}, {seen}.",),
    "taste": ("{who} tries the {thing}.",),
    "say": ("{who} talks to {to} about the {topic}.",),
}


def _retell(script: Script, seen: Witnessed, turns: Counter[str]) -> str:
    """Return a clause for the event, with the people present or the witnesses; wording alternates by kind."""
    event, here, turn = seen.event, join_names(seen.here), turns[seen.event.kind]
    moved = (other.thing for other in script.events if other.kind in ("put", "move"))
    hearers = join_names([person for person in seen.seen_by if person != event.who])
    forms = _CLAUSES[event.kind]
    return forms[turn % len(forms)].format(
        **vars(event),
        room=script.room,
        it="it" if {event.thing, ""}.issuperset(moved) else f"the {event.thing}",
        inside=f"the {event.place}" if event.place else "everything",
        topic=event.thing or event.place,
        seen=_seen_by(seen.seen_by, turn + (event.kind == "move")),
        stay=f"{here or 'nobody'} {'stay' if len(seen.here) > 1 else 'stays'}",
        are=f"{here} {'is' if len(seen.here) == 1 else 'are'}",
        hearers=hearers,
        heard=(f"heard by {hearers}", f"and {hearers} can hear it")[turn % 2] if hearers else "but nobody hears it",
    )


def _seen_by(people: tuple[str, ...], turn: int) -> str:
    names = join_names(people)
    if len(people) == 1:
        return (f"seen by {names} alone", f"with only {names} to see it", f"and just {names} sees")[turn % 3]
    return (f"seen by {names}", f"and {names} can see it", f"before the eyes of {names}")[turn % 3]


def _interpret(script: Script, world: World, question: Question, egocentric: bool) -> str:
    clauses = []
    if question.about:
        clauses.append(f"By now the {script.thing} is in the {world.facts['place', script.thing]}.")
        last = [s for s in world.log if s.event.kind in ("put", "move") and s.event.thing == script.thing][-1]
        clauses.append(_view(script, world, question.about, egocentric or question.about in last.seen_by))
    if question.why:
        clauses.append(question.why)
    return " ".join(clauses)


def _view(script: Script, world: World, person: str, saw: bool) -> str:
    """Return the person's final belief and its source: sight, hearsay, a look, or an earlier belief."""
    fact: Fact = ("place", script.thing)
    place, source = world.thinks(person, fact), world.learned_by(person, fact)
    if saw:
        return f"{person} saw the last step, so for {person} it is in the {place}."
    if place is None or source is None:
        return f"{person} has no idea where it is."
    if source.kind == "tell":
        return f"{person} was away then and takes the word of {source.who}, so for {person} it is in the {place}."
    if source.kind in ("look", "open"):
        return f"{person} was away then but found it there, so {person} knows of the {place}."
    return f"{person} was away by then, so {person} still thinks of the {place}."
