"""FANToM's grades and figures, by the rules of skywalker023/fantom @ ebd35eb; figures are fractions, not x 100."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.evaluation.embeddings import similarities
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
    mean_metric,
    prefixed,
)
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.task import Embedder

_ALL = ("belief_choice", "answerability_list", "answerability_binary", "info_list", "info_binary")
_UNITS = {"set": 3, "part": 2, "conversation": 1}  # unit -> length of its prefix of a set's id, in numbers
_ERRORS = {
    "list": ("excluded_aware", "included_unaware", "did_both"),
    "binary": ("false_negative", "false_positive", "irrelevant"),
}
_YES_PARTS = (" yes ", " yes,", " yes.", " knows ")
_NO_PARTS = (" no ", " no,", " no.", " does not know ", " doesn't know ")


def official_grade(request: Request, reply: str) -> Grade:
    """Grade a reply; the answer is a letter, yes or no, the names it contains, or the reply itself if free."""
    answer_text = _said(reply)
    kind, gold = request.meta["kind"], request.gold
    if kind == "belief_dist":
        return Grade(answer_text, math.nan)
    if kind == "fact":
        return Grade(answer_text, word_f1(gold.lower(), answer_text.lower()))
    if kind == "belief_choice":
        other = "a" if gold == "b" else "b"  # a reply with both letters counts as right
        answer = gold if _chooses(answer_text, gold) else other if _chooses(answer_text, other) else ""
        return Grade(answer, float(answer == gold))
    if kind.endswith("_binary"):
        answer = _yes_no(answer_text)
        return Grade(answer, float(answer == gold))
    text = answer_text.lower()
    people = (*gold["correct"], *gold["wrong"])
    known = {name.lower() for name in people}
    others = (name for name in request.meta.get("characters", ()) if name.lower() not in known)
    named = [name for name in dict.fromkeys((*people, *others)) if name.lower() in text]
    right = all(name in named for name in gold["correct"]) and not any(name.lower() in text for name in gold["wrong"])
    return Grade(", ".join(named), float(right))


def _said(reply: str) -> str:
    for mark in ("Answer:", "Choose an answer from above:"):
        if mark in reply:
            return reply.rpartition(mark)[2].strip()
    return reply.strip()


def _chooses(said: str, letter: str) -> bool:
    text = said.lower()
    starts = (f"({letter})", *(letter + sign for sign in ").:,"))
    return text.startswith(starts) or f"({letter})" in text or text == letter


def _yes_no(said: str) -> str:
    text = said.lower().strip("'").strip('"')
    if text.startswith(("yes", "true")) or any(part in text for part in _YES_PARTS):
        return "yes"
    if text.startswith(("no", "false")) or any(part in text for part in _NO_PARTS):
        return "no"
    return ""


def word_f1(one: str, other: str) -> float:
    """Return the multiset F1 of whitespace tokens; 0 if none is shared."""
    ours, theirs = one.split(), other.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def embed_grades(graded: Sequence[Graded], embed: Embedder) -> list[Graded]:
    """Grade free beliefs (value NaN): 1 if the reply is more similar to the correct answer than to the wrong one.

    Similarity is the cosine (all-roberta-large-v1); a tie is wrong. All texts are embedded in one call.
    """
    regraded = list(graded)
    waiting = [i for i, row in enumerate(graded) if math.isnan(row.grade.value)]
    answers = [(graded[i].grade.answer, graded[i].request) for i in waiting]
    pairs = [(answer, text) for answer, request in answers for text in (request.gold, request.meta["wrong"])]
    cosines = similarities(pairs, embed)
    for i, right, wrong in zip(waiting, cosines[::2], cosines[1::2], strict=True):
        regraded[i] = graded[i]._replace(grade=graded[i].grade._replace(value=float(right > wrong)))
    return regraded


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return figures on missed ("inaccessible") information as `<context>/...`, others as `<context>/accessible/...`.

    `.../part/...` and `.../conversation/...` are like ALL, but over the questions of a part or conversation instead of
    a set. `.../errors/...` are numbers of wrong answers by kind, with n the number of all wrong ones.

    Official: ALL (first), ALL*, and each kind; sets with a skipped question are left out. ALL*, the orders and
    belief_dist need a grade for every free belief. social_r1: plain accuracy of the multiple-choice questions (our
    selection).
    """
    contexts = by_group(graded, "context")
    figures = _social_r1 if protocol == "social_r1" else _official
    by_name: dict[str, Metric] = {}
    for context in sorted(contexts, reverse=True):  # short, full
        by_name |= prefixed(f"{context}/", figures(contexts[context], context))
    return by_name


