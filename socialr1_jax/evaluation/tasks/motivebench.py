"""MotiveBench: why somebody does something, what they will do, and both, with six options each.

Official rules as of chicosirius/MotiveBench @ ea5faa1: every question is asked under six fixed option orders, the
answer is the reply's first character after some are taken off, and figures are means over the orders, for each source.
There is no number over all sources; `ours/accuracy`, over all questions, is ours. Social-R1's protocol asks once, in
file order.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import pvariance
from typing import Any

from socialr1_jax.data.examples import LETTERS
from socialr1_jax.evaluation.card import card_grade, card_request
from socialr1_jax.evaluation.task import (
    GREEDY,
    BenchmarkError,
    Data,
    Decoding,
    Grade,
    Graded,
    Metric,
    ProtocolName,
    Request,
    Task,
    Wording,
    accuracy,
    by_group,
    mean_metric,
)
from socialr1_jax.evaluation.tasks.fields import field, text, texts
from socialr1_jax.evaluation.tasks.files import check_sums, find_file, read_json
from socialr1_jax.runtime.files import sha256

ORDERS = (
    (1, 2, 3, 4, 5, 6),
    (6, 5, 4, 3, 2, 1),
    (3, 1, 6, 5, 4, 2),
    (2, 3, 5, 6, 1, 4),
    (5, 4, 1, 2, 6, 3),
    (4, 6, 2, 1, 3, 5),
)
MORE_ORDERS = (  # of the newer release, behind the six
    (1, 4, 3, 2, 5, 6),
    (2, 5, 4, 3, 6, 1),
    (3, 1, 2, 5, 4, 6),
    (2, 3, 5, 4, 1, 6),
    (3, 4, 1, 2, 6, 5),
    (5, 6, 2, 1, 3, 4),
    (1, 3, 2, 4, 5, 6),
    (6, 5, 4, 2, 3, 1),
    (3, 1, 5, 6, 4, 2),
    (2, 3, 6, 5, 1, 4),
    (5, 4, 1, 6, 2, 3),
    (4, 2, 6, 1, 3, 5),
)
_SOURCES = {"Amazon": 50, "Blog": 50, "Persona": 100}
_TYPES = {  # name -> (words in the prompt, field of the question, number of its options and answer)
    "motivation": ("Motivational", "Motivation Reasoning Question", 1),
    "behavior": ("Behavioral", "Behavior Reasoning Question", 2),
    "both": ("Motivational and Behavioral", "Motivation and Behavior Reasoning Question", 3),
}
_SUMS = {
    "Amazon_questions.json": "6f988bef7e8cf5d6102988cd5f710d21ee579902e0897baecd62a51360d4d2a3",
    "Blog_questions.json": "7068fa7626001a0f4de1b22b699bf78f4e70e1f4c243d708c615f0ed58ce7e31",
    "Persona_questions.json": "7601ae6fd1c39cc04d5eab77f954a6a61e1157c5a227ce96454a42c039d28c60",
    "Blog_questions.first25.json": "6e704e24c8ee79c73478b6ea4931a2c64de76f2d4e694700d1e52b1d162d82e5",
    "Persona_questions.first25.json": "baf516c51a88691a0984c487e409f156bfca013ac9d530c3583c47d59fae91a4",
}
_SYSTEM = "You answer questions about what moves people."
_ANSWER = "Reply with the letter of that option alone: one character, no explanation."
_ANSWER_COT = (
    "Reason step by step about the options first, then give the letter of the likeliest one. The last line of your "
    "reply has that one character and nothing else."
)
_NEW_TOKENS = 4096
_OPTIONS = 6
# What is taken off both ends of a reply, one after another: the letters of the word "assistant" and line breaks, white
# space, then marks. "answer: B" becomes "wer: B", and is read as W.
_PEELED = ("asitn\n", None, ".", "'", '"', "*")
_LABEL = re.compile(r"([A-F])\. ")
_DECODING = Decoding(repetition_penalty=1.05)


def load(folder: Path) -> Data:
    """The scenarios of all three sources, each with its `source`. Raises BenchmarkError."""
    items: list[dict[str, Any]] = []
    files: dict[str, str] = {}
    notes: list[str] = []
    for source, whole in _SOURCES.items():
        path = find_file(folder / source, f"{source}_questions.json")
        files[path.name] = sha256(path)
        rows = read_json(path)
        if not isinstance(rows, list):
            raise BenchmarkError(f"{path}: {type(rows).__name__} instead of a list of scenarios")
        seen = set()
        for number, row in enumerate(rows, 1):
            where = f"{path}, scenario {number}"
            _check(row, where)
            if row["idx"] in seen:
                raise BenchmarkError(f"{where}: idx {row['idx']} is there twice")
            seen.add(row["idx"])
            items.append({"source": source, **row})
        if len(rows) < whole:
            notes.append(f"{source}: {len(rows)} of {whole} scenarios")
    return Data(items=items, files=files, notes=(*notes, *check_sums(files, _SUMS)), whole=not notes)


def _check(row: Any, where: str) -> None:
    field(row, "idx", int, where)
    for _, question, number in _TYPES.values():
        text(row, question, where)
        options = texts(row, f"Options {number}", where)
        labels = "".join(match.group(1) for option in options if (match := _LABEL.match(option)))
        if labels != LETTERS[:_OPTIONS] or len(options) != _OPTIONS:
            raise BenchmarkError(f"{where}: Options {number} are not six texts 'A. ...' to 'F. ...': {options}")
        gold = text(row, f"Correct Answer {number}", where)
        if len(gold) != 1 or gold not in LETTERS[:_OPTIONS]:
            raise BenchmarkError(f"{where}: Correct Answer {number} is {gold!r}, no letter A to F")


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Official: 3 questions x 6 or 18 orders a scenario; social_r1: 3 questions. Nothing is drawn."""
    if protocol == "social_r1":
        return [_social_r1(item, name) for item in data.items for name in _TYPES]
    orders = (*ORDERS, *MORE_ORDERS) if protocol == "official_18" else ORDERS
    return [
        _official(item, name, number, order, data.wording, cot=protocol == "official_cot")
        for item in data.items
        for number, order in enumerate(orders, 1)
        for name in _TYPES
    ]


