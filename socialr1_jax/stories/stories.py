"""Generate theory-of-mind stories: questions with gold answers, reasoning traces and adversarial twins.

Gold answers are read from simulated minds (`world.py`). A twin has the same sentences with one perception at another
moment, which changes the answer but not the words. The rank of the answer in order of mention and its letter are
balanced as stories are drawn, so that the rules of `audit.py` are near chance (see `plots.py`).
"""

import random
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple, TypeVar

from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.stories.plots import PLOTS, Draft, Plot, in_fair_order, with_distractors
from socialr1_jax.stories.questions import Question, ask
from socialr1_jax.stories.scripts import CONTAINERS, HELD_OUT_NAMES, NAMES, OBJECTS, ROOMS, Cast, Script, variants
from socialr1_jax.stories.traces import write_trace
from socialr1_jax.stories.world import World

T = TypeVar("T")
ALL_PLOTS = tuple(PLOTS)
ALL_TYPES = tuple(dict.fromkeys(name for plot in PLOTS.values() for name in plot.types))
SPLITS = ("train", "heldout")
Difficulty = Literal["easy", "medium", "hard"]
_WITHOUT_TWINS = ("reality", "memory")  # perceptions do not change the answer
_FRESH_TRIES = 20
_AIMED_TRIES = 40  # most scripts drawn to get an answer of the target rank
_FURTHER_THINGS = 3


class _Level(NamedTuple):
    plots: tuple[str, ...]
    max_events: int
    distractors: int


# Easy: two or three people; medium: all plots but those of third order; hard: all plots.
_EASY = ("leave", "return", "watch", "two_things", "search", "witness")
_LEVELS = {
    "easy": _Level(_EASY, 8, 0),
    "medium": _Level(tuple(name for name in ALL_PLOTS if name != "chain"), 12, 0),
    "hard": _Level(ALL_PLOTS, 20, 6),
}
DIFFICULTIES = tuple(_LEVELS)


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
    difficulty: Difficulty = "medium",
    max_events: int | None = None,
    distractors: int | None = None,
) -> list[Example]:
    """Generate `count` questions; the same arguments give the same result on every machine.

    question_types: types in equal shares; () = all that the plots support. options: 3 or 4 per question, and as many
    values on a path. plots: plots to use; max_events: most sentences in a story; distractors: most irrelevant events.
    () and None take these three from the difficulty (`_LEVELS`). twins: follow each question whose answer depends on a
    perception by its twin, which has the same words and options but another answer. hold_out_plots: plots that only the
    held-out split uses, and the only ones it uses. hold_out_names: held-out stories use names that training never uses.

    The splits never combine the same name and object, so they share no story. Gold letters are balanced to within one,
    and so are the ranks of the answers by type. `meta` has source, type, plot and script (see `Script.from_json`); for
    twins also `twin_id`, shared by the pair, and `twin_of`, the other one's id.

    Raises ValueError naming the argument, its value and the allowed values.
    """
    _check("difficulty", difficulty, DIFFICULTIES)
    level = _LEVELS[difficulty]
    max_events = level.max_events if max_events is None else max_events
    distractors = level.distractors if distractors is None else distractors
    _check("options", options, (3, 4))
    chosen = tuple(dict.fromkeys(plots or level.plots))
    able = _plots_by_type(question_types, chosen, hold_out_plots, split, max_events, options)
    for argument, value in (("count", count), ("distractors", distractors)):
        if value < 0:
            raise ValueError(f"{argument} is {value}; allowed: 0 or more")

    rng = random.Random(f"socialr1 stories {split} {seed}")
    examples: list[Example] = []
    letters: Counter[str] = Counter(dict.fromkeys(LETTERS[:options], 0))
    types: Counter[str] = Counter(dict.fromkeys(able, 0))
    ranks: dict[tuple[str, bool], Counter[int]] = {}  # ranks of the answers by (type, whether the plot is a path)
    used: set[tuple[str, str]] = set()
    while len(examples) < count:
        question_type = _rarest(types, rng)
        for _ in range(_FRESH_TRIES):  # accept a repeated story only after this many tries
            plot = rng.choice(able[question_type])
            of_path = bool(plot.values)
            counts = ranks.setdefault((question_type, of_path), Counter(dict.fromkeys(range(plot.ranks(options)), 0)))
            draft = Draft(
                plot=plot.name,
                cast=_draw_cast(rng, plot, options, split, hold_out_names),
                rng=rng,
                options=options,
                question_type=question_type,
                rank=_rarest(counts, rng),
            )
            drawn = _draw(draft, plot, min(distractors, max_events - plot.sentences(options)), counts)
            if drawn and not any((one.script.text(), one.question.text) in used for one in drawn):
                break
        if not drawn:
            continue
        if not twins:
            drawn = [rng.choice(drawn)]
        drawn = drawn[: count - len(examples)]
        used.update((one.script.text(), one.question.text) for one in drawn)
        types[question_type] += len(drawn)
        counts.update(one.question.rank for one in drawn)
        golds = _gold_letters(letters, len(drawn), rng)
        texts = _arrange([one.question for one in drawn], golds, options, rng)
        ids = [f"stories-{split}-{seed}-{len(examples) + offset:06d}" for offset in range(len(drawn))]
        examples += _examples(drawn, draft, plot.name, ids, texts, golds)
    return examples


def _gold_letters(letters: Counter[str], count: int, rng: random.Random) -> list[str]:
    """Draw `count` different letters, the rarest first, and count them in `letters`."""
    golds: list[str] = []
    for _ in range(count):
        golds.append(_rarest(letters, rng, golds))
        letters[golds[-1]] += 1
    return golds