def _social_r1(graded: Sequence[Graded], context: str) -> dict[str, Metric]:
    return {"ours/accuracy": accuracy(graded)} | accuracies(graded, "kind") | accuracies(graded, "access")


def _official(graded: Sequence[Graded], context: str) -> dict[str, Metric]:
    embedded = not any(math.isnan(row.grade.value) for row in graded)
    access = by_group(graded, "access")
    by_name = _report(access.get("inaccessible", []), embedded, context)
    if "" in access:
        by_name["fact_f1"] = accuracy(access[""])
    if "accessible" in access:
        by_name |= prefixed("accessible/", _report(access["accessible"], embedded, context))
    return by_name


def _report(graded: Sequence[Graded], embedded: bool, context: str) -> dict[str, Metric]:
    kinds = by_group(graded, "kind")
    by_name = _joined(graded, embedded, _UNITS["set"])
    by_name["sets"] = Metric(float(len(_whole(graded, _ALL, _UNITS["set"]))), math.nan, by_name["ALL"].n)
    if "belief_choice" in kinds:
        by_name["belief_choice"] = accuracy(kinds["belief_choice"])
    if embedded and (dist := kinds.get("belief_dist")):
        by_name |= _free_beliefs(dist)
    for name in ("answerability", "info"):
        if rows := kinds.get(f"{name}_list"):
            by_name[f"{name}_list"] = accuracy(rows)
        if rows := kinds.get(f"{name}_binary"):
            by_name[f"{name}_binary_f1"] = weighted_f1(rows)
    by_name |= _errors(kinds)
    for unit in ("part", "conversation") if context == "full" else ("part",):
        by_name |= prefixed(f"{unit}/", _joined(graded, embedded, _UNITS[unit]))
    return by_name


def _joined(graded: Sequence[Graded], embedded: bool, size: int) -> dict[str, Metric]:
    """Return the figures that require every answer in a unit, or about a character in it, to be right."""
    by_name = {"ALL": all_right(_whole(graded, _ALL, size).values())}
    if embedded:
        by_name["ALL*"] = all_right(_whole(graded, ("belief_dist", *_ALL), size).values())
    for name in ("answerability", "info"):
        units = _whole(graded, (f"{name}_list", f"{name}_binary"), size)
        by_name[f"{name}_ALL"] = all_right(units.values())
    return by_name | _characters(graded, embedded, size)


def _characters(graded: Sequence[Graded], embedded: bool, size: int) -> dict[str, Metric]:
    """Return ALL_character and character_consistency, over the characters of each unit.

    ALL_character: all beliefs and yes-or-no answers about the character are right, and lists include it correctly.
    character_consistency: yes-or-no answers and lists agree on what it knows, right or wrong.
    """
    right: dict[tuple[str, str], list[float]] = {}
    answers_of: dict[tuple[str, str], set[str]] = {}
    items: dict[tuple[str, str], str] = {}
    for unit, rows in _whole(graded, ("belief_dist", *_ALL), size).items():
        kinds = by_group(rows, "kind")
        for row in rows:
            if not (name := row.request.meta.get("character", "")):
                continue
            items[unit, name] = row.request.item
            values = right.setdefault((unit, name), [])
            values.append(row.grade.value)
            topic, _, form = row.request.meta["kind"].rpartition("_")
            if form != "binary":
                continue
            answers = answers_of.setdefault((unit, name), set())
            answers.add(row.grade.answer)
            for listed in kinds.get(f"{topic}_list", ()):
                answer = "yes" if name in listed.grade.answer.lower().split(", ") else "no"
                answers.add(answer)
                values.append(float(answer == row.request.gold))
    by_name = {}
    if right and embedded:
        by_name["ALL_character"] = mean_metric(list(map(min, right.values())), [items[key] for key in right])
    if answers_of:
        same = [float(len(answers) == 1) for answers in answers_of.values()]
        by_name["character_consistency"] = mean_metric(same, [items[key] for key in answers_of])
    return by_name