def _block(item: Mapping[str, Any], name: str) -> tuple[str, list[str], str]:
    """(question, options without their letters, gold letter)."""
    _, question, number = _TYPES[name]
    options = [_LABEL.sub("", option, count=1) for option in item[f"Options {number}"]]
    return item[question], options, item[f"Correct Answer {number}"]


def _official(
    item: Mapping[str, Any], name: str, number: int, order: Sequence[int], wording: Wording | None, cot: bool
) -> Request:
    question, options, gold = _block(item, name)
    shown = [f"{letter}. {options[place - 1]}" for letter, place in zip(LETTERS, order, strict=False)]
    if wording:
        system = wording.text("system")
        content = wording.text(f"user_cot_{name}" if cot else f"user_{name}", question=question, options=str(shown))
    else:
        system = _SYSTEM
        content = (
            f"A question of {_TYPES[name][0].lower()} reasoning follows: choose its likeliest answer.\n\n{question}\n"
            f"Options: {shown}\n\n{_ANSWER_COT if cot else _ANSWER}"
        )
    scenario = f"{item['source']}-{item['idx']}"
    return Request(
        id=f"{scenario}-{name}-order{number}",
        item=scenario,
        messages=({"role": "system", "content": system}, {"role": "user", "content": content}),
        gold=LETTERS[order.index(LETTERS.index(gold) + 1)],
        meta={"source": item["source"], "type": name, "order": number},
        max_new_tokens=_NEW_TOKENS,
    )


def _social_r1(item: Mapping[str, Any], name: str) -> Request:
    question, options, gold = _block(item, name)
    scenario = f"{item['source']}-{item['idx']}"
    meta = {"source": item["source"], "type": name, "order": 1}
    return card_request(
        id=f"{scenario}-{name}", item=scenario, story="", question=question, options=options, gold=gold, meta=meta
    )


def grade(request: Request, protocol: ProtocolName, reply: str) -> Grade:
    """Official: the first character of what `_PEELED` leaves, in upper case; "" when it is not A to F.

    With reasoning it is the last character.
    """
    if protocol == "social_r1":
        return card_grade(request, reply)
    for signs in _PEELED:
        reply = reply.strip(signs)
    letter = (reply[-1:] if protocol == "official_cot" else reply[:1]).upper()
    answer = letter if letter in [*LETTERS[:_OPTIONS]] else ""
    return Grade(answer, float(answer == request.gold))


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Accuracy over all questions, of each type, and of "all three right"; over all sources, for each, and by order.

    The orders have the same questions, so that the mean over orders is the mean over all replies. `variance/...` of
    `official_18` is the population variance of a figure over the orders.
    """
    found = _figures(graded, "accuracy" if protocol == "social_r1" else "ours/accuracy")
    sources = by_group(graded, "source")
    for name, group in sources.items():
        found |= {f"{name}/{key}": one for key, one in _figures(group, "accuracy").items()}
    if protocol == "social_r1":
        return found
    for prefix, rows in {"": graded, **{f"{name}/": sources[name] for name in _SOURCES if name in sources}}.items():
        orders = sorted(by_group(rows, "order").items(), key=lambda order: int(order[0]))
        figures = {number: _figures(group, "accuracy") for number, group in orders}
        for number, of_order in figures.items():
            found |= {f"{prefix}order_{number}/{key}": one for key, one in of_order.items()}
        if protocol == "official_18":
            for key in next(iter(figures.values()), {}):
                values = [of_order[key].value for of_order in figures.values() if key in of_order]
                found[f"{prefix}variance/{key}"] = Metric(pvariance(values), math.nan, len(values))
    return found


def _figures(graded: Sequence[Graded], headline: str) -> dict[str, Metric]:
    types = by_group(graded, "type")
    scenarios: dict[tuple[str, int], list[float]] = {}
    for one in graded:
        scenarios.setdefault((one.request.item, one.request.meta["order"]), []).append(one.grade.value)
    whole = {key: math.prod(values) for key, values in scenarios.items() if len(values) == len(_TYPES)}
    return {
        headline: accuracy(graded),
        **{name: accuracy(types[name]) for name in _TYPES if name in types},
        "all_three": mean_metric(list(whole.values()), [item for item, _ in whole]),
    }


TASK = Task(
    name="motivebench",
    title="MotiveBench",
    source="chicosirius/MotiveBench @ ea5faa1 (Amazon, Blog and Persona folders)",
    licence="not stated for the data (code: MIT)",
    published=(sum(_SOURCES.values()), "scenarios"),
    protocols={"official": _DECODING, "official_cot": _DECODING, "official_18": _DECODING, "social_r1": GREEDY},
    load=load,
    requests=requests,
    grade=grade,
    metrics=metrics,
)
