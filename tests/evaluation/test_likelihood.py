"""Log-probs of continuations against transformers' logits, and SocialIQA's choice by likelihood."""

import numpy as np
import pytest

from socialr1_jax.evaluation import likelihood
from socialr1_jax.evaluation.likelihood import continuation_logprobs
from socialr1_jax.sampling import Engine


@pytest.mark.parametrize("batch_tokens", [8192, 64])
def test_log_probs_of_continuations_are_those_of_transformers(tiny, tiny_jax, log_softmax, monkeypatch, batch_tokens):
    """Prompts of one token and of many, continuations of one token and of many, in one batch and in several."""
    monkeypatch.setattr(likelihood, "_BATCH_TOKENS", batch_tokens)
    draw = np.random.default_rng(5)

    def tokens(count):
        return draw.integers(1, tiny_jax.num_tokens, count).tolist()

    questions = [(tokens(p), [tokens(c) for c in counts]) for p, *counts in [(1, 1, 1), (9, 3, 1, 7), (30, 2, 20, 2)]]
    model = tiny_jax
    engine = Engine(params=model.params, config=model.config, num_tokens=model.num_tokens)
    found = dict(continuation_logprobs(engine, questions))
    assert sorted(found) == [0, 1, 2]
    for i, (prompt, continuations) in enumerate(questions):
        for value, tail in zip(found[i], continuations, strict=True):
            logp_tv = log_softmax(tiny.logits(prompt + tail))
            expected = sum(logp_tv[len(prompt) + t - 1, token] for t, token in enumerate(tail))
            assert value == pytest.approx(expected, abs=1e-3)


def test_nothing_asked_is_nothing_computed(tiny_jax):
    engine = Engine(params=tiny_jax.params, config=tiny_jax.config, num_tokens=tiny_jax.num_tokens)
    assert list(continuation_logprobs(engine, [])) == []
