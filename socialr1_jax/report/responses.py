"""Select a run's responses for the page: a bounded number with marked texts, before-and-after pairs, and lengths."""

import json
from pathlib import Path
from typing import Any

from socialr1_jax.report import run_files
from socialr1_jax.report.run_files import Row
from socialr1_jax.report.survey import Answer, Survey, survey_rollouts
from socialr1_jax.report.text import LONGEST_TEXT, mark_response

MOST_BYTES = 3_000_000  # limit on a run's responses and their questions on the page


def responses_of(directory: Path, notes: list[str]) -> Row:
    """Return the run's data from rollouts.jsonl for the page. Texts are the model's output, not escaped."""
    path = directory / "rollouts.jsonl"
    survey = survey_rollouts(path, notes)
    pages = _Page()
    examples = _examples(path, survey, pages)
    picks = survey.picks()
    responses: list[Row] = []
    for why, row in zip(picks.values(), run_files.read_rows(path, list(picks)), strict=True):
        response = pages.response(row) | {"why": why}
        if pages.bytes > MOST_BYTES:
            break
        responses.append(response)
    tokens = survey.tokens
    responses.sort(key=lambda response: (response["step"], not response["phase"].startswith("eval")))
    return {
        "rows": survey.rows,
        "statuses": {status: survey.statuses[status] for status in run_files.STATUSES if survey.statuses[status]},
        "chance": survey.chance(),
        "evaluations": survey.evaluations,
        "examples": examples,
        "responses": responses,
        "questions": pages.questions,
        "lengths": {"responses": tokens.responses, "stride": tokens.stride, "width": tokens.width}
        | {"columns": tokens.columns()},
    }


class _Page:
    """Collects responses, and each of their questions once. `bytes` is their total size as JSON."""

    def __init__(self) -> None:
        self.questions: list[Row] = []
        self.bytes = 0
        self._places: dict[str, int] = {}

    def response(self, row: Row) -> Row:
        """Return a row of rollouts.jsonl in the page's form; "question" is an index into `questions`."""
        text = mark_response(str(row.get("response", "")))
        tokens = row.get("tokens")
        response = {
            "phase": str(row.get("phase")),
            "step": row["step"],
            "sample": row["sample"] if isinstance(row.get("sample"), int) else 0,
            "question": self._question(row),
            "source": str(row.get("source", "")),
            "status": run_files.status_of(row),
            "tokens": tokens if isinstance(tokens, int) else None,
            "right": run_files.is_right(row),
            "given": text.answer[:200],
            "reward": _short(row.get("reward")),
            "advantage": _short(row.get("advantage")),
            "terms": {name: _short(value) for name, value in run_files.terms_of(row).items()},
            "problems": text.problems,
            "blocks": text.blocks,
            "left_out": text.left_out,
        }
        self.bytes += _size(response)
        return response

    def _question(self, row: Row) -> int:
        options = row.get("options")
        question = {
            "id": str(row.get("id", "")),
            "story": str(row.get("story", ""))[:LONGEST_TEXT],
            "question": str(row.get("question", ""))[:LONGEST_TEXT],
            "options": [str(option) for option in options] if isinstance(options, list) else [],
            "gold": str(row.get("answer", "")),
        }
        key = json.dumps(question)
        if key not in self._places:
            self._places[key] = len(self.questions)
            self.questions.append(question)
            self.bytes += _size(question)
        return self._places[key]


def _examples(path: Path, survey: Survey, pages: _Page) -> Row:
    """Return counts over all held-out questions, and examples: the first three, then the largest gains and losses."""
    pairs: dict[tuple[str, str], list[tuple[Answer, Answer]]] = {}
    for key, answer in survey.before.items():
        if key in survey.after:
            pairs.setdefault(key[:2], []).append((answer, survey.after[key]))
    right = {
        question: [sum(answer.right for answer in side) for side in zip(*answers, strict=True)]
        for question, answers in pairs.items()
    }
    gain = {question: (after - before) / len(pairs[question]) for question, (before, after) in right.items()}
    ranked = sorted(gain, key=lambda question: -gain[question])
    picks = dict.fromkeys(list(gain)[:3], "in file order")
    picks |= dict.fromkeys((question for question in ranked[:2] if gain[question] > 0), "among the largest gains")
    picks |= dict.fromkeys((question for question in ranked[-2:] if gain[question] < 0), "among the largest losses")
    shown = []
    for question, why in picks.items():
        offsets = [answer.offset for answer in pairs[question][0]]
        sides = [
            {"label": label, "right": count, "of": len(pairs[question]), "response": pages.response(row)}
            for label, count, row in zip(
                ("Before GRPO", "After GRPO"), right[question], run_files.read_rows(path, offsets), strict=True
            )
        ]
        shown.append({"why": why, "sides": sides})
    better, worse = sum(change > 0 for change in gain.values()), sum(change < 0 for change in gain.values())
    return {"all": len(gain), "better": better, "worse": worse, "questions": shown}


def _short(value: Any) -> float | None:
    known = run_files.number(value)
    return None if known is None else float(f"{known:.5g}")


def _size(value: Row) -> int:
    return len(json.dumps(value, ensure_ascii=False).encode("utf-8", "replace"))
