"""MotiveBench: why a character does something, what they will do, and both, with six options each.

Official rules as of chicosirius/MotiveBench @ ea5faa1: every question is asked under six fixed option orders, the
answer is the reply's first character after stripping some, and figures are means over the orders for each source.
There is no overall number; `ours/accuracy`, over all questions, is ours. `social_r1` asks once, in file order.
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import pvariance
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.examples import LETTERS
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.metrics import Graded, Metric, by_group, figures_by_type, prefixed
from socialr1_jax.evaluation.request import Request, Wording, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Decoding, Task, ways
from socialr1_jax.evaluation.tasks.reading import Reading, field, text, texts

# Each is the file's options in the order shown: 316542 shows C, A, F, E, D, B.
ORDERS = ("123456", "654321", "316542", "235614", "541263", "462135")
MORE_ORDERS = (  # added by the newer release
    *("143256", "254361", "312546", "235416", "341265", "562134"),
    *("132456", "654231", "315642", "236514", "541623", "426135"),
)
_SOURCES = {"Amazon": 50, "Blog": 50, "Persona": 100}
_TYPES = {  # name -> (words in the prompt, field of the question, number of its options and answer)
    "motivation": ("Motivational", "Motivation Reasoning Question", 1),
    "behavior": ("Behavioral", "Behavior Reasoning Question", 2),
    "both": ("Motivational and Behavioral", "Motivation and Behavior Reasoning Question", 3),
}
_ANSWERS = {  # how to answer, by the start of the prompt's name
    "user": "Reply with the letter of that option alone: one character, no explanation.",
    "user_cot": "Reason step by step about the options first, then give the letter of the likeliest one. The last line "
    "of your reply has that one character and nothing else.",
}
_OWN = Wording(
    {"system": "You answer questions about what moves people."}
    | {
        f"{prompt}_{name}": f"A question of {words.lower()} reasoning follows: choose its likeliest answer.\n\n"
        f"{{question}}\nOptions: {{options}}\n\n{answer}"
        for prompt, answer in _ANSWERS.items()
        for name, (words, *_) in _TYPES.items()
    }
)
_NEW_TOKENS = 4096
_OPTIONS = 6
# Stripped from both ends of a reply in this order: the letters of the word "assistant" and line breaks, white space,
# then marks. "answer: B" becomes "wer: B" and is parsed as W.
_PEELED = ("asitn\n", None, ".", "'", '"', "*")
_LABEL = re.compile(r"([A-F])\. ")


def load(folder: Path) -> Data:
    """Load the scenarios of all three sources, each with its `source`. Raises BenchmarkError."""
    reading = Reading(folder)
    items: list[dict[str, Any]] = []
    for source, whole in _SOURCES.items():
        rows = reading.rows(reading.find(f"{source}_questions.json", under=source), "scenario")
        for where, row in rows:
            _check(row, where)
            reading.once((source, row["idx"]), f"{where}: idx {row['idx']} occurs twice")
            items.append({"source": source, **row})
        reading.count(len(rows), whole, "scenarios", source)
    return reading.data(items)


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
            raise BenchmarkError(f"{where}: Correct Answer {number} is {gold!r}, not a letter A to F")


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Return 3 questions x 6 or 18 orders per scenario, in `social_r1` 3 questions; the seed is not used."""
    orders = {"social_r1": ORDERS[:1], "official_18": (*ORDERS, *MORE_ORDERS)}.get(protocol, ORDERS)
    return [
        _request(item, name, number, order, protocol, data.wording or _OWN)
        for item in data.items
        for number, order in enumerate(orders, 1)
        for name in _TYPES
    ]


def _request(
    item: Mapping[str, Any], name: str, number: int, order: str, protocol: ProtocolName, wording: Wording
) -> Request:
    _, column, place = _TYPES[name]
    question, gold = item[column], item[f"Correct Answer {place}"]
    options = [_LABEL.sub("", option, count=1) for option in item[f"Options {place}"]]
    scenario = f"{item['source']}-{item['idx']}"
    about: dict[str, Any] = {"item": scenario, "meta": {"source": item["source"], "type": name, "order": number}}
    if protocol == "social_r1":
        return card_request(id=f"{scenario}-{name}", story="", question=question, options=options, gold=gold, **about)
    shown = str([f"{letter}. {options[int(of) - 1]}" for letter, of in zip(LETTERS, order, strict=False)])
    prompt = f"user_cot_{name}" if protocol == "official_cot" else f"user_{name}"
    return Request(
        id=f"{scenario}-{name}-order{number}",
        messages=chat(wording.text(prompt, question=question, options=shown), wording.text("system")),
        gold=LETTERS[order.index(str(LETTERS.index(gold) + 1))],
        max_new_tokens=_NEW_TOKENS,
        **about,
    )


def read(request: Request, protocol: ProtocolName, reply: str) -> str:
    """Return the first character (in `official_cot` the last) left by `_PEELED`, in upper case; "" if not A to F."""
    for signs in _PEELED:
        reply = reply.strip(signs)
    letter = (reply[-1:] if protocol == "official_cot" else reply[:1]).upper()
    return letter if letter in [*LETTERS[:_OPTIONS]] else ""


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return accuracy over all questions, by type, and of "all three right"; in total, by source, and by order.

    All orders have the same questions, so the mean over orders is the mean over all replies. `variance/...` of
    `official_18` is the population variance of a figure over the orders.
    """
    by_name = figures_by_type(graded, "accuracy" if protocol == "social_r1" else "ours/accuracy", _TYPES)
    sources = by_group(graded, "source")
    for name, group in sources.items():
        by_name |= prefixed(f"{name}/", figures_by_type(group, "accuracy", _TYPES))
    if protocol == "social_r1":
        return by_name
    for prefix, rows in {"": graded, **{f"{name}/": sources[name] for name in _SOURCES if name in sources}}.items():
        orders = sorted(by_group(rows, "order").items(), key=lambda order: int(order[0]))
        figures = {number: figures_by_type(group, "accuracy", _TYPES) for number, group in orders}
        for number, of_order in figures.items():
            by_name |= prefixed(f"{prefix}order_{number}/", of_order)
        if protocol == "official_18":
            for key in next(iter(figures.values()), {}):
                values = [of_order[key].value for of_order in figures.values() if key in of_order]
                by_name[f"{prefix}variance/{key}"] = Metric(pvariance(values), math.nan, len(values))
    return by_name


TASK = Task(
    name="motivebench",
    title="MotiveBench",
    source="chicosirius/MotiveBench @ ea5faa1 (Amazon, Blog and Persona folders)",
    licence="not stated for the data (code: MIT)",
    published=(sum(_SOURCES.values()), "scenarios"),
    protocols=ways("official", "official_cot", "official_18", drawn=Decoding(repetition_penalty=1.05)),
    kind="type",
    load=load,
    requests=requests,
    grade=graded_by(read),
    metrics=metrics,
)
