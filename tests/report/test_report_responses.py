"""Which responses the page holds of a run, how their texts are marked, and the map of their lengths."""

import itertools
import json
import random
from pathlib import Path

import pytest
from test_report import RESPONSE, make_run, rollout, write_lines

from socialr1_jax.report import responses
from socialr1_jax.report.responses import responses_of
from socialr1_jax.report.run_files import read_rows, status_of
from socialr1_jax.report.sketches import EvenDraw, LengthMap
from socialr1_jax.report.survey import survey_rollouts
from socialr1_jax.report.text import LONGEST_TEXT, mark_response

INFERENCE = "Anna did not see the move, so Anna believes that the key is in the drawer."
GOAL = "Goal: Anna wants the key, so she goes to the place where she believes it is."


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "demo")


def text_of(blocks: list) -> str:
    return "".join(text for _, pieces in blocks for text, _ in pieces)


def test_before_and_after_count_questions_by_share(run: Path) -> None:
    rows = []
    for name, before, after in (("same", 1, 1), ("up", 0, 2), ("down", 2, 1), ("late", 0, 1), ("only-before", 2, None)):
        for phase, step, count in (("eval_sft", 0, before), ("eval_grpo", 5, after)):
            rows += [rollout(phase, step, name, sample=k, right=k < count) for k in (0, 1) if count is not None]
    write_lines(run / "rollouts.jsonl", rows)
    data = responses_of(run, [])
    examples = data["examples"]
    assert (examples["all"], examples["better"], examples["worse"]) == (4, 2, 1)
    shown = [(data["questions"][q["sides"][1]["response"]["question"]]["id"], q["why"]) for q in examples["questions"]]
    assert shown == [
        ("same", "in file order"),
        ("up", "among the largest gains"),
        ("down", "among the largest losses"),
        ("late", "among the largest gains"),
    ]
    assert [(side["right"], side["of"]) for side in examples["questions"][1]["sides"]] == [(0, 2), (2, 2)]


def test_periodic_evaluations_compare_the_first_with_the_last(run: Path) -> None:
    rows = [rollout("eval", step, "q", right=step > 20) for step in (0, 20, 40)]
    write_lines(run / "rollouts.jsonl", rows[:1])
    assert responses_of(run, [])["examples"]["all"] == 0
    write_lines(run / "rollouts.jsonl", rows)
    examples = responses_of(run, [])["examples"]
    assert [side["response"]["step"] for side in examples["questions"][0]["sides"]] == [0, 40]
    assert examples["better"] == 1


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"status": "error"}, "error"),
        ({"status": "<b>"}, "ok"),
        ({"status": ["error"]}, "ok"),
        ({}, "ok"),
    ],
)
def test_the_status_of_a_response(fields: dict, status: str) -> None:
    assert status_of(rollout("grpo", 1, "x") | fields) == status


def test_even_draw_spreads_over_any_stream() -> None:
    for length in (5, 100, 320 * 600):
        draw: EvenDraw[int] = EvenDraw(100)
        for i in range(length):
            draw.offer(i)
        kept = sorted(draw.items())
        assert len(kept) == min(length, 100)
        gaps = [after - before for before, after in zip(kept, [*kept[1:], length], strict=True)]
        assert max(gaps) <= 3 * length / len(kept)
        first = sorted(draw.items()[:10])  # and so is any beginning of it
        assert length == 5 or max(b - a for a, b in zip(first, [*first[1:], length], strict=True)) <= 3 * length / 10


