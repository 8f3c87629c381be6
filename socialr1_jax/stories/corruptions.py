"""Make preference pairs without a judge: the reference trace of a generated story, and a corrupted one.

There are five kinds, each with a single fault:

* `wrong_perceiver`: a person saw (or missed) what they missed (or saw) in the story, with all consequences. The
  rejected thoughts are the reference trace of the story's twin: the same words, one perception at another moment.
* `ungrounded_claim`: a name, thing or place that is not in the story, or not at this point, with all consequences. The
  rejected thoughts are the reference trace of the story with two words exchanged.
* `skipped_stage`: a stage is missing, or its heading is followed by empty phrases.
* `loop`: one or two sentences are repeated.
* `option_first`: the answer, or the verdict on every option, is given before any inference.

The first two are consistent traces of another story, so only the story distinguishes them from the chosen one. This is
verified with the simulator, which plays the script in each story's `meta`.

To prevent a length bias, a coin decides which side is longer. Each text has a full form (all options weighed) and a
brief one (only the right option): a loop is offset by a brief form, a missing stage by a full one. So both are needed.
"""

import math
import random
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import combinations, islice, product
from typing import Any, Self

from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.data.pairs import STAGES, Pair
from socialr1_jax.stories.questions import Question, ask
from socialr1_jax.stories.scripts import CONTAINERS, OBJECTS, Script, variants
from socialr1_jax.stories.traces import write_trace
from socialr1_jax.stories.world import Event, Fact, ImpossibleEvent

KINDS = ("wrong_perceiver", "ungrounded_claim", "skipped_stage", "loop", "option_first")
_FALSE = ("wrong_perceiver", "ungrounded_claim")  # false statements; the other kinds have a faulty form
_FALSE_STAGES = ("encode", "interpret")  # the other stages only repeat their results
_WITNESSED = ("put", "move", "fill", "want", "break", "spoil", "tell")  # events whose witnesses the trace names
_CLOSEST = 1.5  # preferred largest ratio of the two lengths
_TRIED = 6  # most candidates for a false statement

Texts = tuple[str, str]  # chosen, rejected


