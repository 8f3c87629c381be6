"""Audit questions: measure the accuracy of shortcut rules, by type and on groups of twins.

The rules are in `shortcut_rules.py`. A rule is strong if it is at least 0.20 above chance (arXiv 2606.09092).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from socialr1_jax.data.examples import Example
from socialr1_jax.data.twins import cluster_name, twin_name
from socialr1_jax.questions.intervals import interval
from socialr1_jax.questions.shortcut_rules import FOLDS, constant_rule, fixed_rules, gold, learned_rules, question_form
from socialr1_jax.questions.sources import Questions

SHORTCUTS = "shortcuts.json"  # audit of a run's questions, in its folder
STRONG = 0.20  # above chance
_FEWEST = 30  # questions of a type, for a shortcut to be reported
_MOST_SAMPLED = 2000
_MOST_TYPES = 100  # largest types reported; a column with more values is hardly a type
_SIMPLETOM = re.compile(r".+_sev\d+_(aware|action|judge)")  # ids of SimpleToM
_SIMPLETOM_TYPES = {"aware": "mental_state", "action": "behavior", "judge": "judgment"}


def audit_examples(examples: Iterable[Example], *, learned: bool = True) -> dict[str, Any]:
    """Return the accuracy of rules that read no minds. Questions without options are ignored.

    Rules that use other questions are cross-validated in three folds, with twins and the questions of one story in the
    same fold. They are left out for fewer than three stories.

    Args:
        learned: whether to train `no_story` and `bag_of_words` too, which needs scikit-learn.

    Returns:
        n: number of questions; mentioned: number of those with an option that the story mentions.
        chance: mean of 1 / options.
        rules: {name: {accuracy, stderr}}; the standard error is over groups of twins and stories, None for one alone.
        best_rule, best_rule_accuracy: of all rules.
        by_type: {type: {n, chance, rules, best_rule, best_rule_accuracy}}; empty if the types are unknown.
        pair: the same for groups of questions, which are right if all their questions are; n is the number of groups.
            Groups are twins (`meta["twin_id"]`), and questions of one story, form and options with different answers.

    Raises:
        ImportError: `learned` without scikit-learn.
    """
    examples = [example for example in examples if example.options]
    if not examples:
        return _figures({}, np.zeros(0), np.zeros(0, int)) | {"mentioned": 0, "by_type": {}, "pair": _pair({}, [], [])}
    chance_q = np.array([1 / len(example.options) for example in examples])
    rules, mentioned_q, stories_q = _rules(examples, learned=learned)
    types: dict[str, list[int]] = {}
    for place, example in enumerate(examples):
        if name := question_type(example):
            types.setdefault(name, []).append(place)
    largest = sorted(types, key=lambda name: -len(types[name]))[:_MOST_TYPES]
    by_type = {
        name: _figures(
            {rule: credit_q[types[name]] for rule, credit_q in rules.items()},
            chance_q[types[name]],
            stories_q[types[name]],
        )
        for name in sorted(largest)
    }
    return {
        **_figures(rules, chance_q, stories_q),
        "mentioned": int(mentioned_q.sum()),
        "by_type": by_type,
        "pair": _pair(rules, chance_q, _groups(examples)),
    }


def untrained_rules(examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """Return each rule's probability of being right [q], except for trained rules. All examples must have options."""
    return _rules(examples, learned=False)[0]


def strong_shortcuts(audit: Mapping[str, Any]) -> list[str]:
    """Describe the parts of an audit (the whole, then each type) in which a rule is at least 0.20 above chance.

    Types of fewer than 30 questions are left out, and rules whose 95 % interval includes chance.
    """
    parts = [("all questions", audit), *(audit.get("by_type") or {}).items()]
    shortcuts = []
    for name, part in parts:
        if part["n"] < _FEWEST or not (best := part["best_rule"]):
            continue
        rule, chance = part["rules"][best], part["chance"]
        if is_strong(rule, chance) and rule_interval(rule, part["n"])[0] > chance:
            shortcuts.append(f"{name}: {best} is right in {rule['accuracy']:.2f} (chance {chance:.2f})")
    return shortcuts


