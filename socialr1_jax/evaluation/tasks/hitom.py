"""Hi-ToM: where does Anna think that Ben thinks ... the thing is? Orders 0 to 4, told in 1 to 3 chapters.

Official rules as of ying-hui-he/Hi-ToM_dataset @ 56dda76, which has no scorer: the CoTP prompt with the note of four
assumptions, without which the gold answers are not defined (here in our words), and the text behind the chosen letter
against the answer. How the letter is read is ours. `official` asks the 600 CoTP rows. The VP rows, `official_vp`, are
the same questions without room for reasons; 138 of their gold answers, at orders 2 to 4, are others and in part wrong.
In `joint` figures an order counts only when the lower orders of that story are right, too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.options import parse_options
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.metrics import Graded, Metric, accuracies, accuracy, by_group
from socialr1_jax.evaluation.request import ProtocolName, Request, Wording, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Hub, Task, ways
from socialr1_jax.evaluation.tasks.reading import Reading, field, read_json, text
from socialr1_jax.rewards.answers import named_letter

ORDERS = range(5)

_FILE = "Hi-ToM_data.json"
_WHOLE = 600
_TYPES = ("CoTP", "VP")
_INSTRUCTION = (
    "Here is a story, with a question and its choices. Consider it step by step; then give your answer before anything "
    "else, and explain it after that."
)
_INSTRUCTION_VP = "Here is a story, with a question and its choices. Give your answer without any explanation."
_NOTE = (
    "Note: Take the following for granted. (1) An agent witnesses everything that happens in a place before the agent "
    "leaves it. (2) An agent A can infer what an agent B thinks only if A and B have been in the same place or have "
    "talked with each other, in private or in public. (3) All agents tend to lie. What an agent says to others does "
    "not change what that agent believes. Whoever hears a statement has a tendency to trust a speaker who left the "
    "place later than the hearer. All agents know the order in which they left. (4) What is said in private is known "
    "to those two only, and they know it; what is claimed in public is heard by everybody."
)
_NEW_TOKENS = 1024


def load(folder: Path) -> Data:
    """The CoTP rows, each with its list of `options` and its `story_id`, story by story. Raises BenchmarkError.

    `vp_answer` is the answer of the VP row of the same question, which begins its story with an instruction.
    """
    reading, items = Reading(folder), []
    path = reading.find(_FILE)
    cells: dict[tuple[bool, int, int], list[dict[str, Any]]] = {}
    other_cells: dict[tuple[bool, int, int], list[dict[str, Any]]] = {}
    for number, row in enumerate(field(read_json(path), "data", list, str(path)), 1):
        where = f"{path}, row {number}"
        if text(row, "prompting_type", where) not in _TYPES:
            raise BenchmarkError(f"{where}: the prompting_type is {row['prompting_type']!r}, neither CoTP nor VP")
        item = _item(row, where)
        reading.once(item["sample_id"], f"{where}: the sample_id {item['sample_id']} is there twice")
        (other_cells if row["prompting_type"] == "VP" else cells).setdefault(
            (item["deception"], item["story_length"], item["question_order"]), []
        ).append(item)
    # The orders of one story have the same place in their cells; three stories differ between orders by a line "***".
    for key, cell in cells.items():
        deception, length, _ = key
        of_order = [len(cells.get((deception, length, order), [])) for order in ORDERS]
        if len(set(of_order)) > 1:
            name = f"length {length}, deception {deception}"
            raise BenchmarkError(f"{path}: {name}: orders 0 to 4 have {of_order} CoTP rows instead of equal numbers")
        cell.sort(key=lambda item: item["sample_id"])
        vp = sorted(other_cells.get(key, []), key=lambda item: item["sample_id"])
        for place, item in enumerate(cell):
            told = "tell" if deception else "no_tell"
            other = vp[place] if len(vp) == len(cell) else None
            answer = {"vp_answer": other["answer"]} if other and _is_same(item, other) else {}
            items.append(item | {"story_id": f"{told}-length{length}-{place}", "place": place} | answer)
    items.sort(key=lambda item: (item["deception"], item["story_length"], item["place"], item["question_order"]))
    reading.count(len(items), _WHOLE, "CoTP questions")
    return reading.data(items)


def _is_same(item: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether a VP row asks a CoTP row's question; six stories differ by a line "***" at the end."""
    ends = other["story"].strip().endswith(_story(item))
    return ends and (item["question"], item["options"]) == (other["question"], other["options"])


def _story(item: Mapping[str, Any]) -> str:
    """Return the story as the authors' prompt files have it, without the stars behind six of the data's."""
    return item["story"].strip().removesuffix("***").rstrip()