def corruption_pairs(
    examples: Sequence[Example], *, seed: int, kinds: Sequence[str] = KINDS, single_stages: bool = False
) -> list[Pair]:
    """Make one pair of each kind for each example of `generate_stories`, deterministically on every machine.

    A kind that does not fit a story (its twin's answer is not an option) is left out. `seed` draws the form and the
    place of faults. With `single_stages`, false statements are added as pairs of a single stage: encode and interpret,
    if they differ. `meta` has source, kind, story_id, type, plot, and twin_id for twins; keep pairs of one story, and
    of twins, in one split.

    Raises ValueError for an unknown kind, and for an example that is not from `generate_stories`.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kinds has {kind!r}; use some of {', '.join(KINDS)}")
    tellings = [telling_of(example) for example in examples]
    telling_by_id = {example.id: telling for example, telling in zip(examples, tellings, strict=True)}
    people = sorted({person for telling in tellings for person in telling.script.people})
    seen = set().union(*(_combinations(telling.script) for telling in tellings))
    pairs = []
    for example, telling in zip(examples, tellings, strict=True):
        twin = telling_by_id.get(example.meta.get("twin_of", ""))
        for kind in dict.fromkeys(kinds):
            rng = random.Random(f"socialr1 corruption {seed} {example.id} {kind}")
            rejected_longer = rng.random() < 0.5
            match kind:
                case "wrong_perceiver":
                    candidates = _in_both_forms(telling, _misperceived(telling, twin, rng))
                case "ungrounded_claim":
                    candidates = _in_both_forms(telling, _exchanged(telling, people, seen, rng))
                case "skipped_stage":
                    candidates = _skipped(telling, rejected_longer, rng)
                case "loop":
                    candidates = _looped(telling, rejected_longer)
                case _:  # option_first
                    candidates = _option_first(telling)
            different = [texts for texts in candidates if texts[0] != texts[1]]
            chosen_texts = _length_matched(different, rejected_longer, rng)
            if chosen_texts is None:
                continue
            pairs.append(_pair(example, kind, "", chosen_texts))
            if single_stages and kind in _FALSE:
                bodies = [dict(zip(STAGES, _bodies(text), strict=True)) for text in chosen_texts]
                for stage in _FALSE_STAGES:
                    texts = (bodies[0][stage], bodies[1][stage])
                    if texts[0] != texts[1]:
                        pairs.append(_pair(example, kind, stage, texts))
    return pairs


def _pair(example: Example, kind: str, stage: str, texts: Texts) -> Pair:
    known = {name: example.meta[name] for name in ("type", "plot", "twin_id") if name in example.meta}
    return Pair(
        id="-".join(filter(None, (example.id, kind, stage))),
        story=example.story,
        question=example.question,
        chosen=texts[0],
        rejected=texts[1],
        stage=stage,
        meta={"source": "corruptions", "kind": kind, "story_id": example.id, **known},
    )


def _length_matched(candidates: list[Texts], rejected_longer: bool, rng: random.Random) -> Texts | None:
    """Choose a candidate, if possible with the requested longer side and similar lengths; None if there is none."""
    rng.shuffle(candidates)

    def misfit(texts: Texts) -> tuple[bool, bool]:
        chosen, rejected = map(len, texts)
        alike = max(chosen, rejected) <= _CLOSEST * min(chosen, rejected)
        return (chosen == rejected or (rejected > chosen) != rejected_longer), not alike

    return min(candidates, key=misfit, default=None)


# ---------------------------------------------------------------------------------------------- the story behind a text


@dataclass(frozen=True, kw_only=True)
class Telling:
    """The script, question and options from which `generate_stories` made an example."""

    script: Script
    question: Question
    question_type: str
    options: tuple[str, ...]

    @cached_property
    def forms(self) -> Texts:
        """The full and the brief reference trace; the brief one weighs only the right option."""
        trace = write_trace(self.script, self.script.play(), self.question, self.options)
        return trace, _brief(trace, self.letter)

    @property
    def letter(self) -> str:
        """The letter of the right option."""
        return LETTERS[self.options.index(self.question.gold)]

    def with_script(self, script: Script) -> Self | None:
        """Ask the same question about other events; None if its text changes or its answer is not an option."""
        try:
            question = ask(script, script.play(), self.question_type)
        except (ImpossibleEvent, KeyError, StopIteration):  # exchanged people do not fit the roles of the plot
            return None
        if question is None or question.text != self.question.text or question.gold not in self.options:
            return None
        return replace(self, script=script, question=question)


def telling_of(example: Example) -> Telling:
    """Return the script and question of an example of `generate_stories`.

    Raises ValueError if `meta["script"]` is missing, or does not exactly reproduce the example's story, question,
    answer and thoughts.
    """
    try:
        script = Script.from_json(example.meta["script"])
        question = ask(script, script.play(), example.meta["type"])
        if question is not None and question.gold in example.options:
            question_type = example.meta["type"]
            telling = Telling(script=script, question=question, question_type=question_type, options=example.options)
            texts = (example.story, example.question, example.answer, example.thoughts)
            if texts == (script.text(), question.text, telling.letter, telling.forms[0]):
                return telling
    except (ValueError, KeyError, IndexError, StopIteration):
        pass
    other = "its story and thoughts are not those of generate_stories; give generated stories alone"
    raise ValueError(f"example {example.id}: {other}")


def egocentric(example: Example) -> Example:
    """Return the example with a young child's thoughts and answer: everybody knows where the thing is.

    Questions that are not about a belief on a place are unchanged. Raises ValueError as `telling_of` does.
    """
    telling = telling_of(example)
    if not telling.question.about:
        return example
    world = replace(telling.script).play()  # of a copy: `play` keeps its world, and this one is modified
    for chain in world.minds:
        if chain[-1] == telling.question.about:
            world.minds[chain] = world.facts
    question = ask(telling.script, world, telling.question_type)
    if question is None:
        return example
    thoughts = write_trace(telling.script, world, question, telling.options, egocentric=True)
    return replace(example, answer=LETTERS[telling.options.index(question.gold)], thoughts=thoughts)


# ------------------------------------------------------------------------------------------ false statements: two kinds


def _in_both_forms(telling: Telling, others: Iterator[Telling]) -> Iterator[Texts]:
    return (texts for other in islice(others, _TRIED) for texts in zip(telling.forms, other.forms, strict=True))


def _misperceived(telling: Telling, twin: Telling | None, rng: random.Random) -> Iterator[Telling]:
    """Yield the twin if there is one, else the tellings with a perception moved."""
    moved = [] if twin else [variant for variant, _ in variants(telling.script, rng)]
    for other in [twin] if twin else map(telling.with_script, moved):
        if other is not None and _perceived(other) != _perceived(telling):
            yield other


def _perceived(telling: Telling) -> list[object]:
    """Return the perceptions in a trace: the witnesses of each event, the final belief, and the answer."""
    world = telling.script.play()
    fact: Fact = ("place", telling.script.thing)
    witnesses = [(entry.event, frozenset(entry.seen_by)) for entry in world.log if entry.event.kind in _WITNESSED]
    belief = world.thinks(telling.question.about, fact) if telling.question.about else None
    return [*witnesses, belief, telling.question.gold]


def _combinations(script: Script) -> set[tuple[str, str]]:
    """Return each thing of the story with its plot, and with each of its people."""
    things = {event.thing for event in script.events if event.thing}
    return set(product((script.plot, *script.people), things))


def _exchanged(
    telling: Telling, people: Sequence[str], seen: Collection[tuple[str, str]], rng: random.Random
) -> Iterator[Telling]:
    """Yield the tellings with two words of one kind exchanged, at least one of them from the story, in random order.

    The options must name both words or neither, and all `_combinations` must occur in the stories; otherwise the
    exchange would show without the story.
    """
    script = telling.script
    words_of_story = " ".join((*script.people, *(f"{e.thing} {e.place}" for e in script.events)))
    named, offered = set(words_of_story.split()), set(re.findall(r"\w+", " ".join(telling.options)))
    pairs = [pair for words in (CONTAINERS, OBJECTS, people) for pair in combinations(words, 2)]
    pairs = [pair for pair in pairs if not named.isdisjoint(pair) and (pair[0] in offered) == (pair[1] in offered)]
    rng.shuffle(pairs)
    for pair in pairs:
        swap = {pair[0]: pair[1], pair[1]: pair[0]}
        if set(pair) <= set(script.people):  # exchange only the events, not the roles
            other = replace(script, events=_renamed(script.events, swap))
        else:
            other = _renamed(script, swap)
        exchanged = telling.with_script(other) if _combinations(other).issubset(seen) else None
        # The same events in another order are no false statement.
        if exchanged is not None and set(other.events) != set(script.events):
            yield exchanged


def _renamed(value: Any, swap: Mapping[str, str]) -> Any:
    """Return a text, a tuple, an event or a script with words exchanged."""
    if isinstance(value, str):
        return re.sub(r"\w+", lambda word: swap.get(word[0], word[0]), value)
    if isinstance(value, tuple):
        return tuple(_renamed(part, swap) for part in value)
    if isinstance(value, Event | Script):
        return replace(value, **{field.name: _renamed(getattr(value, field.name), swap) for field in fields(value)})
    return value


# ------------------------------------------------------------------------------------------ faulty form: three kinds

_HEADINGS = [f"{stage.capitalize()}: " for stage in STAGES]
# Empty phrases for each stage, without content from the story.
_EMPTY = (
    (
        "The facts of the story are read first.",
        "Each cue is important and is noted.",
        "What happened in the story is read with all its details.",
        "Nothing of it is left out here.",
    ),
    (
        "The people have thoughts of their own about this.",
        "Each of them knows some of it and thinks something.",
        "It is about what goes on in the mind of each.",
        "From the cues one can tell what they mean to everyone.",
    ),
    ("There is a question.", "It wants an answer, and that is the task here.", "That is what one needs to find out."),
    ("Each of the options is looked at.", "One of them is best.", "That one is chosen, and no other."),
)
_REPEATS = (3, 4, 5)  # repetitions of a sentence; two alternating sentences are repeated half as often
_CONCLUSION = " So the answer"


def _bodies(trace: str) -> list[str]:
    """Return the text of the four stages without their headings."""
    lines = trace.split("\n")
    return [line.removeprefix(heading) for line, heading in zip(lines, _HEADINGS, strict=True)]


def _written(bodies: Sequence[str], order: Sequence[int] = range(4)) -> str:
    return "\n".join(_HEADINGS[stage] + bodies[stage] for stage in order)


def _brief(trace: str, letter: str) -> str:
    *before, respond = _bodies(trace)
    *weighed, conclusion = re.split(r" (?=[B-Z]\. |So the answer)", respond)
    return _written([*before, f"{next(w for w in weighed if w.startswith(f'{letter}. '))} {conclusion}"])


def _skipped(telling: Telling, rejected_longer: bool, rng: random.Random) -> Iterator[Texts]:
    full, brief = telling.forms
    # Without a stage the rejected text is longer only if it is made from the full form and the chosen one is brief.
    for chosen, base in [(brief, full)] if rejected_longer else [(full, full), (brief, brief)]:
        bodies = _bodies(base)
        for stage, empty in enumerate(_EMPTY):
            yield chosen, _written(bodies, [other for other in range(4) if other != stage])
            words = " ".join(sorted(rng.sample(empty, rng.randint(1, len(empty))), key=empty.index))
            yield chosen, _written([*bodies[:stage], words, *bodies[stage + 1 :]])


def _looped(telling: Telling, rejected_longer: bool) -> Iterator[Texts]:
    full, brief = telling.forms
    # With a loop it is longer, unless it is made from the brief form and the chosen one is full.
    for chosen, base in [(full, full), (brief, brief)] if rejected_longer else [(full, brief)]:
        bodies = _bodies(base)
        for stage in (0, 1):
            sentences = re.split(r"(?<=[.?!]) ", bodies[stage])
            for start, size, times in product(range(len(sentences)), (1, 2), _REPEATS):
                end = min(start + size, len(sentences))
                again = sentences[start:end] * math.ceil(times / (end - start))
                looped = " ".join([*sentences[:end], *again, *sentences[end:]])
                yield chosen, _written([*bodies[:stage], looped, *bodies[stage + 1 :]])
        conclusion = bodies[3][bodies[3].rindex(_CONCLUSION) :]  # a short sentence, in case all others are long
        yield from ((chosen, _written([*bodies[:3], bodies[3] + conclusion * times])) for times in _REPEATS)


def _option_first(telling: Telling) -> Iterator[Texts]:
    letter = telling.letter
    announced = (f"It is {letter}.", f"The answer is {letter}.", f"Option {letter} is right, and here is why.")
    for base in telling.forms:
        bodies = _bodies(base)
        for stage, words in product((0, 1), announced):
            early = [*bodies[:stage], f"{words} {bodies[stage]}", *bodies[stage + 1 :]]
            yield base, _written(early)
            yield base, _written([*early[:3], bodies[3][: bodies[3].index(_CONCLUSION)]])
        yield from ((base, _written(bodies, order)) for order in ((3, 0, 1, 2), (0, 3, 1, 2)))
