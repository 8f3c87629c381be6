"""FANToM's grades and figures, by the rules of skywalker023/fantom @ ebd35eb; figures are fractions, not x 100."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from socialr1_jax.evaluation.embeddings import Embedder, similarities
from socialr1_jax.evaluation.metrics import Grade, Graded, Metric, accuracies, accuracy, by_group, mean_metric
from socialr1_jax.evaluation.request import ProtocolName, Request

_ALL = ("belief_choice", "answerability_list", "answerability_binary", "info_list", "info_binary")
_UNITS = {"set": 3, "part": 2, "conversation": 1}  # how many numbers of a set's id name the unit
_ERRORS = {
    "list": ("excluded_aware", "included_unaware", "did_both"),
    "binary": ("false_negative", "false_positive", "irrelevant"),
}
_YES_PARTS = (" yes ", " yes,", " yes.", " knows ")
_NO_PARTS = (" no ", " no,", " no.", " does not know ", " doesn't know ")


def official_grade(request: Request, reply: str) -> Grade:
    """The reply's answer in the gold's terms: a letter, yes or no, the names it holds, or itself for a free answer."""
    said = _said(reply)
    kind, gold = request.meta["kind"], request.gold
    if kind == "belief_dist":
        return Grade(said, math.nan)
    if kind == "fact":
        return Grade(said, word_f1(gold.lower(), said.lower()))
    if kind == "belief_choice":
        other = "a" if gold == "b" else "b"  # a reply that shows both counts as right
        answer = gold if _chooses(said, gold) else other if _chooses(said, other) else ""
        return Grade(answer, float(answer == gold))
    if kind.endswith("_binary"):
        answer = _yes_no(said)
        return Grade(answer, float(answer == gold))
    text = said.lower()
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
    """F1 of whitespace tokens with their counts; 0 when none is shared."""
    ours, theirs = one.split(), other.split()
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs)) if shared else 0.0


def embed_grades(graded: Sequence[Graded], embed: Embedder) -> list[Graded]:
    """Free beliefs whose value is NaN get 1 when the reply is nearer to the correct answer than to the wrong one.

    Nearness is cosine similarity (all-roberta-large-v1); a tie is wrong. All texts are embedded in one call.
    """
    waiting = [i for i, one in enumerate(graded) if math.isnan(one.grade.value)]
    pairs = []
    for i in waiting:
        request, answer = graded[i].request, graded[i].grade.answer
        pairs += [(answer, request.gold), (answer, request.meta["wrong"])]
    cosines = similarities(pairs, embed)
    found = list(graded)
    for i, right, wrong in zip(waiting, cosines[::2], cosines[1::2], strict=True):
        found[i] = graded[i]._replace(grade=graded[i].grade._replace(value=float(right > wrong)))
    return found


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """`<context>/...` over questions on missed ("inaccessible") information, `<context>/accessible/...` over the rest.

    `.../part/...` and `.../conversation/...` join the sets of a part or of a conversation where ALL joins one set's
    questions; `.../errors/...` are numbers of wrong answers by their kind, n all wrong ones.

    Official: ALL (first), ALL*, and each kind; sets count only when none of their questions was skipped. ALL*, the
    orders and belief_dist are there only when all free beliefs have a value. social_r1: plain accuracy of the
    questions that are a choice, which is our selection.
    """
    contexts = by_group(graded, "context")
    figures = _social_r1 if protocol == "social_r1" else _official
    found: dict[str, Metric] = {}
    for context in sorted(contexts, reverse=True):  # short, full
        found |= {f"{context}/{name}": one for name, one in figures(contexts[context], context).items()}
    return found


def _social_r1(graded: Sequence[Graded], context: str) -> dict[str, Metric]:
    return {"ours/accuracy": accuracy(graded)} | accuracies(graded, "kind") | accuracies(graded, "access")


def _official(graded: Sequence[Graded], context: str) -> dict[str, Metric]:
    embedded = not any(math.isnan(one.grade.value) for one in graded)
    access = by_group(graded, "access")
    found = _report(access.get("inaccessible", []), embedded, context)
    if "" in access:
        found["fact_f1"] = accuracy(access[""])
    if "accessible" in access:
        control = _report(access["accessible"], embedded, context)
        found |= {f"accessible/{name}": one for name, one in control.items()}
    return found


def _report(graded: Sequence[Graded], embedded: bool, context: str) -> dict[str, Metric]:
    kinds = by_group(graded, "kind")
    found = _joined(graded, embedded, _UNITS["set"])
    found["sets"] = Metric(float(len(_whole(graded, _ALL, _UNITS["set"]))), math.nan, found["ALL"].n)
    if "belief_choice" in kinds:
        found["belief_choice"] = accuracy(kinds["belief_choice"])
    if embedded and (dist := kinds.get("belief_dist")):
        found |= _free_beliefs(dist)
    for name in ("answerability", "info"):
        if rows := kinds.get(f"{name}_list"):
            found[f"{name}_list"] = accuracy(rows)
        if rows := kinds.get(f"{name}_binary"):
            found[f"{name}_binary_f1"] = weighted_f1(rows)
    found |= _errors(kinds)
    for unit in ("part", "conversation") if context == "full" else ("part",):
        found |= {f"{unit}/{name}": one for name, one in _joined(graded, embedded, _UNITS[unit]).items()}
    return found


def _joined(graded: Sequence[Graded], embedded: bool, size: int) -> dict[str, Metric]:
    """Figures that need every answer of a unit to be right, or all answers about a character in it."""
    found = {"ALL": _all_right(graded, _ALL, size)}
    if embedded:
        found["ALL*"] = _all_right(graded, ("belief_dist", *_ALL), size)
    for name in ("answerability", "info"):
        found[f"{name}_ALL"] = _all_right(graded, (f"{name}_list", f"{name}_binary"), size)
    return found | _characters(graded, embedded, size)


def _characters(graded: Sequence[Graded], embedded: bool, size: int) -> dict[str, Metric]:
    """Return ALL_character and character_consistency, over each character of each unit.

    ALL_character: everything about the character is right: beliefs, yes-or-no answers, and whether lists name it.
    character_consistency: yes-or-no answers and lists say the same of what it knows, right or wrong.
    """
    right: dict[tuple[str, str], list[float]] = {}
    said: dict[tuple[str, str], set[str]] = {}
    items: dict[tuple[str, str], str] = {}
    for unit, rows in _whole(graded, ("belief_dist", *_ALL), size).items():
        kinds = by_group(rows, "kind")
        for one in rows:
            if not (name := one.request.meta.get("character", "")):
                continue
            items[unit, name] = one.request.item
            values = right.setdefault((unit, name), [])
            values.append(one.grade.value)
            topic, _, form = one.request.meta["kind"].rpartition("_")
            if form != "binary":
                continue
            answers = said.setdefault((unit, name), set())
            answers.add(one.grade.answer)
            for listed in kinds.get(f"{topic}_list", ()):
                answer = "yes" if name in listed.grade.answer.lower().split(", ") else "no"
                answers.add(answer)
                values.append(float(answer == one.request.gold))
    found = {}
    if right and embedded:
        found["ALL_character"] = mean_metric([min(values) for values in right.values()], [items[key] for key in right])
    if said:
        same = [float(len(answers) == 1) for answers in said.values()]
        found["character_consistency"] = mean_metric(same, [items[key] for key in said])
    return found


def _errors(kinds: Mapping[str, Sequence[Graded]]) -> dict[str, Metric]:
    """Numbers of wrong answerability lists and of wrong yes-or-no answers, by what is wrong with them."""
    reasons: Counter[str] = Counter()
    for one in kinds.get("answerability_list", ()):
        if not one.grade.value:
            named = one.grade.answer.split(", ")
            excluded = not all(name in named for name in one.request.gold["correct"])
            included = any(name in named for name in one.request.gold["wrong"])
            reason = "did_both" if excluded and included else "excluded_aware" if excluded else "included_unaware"
            reasons[f"list/{reason}"] += 1
    for one in (*kinds.get("answerability_binary", ()), *kinds.get("info_binary", ())):
        if not one.grade.value:
            reason = {"no": "false_negative", "yes": "false_positive"}.get(one.grade.answer, "irrelevant")
            reasons[f"binary/{reason}"] += 1
    found = {}
    for form, names in _ERRORS.items():
        wrong = sum(reasons[f"{form}/{name}"] for name in names)
        for name in names if wrong else ():
            found[f"errors/{form}/{name}"] = Metric(float(reasons[f"{form}/{name}"]), math.nan, wrong)
    return found


def _free_beliefs(dist: Sequence[Graded]) -> dict[str, Metric]:
    right = [one for one in dist if one.grade.value]
    overlap = [word_f1(one.request.gold, one.grade.answer) for one in right]
    found = {
        "belief_dist": accuracy(dist),
        "belief_true_word_f1": mean_metric(overlap, [one.request.item for one in right]),
    }
    typed = [one for one in dist if one.request.meta["tom_type"]]
    for order in ("first-order", "second-order"):
        rows = [one for one in typed if one.request.meta["tom_type"].startswith(order)]
        if rows:
            found[order.replace("-", "_")] = accuracy(rows)
    for name, rows in by_group(typed, "tom_type").items():
        if ":" in name:
            found[name.replace("-", "_").replace(":", "_")] = accuracy(rows)
    return found


def _whole(graded: Sequence[Graded], kinds: tuple[str, ...], size: int) -> dict[str, list[Graded]]:
    """The graded questions of these kinds by unit, without the units that had one skipped."""
    units: dict[str, list[Graded]] = {}
    for one in graded:
        if one.request.meta["kind"] in kinds:
            units.setdefault("-".join(one.request.meta["set"].split("-")[:size]), []).append(one)
    skipped = {unit for unit, rows in units.items() for one in rows if set(kinds) & set(one.request.meta["skipped"])}
    return {unit: rows for unit, rows in sorted(units.items()) if unit not in skipped}


def _all_right(graded: Sequence[Graded], kinds: tuple[str, ...], size: int) -> Metric:
    """The share of units whose every question of these kinds is right; the standard error is over conversations."""
    units = _whole(graded, kinds, size)
    values = [math.prod(one.grade.value for one in rows) for rows in units.values()]
    return mean_metric(values, [rows[0].request.item for rows in units.values()])


def weighted_f1(graded: Sequence[Graded]) -> Metric:
    """F1 of yes and of no, weighted by how often each is the gold; an unreadable answer is a third class of weight 0.

    The standard error is the jackknife's over conversations.
    """
    table: dict[str, Counter[tuple[str, str]]] = {}
    for one in graded:
        table.setdefault(one.request.item, Counter())[one.request.gold, one.grade.answer] += 1
    total = sum(table.values(), Counter[tuple[str, str]]())
    value, n = _weighted_f1(total), len(table)
    if n < 2:
        return Metric(value, math.nan, n)
    without = [_weighted_f1(total - counts) for counts in table.values()]
    mean = math.fsum(without) / n
    return Metric(value, math.sqrt(math.fsum((one - mean) ** 2 for one in without) * (n - 1) / n), n)


def _weighted_f1(count: Counter[tuple[str, str]]) -> float:
    """`count`: (gold, answer) -> number."""
    weighted, total = 0.0, 0
    for label, other in (("yes", "no"), ("no", "yes")):
        hit = count[label, label]
        golds = hit + count[label, other] + count[label, ""]
        total += golds
        weighted += golds * 2 * hit / (golds + hit + count[other, label]) if hit else 0.0
    return weighted / total if total else math.nan
