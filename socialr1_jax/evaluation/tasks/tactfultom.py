"""TactfulToM: white lies in conversations, eleven categories of questions.

Official rules as of nii-cl/tactful-tom @ 0881b0d: the full context, and a system prompt for each type of answer.
Questions of belief, fact and lie ability are asked freely and as a choice, comprehension freely and as yes or no. There
is no single number: `ours/micro`, over choice and yes/no questions, is ours, as is `social_r1`'s selection of the same
questions. Justification questions ("why did Ana say that?") are in the files, but the released script does not ask
them; here they are a category outside all means. The benchmark fixes no seed: options are shuffled by ours and the id.
"""

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.examples import LETTERS
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.embeddings import TACTFULTOM_MODEL, similarities
from socialr1_jax.evaluation.metrics import (
    Grade,
    Graded,
    Metric,
    accuracies,
    accuracy,
    all_right,
    by_group,
    grouped,
    item_mean,
)
from socialr1_jax.evaluation.request import Request, Wording, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Decoding, Embedder, Task, ways
from socialr1_jax.evaluation.tasks.reading import Reading, field, text, texts
from socialr1_jax.evaluation.tasks.words import english_words

_CHOICE, _YES_NO, _LIST, _FREE = "choice", "yes_no", "list", "free"
CATEGORIES = {  # category -> (field of a conversation, forms that its questions are asked in)
    "comprehension": ("comprehensionQA", (_FREE, _YES_NO)),
    "fact_reason": ("fact_reasonQA", (_FREE, _CHOICE)),
    "fact_truth": ("fact_truthQA", (_FREE, _CHOICE)),
    "belief": ("beliefQAs", (_FREE, _CHOICE)),
    "info_access_list": ("infoAccessibilityQA_list", (_LIST,)),
    "info_access_binary": ("infoAccessibilityQAs_binary", (_YES_NO,)),
    "answerability_list": ("answerabilityQA_list", (_LIST,)),
    "answerability_binary": ("answerabilityQAs_binary", (_YES_NO,)),
    "lie_ability": ("lieabilityQAs", (_FREE, _CHOICE)),
    "lie_detectability_list": ("liedetectabilityQAs_list", (_LIST,)),
    "lie_detectability_binary": ("liedetectabilityQAs_binary", (_YES_NO,)),
}
_JUSTIFICATION = "justification"  # in the files, but not a category of the released script
_ASKED = CATEGORIES | {_JUSTIFICATION: ("justificationQA", (_FREE, _CHOICE))}
_CONVERSATIONS = (36, 9, 14, 16, 25)  # in the five files
_ROLE = "You know social situations well. "
_THINK = _ROLE + "Think it through step by step; at the end "
_OWN = Wording(
    {
        "system_choice": _ROLE
        + "Answer the question with the number of the best option. ONLY include the option number.",
        "system_yes_no": _ROLE + "Answer the question with 'Yes' or 'No'. ONLY include 'Yes' or 'No'.",
        "system_list": _ROLE + "List what is asked for, split by commas. ONLY include the items.",
        "system_free": _ROLE + "Answer the question in one sentence.",
        "system_cot_choice": _THINK + "give the number of the best option as your final answer.",
        "system_cot_yes_no": _THINK + "give 'Yes' or 'No' alone as your final answer.",
        "system_cot_list": _THINK + "list what is asked for, split by commas.",
        "system_cot_free": _THINK + "give one sentence as your final answer.",
        "context": "# Context\n{text}",
        "information": "\n\n# Information\n{text}",
        "target_question": "\n\n# Target Question\n{text}",
        "question": "\n\n# Question\n{text}",
        "options": "\n\n# Options\n{text}",
        "cot": "\n\nReason step by step:\n",
        "cot_answer": "{reply}\n\nSo the final answer is: ",
    }
)
_TARGETS = ("fact_question_real_reason", "comprehension_q", "fact_question_truth")
_NEW_TOKENS = 8192
_ANSWER = re.compile("answer", re.IGNORECASE)


def load(folder: Path) -> Data:
    """Load the conversations of the available files of five. Raises BenchmarkError if there is none."""
    reading = Reading(folder)
    items: list[Mapping[str, Any]] = []
    for number, whole in enumerate(_CONVERSATIONS):
        name = f"Tactful_conv_set_{number}.json"
        try:
            path = reading.find(name, under="final_set")
        except BenchmarkError:
            if number == len(_CONVERSATIONS) - 1 and not reading.files:
                raise
            reading.lack(name, f"{whole} conversations")
            continue
        rows = reading.rows(path, "conversation")
        for where, row in rows:
            _check(row, where, reading)
            items.append({"file": f"set_{number}", **row})
        reading.count(len(rows), whole, "conversations", name)
    return reading.data(items)


