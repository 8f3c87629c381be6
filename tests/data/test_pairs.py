"""Files of preference pairs: what is written is read back equal, and every row that cannot be used is named."""

import json
import sys

import pytest

from socialr1_jax.data import pairs as module
from socialr1_jax.data.pairs import STAGES, Pair, read_pairs, same_text, write_pairs
from socialr1_jax.data.tables import DataError
from socialr1_jax.rewards import stages

ROW = {"id": "p1", "story": "Anna left.", "question": "Where?", "chosen": "Anna left first.", "rejected": "No idea."}
PAIRS = [
    Pair(**ROW),
    Pair(
        **ROW | {"id": "p2", "chosen": "Ünï «x»\n\ttwo lines", "margin": 0.1 + 0.2, "stage": "goal", "meta": {"a": ""}}
    ),
    Pair(**ROW | {"id": "p3", "margin": 3.0, "meta": {"kind": "loop", "story_id": "7"}}),
]


@pytest.fixture(params=[".jsonl", ".parquet"])
def file(request, tmp_path):
    if request.param == ".parquet":
        pytest.importorskip("pyarrow")
    return tmp_path / f"pairs{request.param}"


def test_stages_are_those_of_the_rewards():
    assert STAGES == stages.STAGES


@pytest.mark.parametrize("pairs", [PAIRS, PAIRS[:1]], ids=["all", "without meta"])
def test_what_is_written_is_read_back(file, pairs):
    write_pairs(file, iter(pairs))
    assert read_pairs(file) == pairs
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_jsonl_has_one_pair_a_line(tmp_path):
    write_pairs(tmp_path / "p.jsonl", PAIRS)
    lines = (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["id"] for line in lines] == ["p1", "p2", "p3"]
    assert json.loads(lines[0]) == ROW | {"margin": 0.0, "stage": "", "meta": {}}


def test_fields_that_may_lack(tmp_path):
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(ROW) + "\n\n" + json.dumps(ROW | {"id": "p2", "margin": 2, "meta": None}) + "\n")
    assert read_pairs(file) == [Pair(**ROW), Pair(**ROW | {"id": "p2", "margin": 2.0})]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rejected": " Anna\n left  first. "}, "chosen and rejected are the same text; leave the pair out"),
        ({"chosen": None}, "no 'chosen'; a pair needs id, story, question, chosen, rejected"),
        ({"story": " \n"}, "story is empty; fill it in"),
        ({"id": ""}, "id is empty"),
        ({"question": 3}, "question is 3, not a text"),
        ({"margin": -0.5}, "margin is -0.5; give a number of at least 0"),
        ({"margin": float("nan")}, "margin is nan; give"),
        ({"margin": float("inf")}, "margin is inf; give"),
        ({"margin": True}, "margin is True, not a number"),
        ({"margin": "0.5"}, "margin is '0.5', not a number"),
        ({"stage": "decode"}, "stage is 'decode'; use one of encode, interpret, goal, respond, or ''"),
        ({"stage": 1}, "stage is 1, not a text"),
        ({"meta": "x"}, "meta is 'x', not an object"),
        ({"meta": {"a": 1}}, "meta.a is 1, not a text"),
        ({"margn": 1.0}, "unknown column 'margn' (did you mean 'margin'?); rename it"),
        ({"zzz": 1.0}, "unknown column 'zzz' (the columns are 'id', 'story', 'question', 'chosen', "),
        ({"id": "p1"}, "the id 'p1' is already that of"),
    ],
)
def test_a_bad_row_is_named(tmp_path, change, message):
    file = tmp_path / "p.jsonl"
    row = {name: value for name, value in (ROW | {"id": "p2"} | change).items() if value is not None}
    file.write_text(json.dumps(ROW) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(DataError) as fault:
        read_pairs(file)
    assert str(fault.value).startswith(f"{file} row 2: ")
    assert message in str(fault.value)


def test_a_missing_or_cut_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.jsonl: cannot read the file"):
        read_pairs(tmp_path / "none.jsonl")
    (tmp_path / "cut.jsonl").write_text(json.dumps(ROW)[:-5])
    with pytest.raises(DataError, match=r"cut.jsonl row 1: not JSON"):
        read_pairs(tmp_path / "cut.jsonl")
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"cut.parquet: not a whole Parquet file"):
        read_pairs(tmp_path / "cut.parquet")


@pytest.mark.parametrize(
    ("pairs", "name", "message"),
    [
        ([], "p.jsonl", "there are no pairs to write"),
        ([PAIRS[0], PAIRS[1], PAIRS[0]], "p.jsonl", "row 3: the id 'p1' is already that of row 1"),
        (PAIRS, "p.csv", "pairs are written as .jsonl or .parquet; change the file's ending"),
    ],
)
def test_what_cannot_be_written_leaves_the_old_file(tmp_path, pairs, name, message):
    (tmp_path / name).write_text("old")
    with pytest.raises(DataError, match=message):
        write_pairs(tmp_path / name, pairs)
    assert (tmp_path / name).read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_disk_that_fails_leaves_the_old_file(file, monkeypatch):
    file.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_pairs(file, PAIRS)
    assert file.read_text() == "old"
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_parquet_without_pyarrow_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match="writing Parquet needs pyarrow; pip install pyarrow, or write"):
        write_pairs(tmp_path / "p.parquet", PAIRS)
    assert list(tmp_path.iterdir()) == []


def test_pyarrow_is_imported_only_when_it_is_needed():
    import subprocess

    code = f"import sys, {module.__name__}; assert not {{'pyarrow', 'jax', 'numpy'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_same_text():
    assert same_text("a  b\n", " a b")
    assert not same_text("a b", "A b")
