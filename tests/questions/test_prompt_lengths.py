"""Questions whose prompt leaves no room for the response: refused before step 1, wherever they come from."""

import json
import logging
from dataclasses import asdict
from importlib import util
from pathlib import Path

import pytest

from socialr1_jax.config.run import DoctorConfig, RunConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.data.prompts import encode_prompt, question_text
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.plan.doctor import examine
from socialr1_jax.questions import prompt_lengths
from socialr1_jax.questions.prompt_lengths import refuse_long_prompts
from socialr1_jax.questions.sources import open_questions
from socialr1_jax.run.questions import check_positions, prompt_streams, read_run_questions
from socialr1_jax.stories.stories import generate_stories

ROOT = Path(__file__).resolve().parents[2]
NEW = 24


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    stories = generate_stories(12, seed=0, options=3, max_events=5)
    return build_tokenizer([question_text(story) for story in stories], 640)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    """train.jsonl and other.jsonl, of which only row 8 of the first is long; a model without weights."""
    folder = tmp_path_factory.mktemp("lengths")
    tokenizer.save_pretrained(folder / "model")
    for name, seed in (("train", 1), ("other", 2)):
        rows = [asdict(story) | {"meta": {}} for story in generate_stories(12, seed=seed, options=3, max_events=5)]
        for row in rows:
            del row["id"]
        if name == "train":
            rows[7]["story"] += " Then Ann waits." * 10
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def longest(tokenizer, folder):
    """Prompt tokens of row 8 of train.jsonl, which nothing else reaches."""
    lengths = [len(encode_prompt(tokenizer, example)) for example in open_questions([folder / "train.jsonl"])]
    assert sorted(lengths)[-2] < lengths[7] - 20
    return lengths[7]


def run(folder, positions, kind=RunConfig, **data):
    """Return a run of the model with this number of positions."""
    config = {"model_type": "qwen3", "max_position_embeddings": positions}
    (folder / "model" / "config.json").write_text(json.dumps(config))
    sizes = {"train": str(folder / "train.jsonl"), "holdout": 2, "max_prompt_tokens": 512}
    return kind(
        model={"path": str(folder / "model")},
        data=sizes | data,
        sampling={"max_new_tokens": NEW, "group_size": 2},
        grpo={"prompts_per_step": 4, "mini_batch_prompts": 4},
        rewards={"preset": "outcome_only"},
        output_dir=str(folder / "run"),
        evaluation={"questions": 5},
    )


def check(config):
    assert check_positions(config, *read_run_questions(config)) == ""


def test_question_its_file_and_fix_are_named(folder, longest):
    check(run(folder, longest + NEW))
    with pytest.raises(ConfigError) as refused:
        check(run(folder, longest + NEW - 1))
    text = str(refused.value)
    assert text.startswith(f"{folder / 'train.jsonl'}: question train-8 has {longest} prompt tokens; {NEW} new tokens")
    assert f"{longest + NEW - 1} positions" in text
    assert text.endswith(
        f"lower sampling.max_new_tokens to {NEW - 1} or data.max_prompt_tokens to {longest - 1}, which drops such "
        "questions"
    )
    check(run(folder, longest + NEW - 1, max_prompt_tokens=longest - 1))  # which drops it
    with pytest.raises(ConfigError, match="such prompts among 12"):
        check(run(folder, NEW + 1))


def test_only_questions_that_are_asked_count(folder, longest):
    """Row 8 of a set to evaluate on is never reached by its first 5; among several sources the file is named."""
    other, train = (str(folder / f"{name}.jsonl") for name in ("other", "train"))
    check(run(folder, longest + NEW - 1, train=other, eval=[train]))
    for sources in ({"train": [other, train], "eval": [other]}, {"train": other, "eval": [other, train]}):
        config = run(folder, longest + NEW - 1, **sources)
        config = config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"questions": 8})})
        with pytest.raises(ConfigError, match=f"^{train}: question train-8 has {longest} prompt tokens"):
            check(config)


