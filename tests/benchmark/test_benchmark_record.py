"""The kept record: lines in, a table out, and the table of the documentation is that of its record."""

import json
from pathlib import Path

import pytest

from socialr1_jax.benchmark.record import BEGIN, END, read_record, record, render, table

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULT = {
    "prefill_tok_s": 12000.0,
    "decode_tok_s": 3000.0,
    "grpo_step_s": 2.0,
    "update_tok_s": 4000.0,
    "update_whole_tok_s": 1800.0,
    "peers": {"prefill_tok_s": 10000.0, "update_tok_s": 2000.0, "grpo_step_s": 5.0},
    "spread_s": {
        "prefill": [0.9, 1.0, 1.1],
        "decode": [1.0, 1.0, 1.0],
        "update": [1.0, 1.0, 1.04],
        "update_whole": [1.0, 1.0, 1.0],
        "grpo_step": [1.9, 2.0, 2.1],
    },
}


def test_a_line_says_what_made_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "a=1 b=2")
    for name in ("XLA_FLAGS", "JAX_PLATFORMS"):  # the tests set them
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "record.jsonl"
    first = record(file, "python scripts/benchmark.py --shape tiny", RESULT)
    record(file, "other", {})
    assert read_record(file) == [first, json.loads(file.read_text().splitlines()[1])]
    assert first["result"] == RESULT
    assert first["command"] == "GLIBC_TUNABLES='a=1 b=2' python scripts/benchmark.py --shape tiny"
    assert "cores" in first["machine"]
    assert first["versions"].keys() >= {"jax", "python"}


def test_the_table_by_hand():
    line = {
        "date": "2026-11-26",
        "machine": "m",
        "versions": {"jax": "1", "numpy": "2"},
        "command": "c",
        "result": RESULT,
    }
    assert table([line]).splitlines()[2] == (
        "| 2026-11-26, m | jax 1 | 12,000.0 ±10% (10,000.0: **1.20**) | 3,000.0 ±0% "
        "| 4,000.0 ±2% (2,000.0: **2.00**) | 1,800.0 ±0% (2,000.0: **0.90**) | 2.0 ±5% (5.0: **2.50**) | `c` |"
    )


def test_the_page_keeps_the_rest(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    render(page, [])
    render(page, [])
    text = page.read_text()
    assert text.startswith(f"before\n{BEGIN}\n")
    assert text.endswith(f"{END}\nafter\n")
    assert "old" not in text
    page.write_text("nothing")
    with pytest.raises(ValueError, match="around the table"):
        render(page, [])


def test_bad_lines_are_named(tmp_path):
    (tmp_path / "r.jsonl").write_text('{"date": "x"}\n')
    with pytest.raises(ValueError, match=r"r\.jsonl line 1: not a line of a record"):
        read_record(tmp_path / "r.jsonl")


def test_the_documentation_shows_the_record():
    text = (DOCS / "performance.md").read_text()
    assert text.partition(BEGIN)[2].partition(END)[0].strip() == table(read_record(DOCS / "benchmarks.jsonl")).strip()
