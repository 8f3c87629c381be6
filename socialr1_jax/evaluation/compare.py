"""Two runs on the same questions: the paired difference with its interval, its p, and the questions that changed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.config.commands import CompareConfig
from socialr1_jax.config.evaluation import PROTOCOLS
from socialr1_jax.config.sections import flat_settings
from socialr1_jax.evaluation.graded_replies import GradedReply, graded_replies
from socialr1_jax.evaluation.metrics import mean_metric
from socialr1_jax.questions.accuracy import baseline_figures
from socialr1_jax.questions.intervals import around, share_interval, sign_flip_p
from socialr1_jax.runtime.files import read_json, write_json
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import counted, print_result, printable, shown

TEST = "sign flips of clusters, two-sided (McNemar's exact test where items are single and right or wrong)"
_SHOWN = 10  # questions that changed, on the console
_KEYS = {"a", "b", "test", "comparisons"}
_SETTINGS = (  # of evaluate.py: those that change prompts, replies or how they are read
    "answer_mode",
    "prompt",
    "system",
    "num_samples",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "thinking",
    "thinking_tokens",
    "max_new_tokens",
    "dtype",
    "options",
)
_OF_SOTOPIA = ("rules", "partner", "judge")


class ComparedItem(NamedTuple):
    """An item as one of its replies has it, with the mean grade of all and their most frequent answer."""

    reply: GradedReply
    value: float
    answer: str

    @property
    def right(self) -> bool:
        return self.value > 0.5


def compare(a: str, b: str) -> dict[str, Any]:
    """Compare two finished runs on the items that both have; B minus A.

    Args:
        a, b: each an output folder of evaluate.py, a run's folder (its last evaluation; `RUN@STEP` for another one),
            or one of their files: samples_<task>.jsonl, rollouts.jsonl, the output of score_responses.py.

    Returns:
        a, b: as given. test: what p is of. settings: {name: [of a, of b]} of those that differ between two outputs of
        evaluate.py and change replies or their reading: of the command, `wording.<task>`,
        `decoding.<task>.<protocol>.<name>`, `sotopia.rules`, `.partner` and `.judge`, and the `commit` of this package.
        comparisons: {part: figures}. A part is a task with its protocol, or a set of a run's evaluations. Its figures
        are `difference_figures` of the items under `accuracy` (under `mean_grade` for official rules, whose headline
        may be another figure), and under `pair_accuracy` for groups of twins; items and clusters in both; `only_a`,
        `only_b`: items that the other one lacks; `ungraded`: items without a grade in one of them; `other_prompts`:
        items that were asked in other words, where both have the prompts; chance, best_rule
        and best_rule_accuracy where the questions have options; `better`, `worse`: numbers of items with a higher and a
        lower mean grade; `wrong_to_right`, `right_to_wrong`: of items that pass one half; `changed`: those items, with
        answers and gold.

    Raises:
        ValueError: nothing that can be compared; the message names the file and what to give instead.
    """
    of_a, of_b = _parts(a), _parts(b)
    common = [name for name in of_a if name in of_b]
    if not common:
        has_a, has_b = (printable("; ".join(parts), 300) for parts in (of_a, of_b))
        raise ValueError(f"nothing in common: {a} has {has_a}, {b} has {has_b}; ask both the same")
    compared = {name: _compared(name, of_a, of_b, a, b) for name in common}
    return {"a": a, "b": b, "test": TEST, "settings": _other_settings(a, b), "comparisons": compared}


def difference_figures(values_a: Sequence[float], values_b: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """Return a, b and their difference b - a with its 95 % interval, p, the cluster count, and a verdict in words.

    The interval is the t distribution's around the paired difference, with the standard error over clusters. It is
    missing (None) where the clusters differ all alike, and for one cluster. p is that of `sign_flip_p` over clusters. A
    difference is called one when the interval is on one side of 0 and p is below 0.05.
    """
    differences = [after - before for before, after in zip(values_a, values_b, strict=True)]
    mean, stderr, n = mean_metric(differences, clusters)
    low, high = around(mean, stderr, n)
    sums: dict[str, float] = {}
    for difference, cluster in zip(differences, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + difference
    p = sign_flip_p(list(sums.values()))
    known = stderr > 1e-12
    figures: dict[str, Any] = {}
    for name, values in (("a", values_a), ("b", values_b)):
        metric = mean_metric(values, clusters)
        bounds = (None if math.isnan(bound) else bound for bound in share_interval(*metric))
        figures |= dict(zip((name, f"{name}_low", f"{name}_high"), (metric.value, *bounds), strict=True))
    figures |= {
        "difference": mean,
        "low": max(-1.0, low) if known else None,
        "high": min(1.0, high) if known else None,
        "p": p,
        "clusters": n,
    }
    return figures | {"verdict": _verdict(figures, any(differences))}


def _verdict(figures: Mapping[str, Any], differs: bool) -> str:
    """Return the comparison as one sentence; with `differs` False every item has the same grade in both."""
    if not differs:
        return "no difference: every item has the same grade in both"
    points = f"{100 * figures['difference']:+.1f} points, "
    if figures["low"] is None:
        points += "no interval (the items differ all alike)" if figures["clusters"] > 1 else "no interval (one cluster)"
    else:
        points += f"95 % interval {_bounds(figures['low'], figures['high'])}"
    one_sided = figures["low"] is None or figures["low"] > 0 or figures["high"] < 0
    if not one_sided or figures["p"] >= 0.05:
        return f"{points}: not a difference yet"
    return f"{points}: the second is {'better' if figures['difference'] > 0 else 'worse'}"


def _bounds(low: float, high: float) -> str:
    """Return an interval in points; whole ones where it is wide."""
    low, high = 100 * low, 100 * high
    digits = 0 if high - low >= 10 and min(abs(low), abs(high)) >= 1 else 1
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def _compared(
    name: str,
    of_a: Mapping[str, Mapping[str, ComparedItem]],
    of_b: Mapping[str, Mapping[str, ComparedItem]],
    a: str,
    b: str,
) -> dict[str, Any]:
    items_a, items_b = of_a[name], of_b[name]
    both = [key for key in items_a if key in items_b]
    if not both:
        raise ValueError(f"{name}: {a} and {b} have no question in common; ask both the same ones")
    if other := [key for key in both if items_a[key].reply.gold != items_b[key].reply.gold]:
        raise ValueError(
            f"{name}: the item {printable(other[0], 80)} has another gold answer in {b} than in {a}: these are other "
            "questions, or options in another order; evaluate both with the same file and seed"
        )
    graded = [key for key in both if not math.isnan(items_a[key].value + items_b[key].value)]
    if not graded:
        raise ValueError(f"{name}: no item has a grade in both; score the samples, or ask again what failed")
    pairs = [(items_a[key], items_b[key]) for key in graded]
    figure = "mean_grade" if name.rpartition(", ")[2] in {*PROTOCOLS} - {"social_r1"} else "accuracy"
    found: dict[str, Any] = {
        "items": len(graded),
        "only_a": len(items_a) - len(both),
        "only_b": len(items_b) - len(both),
        "ungraded": len(both) - len(graded),
        "other_prompts": sum(len({one.reply.prompt for one in pair} - {""}) > 1 for pair in pairs),
        figure: difference_figures(
            [one.value for one, _ in pairs], [one.value for _, one in pairs], [one.reply.cluster for one, _ in pairs]
        ),
    }
    if twins := _twins(pairs):
        found["pair_accuracy"] = difference_figures(
            [math.prod(one.value for one, _ in group) for group in twins.values()],
            [math.prod(one.value for _, one in group) for group in twins.values()],
            list(twins),
        )
    examples = [one.reply.example for one, _ in pairs if one.reply.example]
    if len(examples) == len(pairs):
        figures = baseline_figures(examples)
        names = ("chance", "best_rule", "best_rule_accuracy", "best_rule_pair_accuracy")
        found |= {key: figures[key] for key in names if key in figures}
    changed = [(key, *pair) for key, pair in zip(graded, pairs, strict=True) if pair[0].right != pair[1].right]
    found["wrong_to_right"] = sum(after.right for _, _, after in changed)
    found["right_to_wrong"] = len(changed) - found["wrong_to_right"]
    found["better"] = sum(after.value > before.value for before, after in pairs)
    found["worse"] = sum(after.value < before.value for before, after in pairs)
    found["changed"] = [
        {
            "id": key,
            "change": "wrong to right" if after.right else "right to wrong",
            "answer_a": before.answer,
            "answer_b": after.answer,
            "gold": before.reply.gold,
            "value_a": before.value,
            "value_b": after.value,
            "question": before.reply.question,
        }
        for key, before, after in changed
    ]
    return found


def _twins(pairs: Sequence[tuple[ComparedItem, ComparedItem]]) -> dict[str, list[tuple[ComparedItem, ComparedItem]]]:
    groups: dict[str, list[tuple[ComparedItem, ComparedItem]]] = {}
    for pair in pairs:
        if twin := pair[0].reply.twin:
            groups.setdefault(twin, []).append(pair)
    return {name: group for name, group in groups.items() if len(group) > 1}


def _other_settings(a: str, b: str) -> dict[str, list[Any]]:
    files = [Path(source, "results.json") for source in (a, b)]
    if not all(file.is_file() for file in files):
        return {}
    contents = [read_json(file) for file in files]
    if not all(isinstance(content.get("config"), dict) for content in contents):
        return {}
    of_a, of_b = (content["config"] for content in contents)
    found = {name: [of_a.get(name), of_b.get(name)] for name in _SETTINGS}
    of_a, of_b = map(_used, contents)
    found |= {name: [of_a[name], of_b[name]] for name in of_a if name in of_b}  # of a task that only one has: nothing
    return {name: both for name, both in found.items() if both[0] != both[1]}


def _used(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what results.json says beside the settings of how replies came about, with dotted names."""
    details = content.get("details")
    found: dict[str, Any] = {"wording": content.get("wording"), "decoding": {}, "sotopia": {}}
    for task, about in details.items() if isinstance(details, dict) else ():
        if isinstance(about, dict):
            found["decoding"][task] = about.get("decoding", {})
            if task == "sotopia":
                found["sotopia"] = {name: about[name] for name in _OF_SOTOPIA if name in about}
    commit = content.get("commit")
    return flat_settings(found) | ({"commit": commit} if commit else {})


