"""SimpleToM: does a character know, what will they do, and was that reasonable? Three questions per story.

Official rules as of yulinggu-cs/SimpleToM @ 0f054a7: the direct prompt, options in file order, 20 tokens, accuracy of
each type. All types have 1,147 questions, so their mean `ours/mean` is also the overall accuracy. `all_three` is
the share of stories with all three answers right; `na_frac` is the share of replies without an answer, also by type.

In every story the character does not know, and the gold texts are always "No", the uninformed act and "Reasonable": a
policy of "no character knows" scores 1. As a control, two sets ask the same three kinds of questions about stories of
our generator (stories/stories.py): in `ours/aware` the character knows, and every gold text is the opposite; in
`ours/unaware` the same sentences are in another order, and the character does not know.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.metrics import Graded, Metric, by_group, figures_by_type, item_mean, prefixed
from socialr1_jax.evaluation.request import Request, Wording, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Hub, Remark, Task, ways
from socialr1_jax.evaluation.tasks.reading import Reading, field, text, texts
from socialr1_jax.stories.plots import PLOTS, Draft
from socialr1_jax.stories.questions import ask
from socialr1_jax.stories.scripts import CONTAINERS, HELD_OUT_NAMES, OBJECTS, ROOMS, Cast, Script, variants

TYPES = {"mental_state": "aware", "behavior": "action", "judgment": "judge"}  # our name -> suffix of the id
CONTROL_STORIES = 100

_FILES = {"mental_state": "mental-state-qa", "behavior": "behavior-qa", "judgment": "judgment-qa"}
_WHOLE = 1147
_CONTROLS = ("aware", "unaware")
_NEW_TOKENS, _COT_TOKENS = 20, 500
_LABELS = ["A", "B"]
_KNOWN_LETTERS = "ABCD"  # searched by the official parser, even with two options
_THE_WORD = re.compile(r"answer:?", re.IGNORECASE)
_BEFORE_ANSWER = re.compile(r"\A.*the answer is:?", re.IGNORECASE | re.DOTALL)
_OWN = Wording(
    {
        "system": "You answer questions about short stories.",
        "user": "Read the story, then choose the answer to its question: {labels}.\n\n"
        "Story:\n{story}\n\nQuestion: {question}\n\n{final}",
        "final": 'Your whole reply is "(A)" or "(B)".',
        "final_cot": "Think step by step and explain your reasoning first. End with "
        '"Therefore, the answer is: (A)" or "(B)".',
    }
)


def load(folder: Path) -> Data:
    """Load the files' rows and our controls, each with its `set`, `type` and `story_id`. Raises BenchmarkError."""
    by_story: dict[str, list[dict[str, Any]]] = {}
    reading = Reading(folder)
    for kind, name in _FILES.items():
        rows = reading.rows(reading.find("test.jsonl", under=name, prefix=f"{name}/"))
        for where, row in rows:
            story_id = _story_id(row, kind, where)
            reading.once((kind, story_id), f"{where}: the id {row['id']!r} occurs twice")
            by_story.setdefault(story_id, []).append({"set": "simpletom", "type": kind, "story_id": story_id, **row})
        reading.count(len(rows), _WHOLE, "questions", name)
    items = [row for story in by_story.values() for row in story]
    about_controls = Remark(
        f"ours/aware and ours/unaware are {CONTROL_STORIES} generated stories each, no part of SimpleToM: in the first "
        "the character knows, which is never so in SimpleToM"
    )
    data = reading.data([*items, *_controls()])
    return replace(data, remarks=(*data.remarks, about_controls))


def _story_id(row: Any, kind: str, where: str) -> str:
    story_id, _, end = text(row, "id", where).rpartition("_")
    if end != TYPES[kind] or not story_id:
        raise BenchmarkError(f"{where}: the id {row['id']!r} does not end in _{TYPES[kind]}")
    for name in ("story", "question"):
        text(row, name, where)
    choices = field(row, "choices", Mapping, where)
    options = texts(choices, "text", where)
    if texts(choices, "label", where) != _LABELS or len(options) != len(_LABELS) or not all(options):
        raise BenchmarkError(f"{where}: the choices are not two texts labelled A and B: {dict(choices)}")
    if text(row, "answerKey", where) not in _LABELS:
        raise BenchmarkError(f"{where}: the answerKey is {row['answerKey']!r}, neither A nor B")
    return story_id


def _controls() -> Iterator[dict[str, Any]]:
    """Yield three questions on each of two stories: a character wants a thing and saw its move, or missed it.

    The characters' names never occur in generated training stories.
    """
    rng = random.Random("simpletom controls")
    for number in range(CONTROL_STORIES):
        cast = Cast(
            people=tuple(rng.sample(HELD_OUT_NAMES, 2)),
            objects=(rng.choice(OBJECTS),),
            containers=tuple(rng.sample(CONTAINERS, len(CONTAINERS))),
            room=rng.choice(ROOMS),
        )
        draft = Draft(plot="wish", cast=cast, rng=rng, options=2, question_type="intention", rank=0)
        while _knows(missed := PLOTS["wish"].write(draft)):
            pass
        saw = next(script for script, _ in variants(missed, rng) if _knows(script))
        swapped = [rng.random() < 0.5 for _ in TYPES]
        for name, script in zip(_CONTROLS, (saw, missed), strict=True):
            yield from _questions(script, f"{name}-{number}", name, swapped, rng)