def _check(row: Any, where: str, reading: Reading) -> None:
    for name in ("set_id", "full_context", "lie_type"):
        text(row, name, where)
    for name, forms in _ASKED.values():
        for place, question in enumerate(field(row, name, list, where), 1):
            at = f"{where}, {name} {place}"
            reading.once(text(question, "q_id", at), f"{at}: the q_id {question['q_id']} occurs twice")
            text(question, "question", at)
            if _LIST in forms:
                texts(question, "correct_answer", at)
                continue
            gold = text(question, "correct_answer", at)
            if _YES_NO in forms and gold.lower() not in ("yes", "no"):
                raise BenchmarkError(f"{at}: 'correct_answer' is {gold!r}, neither yes nor no")
            if _FREE in forms and (not _wrong(question, at) or gold in _wrong(question, at)):
                raise BenchmarkError(f"{at}: 'wrong_answer' is empty or holds the correct answer")


def _wrong(question: Mapping[str, Any], where: str = "") -> list[str]:
    """Return the wrong answers, given as a list or a single text."""
    if isinstance(field(question, "wrong_answer", (list, str), where), str):
        return [text(question, "wrong_answer", where)]
    return texts(question, "wrong_answer", where)


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Return the questions conversation by conversation; in `social_r1` only choice and yes/no questions."""
    return [
        _request(item, category, question, form, protocol, seed, data.wording or _OWN)
        for item in data.items
        for category, (name, forms) in _ASKED.items()
        for question in item[name]
        for form in forms
        if protocol != "social_r1" or form in (_CHOICE, _YES_NO)
    ]


def _shuffled(question: Mapping[str, Any], seed: int) -> tuple[list[str], int]:
    """Return the options in shuffled order, and the index of the right one."""
    options = [question["correct_answer"], *_wrong(question)]
    order = list(range(len(options)))
    random.Random(f"{seed} {question['q_id']}").shuffle(order)
    return [options[i] for i in order], order.index(0)


def _before(question: Mapping[str, Any]) -> dict[str, str]:
    """Return {name of its prompt text: text} for the information or target question that a question refers to."""
    if "information" in question:
        return {"information": question["information"]}
    return next(({"target_question": question[key]} for key in _TARGETS if key in question), {})


def _request(
    item: Mapping[str, Any],
    category: str,
    question: Mapping[str, Any],
    form: str,
    protocol: ProtocolName,
    seed: int,
    wording: Wording,
) -> Request:
    meta = {"category": category, "form": form, "lie_type": item["lie_type"], "file": item["file"]}
    about: dict[str, Any] = {"id": f"{question['q_id']}-{form}", "item": item["set_id"], "meta": meta}
    before, gold = _before(question), question["correct_answer"]
    options, right = list[str](), 0
    if form == _YES_NO:
        options, gold = ["Yes", "No"], gold.lower()
        right = ("yes", "no").index(gold)
    elif form == _CHOICE:
        options, right = _shuffled(question, seed)
        gold = str(right + 1)
    if protocol == "social_r1":
        lines = [f"{name.replace('_', ' ').title()}: {words}" for name, words in before.items()]
        asked = "\n".join([*lines, question["question"]])
        return card_request(story=item["full_context"], question=asked, options=options, gold=LETTERS[right], **about)
    parts = {"context": item["full_context"], **before, "question": question["question"]}
    if form == _CHOICE:
        parts["options"] = "\n".join(f"{i}. {option}" for i, option in enumerate(options, 1))
        meta["options"] = len(options)
    elif form == _FREE:
        meta["wrong"] = _wrong(question)
    user, system = "".join(wording.text(name, text=words) for name, words in parts.items()), f"system_{form}"
    if cot := protocol == "official_cot":
        user, system = user + wording.text("cot"), f"system_cot_{form}"
        meta["final"] = wording.texts["cot_answer"]
    messages = chat(user, wording.text(system))
    return Request(messages=messages, gold=gold, max_new_tokens=_NEW_TOKENS, follow_up=cot, **about)


def follow_up(request: Request, protocol: ProtocolName, reply: str) -> Request:
    """Return the prompt that asks for the answer, with the reasoning appended to the first prompt."""
    system, user = request.messages
    content = user["content"] + Wording({"final": request.meta["final"]}).text("final", reply=reply)
    return replace(request, messages=(system, {"role": "user", "content": content}), follow_up=False)


def read(request: Request, protocol: ProtocolName, reply: str) -> str | Grade:
    """Return the option's number, yes or no, the names, or for a free answer its token F1."""
    form = request.meta["form"]
    if form == _FREE:
        return Grade(reply, token_f1(reply, request.gold))
    if form == _LIST:
        names = [name.strip() for name in reply.split(",")]
        answer = ", ".join(names) if any(names) else ""
        return Grade(answer, float(set(names) == set(request.gold)))
    return _yes_no(reply) if form == _YES_NO else _number(reply, request.meta["options"])


