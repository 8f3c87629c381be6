"""Hi-ToM: where does Anna think that Ben thinks ... the thing is? Orders 0 to 4, in stories of 1 to 3 chapters.

Official rules as of ying-hui-he/Hi-ToM_dataset @ 56dda76, which has no scorer: the CoTP prompt with a note of four
assumptions (here in our words) that the gold answers rely on; the text of the chosen option must equal the answer. The
parser of the letter is ours. `official` asks the 600 CoTP rows. `official_vp` asks the VP rows, the same questions
without reasoning; 138 of their gold answers, at orders 2 to 4, differ and are partly wrong. In `joint` figures a
question is right only if the story's lower orders are right too.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.options import parse_options
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.metrics import Graded, Metric, accuracies, accuracy, by_group, grouped
from socialr1_jax.evaluation.request import Request, Wording, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Hub, Task, ways
from socialr1_jax.evaluation.tasks.reading import Reading, field, read_json, text
from socialr1_jax.rewards.answers import named_letter

ORDERS = range(5)

_FILE = "Hi-ToM_data.json"
_WHOLE = 600
_SHAPE = (
    "Here is a story, with a question and its choices. {how}\n\n"
    "Story:\n{{story}}\n\nQuestion: {{question}}\nChoices: {{choices}}\n\n"
    "Note: Take the following for granted. (1) An agent witnesses everything that happens in a place before the agent "
    "leaves it. (2) An agent A can infer what an agent B thinks only if A and B have been in the same place or have "
    "talked with each other, in private or in public. (3) All agents tend to lie. What an agent says to others does "
    "not change what that agent believes. Whoever hears a statement has a tendency to trust a speaker who left the "
    "place later than the hearer. All agents know the order in which they left. (4) What is said in private is known "
    "to those two only, and they know it; what is claimed in public is heard by everybody."
)
_OWN = Wording(
    {
        "user": _SHAPE.format(
            how="Consider it step by step; then give your answer before anything else, and explain it after that."
        ),
        "user_vp": _SHAPE.format(how="Give your answer without any explanation."),
    }
)
_NEW_TOKENS = 1024


def load(folder: Path) -> Data:
    """Load the CoTP rows, story by story, each with its list of `options` and its `story_id`. Raises BenchmarkError.

    `vp_answer` is the answer of the VP row with the same question, whose story starts with an instruction.
    """
    reading, items = Reading(folder), []
    path = reading.find(_FILE)
    cells: dict[str, dict[tuple[bool, int, int], list[dict[str, Any]]]] = {"CoTP": {}, "VP": {}}
    for number, row in enumerate(field(read_json(path), "data", list, str(path)), 1):
        where = f"{path}, row {number}"
        if text(row, "prompting_type", where) not in cells:
            raise BenchmarkError(f"{where}: the prompting_type is {row['prompting_type']!r}, neither CoTP nor VP")
        item = _item(row, where)
        reading.once(item["sample_id"], f"{where}: the sample_id {item['sample_id']} occurs twice")
        key = item["deception"], item["story_length"], item["question_order"]
        cells[row["prompting_type"]].setdefault(key, []).append(item)
    # A story's orders share an index in their cells. Texts are not compared: in three stories a line "***" differs.
    for key, cell in cells["CoTP"].items():
        deception, length, _ = key
        of_order = [len(cells["CoTP"].get((deception, length, order), [])) for order in ORDERS]
        if len(set(of_order)) > 1:
            name = f"length {length}, deception {deception}"
            raise BenchmarkError(f"{path}: {name}: orders 0 to 4 have {of_order} CoTP rows instead of equal numbers")
        cell.sort(key=lambda item: item["sample_id"])
        vp = sorted(cells["VP"].get(key, []), key=lambda item: item["sample_id"])
        for place, item in enumerate(cell):
            kind = "tell" if deception else "no_tell"
            other = vp[place] if len(vp) == len(cell) else None
            answer = {"vp_answer": other["answer"]} if other and _is_same(item, other) else {}
            items.append(item | {"story_id": f"{kind}-length{length}-{place}", "place": place} | answer)
    items.sort(key=lambda item: (item["deception"], item["story_length"], item["place"], item["question_order"]))
    reading.count(len(items), _WHOLE, "CoTP questions")
    return reading.data(items)


def _is_same(item: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether a VP row has a CoTP row's question; six stories differ by a final line "***"."""
    ends = other["story"].strip().endswith(_story(item))
    return ends and (item["question"], item["options"]) == (other["question"], other["options"])