def _parts(source: str) -> dict[str, dict[str, ComparedItem]]:
    """Return the items of each part of a run, by key."""
    replies: dict[str, dict[str, dict[int, GradedReply]]] = {}
    for reply in graded_replies(source):
        replies.setdefault(reply.part, {}).setdefault(reply.key, {})[reply.sample] = reply
    if not replies:
        raise ValueError(f"{source}: there are no graded replies in it; give a finished run")
    return {
        part: {key: _item(list(of_key.values())) for key, of_key in items.items()} for part, items in replies.items()
    }


def _item(replies: Sequence[GradedReply]) -> ComparedItem:
    value = math.fsum(one.value for one in replies) / len(replies)
    return ComparedItem(replies[0], value, Counter(one.answer for one in replies).most_common(1)[0][0])


# ------------------------------------------------------------------------------------------------------------- writing


def refuse_foreign_comparison(file: Path) -> None:
    """Raise ForeignFile if there is a file that does not hold what `compare` returns."""
    refuse_foreign_file(file, lambda file: read_json(file).keys() >= _KEYS, "a comparison")


def print_comparison(config: CompareConfig) -> None:
    """Print the comparison of two runs, after it is written where that is asked for. Raises as `compare`."""
    if config.output:
        refuse_foreign_comparison(Path(config.output))
    found = compare(config.first, config.second)
    if config.output:
        write_json(Path(config.output), found)
    print_result(text(found))


