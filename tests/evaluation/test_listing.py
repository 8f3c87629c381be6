"""What is here of each benchmark, and questions from the hub's cache."""

import json
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from test_evaluate import TOY
from test_sotopia import written as sotopia_files
from test_task_emobench import ea, eu
from test_task_emobench import written as emobench_files
from test_task_hitom import block
from test_task_hitom import written as hitom_file
from test_task_tactfultom import written as tactfultom_file

from socialr1_jax.config.evaluation import TASKS
from socialr1_jax.evaluation import evaluate as whole
from socialr1_jax.evaluation.runner import load_data
from socialr1_jax.evaluation.task import BenchmarkError, Data, Hub, Remark
from socialr1_jax.evaluation.tasks import get_task
from socialr1_jax.evaluation.wording import texts_sha256

HASHES = {"main": "1" * 40, "pinned": "2" * 40}
TEXTS = {"user": "{story} {question} {choices}", "user_vp": "{story} {question} {choices}"}
PROMPTS = {"benchmark": "hitom", "texts": TEXTS, "sha256": texts_sha256(TEXTS)}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, offline; a function puts files into it as huggingface_hub lays them out."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def put(id_, files, revision="main"):
        folder = tmp_path / "cache" / f"datasets--{id_.replace('/', '--')}"
        for name, content in files.items():
            path = folder / "snapshots" / HASHES[revision] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        if revision == "main":
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs" / "main").write_text(HASHES[revision])
        return folder / "snapshots" / HASHES[revision]

    return put


def read(folder):
    remarks = (Remark("q.json is not the published file", "other"), Remark("another remark"))
    return Data(items=[json.loads((folder / "q.json").read_text())], files={"q.json": "0"}, remarks=remarks)


TASK = replace(TOY, load=read, hub=Hub("who/what", ("q.json",), HASHES["pinned"]))


def test_questions_come_from_the_cache_of_the_hub(tmp_path, cache):
    cache("who/what", {"q.json": "1"})
    data = load_data(TASK, tmp_path)
    assert data.items == [1]
    assert data.notes[0] == "questions from the hub data set who/what @ 111111111111"
    assert len(data.notes) == 3
    cache("who/what", {"q.json": "2"}, "pinned")
    data = load_data(TASK, tmp_path)
    assert data.items == [2]
    assert data.notes == ("questions from the hub data set who/what @ 222222222222", "another remark")


def test_folder_precedes_the_hub_and_has_wording(tmp_path, cache):
    cache("who/what", {"q.json": "1"})
    own = tmp_path / "hitom"
    own.mkdir()
    (own / "prompts.json").write_text(json.dumps(PROMPTS))
    data = load_data(TASK, tmp_path)
    assert data.items == [1]
    assert data.wording.texts == TEXTS
    (own / "q.json").write_text("3")
    data = load_data(TASK, tmp_path)
    assert (data.items, len(data.notes)) == ([3], 2)


@pytest.mark.parametrize("files", [{}, {"README.md": "x"}])
def test_offline_without_a_cache_is_one_line(tmp_path, cache, files):
    if files:
        cache("who/what", files)
    with pytest.raises(BenchmarkError) as error:
        load_data(TASK, tmp_path)
    said = str(error.value)
    assert said.startswith(
        f"hitom: there is no folder {tmp_path / 'hitom'}; get the data from nowhere (hub data set who"
    )
    assert str(tmp_path / "cache") in said
    assert "\n" not in said
    with pytest.raises(BenchmarkError, match=r"get the data from nowhere$"):
        load_data(replace(TASK, hub=None), tmp_path)


def test_what_is_asked_of_the_hub(tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, **how):
        asked.append((name, how))
        if how["revision"] != "main":
            raise OSError("no such revision\nand more")
        (tmp_path / "q.json").write_text("4")
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert load_data(TASK, tmp_path / "data").items == [4]
    about = {"repo_type": "dataset", "allow_patterns": ["q.json"], "local_files_only": False}
    assert asked == [("who/what", about | {"revision": one}) for one in (HASHES["pinned"], "main")]
    (tmp_path / "q.json").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **how: 1 / 0)
    with pytest.raises(BenchmarkError, match=r"nowhere \(hub data set who/what: division by zero\)$"):
        load_data(TASK, tmp_path / "data")


def test_emobench_files_are_found_in_both_layouts(tmp_path):
    inner = emobench_files(tmp_path, [eu("1")], [ea("1")]) / "data"
    there = get_task("emobench").load(tmp_path)
    assert get_task("emobench").load(inner) == there


def test_the_listing_says_what_is_here(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("data")
    for name in ("hitom", "tactfultom/final_set", "sotopia", "fantom", "tombench_hard"):
        (folder / name).mkdir(parents=True)
    hitom_file(folder / "hitom", block())
    (folder / "hitom" / "prompts.json").write_text(json.dumps(PROMPTS))
    tactfultom_file(folder / "tactfultom", [])
    sotopia_files(folder / "sotopia")
    (folder / "fantom" / "fantom_v1.json").write_text("[")
    rows = "".join(
        json.dumps({"question": f"Q{i}?", "A": "x", "B": "y", "answer": "A", "type": "t"}) + "\n" for i in range(100)
    )
    (folder / "tombench_hard" / "val.jsonl").write_text(rows)
    text = whole.listing(folder)
    assert max(map(len, text.splitlines())) <= 80
    found = {one.partition(":")[0]: one for one in text.split("\n\n")}
    assert list(found) == ["benchmarks in data", *TASKS, list(found)[-1]]
    assert "--output data/NAME/prompts.json" in text

    assert found["tombench"].splitlines() == [
        "tombench: ToMBench",
        "  data      none",
        "  from      zhchen18/ToMBench @ 4f491f0 (its folder data)",
        "  licence   MIT",
    ]
    assert "\n  data      all 100 questions, in val.jsonl\n  from " in found["tombench_hard"]
    assert "\n  data      none; an evaluation downloads them from the hub data set" in found["simpletom"]
    assert "\n            allenai/SimpleToM\n" in found["simpletom"]
    assert found["fantom"].startswith(
        "fantom: FANToM\n  data      cannot be used: data/fantom/fantom_v1.json: cannot be"
    )
    hitom = found["hitom"].splitlines()
    assert hitom[1] == "  data      in part: 10 of 600 CoTP questions, in Hi-ToM_data.json"
    assert hitom[2].startswith("            Hi-ToM_data.json is not the published file (SHA-256")
    assert "of a prompts.json that is of another version than" in found["hitom"]
    assert f"(SHA-256 {PROMPTS['sha256'][:8]}...)" in " ".join(found["hitom"].split())
    tactfultom = found["tactfultom"]
    assert "in part: Tactful_conv_set_0.json: 0 of 36 conversations, in" in tactfultom
    assert "\n            Tactful_conv_set_4.json: not here (25 conversations)\n" in tactfultom
    assert "\n  wording   own, not that of nii-cl/tactful-tom @ 0881b0d\n" in tactfultom
    assert "in part: 2 of 450 pairs of agents" in found["sotopia"]


def test_listing_reads_the_cache_and_no_hub(tmp_path, cache, monkeypatch):
    rows = hitom_file(tmp_path, block())
    cache("Hi-ToM/Hi-ToM_Dataset", {"Hi-ToM_data.json": (rows / "Hi-ToM_data.json").read_text()})
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    hitom = next(one for one in whole.listing(tmp_path / "data").split("\n\n") if one.startswith("hitom"))
    assert "in part: 10 of 600" in hitom
    assert "questions from the hub data set Hi-ToM/Hi-ToM_Dataset @ 111111111111" in hitom