def _errors(kinds: Mapping[str, Sequence[Graded]]) -> dict[str, Metric]:
    """Count wrong answerability lists and wrong yes-or-no answers by kind of error."""
    reasons: Counter[str] = Counter()
    for row in kinds.get("answerability_list", ()):
        if not row.grade.value:
            named = row.grade.answer.split(", ")
            excluded = not all(name in named for name in row.request.gold["correct"])
            included = any(name in named for name in row.request.gold["wrong"])
            reason = "did_both" if excluded and included else "excluded_aware" if excluded else "included_unaware"
            reasons[f"list/{reason}"] += 1
    for row in (*kinds.get("answerability_binary", ()), *kinds.get("info_binary", ())):
        if not row.grade.value:
            reason = {"no": "false_negative", "yes": "false_positive"}.get(row.grade.answer, "irrelevant")
            reasons[f"binary/{reason}"] += 1
    counts = {}
    for form, names in _ERRORS.items():
        wrong = sum(reasons[f"{form}/{name}"] for name in names)
        for name in names if wrong else ():
            counts[f"errors/{form}/{name}"] = Metric(float(reasons[f"{form}/{name}"]), math.nan, wrong)
    return counts


def _free_beliefs(dist: Sequence[Graded]) -> dict[str, Metric]:
    right = [row for row in dist if row.grade.value]
    overlap = [word_f1(row.request.gold, row.grade.answer) for row in right]
    by_name = {"belief_dist": accuracy(dist), "belief_true_word_f1": item_mean(right, overlap)}
    typed = [row for row in dist if row.request.meta["tom_type"]]
    for order in ("first-order", "second-order"):
        if rows := [row for row in typed if row.request.meta["tom_type"].startswith(order)]:
            by_name[order.replace("-", "_")] = accuracy(rows)
    for name, rows in by_group(typed, "tom_type").items():
        if ":" in name:
            by_name[name.replace("-", "_").replace(":", "_")] = accuracy(rows)
    return by_name


def _whole(graded: Sequence[Graded], kinds: tuple[str, ...], size: int) -> dict[str, list[Graded]]:
    """Group the questions of these kinds by unit, without units that have a skipped one."""
    asked = [row for row in graded if row.request.meta["kind"] in kinds]
    units = grouped(asked, lambda row: "-".join(row.request.meta["set"].split("-")[:size]))
    skipped = {unit for unit, rows in units.items() for row in rows if set(kinds) & set(row.request.meta["skipped"])}
    return {unit: rows for unit, rows in sorted(units.items()) if unit not in skipped}


def weighted_f1(graded: Sequence[Graded]) -> Metric:
    """Return the F1 of yes and no, weighted by gold frequency; unparsable answers are a third class of weight 0.

    The standard error is a jackknife over conversations.
    """
    conversations = grouped(graded, lambda row: row.request.item).values()
    table = [Counter((row.request.gold, row.grade.answer) for row in rows) for rows in conversations]
    total = sum(table, Counter[tuple[str, str]]())
    value, n = _weighted_f1(total), len(table)
    if n < 2:
        return Metric(value, math.nan, n)
    without = [_weighted_f1(total - counts) for counts in table]
    mean = math.fsum(without) / n
    return Metric(value, math.sqrt(math.fsum((v - mean) ** 2 for v in without) * (n - 1) / n), n)


def _weighted_f1(count: Counter[tuple[str, str]]) -> float:
    """Return the weighted F1 of a confusion table, (gold, answer) -> number."""
    weighted, total = 0.0, 0
    for label, other in (("yes", "no"), ("no", "yes")):
        hit = count[label, label]
        golds = hit + count[label, other] + count[label, ""]
        total += golds
        weighted += golds * 2 * hit / (golds + hit + count[other, label]) if hit else 0.0
    return weighted / total if total else math.nan
