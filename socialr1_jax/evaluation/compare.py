"""Comparison of two runs on the same questions: paired difference, interval, p, and the questions that changed."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.config.commands import CompareConfig
from socialr1_jax.config.evaluation import PROTOCOLS
from socialr1_jax.config.sections import flat_settings
from socialr1_jax.evaluation.graded_replies import GradedReply, graded_replies
from socialr1_jax.evaluation.metrics import grouped, mean_metric
from socialr1_jax.questions.accuracy import baseline_figures
from socialr1_jax.questions.intervals import around, share_interval, sign_flip_p
from socialr1_jax.runtime.files import read_json, write_json
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import counted, print_result, printable, shown

TEST = "sign flips of clusters, two-sided (McNemar's exact test where items are single and right or wrong)"
_SHOWN = 10  # changed questions printed on the console
_KEYS = {"a", "b", "test", "comparisons"}
_SETTINGS = (  # settings of evaluate.py that affect prompts, replies or their parsing
    *("answer_mode", "prompt", "system", "num_samples", "temperature", "top_k", "top_p", "repetition_penalty"),
    *("thinking", "thinking_tokens", "max_new_tokens", "dtype", "options"),
)
_OF_SOTOPIA = ("rules", "partner", "judge")


class ComparedItem(NamedTuple):
    """One reply to an item, with the mean grade and the most frequent answer of all its replies."""

    reply: GradedReply
    value: float
    answer: str

    @property
    def right(self) -> bool:
        return self.value > 0.5


def compare(a: str, b: str) -> dict[str, Any]:
    """Compare two finished runs on their common items; differences are b - a.

    Args:
        a, b: each an output folder of evaluate.py, a run's folder (its last evaluation, or `RUN@STEP`), or one of
            their files: samples_<task>.jsonl, rollouts.jsonl, the output of score_responses.py.

    Returns:
        a, b: the arguments. test: description of the test behind p. settings: {name: [of a, of b]}, settings of
        evaluate.py that affect replies or their parsing and differ. comparisons: figures of each part, which is a task
        with its protocol or a set of a run's evaluations:
        - `accuracy` (`mean_grade` for official rules, whose headline may be another figure): `difference_figures` of
          the items; `pair_accuracy`: the same for groups of twins
        - `items`: graded in both; `only_a`, `only_b`: missing in the other run; `ungraded`: without a grade in one run
        - `other_prompts`: items whose prompts differ, if both runs stored them
        - `chance`, `best_rule`, `best_rule_accuracy`: if the questions have options
        - `better`, `worse`: number of items whose mean grade rose or fell
        - `wrong_to_right`, `right_to_wrong`: number of items whose mean grade crossed one half; `changed`: these items

    Raises ValueError naming the file and what to pass instead.
    """
    of_a, of_b = _parts(a), _parts(b)
    common = [name for name in of_a if name in of_b]
    if not common:
        has_a, has_b = (printable("; ".join(parts), 300) for parts in (of_a, of_b))
        raise ValueError(f"nothing in common: {a} has {has_a}, {b} has {has_b}; evaluate both on the same questions")
    compared = {name: _compared(name, of_a[name], of_b[name], a, b) for name in common}
    return {"a": a, "b": b, "test": TEST, "settings": _other_settings(a, b), "comparisons": compared}


def difference_figures(values_a: Sequence[float], values_b: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """Return a, b, b - a with its 95 % interval, p, the number of clusters, and a verdict in words.

    The interval is the t interval around the paired difference, with the standard error over clusters. It is None for
    a single cluster and if all clusters differ by the same amount. p is `sign_flip_p` over clusters. The verdict names
    a difference only if the interval excludes 0 and p is below 0.05.
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
    """Return the comparison as one sentence; `differs` is False if every item has the same grade in both runs."""
    if not differs:
        return "no difference: every item has the same grade in both"
    points = f"{100 * figures['difference']:+.1f} points, "
    if figures["low"] is None:
        points += "no interval (all differences are equal)" if figures["clusters"] > 1 else "no interval (one cluster)"
    else:
        points += f"95 % interval {_bounds(figures['low'], figures['high'])}"
    one_sided = figures["low"] is None or figures["low"] > 0 or figures["high"] < 0
    if not one_sided or figures["p"] >= 0.05:
        return f"{points}: not a difference yet"
    return f"{points}: the second is {'better' if figures['difference'] > 0 else 'worse'}"