class _Drawn(NamedTuple):
    script: Script
    world: World
    question: Question


def _examples(
    drawn: Sequence[_Drawn], draft: Draft, plot: str, ids: Sequence[str], options: tuple[str, ...], golds: Sequence[str]
) -> Iterator[Example]:
    """Yield the examples of a question or of a pair of twins."""
    for position, one in enumerate(drawn):
        script = replace(one.script, order=max(2, draft.order))  # simulate at least the second order in every script
        meta = {"source": "stories", "type": draft.question_type, "plot": plot, "script": script.to_json()}
        if len(drawn) == 2:
            meta |= {"twin_id": f"{ids[0]}-twins", "twin_of": ids[1 - position]}
        yield Example(
            id=ids[position],
            story=one.script.text(),
            question=one.question.text,
            options=options,
            answer=golds[position],
            thoughts=write_trace(one.script, one.world, one.question, options),
            meta=meta,
        )


def _plots_by_type(
    question_types: Sequence[str],
    chosen: Sequence[str],
    hold_out_plots: Sequence[str],
    split: str,
    max_events: int,
    options: int,
) -> dict[str, list[Plot]]:
    """Return the plots for each question type, never none. Raises ValueError as `generate_stories` does."""
    _check("split", split, SPLITS)
    for value in question_types:
        _check("question_types", value, ALL_TYPES)
    for value in chosen:
        _check("plots", value, ALL_PLOTS)
    for value in hold_out_plots:
        _check("hold_out_plots", value, chosen)
    if hold_out_plots:
        chosen = tuple(name for name in chosen if (name in hold_out_plots) == (split == "heldout"))
    fitting = [PLOTS[name] for name in chosen if PLOTS[name].sentences(options) <= max_events]
    able = {name: [plot for plot in fitting if name in plot.types] for name in ALL_TYPES}
    able = {name: usable for name, usable in able.items() if usable}
    where = f"plots {', '.join(chosen) or '(none)'} and max_events {max_events}"
    if not able:
        raise ValueError(f"the {split} split has nothing to tell with {where}; allowed: more plots or events")
    for name in question_types:
        if name not in able:
            asked = f"question_types has {name!r}, which the {split} split cannot ask with {where}"
            raise ValueError(f"{asked}; allowed: {', '.join(able)}")
    return {name: able[name] for name in question_types or able}


def _check(argument: str, value: object, allowed: Collection[object]) -> None:
    if value not in allowed:
        raise ValueError(f"{argument} has {value!r}; allowed: {', '.join(map(str, allowed))}")


def _rarest(counts: Counter[T], rng: random.Random, barred: Collection[T] = ()) -> T:
    least = min(count for name, count in counts.items() if name not in barred)
    return rng.choice([name for name, count in counts.items() if count == least and name not in barred])


def _draw_cast(rng: random.Random, plot: Plot, options: int, split: str, hold_out_names: bool) -> Cast:
    """Draw a cast. Training combines names and objects of like halves, the held-out split of unlike ones."""
    half = rng.randrange(2)
    names = NAMES[(half + (split == "heldout")) % 2 :: 2]
    if hold_out_names and split == "heldout":
        names = HELD_OUT_NAMES
    fitting = [thing for thing in OBJECTS[half::2] if thing in plot.things]
    wanted = options if plot.values == "things" else plot.objects
    first = rng.sample(fitting, wanted)
    further = [thing for thing in OBJECTS[half::2] if thing not in first]
    return Cast(
        people=tuple(rng.sample(names, plot.people)),
        objects=(*first, *rng.sample(further, _FURTHER_THINGS)),
        containers=tuple(rng.sample(CONTAINERS, len(CONTAINERS))),
        room=rng.choice(ROOMS),
    )


def _draw(draft: Draft, plot: Plot, distractors: int, ranks: Counter[int]) -> list[_Drawn]:
    """Draw a question, or two twins with different answers if it depends on a perception; [] on failure."""
    rng, question_type = draft.rng, draft.question_type
    for _ in range(_AIMED_TRIES):
        script = with_distractors(plot.write(draft), draft.cast, rng, rng.randint(0, distractors))
        played = script.play()
        question = ask(script, played, question_type)
        if question is not None and question.rank == draft.rank:
            break
    if question is None:
        return []
    if question_type in _WITHOUT_TWINS:
        return [_Drawn(script, played, question)]
    twins: dict[int, _Drawn] = {}
    least = min(count for rank, count in ranks.items() if rank != question.rank)
    for variant, world in variants(script, rng):
        other = ask(variant, world, question_type)
        fits = other is not None and other.text == question.text and other.rank != question.rank
        if other is not None and fits and in_fair_order(variant):
            twins.setdefault(other.rank, _Drawn(variant, world, other))
            if ranks[other.rank] == least:
                break
    if not twins:
        return []
    pair = [_Drawn(script, played, question), twins[min(twins, key=lambda rank: ranks[rank])]]
    rng.shuffle(pair)
    return pair


def _arrange(questions: Sequence[Question], golds: Sequence[str], options: int, rng: random.Random) -> tuple[str, ...]:
    """Return option texts in letter order: each question's gold at its letter, the others in random order."""
    placed = {letter: question.gold for letter, question in zip(golds, questions, strict=True)}
    rest = [text for text in questions[0].wrong if text not in placed.values()]
    rng.shuffle(rest)
    return tuple(placed[letter] if letter in placed else rest.pop() for letter in LETTERS[:options])