def _yes_no(reply: str) -> str:
    words = set(re.sub(r"[^\w\s]", "", reply).lower().split())
    return next((word for word in ("yes", "no") if word in words), "")


def _number(reply: str, options: int) -> str:
    """Return the digit at the start of the reply, after "Option", or after the last colon following "answer"; else "".

    The word and the colon must be in the same part between closing braces, with text after the colon. A line break
    before the digit is only allowed right after such a colon.
    """
    rest = reply
    if reply.lower().startswith("option"):
        rest = reply[len("option") :]
    else:
        for part in reply.split("}"):
            colon = part.rfind(":", 0, len(part) - 1)
            if colon >= 0 and _ANSWER.search(part, 0, colon):
                rest = part[colon + 1 :].strip()
                break
    first = rest.strip(" #*:")[:1]
    return first if first in [str(i) for i in range(1, options + 1)] else ""


def token_f1(one: str, other: str) -> float:
    """Return the F1 of the sets of words and marks of two texts; 1 if both are empty."""
    ours, theirs = _word_set(one), _word_set(other)
    if not ours and not theirs:
        return 1.0
    return 2 * len(ours & theirs) / (len(ours) + len(theirs))


@lru_cache(10_000)  # each reply is compared with four texts, and each text with several replies
def _word_set(text: str) -> frozenset[str]:
    return frozenset(english_words(text))


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return the micro average over choice and yes/no questions (ours), then accuracy by category and form of answer.

    `<file>/<category>` is the category's figure in one of the five files, as in the released script.

    Free answers are separate: `free/<category>` is the token F1 with the correct answer, `free/f1_wrong` that with the
    most similar wrong one. They include justification, as in the released script for free answers. The closed
    justification questions, which the other script leaves out, are a category outside all means;
    `ours/comprehension_and_justification` is the share of conversations with both right.
    """
    closed = [row for row in graded if row.request.meta["form"] != _FREE]
    asked = [row for row in closed if row.request.meta["category"] in CATEGORIES]
    micro = [row for row in asked if row.request.meta["form"] in (_CHOICE, _YES_NO)]
    by_name = {"ours/accuracy" if protocol == "social_r1" else "ours/micro": accuracy(micro)}
    by_category = by_group(closed, "category")
    by_name |= {name: accuracy(by_category[name]) for name in _ASKED if name in by_category}
    for file, group in by_group([row for row in closed if "file" in row.request.meta], "file").items():
        in_file = by_group(group, "category")
        by_name |= {f"{file}/{name}": accuracy(in_file[name]) for name in _ASKED if name in in_file}
    by_name |= accuracies(asked, "form", "form/") | accuracies(micro, "lie_type", "lie_type/")
    if _JUSTIFICATION in by_category:
        both = (*by_category[_JUSTIFICATION], *by_category.get("comprehension", ()))
        units = grouped(both, lambda row: row.request.item)
        by_name["ours/comprehension_and_justification"] = all_right(units.values())
    if free := [row for row in graded if row.request.meta["form"] == _FREE]:
        wrong = [max(token_f1(row.grade.answer, text) for text in row.request.meta["wrong"]) for row in free]
        by_name["free/f1"] = accuracy(free)
        by_name["free/f1_wrong"] = item_mean(free, wrong)
        by_name |= accuracies(free, "category", "free/")
    return by_name


def embedded_figures(graded: Sequence[Graded], embed: Embedder) -> dict[str, Metric]:
    """Return the cosine similarity of free answers to the correct and the nearest wrong one (all-MiniLM-L6-v2)."""
    free = [row for row in graded if row.request.meta["form"] == _FREE]
    pairs = [(row.grade.answer, text) for row in free for text in (row.request.gold, *row.request.meta["wrong"])]
    cosines = iter(similarities(pairs, embed))
    each = [(next(cosines), max(next(cosines) for _ in row.request.meta["wrong"])) for row in free]
    right, wrong = ([both[side] for both in each] for side in (0, 1))
    return {"free/cosine": item_mean(free, right), "free/cosine_wrong": item_mean(free, wrong)}


TASK = Task(
    name="tactfultom",
    title="TactfulToM",
    source="nii-cl/tactful-tom @ 0881b0d (dataset/final_set)",
    licence="not stated (research and evaluation only, no training)",
    published=(sum(_CONVERSATIONS), "conversations"),
    protocols=ways("official", "official_cot", drawn=Decoding(temperature=0.2)),
    kind="category",
    load=load,
    requests=requests,
    follow_up=follow_up,
    grade=graded_by(read),
    metrics=metrics,
    embedding_model=TACTFULTOM_MODEL,
    embedded=lambda graded, embed: (list(graded), embedded_figures(graded, embed)),
)
