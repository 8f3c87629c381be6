"""FANToM: who knows what in a conversation that people leave and join again.

Official rules as of skywalker023/fantom @ ebd35eb. A set asks for the fact, for beliefs (free and as a choice of
two), who can answer (list and yes/no) and who has the information (list and yes/no), each with the short and with the
full context: meta["context"]; the headline is that of the short one. Figures are in `fantom_scores.py`.

The file here is recovered from mirrors: what is not known is null, and questions that need it are skipped and counted
in the notes; the figures `.../sets` tell how many sets ALL is over. It is then not the published FANToM score.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.data.evaluation_sets import EVALUATION_SETS
from socialr1_jax.evaluation import embeddings
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.request import ProtocolName, Request, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Decoding, Task, ways
from socialr1_jax.evaluation.tasks.fantom_scores import embed_grades, metrics, official_grade
from socialr1_jax.evaluation.tasks.reading import Reading, field, text, texts

CONTEXTS = ("short", "full")
_SETS = 870
_ORDER_SEED = 99
_NEW_TOKENS = 512
_COT_TOKENS = 256
_STEPS = " Let's think step by step."  # as in Kojima et al. 2022
_FINAL = "\n\nTherefore, the answer is:"
_LISTS = {"answerability": "answerabilityQA_list", "info": "infoAccessibilityQA_list"}
_BINARIES = {"answerability": "answerabilityQAs_binary", "info": "infoAccessibilityQAs_binary"}
_CARD_KINDS = ("belief_choice", "answerability_binary", "info_binary")
_INACCESSIBLE = "inaccessible"


class _Question(NamedTuple):
    """A question of a set in one context. `body`, the prompt after the context, and `gold` are None when not known."""

    id: str
    kind: str
    body: str | None
    gold: Any
    access: str  # inaccessible or accessible; "" for the fact
    meta: Mapping[str, Any]
    card: tuple[str, tuple[str, str]] = ("", ("", ""))  # question and options of the cards' prompt


def load(folder: Path) -> Data:
    """Return the sets of the official file or of the recovered one. Raises BenchmarkError."""
    reading = Reading(folder, {name: digest for digest, name in EVALUATION_SETS["FANToM"].items()})
    rows = reading.rows(reading.find("fantom_v1.json", "fantom_v1_recovered.json"), "set")
    for where, item in rows:
        _check(item, where)
        reading.once(item["set_id"], f"{where}: the set_id {item['set_id']} is there twice")
    items = [item for _, item in rows]
    reading.count(len(items), _SETS, "sets")
    notes = [_skipped_note(items, context) for context in CONTEXTS]
    if hopeless := [item["set_id"] for item in items if _is_hopeless(item["answerabilityQA_list"])]:
        notes.append(
            f"lists that no reply can get right, a wrong name being part of a right one: {', '.join(hopeless)}"
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


def _skipped_note(items: list[Mapping[str, Any]], context: str) -> str:
    """Return how many questions of a context have no known answer or prompt, in words; "" for none."""
    skipped: Counter[str] = Counter()
    whole = 0
    for item, lasts in zip(items, _draws(items), strict=True):
        missing = [one.kind for one in _questions(item, context, lasts) if not _known(one)]
        skipped.update(missing)
        whole += not [kind for kind in missing if kind != "fact"]
    if not skipped:
        return ""
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(skipped.items()))
    return f"{context}: skipped for fields that are null: {counts}; {whole} of {len(items)} sets are whole"


def _is_hopeless(listed: Mapping[str, Any]) -> bool:
    """The rule looks for names as parts of the reply: with Erika right and Erik wrong, no reply is right."""
    right, wrong = (listed[side] or () for side in ("correct_answer", "wrong_answer"))
    return any(other.lower() in name.lower() for other in wrong for name in right)


def _known(question: _Question) -> bool:
    return question.body is not None and question.gold is not None


def _draws(items: Any) -> Iterator[list[bool]]:
    """For each set, whether the right answer goes last; one draw a belief question, over all sets in file order."""
    source = random.Random(_ORDER_SEED)
    for item in items:
        yield [source.choice([True, False]) for _ in item["beliefQAs"]]


def _questions(item: Mapping[str, Any], context: str, lasts: list[bool]) -> Iterator[_Question]:
    """All questions of a set as a context has them, known or not."""
    fact, answer = item["factQA"]["question"], item["factQA"]["correct_answer"]
    shown = item[f"{context}_context"] is not None

    def asked(body: str | None) -> str | None:
        return body if shown else None

    yield _Question("fact", "fact", asked(f"Question: {fact}\nAnswer:"), answer, "", {})
    for i, (belief, last) in enumerate(zip(item["beliefQAs"], lasts, strict=True)):
        question, right, wrong = belief["question"], belief["correct_answer"], belief["wrong_answer"]
        access = belief["missed_info_accessibility"]
        meta = {"tom_type": belief.get("tom_type"), "character": _believer(question)}
        body = f"Question: {question}\nAnswer:"
        yield _Question(f"belief_dist-{i}", "belief_dist", asked(body), right, access, meta | {"wrong": wrong})
        options = (wrong, right) if last else (right, wrong)
        body = f"Question: {question}\n(a) {options[0]}\n(b) {options[1]}\n\nChoose an answer from above:"
        gold = "b" if last else "a"
        yield _Question(
            f"belief_choice-{i}", "belief_choice", asked(body), gold, access, meta, card=(question, options)
        )
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
        yield _Question(f"{name}_list", f"{name}_list", asked(heading and body), names, list_access, people)
        for i, binary in enumerate(binaries):
            gold = binary["correct_answer"]
            if gold == "no:long":
                if context == "short":
                    continue  # about somebody whom the short context does not have
                gold = "no"
            body = f"{heading}\nQuestion: {binary['question']} Answer yes or no.\nAnswer:"
            card = (f"{heading}\n{binary['question']}", ("Yes", "No"))
            who = {"character": _knower(binary["question"]).lower()}
            yield _Question(
                f"{name}_binary-{i}", f"{name}_binary", asked(heading and body), gold, binary_access, who, card
            )


def _knower(question: str) -> str:
    """Return the character whose knowledge a yes-or-no question asks for."""
    return question.removeprefix("Does ").partition(" know")[0]


def _believer(question: str) -> str:
    """Return the character whose belief a question asks for first, in lower case."""
    return next(iter(question.lower().partition("does ")[2].split()), "")


def _access(listed: Mapping[str, Any], binaries: list[Mapping[str, Any]], context: str) -> tuple[str, str]:
    """Return whether the list and the binaries are of missed information.

    With the full context they are as soon as anybody in the conversation does not know, as the official loader has it.
    """
    list_access = listed["missed_info_accessibility"]
    binary_access = binaries[0]["missed_info_accessibility"] if binaries else list_access
    if context == "full":
        if listed["wrong_answer"]:
            list_access = _INACCESSIBLE
        if any(one["correct_answer"] not in ("yes", None) for one in binaries):
            binary_access = _INACCESSIBLE
    return list_access, binary_access


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """All questions with the short context, set after set, then all with the full one.

    The order of the choices is the benchmark's (seed 99, not `seed`). meta["skipped"] names the kinds of question with
    the same set, context and accessibility that had to be skipped.
    """
    found = []
    for context in CONTEXTS:
        for item, lasts in zip(data.items, _draws(data.items), strict=True):
            questions = list(_questions(item, context, lasts))
            skipped: dict[str, set[str]] = {}
            for one in questions:
                if not _known(one):
                    skipped.setdefault(one.access, set()).add(one.kind)
            for one in questions:
                if not _known(one) or (protocol == "social_r1" and one.kind not in _CARD_KINDS):
                    continue
                meta = {
                    "context": context,
                    "kind": one.kind,
                    "set": item["set_id"],
                    "access": one.access,
                    "skipped": sorted(skipped.get(one.access, ())),
                    **one.meta,
                }
                if protocol == "social_r1":
                    found.append(_social_r1(item, one, context, meta))
                else:
                    found.append(_official(item, one, context, meta, cot=protocol == "official_cot"))
    return found


def _names(item: Mapping[str, Any], one: _Question, context: str) -> tuple[str, str]:
    """(id, item) of a request; sets of one conversation hang together."""
    return f"{context}/{item['set_id']}/{one.id}", f"conversation-{item['set_id'].split('-')[0]}"


def _official(item: Mapping[str, Any], one: _Question, context: str, meta: Mapping[str, Any], cot: bool) -> Request:
    id, unit = _names(item, one, context)
    content = f"{item[f'{context}_context'].strip()}\n\n{one.body}"
    if cot:
        content = content.removesuffix("Answer:") + _STEPS
    return Request(
        id=id,
        item=unit,
        messages=chat(content),
        gold=one.gold,
        meta=meta,
        max_new_tokens=_COT_TOKENS if cot else _NEW_TOKENS,
        follow_up=cot,
    )


def follow_up(request: Request, protocol: ProtocolName, reply: str) -> Request:
    """Return the prompt of the answer: the first one with the reasoning behind it."""
    content = f"{request.messages[0]['content']} {reply.strip()}{_FINAL}"
    return replace(request, messages=chat(content), follow_up=False)


def _social_r1(item: Mapping[str, Any], one: _Question, context: str, meta: Mapping[str, Any]) -> Request:
    id, unit = _names(item, one, context)
    question, options = one.card
    gold = {"a": "A", "b": "B", "yes": "A", "no": "B"}[one.gold]
    story = item[f"{context}_context"].strip()
    return card_request(id=id, item=unit, story=story, question=question, options=options, gold=gold, meta=meta)


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
