"""SocialIQA: commonsense about social situations, three options (dev; the test labels are not public).

There is no official prompt for chat models. `official` is the common practice: options A, B and C in file order, one
letter asked for; the prompt and the reading of the reply are ours. `likelihood` is what evaluation harnesses do with
base models: the option with the highest log-prob after "Q: {context} {question}", a line break and "A:", summed over
its tokens. The figure is plain accuracy in all protocols.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.data.examples import LETTERS
from socialr1_jax.evaluation.card import card_grade, card_request
from socialr1_jax.evaluation.task import (
    GREEDY,
    BenchmarkError,
    Data,
    Grade,
    Graded,
    Metric,
    ProtocolName,
    Request,
    Task,
    accuracy,
)
from socialr1_jax.evaluation.tasks.fields import text
from socialr1_jax.evaluation.tasks.files import check_sums, find_file, read_jsonl
from socialr1_jax.rewards.answers import named_letter
from socialr1_jax.runtime.files import sha256
from socialr1_jax.runtime.terminal import counted

_SUMS = {
    "dev.jsonl": "d8128dfe60783a9971b954ca82dd57b87b05d5d40468876d51a8e1ad2c557465",
    "dev-labels.lst": "2d882ff71969d3980d37dd07aecdf9093c6e63e27c670f3a203bcf3b9b74bc05",
    "dev.first600.jsonl": "2fdfd10a2a70d1879b4257135cd7d37ddacf80b8e1d791bbbcda6c0339d1df13",
    "dev-labels.first600.lst": "df9b302300c5fd6b5f008f30484d013515ccf72b2b3394a440bca53840c92f50",
}
_WHOLE = 1954
_OPTIONS = ("answerA", "answerB", "answerC")
_LABELS = ("1", "2", "3")


def load(folder: Path) -> Data:
    """The dev rows, each with its `label`. Raises BenchmarkError."""
    questions, labels_file = find_file(folder, "dev.jsonl"), find_file(folder, "dev-labels.lst")
    rows = read_jsonl(questions)
    try:
        labels = labels_file.read_text(encoding="utf-8-sig").split()
    except (OSError, ValueError) as error:
        raise BenchmarkError(f"{labels_file}: cannot be read ({error})") from None
    if len(labels) != len(rows):
        raise BenchmarkError(
            f"{labels_file}: {counted(len(labels), 'label')} for the {counted(len(rows), 'question')} of "
            f"{questions.name}"
        )
    items = []
    for number, (row, label) in enumerate(zip(rows, labels, strict=True), 1):
        for name in ("context", "question", *_OPTIONS):
            text(row, name, f"{questions}, row {number}")
        if label not in _LABELS:
            raise BenchmarkError(f"{labels_file}, line {number}: the label is {label!r}, none of 1, 2 and 3")
        items.append({**row, "number": number, "label": label})
    files = {path.name: sha256(path) for path in (questions, labels_file)}
    notes = [f"{len(items)} of {_WHOLE} questions"] if len(items) != _WHOLE else []
    return Data(items=items, files=files, notes=(*notes, *check_sums(files, _SUMS)), whole=not notes)


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """One prompt a question, in file order; nothing is drawn."""
    return [_request(item, protocol) for item in data.items]


def _request(item: Mapping[str, Any], protocol: ProtocolName) -> Request:
    id = f"dev-{item['number']}"
    options = [item[name].strip() for name in _OPTIONS]
    gold = LETTERS[_LABELS.index(item["label"])]
    context, question = item["context"].strip(), item["question"].strip()
    if protocol == "social_r1":
        return card_request(id=id, item=id, story=context, question=question, options=options, gold=gold, meta={})
    if protocol == "likelihood":
        messages = ({"role": "user", "content": f"Q: {item['context']} {item['question']}\nA:"},)
        continuations = tuple(f" {item[name]}" for name in _OPTIONS)
        return Request(id=id, item=id, messages=messages, gold=gold, max_new_tokens=0, continuations=continuations)
    lettered = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    content = f"{context}\n\nQuestion: {question}\n{lettered}\n\nAnswer with the letter only: A, B or C."
    messages = ({"role": "user", "content": content},)
    return Request(id=id, item=id, messages=messages, gold=gold, meta={"options": options})


def grade(request: Request, protocol: ProtocolName, reply: str) -> Grade:
    """Grade the letter that the reply names, by itself or by its option's text, or the likeliest option."""
    if protocol == "social_r1":
        return card_grade(request, reply)
    if protocol == "likelihood":
        logprobs = json.loads(reply)
        answer = LETTERS[logprobs.index(max(logprobs))]
        return Grade(answer, float(answer == request.gold))
    answer = named_letter(reply, LETTERS[: len(_OPTIONS)], request.meta.get("options", ()))
    return Grade(answer, float(answer == request.gold))


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Accuracy."""
    return {"accuracy": accuracy(graded)}


TASK = Task(
    name="socialiqa",
    title="SocialIQA (dev)",
    source="socialiqa-train-dev.zip, as in kashrest/socialiqa-nlp244 @ 3d4a82e",
    licence="not stated",
    published=(_WHOLE, "questions"),
    protocols={"official": GREEDY, "likelihood": GREEDY, "social_r1": GREEDY},
    load=load,
    requests=requests,
    grade=grade,
    metrics=metrics,
)
