"""FANToM: who knows what in a conversation that people leave and join again.

Official rules as of skywalker023/fantom @ ebd35eb. A set asks for the fact, for beliefs (free and as a choice of
two), who can answer (list and yes/no) and who has the information (list and yes/no), each with the short and the full
context (`meta["context"]`); the headline is over the short one. Figures are in `fantom_scores.py`.

In the file recovered from mirrors unknown fields are null. Questions that need them are skipped and counted in the
notes, and `.../sets` is the number of sets behind ALL, which is then not the published FANToM score.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.evaluation import embeddings
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.request import Request, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Decoding, Task, ways
from socialr1_jax.evaluation.tasks.fantom_scores import embed_grades, metrics, official_grade
from socialr1_jax.evaluation.tasks.reading import Reading, field, text, texts

CONTEXTS = ("short", "full")
_SETS = 870
_ORDER_SEED = 99
_NEW_TOKENS = 512
_COT_TOKENS = 256
_STEPS = " Let's think step by step."  # Kojima et al. 2022
_FINAL = "\n\nTherefore, the answer is:"
_LISTS = {"answerability": "answerabilityQA_list", "info": "infoAccessibilityQA_list"}
_BINARIES = {"answerability": "answerabilityQAs_binary", "info": "infoAccessibilityQAs_binary"}
_CARD_KINDS = ("belief_choice", "answerability_binary", "info_binary")
_INACCESSIBLE = "inaccessible"


class _Question(NamedTuple):
    """A question of a set in one context. `body` (the prompt after the context) and `gold` are None if unknown."""

    id: str
    kind: str
    body: str | None
    gold: Any
    access: str  # inaccessible or accessible; "" for the fact
    meta: Mapping[str, Any]
    card: tuple[str, tuple[str, str]] = ("", ("", ""))  # question and options of the cards' prompt


def load(folder: Path) -> Data:
    """Load the sets, each with `lasts`: is the right answer of a belief's choice the last? Raises BenchmarkError."""
    reading = Reading(folder)
    rows = reading.rows(reading.find("fantom_v1.json", "fantom_v1_recovered.json"), "set")
    for where, item in rows:
        _check(item, where)
        reading.once(item["set_id"], f"{where}: the set_id {item['set_id']} occurs twice")
    draw = random.Random(_ORDER_SEED)  # one draw per belief question over all sets, as in the official loader
    items = [{**item, "lasts": [draw.choice([True, False]) for _ in item["beliefQAs"]]} for _, item in rows]
    reading.count(len(items), _SETS, "sets")
    notes = [_skipped_note(items, context) for context in CONTEXTS]
    if hopeless := [item["set_id"] for item in items if _is_hopeless(item["answerabilityQA_list"])]:
        notes.append(
            f"lists that no reply can get right, since a wrong name is part of a right one: {', '.join(hopeless)}"
        )
    if not embeddings.installed():
        notes.append(f"without belief_dist, ALL* and the orders: {embeddings.FANTOM_MODEL} needs sentence-transformers")
    return reading.data(items, *filter(None, notes))


def _check(item: Any, where: str) -> None:
    text(item, "set_id", where)
    text(item, "full_context", where)
    field(item, "short_context", (str, type(None)), where)
    fact = field(item, "factQA", dict, where)
    text(fact, "question", f"{where}, factQA")
    field(fact, "correct_answer", (str, type(None)), f"{where}, factQA")
    for name in ("beliefQAs", *_BINARIES.values(), *_LISTS.values()):
        listed = name in _LISTS.values()
        for place, question in enumerate([item.get(name)] if listed else field(item, name, list, where), 1):
            at = f"{where}, {name}" + ("" if listed else f" {place}")
            text(question, "question", at)
            if field(question, "missed_info_accessibility", str, at) not in (_INACCESSIBLE, "accessible"):
                raise BenchmarkError(f"{at}: missed_info_accessibility is {question['missed_info_accessibility']!r}")
            if listed:
                for side in ("correct_answer", "wrong_answer"):
                    if field(question, side, (list, type(None)), at) is not None:
                        texts(question, side, at)
            elif name == "beliefQAs":
                text(question, "correct_answer", at)
                text(question, "wrong_answer", at)
            elif field(question, "correct_answer", (str, type(None)), at) not in ("yes", "no", "no:long", None):
                raise BenchmarkError(f"{at}: the answer is {question['correct_answer']!r}, not yes, no or no:long")


