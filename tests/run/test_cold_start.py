"""cold_start: it learns from reference thoughts, and a run whose questions have none is refused when it starts."""

import json
import logging
from importlib import util
from pathlib import Path

import pytest

from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.tables import DataError
from socialr1_jax.questions.sources import open_questions
from socialr1_jax.run.questions import cold_start_questions, read_run_questions

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ["--config", str(ROOT / "configs/smoke.yaml"), "quiet=true"]


def question_file(folder, thoughts):
    rows = [
        {"id": f"q{i}", "story": "Ann left.", "question": "Who?", "options": ["Ann", "Ben"], "answer": "A", "why": text}
        for i, text in enumerate(thoughts)
    ]
    folder.mkdir(exist_ok=True)
    file = folder / "q.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_it_takes_the_questions_with_thoughts(tmp_path, caplog):
    file = question_file(tmp_path, ["Ann left.", None, " ", "It was Ann."])
    config = RunConfig(model={"random": "nano"}, data={"train": str(file)}, cold_start=3)
    with caplog.at_level(logging.WARNING):
        taken = cold_start_questions(config, open_questions([file], columns={"thoughts": "why"}))
    assert [one.id for one in taken] == ["q0", "q3"]
    assert "cold_start learns from 2 of 4 questions: the others have no thoughts" in caplog.text
    whole = open_questions(["stories:4"])
    assert cold_start_questions(config, whole) is whole
    with pytest.raises(ConfigError, match=r"no question of .*q.jsonl has any: name their column in data.columns"):
        cold_start_questions(config, open_questions([file]))


def test_bad_rows_of_all_files_are_listed_together(tmp_path):
    files = [question_file(tmp_path / name, ["why", None]) for name in ("a", "b")]
    for file in files:
        file.write_text(file.read_text() + '{"question": 1}\n')
    config = RunConfig(model={"random": "nano"}, data={"train": str(files[0]), "eval": list(map(str, files))})
    with pytest.raises(DataError) as caught:
        read_run_questions(config)
    assert [str(caught.value).count(f"{file} row 3: no column 'story'") for file in files] == [1, 1]


@pytest.mark.parametrize(
    ("more", "status"),
    [(["--dry-run"], 2), ([], 2), (["--dry-run", "cold_start=0"], 0), (["--dry-run", "data.columns.thoughts=why"], 0)],
)
def test_a_run_without_thoughts_is_refused(tmp_path, capsys, more, status):
    spec = util.spec_from_file_location("train_grpo_script", ROOT / "scripts/train_grpo.py")
    script = util.module_from_spec(spec)
    spec.loader.exec_module(script)
    file = question_file(tmp_path, ["Ann left."] * 12)
    arguments = [*SMOKE, f"output_dir={tmp_path}/run", f"data.train={file}", "data.eval=stories:heldout:2", *more]
    try:
        ended = script.main(arguments)
    except SystemExit as error:
        ended = error.code
    assert ended == status
    errors = [line for line in capsys.readouterr().err.splitlines() if "cold_start" in line]
    assert len(errors) == bool(status)
    assert all("error: cold_start learns from the reference thoughts" in line for line in errors)
