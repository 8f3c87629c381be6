"""The first and the last evaluation of a run, compared question by question."""

from collections.abc import Sequence
from pathlib import Path

from socialr1_jax.evaluation.compare import compare
from socialr1_jax.report.run_files import Row

_FIGURES = {"accuracy": "questions", "pair_accuracy": "groups of twins, all right"}


def paired_differences(directory: Path, evaluations: Sequence[int], notes: list[str]) -> list[Row]:
    """Return the rows of the page's paired comparison: set, figure, the figures of `difference_figures`, changes.

    There are none for a run with fewer than two evaluations in rollouts.jsonl. Where the two cannot be compared, the
    reason goes into `notes`.
    """
    if len(evaluations) < 2:
        return []
    first, last = evaluations[0], evaluations[-1]
    try:
        found = compare(f"{directory}@{first}", f"{directory}@{last}")
    except ValueError as error:
        notes.append(f"the evaluations at step {first} and step {last} are not compared: {error}")
        return []
    return [
        {"set": name, "figure": text, "first": first, "last": last, **part[key]}
        | {"to_right": part["wrong_to_right"], "to_wrong": part["right_to_wrong"], "items": part["items"]}
        for name, part in found["comparisons"].items()
        for key, text in _FIGURES.items()
        if key in part
    ]
