"""Questions of an evaluation that the run trains on are counted, whatever their ids, answers and files."""

import json
from importlib import util
from pathlib import Path

import pytest

from socialr1_jax.config.run import DoctorConfig
from socialr1_jax.data.examples import Example
from socialr1_jax.plan.doctor import examine
from socialr1_jax.run.questions import shared_questions

ROOT = Path(__file__).resolve().parents[1]


def example(number, **fields):
    values = {
        "id": f"q{number}",
        "story": f"story {number}",
        "question": "Who?",
        "options": ("Ann", "Ben"),
        "answer": "A",
    }
    return Example(**values | fields)


TURNS = ({"role": "user", "content": "Who?"},)
TRAIN = [example(number) for number in range(5)] + [example(9, messages=TURNS)]


@pytest.mark.parametrize(
    ("sets", "said"),
    [
        ({}, ""),
        ({"a": []}, ""),
        ({"a": [example(7), example(8)]}, ""),
        ({"a": [example(1, id="other", answer="B"), example(7)]}, "1 of 2 questions of a"),
        ({"a": [example(1), example(1)]}, "2 of 2 questions of a"),
        ({"a": [example(1, options=("Ben", "Ann"))], "b": [example(1, question="Why?")]}, ""),
        ({"a": [example(0)], "b": [example(7)], "c": TRAIN}, "1 of 1 questions of a and 6 of 6 questions of c"),
        ({"a": [example(9, messages=({"role": "user", "content": "Why?"},))]}, ""),
        ({"a": [example(9, messages=TURNS)]}, "1 of 1 questions of a"),
    ],
)
def test_shared_questions_are_counted(sets, said):
    assert shared_questions(TRAIN, sets) == (
        f"{said} are also trained on (same story, question and options)" if said else ""
    )
    assert shared_questions([], sets) == ""


@pytest.mark.parametrize(("first", "said"), [(2, "3 of 4 questions of {}"), (6, "")])
def test_the_doctor_warns_of_shared_questions(first, said, tmp_path):
    files = []
    for name, numbers in (("train", range(5)), ("held", range(first, first + 4))):
        rows = [{"id": f"{name}{i}", "story": f"s {i}", "question": "Who?", "answer": f"Ann{i}"} for i in numbers]
        files.append(tmp_path / f"{name}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = DoctorConfig(data={"train": str(files[0]), "eval": str(files[1])})
    found = [line for line in examine(config, ["data"]) if "also trained on" in str(line)]
    assert len(found) == bool(said)
    assert all(said.format("held") in str(line) and "warning" in str(line) for line in found)


def test_a_dry_run_says_what_the_run_would(tmp_path, capsys):
    spec = util.spec_from_file_location("train_grpo_script", ROOT / "scripts/train_grpo.py")
    script = util.module_from_spec(spec)
    spec.loader.exec_module(script)
    arguments = ["--config", str(ROOT / "configs/smoke.yaml"), f"output_dir={tmp_path}/run", "data.train=stories:3"]
    with pytest.raises(SystemExit) as ended:
        script.main([*arguments, "data.eval=[stories:2]", "epochs=3", "--dry-run"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    for line in (
        "2 of 2 questions of stories:2 are also trained on (same story, question and options): evaluate on",
        "there are 3 questions to train on and grpo.prompts_per_step is 4",
        "epochs 3: 3 x 3 / 4 = 3 steps\nrun         3 steps = 6 updates, 12 prompts, 48 responses",
        "as the model sees it:\n<|im_start|>user\n",  # random weights with a tokenizer of their own
        "<|im_start|>assistant\ngold: ",
    ):
        assert line in said, line
    assert not (tmp_path / "run").exists()