def text(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as lines of text: for each part a table, what changed, and one sentence."""
    lines = [f"first   {printable(comparison['a'], 200)}", f"second  {printable(comparison['b'], 200)}"]
    if other := comparison["settings"]:
        changes = (f"{name} {shown(before, 40)} -> {shown(after, 40)}" for name, (before, after) in other.items())
        lines.append(f"asked with other settings, so the difference may be theirs: {', '.join(changes)}")
    for name, found in comparison["comparisons"].items():
        lines += ["", *_part_lines(name, found)]
    return "\n".join([*lines, "", f"p: {comparison['test']}"])


def _part_lines(name: str, found: Mapping[str, Any]) -> list[str]:
    figures = {key: found[key] for key in ("accuracy", "mean_grade", "pair_accuracy") if key in found}
    first = next(iter(figures.values()))
    lines = [
        f"{printable(name, 100)}: {counted(found['items'], 'question')} in {counted(first['clusters'], 'cluster')} "
        "(twins and questions of one story are one)",
        f"  {'':<14}  {'first':>7}  {'second':>7}  {'difference':>10}  {'95 % interval':>16}  {'p':>7}",
    ]
    for key, one in figures.items():
        bounds = "none" if one["low"] is None else _bounds(one["low"], one["high"])
        lines.append(
            f"  {key.replace('_', ' '):<14}  {one['a']:>7.1%}  {one['b']:>7.1%}  {100 * one['difference']:>+10.1f}  "
            f"{bounds:>16}  {format(one['p'], '.4f') if one['p'] >= 1e-4 else '<0.0001':>7}"
        )
    if "chance" in found:
        rule = f", best rule without minds {found['best_rule_accuracy']:.1%} ({found['best_rule']})"
        lines.append(f"  chance {found['chance']:.1%}{rule if 'best_rule' in found else ''}")
    for key, what in (("only_a", "in the first alone"), ("only_b", "in the second alone"), ("ungraded", "not graded")):
        if found[key]:
            lines.append(f"  left out: {counted(found[key], 'question')} {what}")
    if found["other_prompts"]:
        lines.append(f"  asked in other words: {counted(found['other_prompts'], 'question')}")
    changed = found["changed"]
    lines.append(
        f"  changed: {len(changed)} of {counted(found['items'], 'question')}; {found['wrong_to_right']} from wrong to "
        f"right, {found['right_to_wrong']} from right to wrong"
    )
    if found["better"] + found["worse"] != len(changed):
        lines[-1] += f" (right: in more than half of its replies); {found['better']} better, {found['worse']} worse"
    for one in changed[:_SHOWN]:
        if one["answer_a"] == one["answer_b"]:  # the most frequent answer stayed; how often it came did not
            change = f"right in {one['value_a']:.0%} -> {one['value_b']:.0%} of the replies"
        else:
            change = f"{one['change']}, {_shown(one['answer_a'])} -> {_shown(one['answer_b'])}"
        change += f", gold {_shown(one['gold'])}"
        lines.append(f"    {printable(one['id'], 60)}: {change}: {printable(one['question'], 100)}")
    if len(changed) > _SHOWN:
        lines.append(f"    ... and {len(changed) - _SHOWN} more (--output has all)")
    return [*lines, f"  {next(iter(figures)).replace('_', ' ')}: {first['verdict']}"]


def _shown(answer: str) -> str:
    return printable(answer, 30) or "no answer"