def _item(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    field(row, "deception", bool, where)
    for name in ("story_length", "question_order", "sample_id"):
        field(row, name, int, where)
    if row["question_order"] not in ORDERS:
        raise BenchmarkError(f"{where}: the question_order is {row['question_order']}, not 0 to 4")
    for name in ("story", "question", "answer"):
        text(row, name, where)
    try:
        options = list(parse_options(text(row, "choices", where)))
    except BenchmarkError:
        raise
    except ValueError as error:
        raise BenchmarkError(f"{where}: {error}") from None
    if options.count(row["answer"]) != 1 or not all(options):
        raise BenchmarkError(f"{where}: the answer {row['answer']!r} is not one of the options {options}")
    return {**row, "options": options}


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Story by story, orders 0 to 4 in a row; nothing is drawn."""
    items = [item for item in data.items if "vp_answer" in item] if protocol == "official_vp" else data.items
    return [_request(item, protocol, data.wording) for item in items]


def _request(item: Mapping[str, Any], protocol: ProtocolName, wording: Wording | None) -> Request:
    id, unit = f"CoTP-{item['sample_id']}", item["story_id"]
    story, question, options = item["story"].strip(), item["question"], item["options"]
    meta = {"order": item["question_order"], "length": item["story_length"], "deception": item["deception"]}
    if protocol == "social_r1":
        gold = LETTERS[options.index(item["answer"])]
        return card_request(id=id, item=unit, story=story, question=question, options=options, gold=gold, meta=meta)
    vp = protocol == "official_vp"
    choices = ", ".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    if wording:
        name = "user_vp" if vp else "user"
        content = wording.text(name, story=_story(item), question=question, choices=choices)
    else:
        instruction = _INSTRUCTION_VP if vp else _INSTRUCTION
        content = f"{instruction}\n\nStory:\n{story}\n\nQuestion: {question}\nChoices: {choices}\n\n{_NOTE}"
    return Request(
        id=id.replace("CoTP", "VP") if vp else id,
        item=unit,
        messages=chat(content),
        gold=item["vp_answer"] if vp else item["answer"],
        meta=meta | {"options": options} | ({"cotp_answer": item["answer"]} if vp else {}),
        max_new_tokens=_NEW_TOKENS,
    )


def read(request: Request, protocol: ProtocolName, reply: str) -> str:
    """Return the option behind the letter that the reply names; without a letter, the only option that it mentions.

    Mentions are looked for in the first paragraph, and only if it has none in the explanation after it.
    """
    options: Sequence[str] = request.meta["options"]
    letter = named_letter(reply, LETTERS[: len(options)], options)
    first = reply.strip().partition("\n\n")[0]
    return options[LETTERS.index(letter)] if letter else _mentioned(first, options) or _mentioned(reply, options)


def _mentioned(reply: str, options: Sequence[str]) -> str:
    by_words = {option.lower(): option for option in sorted(options, key=len, reverse=True)}
    words = "|".join(map(re.escape, by_words))  # the longest first: "red_box" is no mention of "box"
    found = set(re.findall(rf"(?<![^\W_])(?:{words})(?![^\W_])", reply.lower().replace(" ", "_")))
    return by_words[found.pop()] if len(found) == 1 else ""


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Accuracy and joint accuracy: of all questions, by order, length, and with and without deception.

    `official_vp` also has the accuracy of questions whose CoTP row has the same answer, and the numbers of those where
    it has another one, in all and by order.
    """
    joint = _joint(graded)
    found = {"accuracy": accuracy(graded), "joint": accuracy(joint)}
    for prefix, rows in (("", graded), ("joint/", joint)):
        found |= accuracies(rows, "order", f"{prefix}order_") | accuracies(rows, "length", f"{prefix}length_")
        for deceived, name in ((False, "no_deception"), (True, "deception")):
            if group := [one for one in rows if one.request.meta["deception"] is deceived]:
                found[f"{prefix}{name}"] = accuracy(group)
    if protocol == "official_vp":
        found["accuracy_same_answer"] = accuracy([one for one in graded if not _is_conflict(one)])
        found["label_conflicts"] = _conflicts(graded)
        for order, group in by_group(graded, "order").items():
            found[f"label_conflicts/order_{order}"] = _conflicts(group)
    return found


def _is_conflict(graded: Graded) -> bool:
    return graded.request.gold != graded.request.meta["cotp_answer"]


def _conflicts(graded: Sequence[Graded]) -> Metric:
    return Metric(float(sum(map(_is_conflict, graded))), math.nan, len(graded))


def _joint(graded: Sequence[Graded]) -> list[Graded]:
    """Each question with the product of its story's values up to its order, where all lower orders are there."""
    stories: dict[str, dict[int, Graded]] = {}
    for one in graded:
        stories.setdefault(one.request.item, {})[one.request.meta["order"]] = one
    joint = []
    for orders in stories.values():
        value = 1.0
        for order in ORDERS:
            if order not in orders:
                break
            value *= orders[order].grade.value
            joint.append(orders[order]._replace(grade=orders[order].grade._replace(value=value)))
    return joint


TASK = Task(
    name="hitom",
    title="Hi-ToM (CoTP rows)",
    hub=Hub("Hi-ToM/Hi-ToM_Dataset", (_FILE,)),
    source="ying-hui-he/Hi-ToM_dataset @ 56dda76 (Hi-ToM_data.json)",
    licence="Apache-2.0",
    published=(_WHOLE, "questions"),
    protocols=ways("official", "official_vp"),
    kind="order",
    load=load,
    requests=requests,
    grade=graded_by(read),
    metrics=metrics,
)