def _bounds(low: float, high: float) -> str:
    """Return an interval in points, rounded to whole points if it is wide."""
    low, high = 100 * low, 100 * high
    digits = 0 if high - low >= 10 and min(abs(low), abs(high)) >= 1 else 1
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def _compared(
    name: str, items_a: Mapping[str, ComparedItem], items_b: Mapping[str, ComparedItem], a: str, b: str
) -> dict[str, Any]:
    both = [key for key in items_a if key in items_b]
    if not both:
        raise ValueError(f"{name}: {a} and {b} have no question in common; evaluate both on the same questions")
    if other := [key for key in both if items_a[key].reply.gold != items_b[key].reply.gold]:
        raise ValueError(
            f"{name}: the item {printable(other[0], 80)} has another gold answer in {b} than in {a}: these are other "
            "questions, or options in another order; evaluate both with the same file and seed"
        )
    pairs = [(items_a[key], items_b[key]) for key in both if not math.isnan(items_a[key].value + items_b[key].value)]
    if not pairs:
        raise ValueError(f"{name}: no item has a grade in both; score the samples, or rerun the failed requests")
    figure = "mean_grade" if name.rpartition(", ")[2] in {*PROTOCOLS} - {"social_r1"} else "accuracy"
    result: dict[str, Any] = {
        "items": len(pairs),
        "only_a": len(items_a) - len(both),
        "only_b": len(items_b) - len(both),
        "ungraded": len(both) - len(pairs),
        "other_prompts": sum(len({item.reply.prompt for item in pair} - {""}) > 1 for pair in pairs),
        figure: difference_figures(
            [item.value for item, _ in pairs],
            [item.value for _, item in pairs],
            [item.reply.cluster for item, _ in pairs],
        ),
    }
    by_twin = grouped(pairs, lambda pair: pair[0].reply.twin)
    if twins := {name: group for name, group in by_twin.items() if name and len(group) > 1}:
        of_a, of_b = ([math.prod(pair[side].value for pair in group) for group in twins.values()] for side in (0, 1))
        result["pair_accuracy"] = difference_figures(of_a, of_b, list(twins))
    examples = [item.reply.example for item, _ in pairs if item.reply.example]
    if len(examples) == len(pairs):
        figures = baseline_figures(examples)
        names = ("chance", "best_rule", "best_rule_accuracy", "best_rule_pair_accuracy")
        result |= {key: figures[key] for key in names if key in figures}
    changed = [(before, after) for before, after in pairs if before.right != after.right]
    result["wrong_to_right"] = sum(after.right for _, after in changed)
    result["right_to_wrong"] = len(changed) - result["wrong_to_right"]
    result["better"] = sum(after.value > before.value for before, after in pairs)
    result["worse"] = sum(after.value < before.value for before, after in pairs)
    result["changed"] = [
        {
            "id": before.reply.key,
            "change": "wrong to right" if after.right else "right to wrong",
            "answer_a": before.answer,
            "answer_b": after.answer,
            "gold": before.reply.gold,
            "value_a": before.value,
            "value_b": after.value,
            "question": before.reply.question,
        }
        for before, after in changed
    ]
    return result


def _other_settings(a: str, b: str) -> dict[str, list[Any]]:
    files = [Path(source, "results.json") for source in (a, b)]
    if not all(file.is_file() for file in files):
        return {}
    contents = [read_json(file) for file in files]
    if not all(isinstance(content.get("config"), dict) for content in contents):
        return {}
    of_a, of_b = (content["config"] for content in contents)
    values = {name: [of_a.get(name), of_b.get(name)] for name in _SETTINGS}
    of_a, of_b = map(_used, contents)
    values |= {name: [of_a[name], of_b[name]] for name in of_a if name in of_b}  # tasks of only one run are skipped
    return {name: both for name, both in values.items() if both[0] != both[1]}


