"""SocialIQA: commonsense about social situations, three options (dev; the test labels are not public).

There is no official prompt for chat models. `official` is common practice: options A, B and C in file order, and one
letter as the reply; prompt and parser are ours. `likelihood` is what evaluation harnesses do with base models: the
option with the highest log-prob, summed over its tokens, after "Q: {context} {question}", a line break and "A:". The
figure is plain accuracy in all protocols.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.prompts import lettered
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.metrics import accuracy
from socialr1_jax.evaluation.request import Request, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Task, ways
from socialr1_jax.evaluation.tasks.reading import Reading, read_text, text
from socialr1_jax.rewards.answers import named_letter
from socialr1_jax.runtime.terminal import counted

_WHOLE = 1954
_OPTIONS = ("answerA", "answerB", "answerC")
_LABELS = ("1", "2", "3")


def load(folder: Path) -> Data:
    """Load the dev rows, each with its `label`. Raises BenchmarkError."""
    reading, items = Reading(folder), []
    questions, labels_file = reading.find("dev.jsonl"), reading.find("dev-labels.lst")
    rows, labels = reading.rows(questions), read_text(labels_file).split()
    if len(labels) != len(rows):
        raise BenchmarkError(f"{labels_file}: {counted(len(labels), 'label')} for {counted(len(rows), 'question')}")
    for number, ((where, row), label) in enumerate(zip(rows, labels, strict=True), 1):
        for name in ("context", "question", *_OPTIONS):
            text(row, name, where)
        if label not in _LABELS:
            raise BenchmarkError(f"{labels_file}, line {number}: the label is {label!r}, not 1, 2 or 3")
        items.append({**row, "number": number, "label": label})
    reading.count(len(items), _WHOLE, "questions")
    return reading.data(items)


def request_of(item: Mapping[str, Any], protocol: ProtocolName) -> Request:
    id = f"dev-{item['number']}"
    options = [item[name].strip() for name in _OPTIONS]
    gold = LETTERS[_LABELS.index(item["label"])]
    context, question = item["context"].strip(), item["question"].strip()
    if protocol == "social_r1":
        return card_request(id=id, item=id, story=context, question=question, options=options, gold=gold, meta={})
    if protocol == "likelihood":
        messages = chat(f"Q: {item['context']} {item['question']}\nA:")
        continuations = tuple(f" {item[name]}" for name in _OPTIONS)
        return Request(id=id, item=id, messages=messages, gold=gold, max_new_tokens=0, continuations=continuations)
    content = f"{context}\n\nQuestion: {question}\n{lettered(options)}\n\nAnswer with the letter only: A, B or C."
    return Request(id=id, item=id, messages=chat(content), gold=gold, meta={"options": options})


def read(request: Request, protocol: ProtocolName, reply: str) -> str:
    """Return the letter that the reply names, by itself or by its option's text; in `likelihood` the likeliest one."""
    if protocol == "likelihood":
        logprobs = json.loads(reply)
        return LETTERS[logprobs.index(max(logprobs))]
    return named_letter(reply, LETTERS[: len(_OPTIONS)], request.meta.get("options", ()))


TASK = Task(
    name="socialiqa",
    title="SocialIQA (dev)",
    source="socialiqa-train-dev.zip, as in kashrest/socialiqa-nlp244 @ 3d4a82e",
    licence="not stated",
    published=(_WHOLE, "questions"),
    protocols=ways("official", "likelihood"),
    load=load,
    requests=lambda data, protocol, seed: [request_of(item, protocol) for item in data.items],  # the seed is not used
    grade=graded_by(read),
    metrics=lambda graded, protocol: {"accuracy": accuracy(graded)},
)
