"""Compute accuracy by question type, pair accuracy of twins, and the accuracy of shortcut rules."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from socialr1_jax.data.examples import Example
from socialr1_jax.data.twins import twin_groups
from socialr1_jax.questions.audit import audit_examples, question_type
from socialr1_jax.questions.intervals import share_figures


def accuracy_figures(examples: Sequence[Example], accuracy_q: Sequence[float]) -> dict[str, Any]:
    """Return pair_accuracy if the questions have twins, and accuracy_by_type if they have types (`question_type`).

    A pair is right if one response to each twin is right. Responses to different questions are independent, so its
    probability is estimated by the product of the twins' accuracies. pair_accuracy is the mean over groups, with
    standard error (pair_accuracy_stderr) and 95 % interval (pair_accuracy_low, _high) over groups.

    Args:
        accuracy_q: share of right responses to each question.
    """
    figures: dict[str, Any] = {}
    if groups := twin_groups(enumerate(examples)):
        whole_g = np.array([np.prod([accuracy_q[place] for place in group]) for group in groups])
        figures |= share_figures("pair_accuracy", whole_g, len(groups))
    types: dict[str, list[float]] = {}
    for example, accuracy in zip(examples, accuracy_q, strict=True):
        if name := question_type(example):
            types.setdefault(name, []).append(accuracy)
    if types:
        figures["accuracy_by_type"] = {name: float(np.mean(types[name])) for name in sorted(types)}
    return figures


def baseline_figures(examples: Sequence[Example]) -> dict[str, Any]:
    """Return the accuracies of guessing and of the rules of `audit_examples`; {} if a question has no options.

    chance is the mean of 1 / options. best_rule is the rule with the highest accuracy, best_rule_accuracy.
    best_rule_pair_accuracy and best_rule_accuracy_by_type are the highest of any rule on twins and on each type.
    """
    if not examples or not all(example.options for example in examples):
        return {}
    audit = audit_examples(examples, learned=False)
    figures: dict[str, Any] = {"chance": audit["chance"]}
    if audit["best_rule"]:
        figures |= {"best_rule": audit["best_rule"], "best_rule_accuracy": audit["best_rule_accuracy"]}
    if twin_groups(enumerate(examples)) and audit["pair"]["best_rule"]:
        figures["best_rule_pair_accuracy"] = audit["pair"]["best_rule_accuracy"]
    by_type = {name: part["best_rule_accuracy"] for name, part in audit["by_type"].items() if part["best_rule"]}
    return figures | ({"best_rule_accuracy_by_type": by_type} if by_type else {})