def rule_interval(rule: Mapping[str, Any], count: int) -> tuple[float, float]:
    """Return the 95 % interval of a rule in an audit: Wilson's, on the sample size that its standard error implies.

    Args:
        count: number of questions or groups, used if the standard error is 0 or None.
    """
    accuracy, stderr = rule["accuracy"], rule["stderr"]
    if stderr and 0 < accuracy < 1:
        return interval(accuracy, None, accuracy * (1 - accuracy) / stderr**2)
    return interval(accuracy, None, count)


def shortcut_sample(questions: Questions) -> list[Example]:
    """Return at most 2,000 evenly spaced questions, which untrained rules process within a second."""
    places = np.unique(np.linspace(0, len(questions) - 1, min(len(questions), _MOST_SAMPLED)).astype(int))
    return list(questions.take(places.tolist()))


def is_strong(rule: Mapping[str, Any], chance: float) -> bool:
    """Return whether a rule in an audit is at least 0.20 above chance."""
    return rule["accuracy"] >= chance + STRONG - 1e-9


def question_type(example: Example) -> str:
    """Return the type of a question: its column `type`, Hi-ToM's order, SimpleToM's kind, ToMBench's file; else ""."""
    meta = example.meta
    if name := meta.get("type"):
        return name
    if "question_order" in meta:
        return f"order_{meta['question_order']}"
    if match := _SIMPLETOM.fullmatch(example.id):
        return _SIMPLETOM_TYPES[match[1]]
    return meta.get("source", "") if "能力\nABILITY" in meta else ""


def _rules(examples: Sequence[Example], *, learned: bool) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Return (credits of the rules, whether the story mentions an option [q], number of the question's story [q])."""
    stories_q = _numbered([cluster_name(example) for example in examples])
    rules, mentioned_q = fixed_rules(examples)
    if stories_q.max() + 1 >= FOLDS:
        folds_q = np.random.default_rng(0).permutation(stories_q.max() + 1)[stories_q] % FOLDS
        rules["constant"] = constant_rule(examples, folds_q)
        if learned:
            rules |= learned_rules(examples, folds_q)
    return rules, mentioned_q, stories_q


def _figures(rules: Mapping[str, np.ndarray], chance_q: np.ndarray, clusters_q: np.ndarray) -> dict[str, Any]:
    accuracies = {name: _mean(credit_q, clusters_q) for name, credit_q in rules.items()}
    best = max(accuracies, key=lambda name: accuracies[name]["accuracy"], default=None)
    return {
        "n": len(chance_q),
        "chance": float(np.mean(chance_q)) if len(chance_q) else None,
        "rules": accuracies,
        "best_rule": best,
        "best_rule_accuracy": accuracies[best]["accuracy"] if best else None,
    }


def _mean(value_q: np.ndarray, clusters_q: np.ndarray) -> dict[str, Any]:
    """Return the mean with its cluster-robust standard error."""
    mean = float(value_q.mean())
    _, cluster_q = np.unique(clusters_q, return_inverse=True)
    sum_c = np.bincount(cluster_q, value_q - mean)
    n = len(sum_c)
    stderr = round(float(np.sqrt(np.sum(sum_c**2) * n / (n - 1)) / len(value_q)), 12) if n > 1 else None
    return {"accuracy": mean, "stderr": stderr}


def _pair(rules: Mapping[str, np.ndarray], chance_q: Any, groups: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the figures of groups, from the probability that all answers in a group are right."""
    whole = {name: np.array([credit_q[list(g)].prod() for g in groups]) for name, credit_q in rules.items() if groups}
    chance_g = np.array([chance_q[list(group)].prod() for group in groups])
    return _figures(whole, chance_g, np.arange(len(groups)))


def _groups(examples: Sequence[Example]) -> list[list[int]]:
    """Return the places of the questions of each group; see `audit_examples`."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, example in enumerate(examples):
        if twin := twin_name(example):
            groups.setdefault(("twins", twin), []).append(place)
        elif example.story:
            groups.setdefault((example.story, *question_form(example)), []).append(place)

    def differ(group: Sequence[int]) -> bool:
        return len({examples[place].options[gold(examples[place])] for place in group}) > 1

    return [group for key, group in groups.items() if len(group) > 1 and (key[0] == "twins" or differ(group))]


def _numbered(keys: Sequence[Any]) -> np.ndarray:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys])