def test_dry_run_and_doctor_refuse_it_too(folder, longest, capsys):
    spec = util.spec_from_file_location("train_grpo_script", ROOT / "scripts/train_grpo.py")
    script = util.module_from_spec(spec)
    spec.loader.exec_module(script)

    def main(positions, *more):
        config = run(folder, positions)
        arguments = [
            f"model.path={config.model.path}",
            f"data.train={config.data.train[0]}",
            "data.holdout=2",
            "data.max_prompt_tokens=512",
            f"sampling.max_new_tokens={NEW}",
            "rewards.preset=outcome_only",
        ]
        with pytest.raises(SystemExit) as ended:
            script.main([*arguments, *more, "--dry-run"])
        return ended.value.code, capsys.readouterr()

    code, said = main(longest + NEW - 1)
    assert code == 2
    assert "error: " in said.err
    assert f"question train-8 has {longest} prompt tokens" in said.err
    assert len(said.err.splitlines()) == 1
    assert main(longest + NEW)[0] == 0
    code, said = main(longest + NEW, "model.path=nobody/nothing")
    assert code == 0
    assert "positions   not checked: nobody/nothing is not on this machine" in said.out
    assert "training: 10 questions" in said.out
    assert main(longest + NEW, "data.columns={story: nowhere}")[0] == 2  # as the run would end
    code, said = main(longest + NEW, "epochs=12.9")
    assert (code, said.out.count("\nepochs 12.9: 10 x 12.9 / 64 = 3 steps\n")) == (0, 1)
    assert "600 steps" not in said.out
    assert main(longest + NEW, "epochs=1", "optimizer.warmup_steps=4")[0] == 2
    *_, line = examine(run(folder, longest + NEW - 1, DoctorConfig), ["data"])
    assert line.status == "problem"
    assert "question train-8" in line.found
    assert f"lower sampling.max_new_tokens to {NEW - 1}" in line.found
    assert "problem" not in {line.status for line in examine(run(folder, longest + NEW, DoctorConfig), ["data"])}
    (folder / "odd" / "config.json").mkdir(parents=True)
    for fault, named in (
        ("model.random=bogus", "model.random 'bogus' is not one of nano"),
        (f"model.path={folder / 'odd'}", "config.json is a folder"),
        ("model.path=me/a--b", "model path 'me/a--b' is not a folder and cannot be a hub id"),
    ):
        code, said = main(longest + NEW, fault)
        assert (code, len(said.err.splitlines())) == (2, 1), said.err
        assert named in said.err
    config = run(folder, longest + NEW, DoctorConfig)
    odd = config.model_copy(update={"model": config.model.model_copy(update={"path": str(folder / "odd")})})
    *_, line = examine(odd, ["data"])
    assert (line.status, "config.json is a folder" in line.found) == ("problem", True)


def test_only_possibly_long_texts_are_tokenized(tokenizer, folder, longest, monkeypatch):
    encoded = []
    monkeypatch.setattr(
        prompt_lengths, "encode_prompt", lambda tokenizer, example: encoded.append(example.id) or [0] * 1000
    )
    examples = list(open_questions([folder / "train.jsonl"]))
    sizes = {"max_new_tokens": NEW, "max_prompt_tokens": 2000}
    refuse_long_prompts(tokenizer, [(["x"], iter(()))], positions=1, **sizes)
    texts = sorted(len(question_text(example).encode()) for example in examples)
    assert texts[-1] > texts[-2] + 100
    with pytest.raises(ConfigError, match="train-8 has 1000 prompt tokens"):
        refuse_long_prompts(tokenizer, [(["x"], examples)], positions=NEW + texts[-2] + 100, **sizes)
    assert encoded == ["train-8"]
    refuse_long_prompts(tokenizer, [(["x"], examples)], positions=NEW + 2000, **sizes)
    assert len(encoded) == 1


@pytest.mark.parametrize(
    "text", ["plain", "naïve café", "狐狸 🦊", "\u0344\U0001d160" * 9, "<think></think>", "a\u0301"]
)
def test_the_bound_is_never_below_the_tokens(tokenizer, folder, text):
    """Also where NFC makes a text longer in bytes."""
    (example,) = generate_stories(1, seed=0, options=3)
    example = type(example)(**asdict(example) | {"story": text * 20})
    bound = prompt_lengths._bound(tokenizer)(question_text(example))
    assert len(encode_prompt(tokenizer, example)) <= bound < 10_000


def test_too_few_questions_are_reported_once(tokenizer, folder, caplog):
    config = run(folder, 1000)
    questions = open_questions([folder / "train.jsonl"])
    with caplog.at_level(logging.WARNING):
        prompt_streams(config, questions.take(range(4)), tokenizer)
        assert not caplog.messages
        prompt_streams(config, questions.take(range(3)), tokenizer)
    assert caplog.messages == [
        "there are 3 questions to train on and grpo.prompts_per_step is 4: a step holds some questions several times, "
        "each time with other random numbers"
    ]