def test_map_of_lengths_bounds_its_cells() -> None:
    found, random_ = LengthMap(), random.Random(0)
    rows = [(step, random_.randrange(3073)) for step in range(1, 601) for _ in range(20)]
    for step, length in rows:
        found.add(step, length, truncated=length > 3000)
    assert (found.stride, found.width) == (8, 64)
    columns = found.columns()
    assert [column for column, _, _ in columns] == list(range(75))
    for column, cut, cells in columns:
        here = [length for step, length in rows if (step - 1) // 8 == column]
        assert cells == sorted({(n // 64, sum(m // 64 == n // 64 for m in here)) for n in here})
        assert cut == sum(length > 3000 for length in here)


def test_lengths_are_those_of_rows_with_tokens(run: Path) -> None:
    rows = [rollout("grpo", 1, "x") | {"tokens": tokens} for tokens in (7, 40, None)]
    rows[1]["status"] = "truncated"
    write_lines(run / "rollouts.jsonl", rows)
    lengths = responses_of(run, [])["lengths"]
    assert lengths["responses"] == 2
    assert lengths["columns"] == [(0, 1, [(7, 1), (40, 1)])]


def test_choice_of_a_long_run_is_bounded(run: Path, monkeypatch) -> None:
    rows = [rollout("eval", 0, f"q{k}") for k in range(300)]
    rows += [
        rollout("grpo", step, f"{step}-{k}", reward=(7 * k + step) % 31) for step in range(1, 101) for k in range(32)
    ]
    for row in (rows[700], rows[3000]):
        row["status"] = "unscorable"
    for row in rows[310:3000:20]:
        row["status"] = "truncated"
    write_lines(run / "rollouts.jsonl", rows)
    data = responses_of(run, [])
    assert (data["rows"], data["statuses"]) == (3500, {"ok": 3363, "truncated": 135, "unscorable": 2})
    shown = data["responses"]
    assert 400 <= len(shown) <= 600
    assert sum(r["status"] == "unscorable" for r in shown) == 2
    assert sum(r["status"] == "truncated" for r in shown) >= 50
    steps = sorted({r["step"] for r in shown if r["why"] == "drawn" and r["phase"] == "grpo"})
    assert max(b - a for a, b in itertools.pairwise(steps)) <= 2
    for response in shown:
        if response["phase"] == "grpo" and response["why"].startswith(("best", "worst")):
            rewards = [row["reward"] for row in rows if row["phase"] == "grpo" and row["step"] == response["step"]]
            assert response["reward"] == (max if response["why"].startswith("best") else min)(rewards)
    monkeypatch.setattr(responses, "MOST_BYTES", 200_000)
    fewer = responses_of(run, [])["responses"]
    assert 50 < len(fewer) < len(shown)
    assert len(json.dumps(fewer)) < 200_000
    assert {r["status"] for r in fewer} == {"ok", "truncated", "unscorable"}


def test_rows_are_read_back_from_where_they_begin(run: Path) -> None:
    rows = [rollout("grpo", step, f"größe {step}") for step in (1, 2, 3)]
    write_lines(run / "rollouts.jsonl", rows)
    path = run / "rollouts.jsonl"
    offsets = sorted(survey_rollouts(path, []).picks())
    assert list(read_rows(path, offsets)) == rows


def test_stages_are_marked_in_whole_responses() -> None:
    marked = mark_response(RESPONSE)
    assert [stage for stage, _ in marked.blocks] == ["", "encode", "interpret", "goal", "respond", ""]
    assert text_of(marked.blocks).replace("\n", "") == RESPONSE.replace("\n", "")
    assert (marked.problems, marked.answer, marked.left_out) == ([], "A", 0)
    cut = mark_response(RESPONSE[:150])  # no thoughts that count, but stages to show
    assert [stage for stage, _ in cut.blocks] == ["", "encode", "interpret"]
    assert "no </think>" in cut.problems


@pytest.mark.parametrize(
    ("change", "problem", "places"),
    [
        (("<think>", "Well, <think>"), "text before <think>", ["Well, "]),
        (("</Answer>", "</Answer> Bye"), "text after </Answer>", [" Bye"]),
        (("</Answer>", "</Answer></Answer>"), "</Answer> appears 2 times", ["</Answer>"]),
        ((GOAL + "\n", ""), "skipped: goal", []),
        ((GOAL, "Goal: yes"), "thin: goal", ["Goal:"]),
        (("Interpret: Anna", "Interpret: Option B is wrong. Anna"), "option before inference", ["B"]),
        (
            ("Interpret: Anna", "Interpret: The answer is B because Anna"),
            "backward justification",
            ["Interpret: The answer is ", "B", f" because {INFERENCE}"],
        ),
        (("leaves. ", "leaves. Ben moves the key to the shelf. "), "loop", ["Ben moves the key to the shelf."]),
        (("\nGoal:", "\nEncode: the key is small.\nGoal:"), "repeated stage", ["Encode:"]),
        (("Encode: ", "Goal: Find where Anna will look for the key.\nEncode: "), "reversed", ["Encode:", "Interpret:"]),
    ],
)
def test_a_problem_is_marked_where_it_stands(change: tuple[str, str], problem: str, places: list[str]) -> None:
    text = RESPONSE.replace(*change)
    marked = mark_response(text)
    number = marked.problems.index(problem) + 1
    found = [piece for _, pieces in marked.blocks for piece, numbers in pieces if number in numbers]
    assert found == places
    assert text_of(marked.blocks).replace("\n", "") == text.replace("\n", "")


def test_very_long_text_is_cut_visibly() -> None:
    marked = mark_response("<think>" + "Goal: it is. " * 20_000)
    assert len(text_of(marked.blocks)) <= LONGEST_TEXT
    assert marked.left_out == 7 + 13 * 20_000 - LONGEST_TEXT