def _skipped_note(items: Sequence[Mapping[str, Any]], context: str) -> str:
    """Return a note with the number of skipped questions of a context; "" if there are none."""
    skipped: Counter[str] = Counter()
    whole = 0
    for item in items:
        missing = [question.kind for question in _questions(item, context) if not _is_known(item, context, question)]
        skipped.update(missing)
        whole += not [kind for kind in missing if kind != "fact"]
    if not skipped:
        return ""
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
    return f"{context}: skipped for fields that are null: {counts}; {whole} of {len(items)} sets are whole"


def _is_hopeless(listed: Mapping[str, Any]) -> bool:
    """Return whether a wrong name is part of a right one: names are matched as substrings, so no reply can be right."""
    right, wrong = (listed[side] or () for side in ("correct_answer", "wrong_answer"))
    return any(other.lower() in name.lower() for other in wrong for name in right)


def _is_known(item: Mapping[str, Any], context: str, question: _Question) -> bool:
    """Return whether the file has the context, the question and its answer."""
    return None not in (item[f"{context}_context"], question.body, question.gold)


def _questions(item: Mapping[str, Any], context: str) -> Iterator[_Question]:
    """Yield all questions of a set in a context, known or not."""
    fact, answer = item["factQA"]["question"], item["factQA"]["correct_answer"]
    yield _Question("fact", "fact", f"Question: {fact}\nAnswer:", answer, "", {})
    for i, (belief, last) in enumerate(zip(item["beliefQAs"], item["lasts"], strict=True)):
        question, right, wrong = belief["question"], belief["correct_answer"], belief["wrong_answer"]
        access = belief["missed_info_accessibility"]
        meta = {"tom_type": belief.get("tom_type"), "character": _believer(question)}
        body = f"Question: {question}\nAnswer:"
        yield _Question(f"belief_dist-{i}", "belief_dist", body, right, access, meta | {"wrong": wrong})
        options = (wrong, right) if last else (right, wrong)
        body = f"Question: {question}\n(a) {options[0]}\n(b) {options[1]}\n\nChoose an answer from above:"
        gold = "b" if last else "a"
        yield _Question(f"belief_choice-{i}", "belief_choice", body, gold, access, meta, card=(question, options))
    for name, heading in (
        ("answerability", f"Target: {fact}"),
        ("info", None if answer is None else f"Information: {fact} {answer}"),
    ):
        listed, binaries = item[_LISTS[name]], item[_BINARIES[name]]
        list_access, binary_access = _access(listed, binaries, context)
        right, wrong = listed["correct_answer"], listed["wrong_answer"]
        names = None if right is None or wrong is None else {"correct": right, "wrong": wrong}
        body = f"{heading}\nQuestion: {listed['question']}\nAnswer:"
        people = {"characters": [_knower(binary["question"]) for binary in binaries]}
        yield _Question(f"{name}_list", f"{name}_list", heading and body, names, list_access, people)
        for i, binary in enumerate(binaries):
            gold = binary["correct_answer"]
            if gold == "no:long":
                if context == "short":
                    continue  # about a character who is not in the short context
                gold = "no"
            body = f"{heading}\nQuestion: {binary['question']} Answer yes or no.\nAnswer:"
            card = (f"{heading}\n{binary['question']}", ("Yes", "No"))
            who = {"character": _knower(binary["question"]).lower()}
            yield _Question(f"{name}_binary-{i}", f"{name}_binary", heading and body, gold, binary_access, who, card)


