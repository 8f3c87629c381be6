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
from socialr1_jax.data.plots import (
    CONTAINERS,
    HELD_OUT_NAMES,
    NAMES,
    OBJECTS,
    PLOTS,
    ROOMS,
    Cast,
    Plot,
    Script,
    variants,
)
from socialr1_jax.data.questions import Question, ask
from socialr1_jax.data.traces import write_trace

ALL_PLOTS = tuple(PLOTS)
ALL_TYPES = tuple(dict.fromkeys(name for plot in PLOTS.values() for name in plot.types))
SPLITS = ("train", "heldout")
_HELD_OUT_PER_OBJECT = 5  # of the 20 names
_FRESH_TRIES = 20


def generate_stories(
    count: int,
    *,
    seed: int,
    split: Literal["train", "heldout"] = "train",
    question_types: Sequence[str] = ALL_TYPES,
    options: int = 4,
    plots: Sequence[str] = ALL_PLOTS,
    hold_out_plots: Sequence[str] = (),
    hold_out_names: bool = False,
    twins: bool = True,
    max_events: int = 7,
) -> list[Example]:
    """`count` questions, the same for the same arguments on every machine.

    question_types, plots: what to draw from, in equal shares. options: 3 or 4 per question. max_events: most sentences
    of a story. hold_out_plots: plots that only the held-out split tells, and the only ones it tells.
    hold_out_names: held-out stories draw their people from names that training never uses. twins: a question whose
    answer hangs on a perception comes in a pair, one after the other, with another answer.

    In every case a name that meets an object in one split never meets it in the other, so the splits share no
    combination of names, objects and places.

    Gold letters are balanced to within one. `meta` has source, type and plot, and for twins `twin_id` (the pair's
    name) and `twin_of` (the other one's id).

    Raises ValueError naming the argument, its value and the allowed values.
    """
    _check("split", split, SPLITS)
    _check("options", options, (3, 4))
    for value in question_types:
        _check("question_types", value, ALL_TYPES)
    for value in plots:
        _check("plots", value, ALL_PLOTS)
    for value in hold_out_plots:
        _check("hold_out_plots", value, tuple(plots))
    if count < 0:
        raise ValueError(f"count is {count}; allowed: 0 or more")
    if split == "heldout" and hold_out_plots:
        told = [name for name in plots if name in hold_out_plots]
    else:
        told = [name for name in plots if name not in hold_out_plots]
    by_type = {
        name: [PLOTS[plot] for plot in told if name in PLOTS[plot].types and PLOTS[plot].sentences <= max_events]
        for name in dict.fromkeys(question_types)
    }
    for name, able in by_type.items():
        if not able:
            raise ValueError(
                f"question_types has {name!r}, which none of the plots left ({', '.join(told) or 'none'}) with at most "
                f"max_events={max_events} sentences can answer"
            )
    if not by_type:
        raise ValueError(f"question_types is empty; allowed: {', '.join(ALL_TYPES)}")

    rng = random.Random(f"socialr1 stories {split} {seed}")
    held_out_pool = hold_out_names and split == "heldout"
    examples: list[Example] = []
    letters: Counter[str] = Counter({letter: 0 for letter in LETTERS[:options]})
    types: Counter[str] = Counter({name: 0 for name in by_type})
    told_before: set[tuple[str, str]] = set()
    while len(examples) < count:
        question_type = _rarest(types, rng)
        for _ in range(_FRESH_TRIES):
            told_now = _draw(rng, by_type[question_type], question_type, split, held_out_pool, max_events)
            if (told_now[0][0].text(), told_now[0][1].text) not in told_before:
                break
        if not twins:
            told_now = [rng.choice(told_now)]
        told_now = told_now[: count - len(examples)]
        told_before.update((script.text(), question.text) for script, question in told_now)
        types[question_type] += len(told_now)
        golds: list[str] = []
        for _ in told_now:
            golds.append(_rarest(letters, rng, golds))
            letters[golds[-1]] += 1
        texts = _arrange([question for _, question in told_now], golds, options, rng)
        ids = [f"stories-{split}-{seed}-{len(examples) + offset:06d}" for offset in range(len(told_now))]
        for position, (script, question) in enumerate(told_now):
            meta = {"source": "stories", "type": question_type, "plot": script.plot}
            if len(told_now) == 2:
                meta |= {"twin_id": f"{ids[0]}-twins", "twin_of": ids[1 - position]}
            examples.append(
                Example(
                    id=ids[position],
                    story=script.text(),
                    question=question.text,
                    options=texts,
                    answer=golds[position],
                    thoughts=write_trace(script, script.play(), question, texts),
                    meta=meta,
                )
            )
    return examples


def _check(argument: str, value: object, allowed: Collection[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} has {value!r}; allowed: {', '.join(map(str, allowed))}")


def _rarest(counts: Counter[str], rng: random.Random, barred: Collection[str] = ()) -> str:
    least = min(count for name, count in counts.items() if name not in barred)
    return rng.choice([name for name, count in counts.items() if count == least and name not in barred])


@cache
def _names_for(thing: str, split: str) -> tuple[str, ...]:
    """The names that may meet the object in this split: a quarter of them, by a stable hash, is held out."""
    ranked = sorted(NAMES, key=lambda name: hashlib.sha256(f"{name}/{thing}".encode()).digest())
    held_out = set(ranked[:_HELD_OUT_PER_OBJECT])
    return tuple(name for name in NAMES if (name in held_out) == (split == "heldout"))


def _draw_cast(rng: random.Random, plot: Plot, split: str, held_out_pool: bool) -> Cast:
    while True:
        objects = rng.sample(OBJECTS, plot.objects)
        pools = [set(HELD_OUT_NAMES if held_out_pool else _names_for(thing, split)) for thing in objects]
        names = sorted(set.intersection(*pools))
        if len(names) >= plot.people:
            break
    return Cast(
        people=tuple(rng.sample(names, plot.people)),
        objects=tuple(objects),
        containers=tuple(rng.sample(CONTAINERS, 4)),
        room=rng.choice(ROOMS),
    )


def _draw(
    rng: random.Random, able: Sequence[Plot], question_type: str, split: str, held_out_pool: bool, max_events: int
) -> list[tuple[Script, Question]]:
    """One question, or two twins with different answers when the type's answer hangs on a perception."""
    while True:
        plot = rng.choice(able)
        script = plot.write(_draw_cast(rng, plot, split, held_out_pool), rng, max_events - plot.sentences)
        question = ask(script, script.play(), question_type, rng)
        if question is None:
            continue
        if question_type in ("reality", "memory"):
            return [(script, question)]
        for variant in variants(script):
            other = ask(variant, variant.play(), question_type, rng)
            if other is not None and other.text == question.text and other.gold != question.gold:
                pair = [(script, question), (variant, other)]
                rng.shuffle(pair)
                return pair


def _arrange(questions: Sequence[Question], golds: Sequence[str], options: int, rng: random.Random) -> tuple[str, ...]:
    """Option texts in letter order, each question's gold at its letter, the rest in random order."""
    placed = {letter: question.gold for letter, question in zip(golds, questions, strict=True)}
    rest = [text for text in dict.fromkeys(questions[0].wrong) if text not in placed.values()]
    rest = rest[: options - len(placed)]
    rng.shuffle(rest)
    return tuple(placed[letter] if letter in placed else rest.pop() for letter in LETTERS[:options])