def _used(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts in results.json that affect replies and are not settings, with dotted names."""
    details = content.get("details")
    facts: dict[str, Any] = {"wording": content.get("wording"), "decoding": {}, "sotopia": {}}
    for task, about in details.items() if isinstance(details, dict) else ():
        if isinstance(about, dict):
            facts["decoding"][task] = about.get("decoding", {})
            if task == "sotopia":
                facts["sotopia"] = {name: about[name] for name in _OF_SOTOPIA if name in about}
    commit = content.get("commit")
    return flat_settings(facts) | ({"commit": commit} if commit else {})


def _parts(source: str) -> dict[str, dict[str, ComparedItem]]:
    """Return the items of each part of a run, by key."""
    replies: dict[str, dict[str, dict[int, GradedReply]]] = {}
    for reply in graded_replies(source):
        replies.setdefault(reply.part, {}).setdefault(reply.key, {})[reply.sample] = reply
    if not replies:
        raise ValueError(f"{source}: no graded replies; give a finished run")
    return {part: {key: _item(list(each.values())) for key, each in items.items()} for part, items in replies.items()}


def _item(replies: Sequence[GradedReply]) -> ComparedItem:
    value = math.fsum(reply.value for reply in replies) / len(replies)
    return ComparedItem(replies[0], value, Counter(reply.answer for reply in replies).most_common(1)[0][0])


# ------------------------------------------------------------------------------------------------------------- writing


def print_comparison(config: CompareConfig) -> None:
    """Compare two runs, write the result to `config.output` if set, and print it.

    Raises the errors of `compare`, and ForeignFile.
    """
    if config.output:
        refuse_foreign_file(Path(config.output), lambda file: read_json(file).keys() >= _KEYS, "a comparison")
    comparison = compare(config.first, config.second)
    if config.output:
        write_json(Path(config.output), comparison)
    print_result(text(comparison))


def text(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as text: for each part a table, the changed questions, and a verdict."""
    lines = [f"first   {printable(comparison['a'], 200)}", f"second  {printable(comparison['b'], 200)}"]
    if other := comparison["settings"]:
        changes = (f"{name} {shown(before, 40)} -> {shown(after, 40)}" for name, (before, after) in other.items())
        lines.append(f"settings differ, which may explain the difference: {', '.join(changes)}")
    for name, figures in comparison["comparisons"].items():
        lines += ["", *_part_lines(name, figures)]
    return "\n".join([*lines, "", f"p: {comparison['test']}"])


def _part_lines(name: str, part: Mapping[str, Any]) -> list[str]:
    figures = {key: part[key] for key in ("accuracy", "mean_grade", "pair_accuracy") if key in part}
    first = next(iter(figures.values()))
    lines = [
        f"{printable(name, 100)}: {counted(part['items'], 'question')} in {counted(first['clusters'], 'cluster')} "
        "(twins and questions of one story are one)",
        f"  {'':<14}  {'first':>7}  {'second':>7}  {'difference':>10}  {'95 % interval':>16}  {'p':>7}",
    ]
    for key, row in figures.items():
        bounds = "none" if row["low"] is None else _bounds(row["low"], row["high"])
        lines.append(
            f"  {key.replace('_', ' '):<14}  {row['a']:>7.1%}  {row['b']:>7.1%}  {100 * row['difference']:>+10.1f}  "
            f"{bounds:>16}  {format(row['p'], '.4f') if row['p'] >= 1e-4 else '<0.0001':>7}"
        )
    if "chance" in part:
        rule = f", best rule without minds {part['best_rule_accuracy']:.1%} ({part['best_rule']})"
        lines.append(f"  chance {part['chance']:.1%}{rule if 'best_rule' in part else ''}")
    for key, what in (("only_a", "only in the first"), ("only_b", "only in the second"), ("ungraded", "not graded")):
        if part[key]:
            lines.append(f"  left out: {counted(part[key], 'question')} {what}")
    if part["other_prompts"]:
        lines.append(f"  different prompts: {counted(part['other_prompts'], 'question')}")
    changed = part["changed"]
    lines.append(
        f"  changed: {len(changed)} of {counted(part['items'], 'question')}; {part['wrong_to_right']} from wrong to "
        f"right, {part['right_to_wrong']} from right to wrong"
    )
    if part["better"] + part["worse"] != len(changed):
        lines[-1] += f" (right: in more than half of its replies); {part['better']} better, {part['worse']} worse"
    for item in changed[:_SHOWN]:
        if item["answer_a"] == item["answer_b"]:  # same most frequent answer, different frequency
            change = f"right in {item['value_a']:.0%} -> {item['value_b']:.0%} of the replies"
        else:
            change = f"{item['change']}, {_shown(item['answer_a'])} -> {_shown(item['answer_b'])}"
        change += f", gold {_shown(item['gold'])}"
        lines.append(f"    {printable(item['id'], 60)}: {change}: {printable(item['question'], 100)}")
    if len(changed) > _SHOWN:
        lines.append(f"    ... and {len(changed) - _SHOWN} more (--output has all)")
    return [*lines, f"  {next(iter(figures)).replace('_', ' ')}: {first['verdict']}"]


def _shown(answer: str) -> str:
    return printable(answer, 30) or "no answer"
