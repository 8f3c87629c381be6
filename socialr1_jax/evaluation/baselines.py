"""Chance, and the best rule that reads no minds, beside every figure of a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from socialr1_jax.data.examples import Example
from socialr1_jax.evaluation.metrics import Grade, Graded, Metric
from socialr1_jax.evaluation.request import Request
from socialr1_jax.evaluation.task import Baseline, Task
from socialr1_jax.questions.audit import untrained_rules


def baselines(task: Task, requests: Sequence[Request], examples: Sequence[Example]) -> dict[str, Baseline]:
    """Return chance and the best rule of each figure of the `social_r1` protocol; {} where a question has no options.

    A rule's grade of a question is its probability to be right, and the task makes its figures of these grades as it
    does of a model's. The rules are those of `audit_examples` that are not trained.

    Args:
        examples: the question of each request.
    """
    if not examples or not all(example.options for example in examples):
        return {}

    def figures(credit_q: np.ndarray) -> dict[str, Metric]:
        grades = (Grade(example.answer, float(c)) for example, c in zip(examples, credit_q, strict=True))
        return task.metrics([Graded(*pair) for pair in zip(requests, grades, strict=True)], "social_r1")

    chance = figures(np.array([1 / len(example.options) for example in examples]))
    rules = {name: figures(credit_q) for name, credit_q in untrained_rules(examples).items()}
    found = {}
    for name, guessed in chance.items():
        best = max(rules, key=lambda rule: rules[rule][name].value)
        if guessed.n and guessed.value:  # else no figure of right answers
            found[name] = Baseline(guessed.value, best, rules[best][name].value)
    return found
