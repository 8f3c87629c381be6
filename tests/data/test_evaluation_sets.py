"""Files of benchmarks that forbid training on them are refused as training sources, unless named twice."""

import hashlib
from pathlib import Path

import pytest

from socialr1_jax.data import evaluation_sets
from socialr1_jax.data.evaluation_sets import EVALUATION_SETS, evaluation_set, refuse_evaluation_sets
from socialr1_jax.data.tables import DataError

BENCHMARKS = Path(__file__).resolve().parents[3] / "shared" / "benchmarks"
CONTENT = b'{"STORY": "secret"}\n'
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A file that the table knows, under another name than there."""
    monkeypatch.setitem(EVALUATION_SETS, "SomeBench", {DIGEST: "test.jsonl"})
    file = tmp_path / "renamed.jsonl"
    file.write_bytes(CONTENT)
    return file


def test_the_table_is_well_formed():
    counts = {name: len(files) for name, files in EVALUATION_SETS.items()}
    assert counts == {"ToMBench": 20, "FANToM": 2, "TactfulToM": 6}
    for files in EVALUATION_SETS.values():
        assert all(len(digest) == 64 and int(digest, 16) for digest in files)


def test_known_file_is_refused_with_the_fix(known, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_bytes(CONTENT + b"\n")
    refuse_evaluation_sets([other, "stories:5", tmp_path / "gone.csv"])
    with pytest.raises(DataError) as caught:
        refuse_evaluation_sets([other, known])
    for part in (
        f"{known}: renamed.jsonl is test.jsonl of SomeBench",
        "whose authors forbid training on it",
        f"set data.train_on_evaluation_set={DIGEST[:12]}",
    ):
        assert part in str(caught.value)


def test_naming_it_twice_lets_it_pass(known):
    refuse_evaluation_sets([known], DIGEST[:12])
    refuse_evaluation_sets([known], f"0123456789ab, {DIGEST[:12].upper()}")
    for wrong in ("", "0123456789ab", DIGEST[:11], "true"):
        with pytest.raises(DataError, match="SomeBench"):
            refuse_evaluation_sets([known], wrong)


def test_file_larger_than_all_known_is_not_read(known, monkeypatch):
    monkeypatch.setattr(evaluation_sets, "_LARGEST", len(CONTENT) - 1)
    assert evaluation_set(known) is None


@pytest.mark.skipif(not BENCHMARKS.exists(), reason="no benchmark files here")
def test_the_real_files():
    forbidden = [
        *(BENCHMARKS / "tombench/data").glob("*.jsonl"),
        *(BENCHMARKS / "fantom").glob("*.json"),
        *(BENCHMARKS / "tactfultom/final_set").glob("*.json"),
    ]
    assert len(forbidden) == 24
    for file in forbidden:
        benchmark, name, digest = evaluation_set(file)
        assert (benchmark.lower(), name) == (file.relative_to(BENCHMARKS).parts[0], file.name)
        with pytest.raises(DataError, match=f"of {benchmark}, whose authors forbid"):
            refuse_evaluation_sets([file])
        refuse_evaluation_sets([file], digest[:12])
    refuse_evaluation_sets([BENCHMARKS / "hitom/Hi-ToM_data.json", *(BENCHMARKS / "simpletom").glob("*/test.jsonl")])
