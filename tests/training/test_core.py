"""The whole way without torch: a folder in and out, sampling, log-probs, and a small GRPO run."""

import json
from collections import defaultdict
from dataclasses import asdict

import jax
import numpy as np
import pytest
from toys import steps_of

from socialr1_jax import SamplingParams, generate, load_hf, save_hf
from socialr1_jax.config.run import RunConfig
from socialr1_jax.data.prompts import question_text
from socialr1_jax.data.tokenizer import build_tokenizer
from socialr1_jax.grpo import token_logprobs
from socialr1_jax.stories.stories import generate_stories
from socialr1_jax.training.grpo import train_grpo
from socialr1_jax.weights.hf import random_model

pytestmark = pytest.mark.usefixtures("programs_once")

NEW = 6


@pytest.fixture(scope="module")
def stories():
    return generate_stories(5, seed=0, options=3, max_events=5, twins=False)


@pytest.fixture(scope="module")
def folder(one_layer, stories, tmp_path_factory):
    """A random model with its tokenizer, and questions.jsonl."""
    folder = tmp_path_factory.mktemp("core")
    build_tokenizer([question_text(story) for story in stories], 600).save_pretrained(folder / "tokenizer")
    save_hf(random_model(folder / "tokenizer", "nano", 0), folder / "model")
    rows = (json.dumps(asdict(story) | {"meta": dict(story.meta)}) + "\n" for story in stories)
    (folder / "questions.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def model(folder):
    return load_hf(folder / "model")


def test_a_folder_comes_back_byte_for_byte(folder, model, tmp_path):
    save_hf(model, tmp_path / "again")
    names = ("model.safetensors", "config.json", "tokenizer.json")
    assert [(tmp_path / "again" / name).read_bytes() for name in names] == [
        (folder / "model" / name).read_bytes() for name in names
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.8, 1e-45])
def test_sampler_agrees_with_the_forward_pass(model, temperature):
    """Greedy tokens are the largest logits of the whole row; log-probs are the trainer's."""
    prompts = [[5, 6, 7], [9] * 20]
    groups = generate(model, prompts, SamplingParams(n=2, max_new_tokens=NEW, temperature=temperature, seed=3))
    for prompt, group in zip(prompts, groups, strict=True):
        for completion in group:
            row = np.array([prompt + completion.tokens])
            logits_tv = np.asarray(model(row, np.array([row.shape[1]])))[0, len(prompt) - 1 : -1, : model.num_tokens]
            if temperature < 0.5:
                assert completion.tokens == logits_tv.argmax(axis=-1).tolist()
            logp_t = token_logprobs(model, row, np.array([row.shape[1]]), temperature=temperature or 1.0)[0]
            np.testing.assert_allclose(completion.logprobs, logp_t[len(prompt) :], atol=2e-5)


@pytest.fixture(scope="module")
def config(folder):
    """3 questions to train on and 4 prompts a step: at least one comes twice."""
    return RunConfig(
        steps=2,
        model={"path": str(folder / "model"), "remat": "nothing"},
        data={"train": str(folder / "questions.jsonl"), "holdout": 2, "max_prompt_tokens": 160},
        sampling={"group_size": 2, "max_new_tokens": NEW},
        rewards={"preset": "outcome_only"},
        grpo={"prompts_per_step": 4, "mini_batch_prompts": 4, "entropy_coefficient": 0.01},
        optimizer={"learning_rate": 1e-3},
        evaluation={"every": 0, "questions": 1, "samples": 2},
        checkpoint={"every": 1},
        tracking={"tensorboard": False},
        output_dir=str(folder / "run"),
        save_rollouts=str(folder / "rollouts.jsonl"),
    )


def test_small_run_learns_and_replays_to_equal_bytes(folder, config, model):
    assert train_grpo(config)
    rows = steps_of(folder / "run")
    assert [row["skipped"] for row in rows] == [0, 0]
    assert all(row["grad_norm"] > 0 for row in rows)
    trained = load_hf(folder / "run" / "export")
    assert any(jax.tree.leaves(jax.tree.map(lambda a, b: bool((a != b).any()), trained.params, model.params)))
    replay = {"replay_rollouts": config.save_rollouts, "save_rollouts": "", "output_dir": str(folder / "again")}
    assert train_grpo(config.model_copy(update=replay))
    weights = [(folder / name / "export" / "model.safetensors").read_bytes() for name in ("run", "again")]
    assert weights[0] == weights[1]


def test_repeated_question_of_a_step_is_answered_again(folder, config):
    """All responses of a step to one prompt differ."""
    if not (folder / "rollouts.jsonl").exists():  # this test alone
        train_grpo(config)
    for text in (folder / "rollouts.jsonl").read_text().splitlines():
        step, responses = json.loads(text), defaultdict(list)
        for i, tokens in enumerate(step["tokens"]):
            responses[step["prompt_ids"][i // 2]].append(tuple(tokens))
        assert sum(map(len, responses.values())) == 8
        assert sorted(map(len, responses.values())) == [2, 2, 4]
        assert all(len(set(group)) == len(group) for group in responses.values())