def _knower(question: str) -> str:
    """Return the character that a yes-or-no question is about."""
    return question.removeprefix("Does ").partition(" know")[0]


def _believer(question: str) -> str:
    """Return the character whose belief a question asks for, in lower case; the first one if nested."""
    return next(iter(question.lower().partition("does ")[2].split()), "")


def _access(listed: Mapping[str, Any], binaries: list[Mapping[str, Any]], context: str) -> tuple[str, str]:
    """Return whether the list and the binaries are about missed information.

    In the full context they are if any character does not know, as in the official loader.
    """
    list_access = listed["missed_info_accessibility"]
    binary_access = binaries[0]["missed_info_accessibility"] if binaries else list_access
    if context == "full":
        if listed["wrong_answer"]:
            list_access = _INACCESSIBLE
        if any(binary["correct_answer"] not in ("yes", None) for binary in binaries):
            binary_access = _INACCESSIBLE
    return list_access, binary_access


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Return all questions with the short context, set by set, then all with the full context.

    The order of the choices is the benchmark's (seed 99, not `seed`). `meta["skipped"]` names the kinds of questions
    with the same set, context and accessibility that were skipped.
    """
    prompts = []
    for context in CONTEXTS:
        for item in data.items:
            questions = list(_questions(item, context))
            known = [question for question in questions if _is_known(item, context, question)]
            skipped = {(question.access, question.kind) for question in questions if question not in known}
            for question in known:
                if protocol == "social_r1" and question.kind not in _CARD_KINDS:
                    continue
                meta = {
                    "context": context,
                    "kind": question.kind,
                    "set": item["set_id"],
                    "access": question.access,
                    "skipped": sorted(kind for access, kind in skipped if access == question.access),
                    **question.meta,
                }
                prompts.append(_request(item, question, context, meta, protocol))
    return prompts


def _request(
    item: Mapping[str, Any], one: _Question, context: str, meta: Mapping[str, Any], protocol: ProtocolName
) -> Request:
    """Return the prompt of a known question; sets of one conversation form one item."""
    about: dict[str, Any] = {
        "id": f"{context}/{item['set_id']}/{one.id}",
        "item": f"conversation-{item['set_id'].split('-')[0]}",
        "meta": meta,
    }
    story = item[f"{context}_context"].strip()
    if protocol == "social_r1":
        question, options = one.card
        gold = {"a": "A", "b": "B", "yes": "A", "no": "B"}[one.gold]
        return card_request(story=story, question=question, options=options, gold=gold, **about)
    content, cot = f"{story}\n\n{one.body}", protocol == "official_cot"
    if cot:
        content = content.removesuffix("Answer:") + _STEPS
    tokens = _COT_TOKENS if cot else _NEW_TOKENS
    return Request(messages=chat(content), gold=one.gold, max_new_tokens=tokens, follow_up=cot, **about)


def follow_up(request: Request, protocol: ProtocolName, reply: str) -> Request:
    """Return the prompt that asks for the answer, with the reasoning appended to the first prompt."""
    content = f"{request.messages[0]['content']} {reply.strip()}{_FINAL}"
    return replace(request, messages=chat(content), follow_up=False)


TASK = Task(
    name="fantom",
    title="FANToM",
    source="skywalker023/fantom @ ebd35eb (fantom_v1.json in fantom.tar.gz), or the recovered file",
    licence="MIT (evaluation only, no training)",
    published=(_SETS, "sets of questions"),
    protocols=ways("official", "official_cot", drawn=Decoding(top_p=0.95)),
    kind="kind",
    headline={"context": "short"},
    load=load,
    requests=requests,
    follow_up=follow_up,
    grade=graded_by(lambda request, protocol, reply: official_grade(request, reply)),
    metrics=metrics,
    embedding_model=embeddings.FANTOM_MODEL,
    embedded=lambda graded, embed: (embed_grades(graded, embed), {}),
)
