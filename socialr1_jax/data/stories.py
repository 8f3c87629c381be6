"""Theory-of-mind stories without end: generated questions with gold answers, reasoning traces and adversarial twins.

The gold answer is read from simulated minds (`world.py`), never from a template's position. A twin tells the same
sentences with one perception at another moment, so that the answer changes while the words do not.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Collection, Sequence
from functools import cache
from typing import Literal

from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.data.plots import PLOTS, Plot, with_distractors
from socialr1_jax.data.questions import Question, ask
from socialr1_jax.data.scripts import CONTAINERS, HELD_OUT_NAMES, NAMES, ROOMS, Cast, Script, variants
from socialr1_jax.data.traces import write_trace

ALL_PLOTS = tuple(PLOTS)
ALL_TYPES = tuple(dict.fromkeys(name for plot in PLOTS.values() for name in plot.types))
SPLITS = ("train", "heldout")
_WITHOUT_TWINS = ("reality", "memory")  # no perception changes what is so
_HELD_OUT_PER_OBJECT = 7  # of the 20 names: two objects then still have people in common
_FRESH_TRIES = 20


def generate_stories(
    count: int,
    *,
    seed: int,
    split: Literal["train", "heldout"] = "train",
    question_types: Sequence[str] = (),
    options: int = 4,
    plots: Sequence[str] = (),
    hold_out_plots: Sequence[str] = (),
    hold_out_names: bool = False,
    twins: bool = True,
    max_events: int = 12,
    distractors: int = 0,
) -> list[Example]:
    """`count` questions, the same for the same arguments on every machine.

    question_types: what is asked, in equal shares; () asks all that the plots can answer. plots: what is told; ()
    tells all. options: 3 or 4 a question. max_events: most sentences of a story. distractors: up to so many events
    that matter to nobody.
    twins: a question whose answer hangs on a perception comes with its twin right behind it, which has the same
    words and options and another answer. hold_out_plots: plots that only the held-out split tells, and the only ones
    it tells. hold_out_names: held-out stories draw their people from names that training never uses.

    In every case a name that meets an object in one split never meets it in the other, so the splits share no
    combination of names, objects and places, for any seeds and counts.

    Gold letters are balanced to within one. `meta` has source, type and plot; for twins also `twin_id`, the pair's
    name, and `twin_of`, the other one's id.

    Raises ValueError naming the argument, its value and the allowed values.
    """
    able = _plots_by_type(question_types, plots, hold_out_plots, split, max_events)
    _check("options", options, (3, 4))
    for argument, value in (("count", count), ("distractors", distractors)):
        if value < 0:
            raise ValueError(f"{argument} is {value}; allowed: 0 or more")

    rng = random.Random(f"socialr1 stories {split} {seed}")
    examples: list[Example] = []
    letters: Counter[str] = Counter(dict.fromkeys(LETTERS[:options], 0))
    types: Counter[str] = Counter(dict.fromkeys(able, 0))
    told: set[tuple[str, str]] = set()
    while len(examples) < count:
        question_type = _rarest(types, rng)
        for _ in range(_FRESH_TRIES):  # repeats are taken only where fresh stories have become rare
            plot = rng.choice(able[question_type])
            cast = _draw_cast(rng, plot, split, hold_out_names)
            drawn = _draw(rng, plot, cast, question_type, min(distractors, max_events - plot.sentences))
            if drawn and not any((script.text(), question.text) in told for script, question in drawn):
                break
        if not drawn:
            continue
        if not twins:
            drawn = [rng.choice(drawn)]
        drawn = drawn[: count - len(examples)]
        told.update((script.text(), question.text) for script, question in drawn)
        types[question_type] += len(drawn)
        golds: list[str] = []
        for _ in drawn:
            golds.append(_rarest(letters, rng, golds))
            letters[golds[-1]] += 1
        texts = _arrange([question for _, question in drawn], golds, options, rng)
        ids = [f"stories-{split}-{seed}-{len(examples) + offset:06d}" for offset in range(len(drawn))]
        for position, (script, question) in enumerate(drawn):
            meta = {"source": "stories", "type": question_type, "plot": plot.name}
            if len(drawn) == 2:
                meta |= {"twin_id": f"{ids[0]}-twins", "twin_of": ids[1 - position]}
            example = Example(
                id=ids[position],
                story=script.text(),
                question=question.text,
                options=texts,
                answer=golds[position],
                thoughts=write_trace(script, script.play(), question, texts),
                meta=meta,
            )
            examples.append(example)
    return examples


def _plots_by_type(
    question_types: Sequence[str], plots: Sequence[str], hold_out_plots: Sequence[str], split: str, max_events: int
) -> dict[str, list[Plot]]:
    """The plots to draw from for each question type, none empty. Raises ValueError as `generate_stories` does."""
    _check("split", split, SPLITS)
    for value in question_types:
        _check("question_types", value, ALL_TYPES)
    for value in plots:
        _check("plots", value, ALL_PLOTS)
    chosen = tuple(dict.fromkeys(plots or ALL_PLOTS))
    for value in hold_out_plots:
        _check("hold_out_plots", value, chosen)
    if hold_out_plots:
        chosen = tuple(name for name in chosen if (name in hold_out_plots) == (split == "heldout"))
    fitting = [PLOTS[name] for name in chosen if PLOTS[name].sentences <= max_events]
    able = {name: [plot for plot in fitting if name in plot.types] for name in ALL_TYPES}
    able = {name: found for name, found in able.items() if found}
    where = f"plots {', '.join(chosen) or '(none)'} and max_events {max_events}"
    if not able:
        raise ValueError(f"the {split} split has nothing to tell with {where}; allowed: more plots or events")
    for name in question_types:
        if name not in able:
            raise ValueError(
                f"question_types has {name!r}, which the {split} split cannot ask with {where}; allowed: "
                f"{', '.join(able)}"
            )
    return {name: able[name] for name in question_types or able}


def _check(argument: str, value: object, allowed: Collection[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} has {value!r}; allowed: {', '.join(map(str, allowed))}")


def _rarest(counts: Counter[str], rng: random.Random, barred: Collection[str] = ()) -> str:
    least = min(count for name, count in counts.items() if name not in barred)
    return rng.choice([name for name, count in counts.items() if count == least and name not in barred])


@cache
def _names_for(thing: str, split: str) -> tuple[str, ...]:
    """The names that may meet the object in this split: some, picked by a stable hash, are held out."""
    ranked = sorted(NAMES, key=lambda name: hashlib.sha256(f"{name}/{thing}".encode()).digest())
    held_out = set(ranked[:_HELD_OUT_PER_OBJECT])
    return tuple(name for name in NAMES if (name in held_out) == (split == "heldout"))


def _draw_cast(rng: random.Random, plot: Plot, split: str, hold_out_names: bool) -> Cast:
    while True:
        objects = rng.sample(plot.things, plot.objects)
        pools = [_names_for(thing, split) for thing in objects]
        if hold_out_names and split == "heldout":
            pools = [HELD_OUT_NAMES]
        names = [name for name in pools[0] if all(name in pool for pool in pools)]
        if len(names) >= plot.people:
            break
    return Cast(
        people=tuple(rng.sample(names, plot.people)),
        objects=tuple(objects),
        containers=tuple(rng.sample(CONTAINERS, len(CONTAINERS))),
        room=rng.choice(ROOMS),
    )


def _draw(
    rng: random.Random, plot: Plot, cast: Cast, question_type: str, distractors: int
) -> list[tuple[Script, Question]]:
    """One question, or two twins with different answers when the type's answer hangs on a perception; [] for a miss."""
    script = with_distractors(plot.write(cast, rng), cast, rng, rng.randint(0, distractors))
    if question_type in _WITHOUT_TWINS:
        script = rng.choice([script, *variants(script)])
    question = ask(script, script.play(), question_type, rng)
    if question is None:
        return []
    if question_type in _WITHOUT_TWINS:
        return [(script, question)]
    for variant in variants(script):
        other = ask(variant, variant.play(), question_type, rng)
        if other is not None and other.text == question.text and other.gold != question.gold:
            pair = [(script, question), (variant, other)]
            rng.shuffle(pair)
            return pair
    return []


def _arrange(questions: Sequence[Question], golds: Sequence[str], options: int, rng: random.Random) -> tuple[str, ...]:
    """Option texts in letter order, each question's gold at its letter, the rest in random order."""
    placed = {letter: question.gold for letter, question in zip(golds, questions, strict=True)}
    rest = [text for text in dict.fromkeys(questions[0].wrong) if text not in placed.values()]
    rest = rest[: options - len(placed)]
    rng.shuffle(rest)
    return tuple(placed[letter] if letter in placed else rest.pop() for letter in LETTERS[:options])