def _story(item: Mapping[str, Any]) -> str:
    """Return the story as in the authors' prompt files, without the stars that end six stories of the data."""
    return item["story"].strip().removesuffix("***").rstrip()


def _item(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    field(row, "deception", bool, where)
    for name in ("story_length", "question_order", "sample_id"):
        field(row, name, int, where)
    if row["question_order"] not in ORDERS:
        raise BenchmarkError(f"{where}: the question_order is {row['question_order']}, not 0 to 4")
    for name in ("story", "question", "answer", "choices"):
        text(row, name, where)
    try:
        options = list(parse_options(row["choices"]))
    except ValueError as error:
        raise BenchmarkError(f"{where}: {error}") from None
    if options.count(row["answer"]) != 1 or not all(options):
        raise BenchmarkError(f"{where}: the answer {row['answer']!r} is not one of the options {options}")
    return {**row, "options": options}


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Return the prompts story by story, orders 0 to 4 in a row; the seed is not used."""
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
    values = {"story": _story(item) if wording else story, "question": question, "choices": choices}
    return Request(
        id=id.replace("CoTP", "VP") if vp else id,
        item=unit,
        messages=chat((wording or _OWN).text("user_vp" if vp else "user", **values)),
        gold=item["vp_answer"] if vp else item["answer"],
        meta=meta | {"options": options} | ({"cotp_answer": item["answer"]} if vp else {}),
        max_new_tokens=_NEW_TOKENS,
    )


def read(request: Request, protocol: ProtocolName, reply: str) -> str:
    """Return the option of the letter named in the reply; without a letter, the only option that it mentions.

    Mentions are searched in the first paragraph, then in the whole reply.
    """
    options: Sequence[str] = request.meta["options"]
    letter = named_letter(reply, LETTERS[: len(options)], options)
    first = reply.strip().partition("\n\n")[0]
    return options[LETTERS.index(letter)] if letter else _mentioned(first, options) or _mentioned(reply, options)


def _mentioned(reply: str, options: Sequence[str]) -> str:
    by_words = {option.lower(): option for option in sorted(options, key=len, reverse=True)}
    words = "|".join(map(re.escape, by_words))  # longest first: "red_box" does not mention "box"
    mentions = set(re.findall(rf"(?<![^\W_])(?:{words})(?![^\W_])", reply.lower().replace(" ", "_")))
    return by_words[mentions.pop()] if len(mentions) == 1 else ""


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return accuracy and joint accuracy over all questions, by order, by length and by deception.

    `official_vp` adds the accuracy of questions whose CoTP row has the same answer, and the number of questions with
    another answer, in total and by order.
    """
    joint = list(_joint(graded))
    by_name = {"accuracy": accuracy(graded), "joint": accuracy(joint)}
    for prefix, rows in (("", graded), ("joint/", joint)):
        by_name |= accuracies(rows, "order", f"{prefix}order_") | accuracies(rows, "length", f"{prefix}length_")
        for deceived, name in ((False, "no_deception"), (True, "deception")):
            if group := [row for row in rows if row.request.meta["deception"] is deceived]:
                by_name[f"{prefix}{name}"] = accuracy(group)
    if protocol == "official_vp":
        by_name["accuracy_same_answer"] = accuracy([row for row in graded if not _is_conflict(row)])
        by_name["label_conflicts"] = _conflicts(graded)
        for order, group in by_group(graded, "order").items():
            by_name[f"label_conflicts/order_{order}"] = _conflicts(group)
    return by_name


def _is_conflict(graded: Graded) -> bool:
    return graded.request.gold != graded.request.meta["cotp_answer"]


def _conflicts(graded: Sequence[Graded]) -> Metric:
    return Metric(float(sum(map(_is_conflict, graded))), math.nan, len(graded))


def _joint(graded: Sequence[Graded]) -> Iterator[Graded]:
    """Yield each question with the product of its story's values up to its order; lower orders must be complete."""
    for rows in grouped(graded, lambda row: row.request.item).values():
        orders = {row.request.meta["order"]: row for row in rows}
        value = 1.0
        for order in takewhile(orders.__contains__, ORDERS):
            row = orders[order]
            value *= row.grade.value
            yield row._replace(grade=row.grade._replace(value=value))


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
