"""A judge that is a Qwen3 folder, on the run's mesh."""

import json
import math
import re
import shutil

import jax
import pytest

from socialr1_jax.config.rewards import StructureConfig
from socialr1_jax.rewards import local_judge
from socialr1_jax.rewards.judges import make_judge
from socialr1_jax.runtime.mesh import make_mesh

TEXTS = [("Anna left.", "Who knows?", f"Encode: fact {i}.") for i in range(3)]


@pytest.fixture(scope="module")
def folder(start, tmp_path_factory):
    """A random Qwen3 with a tokenizer and a chat template, long enough for the rubric."""
    made = tmp_path_factory.mktemp("judge") / "model"
    shutil.copytree(start.model.path, made)
    config = made / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 8192}))
    return made


@pytest.fixture
def judge(folder):
    with jax.set_mesh(make_mesh()):
        found = make_judge(StructureConfig(judge="local", model=str(folder), max_tokens=8))
        yield found
        found.close()


def test_what_it_says_is_read_in_order(judge, monkeypatch):
    asked = []

    def replies(tokenizer, completions, thinking):
        prompts = [tokenizer.decode(tokens) for tokens, _, _ in asked[0]]
        codes = [re.findall(r'"code": "(\w+)"', prompt)[-1] for prompt in prompts]
        return [
            json.dumps(
                {
                    "code": code,
                    "stages": dict.fromkeys(("encode", "interpret", "goal", "respond"), score),
                    "violations": [],
                    "total": score,
                }
            )
            for code, score in zip(codes, (0.1, 0.5, 0.9), strict=True)
        ]

    monkeypatch.setattr(local_judge, "decode_responses", replies)
    verdicts = [judge.submit(*texts) for texts in TEXTS]
    asked.append(list(judge._waiting))
    assert not any(verdict.done() for verdict in verdicts)
    judge.finish()
    assert [verdict.result().score for verdict in verdicts] == [0.1, 0.5, 0.9]
    counters = judge.counters()
    assert (counters["calls"], counters["tokens_out"] > 0) == (3, True)
    assert judge.counters() == {}


def test_what_cannot_be_read_is_unscorable(judge):
    verdicts = [judge.submit(*texts) for texts in TEXTS]
    long = judge.submit("story " * 9000, "Who?", "thoughts")
    judge.finish()
    assert all(math.isnan(verdict.result().score) and verdict.result().cause for verdict in verdicts)
    assert long.result().cause == "too_long"
    waiting = judge.submit(*TEXTS[0])
    judge.close()
    assert waiting.result().cause == "closed"
