"""Print the quickstart's output: a story, results beside the best rule, a response before and after, next steps."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.report.run_files import Row, is_right, read_lines, status_of
from socialr1_jax.run.console import console
from socialr1_jax.runtime.terminal import gib, printable

_MOST_LINES = 30  # of a response that are printed


def show_story(example: Example) -> None:
    """Print a story with its question, options and answer."""
    _print_question(vars(example))


def show_results(summary: Mapping[str, Any], folder: Path, report: Path, *, tensorboard: bool) -> None:
    """Print a response before and after GRPO, a table of `write_summary`'s figures, and the next commands."""
    if pair := response_pair(folder):
        _show_responses(*pair)
    console.print(f"\n{summary.get('heldout_responses')} responses to held-out stories, temperature 1", style="bold")
    console.print(_results_table(summary))
    if rule := summary.get("best_rule"):
        console.print(f"best rule: {rule} (the most accurate of the rules that need no mind)")
    if "content_pair_accuracy" in summary:
        console.print(
            f"content reward model: {_figure(summary['content_pair_accuracy'])} of {summary['content_pairs']} held-out "
            "pairs in the right order"
        )
    console.print(f"{summary['wall_seconds']:.0f} s in all calls, {gib(summary['peak_rss_bytes'])} GiB at most")
    console.print("\nWhat to do next:", style="bold")
    console.print(f"  see every curve and response: open {report} in a browser", soft_wrap=True)
    if tensorboard:
        console.print(f"  tensorboard --logdir {folder}/tensorboard", soft_wrap=True)
    console.print("  ask the trained model:")
    console.print(f"    socialr1 generate --model {folder}/export \\", soft_wrap=True)
    console.print(f"        --file {folder}/questions/heldout.jsonl --row 1", soft_wrap=True)
    console.print("  train on questions of your own: socialr1 train --help", soft_wrap=True)


def response_pair(folder: Path) -> tuple[Row, Row] | None:
    """Return one held-out response of the first evaluation and its counterpart (question, sample) of the last.

    Prefers a response whose answer became right, then a question with a twin, then a response that was well-formed
    before. Returns None if the run in `folder` recorded fewer than two evaluations.
    """
    rows = [row for _, row in read_lines(folder / "rollouts.jsonl", []) if row.get("phase") == "eval"]
    steps = {row["step"] for row in rows}
    if len(steps) < 2:
        return None
    first, last = (
        {(str(row.get("set")), str(row.get("id")), str(row.get("sample"))): row for row in rows if row["step"] == step}
        for step in (min(steps), max(steps))
    )
    pairs = [(first[key], row) for key, row in last.items() if key in first]
    return max(pairs, key=_instructive) if pairs else None


def _instructive(pair: tuple[Row, Row]) -> tuple[bool, bool, bool]:
    before, after = pair
    return is_right(after) and not is_right(before), bool(after.get("twin_id")), status_of(before) == "ok"


def _show_responses(before: Row, after: Row) -> None:
    console.print("\nOne held-out question, and a response before and after GRPO:", style="bold")
    _print_question(after)
    for when, row in (("after SFT", before), ("after GRPO", after)):
        verdict = "right" if is_right(row) else "wrong"
        console.print(f"  {when}, {verdict}:", style="green" if is_right(row) else "red")
        _print_indented(str(row.get("response")), 4)


def _print_question(question: Mapping[str, Any]) -> None:
    options = zip(LETTERS, question.get("options") or (), strict=False)
    choice = "  ".join(f"{letter}. {option}" for letter, option in options)
    gold = f"(gold: {question.get('answer')})"
    _print_indented(f"{question.get('story')}\n{question.get('question')}\n{choice}  {gold}", 2)


def _print_indented(text: str, columns: int) -> None:
    """Print the non-empty lines, indented; on a terminal they wrap at words."""
    lines = [line for line in text.splitlines() if line.strip()]
    for line in lines[:_MOST_LINES] + ["..."] * (len(lines) > _MOST_LINES):
        if console.is_terminal:
            console.print(Padding(Text(printable(line)), (0, 0, 0, columns)), style="dim")
        else:
            console.print(" " * columns + line)


def _results_table(summary: Mapping[str, Any]) -> Table:
    by_type = summary.get("accuracy_by_type") or {}
    best_by_type = summary.get("best_rule_accuracy_by_type") or {}
    chance = summary.get("chance")

    def both(name: str) -> list[Any]:
        return [summary.get(f"{name}_{when}") for when in ("sft", "grpo")]

    rows: list[tuple[str, list[Any], str]] = [
        ("accuracy", [*both("accuracy"), chance, summary.get("best_rule_accuracy")], "{:.3f}"),
        *((f"  {name}", [*values, chance, best_by_type.get(name)], "{:.3f}") for name, values in by_type.items()),
        ("both twins right", [*both("pair_accuracy"), None, summary.get("best_rule_pair_accuracy")], "{:.3f}"),
        ("format rate", both("format_rate"), "{:.3f}"),
        ("mean reward", both("reward"), "{:.2f}"),
        ("response tokens", both("response_tokens"), "{:.0f}"),
    ]
    table = Table("")
    for heading in ("after SFT", "after GRPO", "chance", "best rule")[: 4 if chance is not None else 2]:
        table.add_column(heading, justify="right")
    for label, values, form in rows:
        if any(cells := [_figure(value, form) for value in values]):
            table.add_row(label, *cells[: len(table.columns) - 1])
    return table


def _figure(value: Any, form: str = "{:.3f}") -> str:
    """Return the number as text, "" unless it is finite."""
    return form.format(value) if isinstance(value, int | float) and math.isfinite(value) else ""