def _knows(script: Script) -> bool:
    return script.play().knows(script.asked, ("place", script.thing))


def _questions(
    script: Script, story_id: str, name: str, swapped: Sequence[bool], rng: random.Random
) -> Iterator[dict[str, Any]]:
    """Yield rows in SimpleToM's format; the judged act is the uninformed one. `swapped`: swap the options, by type."""
    world, who = script.play(), script.asked
    real, naive = world.facts["place", script.thing], world.first_place[script.thing]
    next_step = ask(script, world, "intention")
    assert next_step is not None
    knows, acts = _knows(script), (f"look in the {real}", f"look in the {naive}")
    by_type = {
        "mental_state": (
            f'Is {who} likely to be aware that "The {script.thing} is in the {real}."?',
            ("Yes", "No"),
            "Yes" if knows else "No",
        ),
        "behavior": (f"What will {who} likely do next?", acts, next_step.gold),
        "judgment": (
            f'Next, {who} "{acts[1]}" and not "{acts[0]}". The behavior of {who} can be best described as: ',
            ("Reasonable", "Not reasonable"),
            "Not reasonable" if knows else "Reasonable",
        ),
    }
    for (kind, (question, options, gold)), swap in zip(by_type.items(), swapped, strict=True):
        listed = [*options[::-1]] if swap else [*options]
        yield {
            "set": name,
            "type": kind,
            "story_id": story_id,
            "id": f"{story_id}_{TYPES[kind]}",
            "story": script.text(),
            "question": question,
            "choices": {"text": listed, "label": _LABELS},
            "answerKey": _LABELS[listed.index(gold)],
        }


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Return the prompts story by story, three questions each, then our controls; the seed is not used."""
    return [_request(item, protocol, data.wording) for item in data.items]


def _request(item: Mapping[str, Any], protocol: ProtocolName, wording: Wording | None) -> Request:
    about = {"id": item["id"], "item": item["story_id"], "gold": item["answerKey"]}
    about["meta"] = {"set": item["set"], "type": item["type"]}
    if protocol == "social_r1":
        question, options = item["question"].strip(), item["choices"]["text"]
        return card_request(story=item["story"], question=question, options=options, **about)
    cot = protocol == "official_cot"
    labels = [f"({letter})" for letter in _LABELS]
    listed = [f"{label} {option}" for label, option in zip(labels, item["choices"]["text"], strict=True)]
    prompts = wording or _OWN
    user = prompts.text(
        "user",
        labels=" or ".join(labels),
        story=item["story"],
        before="",
        question=(" \n" if wording else "\n").join([item["question"], *listed]),
        final=prompts.text("final_cot" if cot else "final"),
        quoted_labels=" or ".join(f'"{label}"' for label in labels),
    )
    messages = chat(user, prompts.text("system"))
    return Request(messages=messages, max_new_tokens=_COT_TOKENS if cot else _NEW_TOKENS, **about)


def read(request: Request, protocol: ProtocolName, reply: str) -> str:
    """Return the letter; "" if the official parser finds no answer, two, or a letter that is not an option.

    The word "answer" is removed first; in `official_cot` everything up to the last "the answer is".
    """
    letter = _letter((_BEFORE_ANSWER if protocol == "official_cot" else _THE_WORD).sub("", reply))
    return letter if letter in _LABELS else ""


def _letter(said: str) -> str:
    """Return the alphabetically first letter written (A), else the only one written (A, else the only capital or ""."""
    if whole := [letter for letter in _KNOWN_LETTERS if f"({letter})" in said]:
        return whole[0]
    for shape in ("({}", "{}"):
        if letters := [letter for letter in _KNOWN_LETTERS if shape.format(letter) in said]:
            return letters[0] if len(letters) == 1 else ""
    return ""


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return accuracy over SimpleToM's questions, by type, and of stories; then the same for our controls."""
    sets = by_group(graded, "set")
    real = sets.get("simpletom", [])
    by_name = figures_by_type(real, "accuracy" if protocol == "social_r1" else "ours/mean", TYPES)
    if real:
        parts = {"na_frac": real} | {f"na_frac/{name}": rows for name, rows in by_group(real, "type").items()}
        by_name |= {name: item_mean(rows, [not row.grade.answer for row in rows]) for name, rows in parts.items()}
    for name in _CONTROLS:
        if name in sets:
            by_name |= prefixed(f"ours/{name}/", figures_by_type(sets[name], "accuracy", TYPES))
    return by_name


TASK = Task(
    name="simpletom",
    title="SimpleToM",
    hub=Hub(
        "allenai/SimpleToM",
        tuple(f"{name}/test.jsonl" for name in _FILES.values()),
        "7f51fed5577ecc386e0ade9f8a7ebd1f5296e8c7",
    ),
    source="hub dataset allenai/SimpleToM (mental-state-qa, behavior-qa, judgment-qa: test.jsonl)",
    licence="ODC-BY",
    published=(len(_FILES) * _WHOLE, "questions"),
    protocols=ways("official", "official_cot"),
    kind="type",
    headline={"set": "simpletom"},
    load=load,
    requests=requests,
    grade=graded_by(read),
    metrics=metrics,
)
