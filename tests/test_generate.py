"""Greedy tokens against transformers, log-probs of what was drawn, stop tokens, seeds, and the drawn distribution."""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VOCAB_SIZE
from scipy import stats

from socialr1_jax import SamplingParams, generate, load_hf

LENGTHS = [1, 2, 3, 5, 8, 13, 21, 34, 4, 6, 7, 9, 10, 11, 12, 14, 15, 16, 31, 33]


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(7)
    return [rng.integers(0, VOCAB_SIZE, size=length).tolist() for length in LENGTHS]


def params(**fields):
    return SamplingParams(**({"n": 1, "max_new_tokens": 12, "stop_token_ids": ()} | fields))


def tokens_of(completions):
    return [[list(map(int, completion.tokens)) for completion in group] for group in completions]


# --- greedy


@pytest.mark.parametrize("name", ["untied_gqa2", "tied_gqa4_bias"])
def test_greedy_tokens_equal_transformers(tiny_models, prompts, name):
    import torch

    tiny = tiny_models(name)
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        row = tiny.torch_model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False)
        expected.append([row[0, len(prompt) :].tolist()])
    assert np.mean([len(set(row[0])) for row in expected]) > 6  # a model that repeats one token would show little
    completions = generate(load_hf(tiny.folder), prompts, params(temperature=0.0, max_new_tokens=20))
    assert tokens_of(completions) == expected


def test_greedy_ignores_the_seed_and_the_filters(tiny_jax, prompts):
    plain = generate(tiny_jax, prompts[:4], params(temperature=0.0))
    other = generate(tiny_jax, prompts[:4], params(temperature=0.0, seed=9, top_k=5, top_p=0.5, min_p=0.1))
    assert tokens_of(plain) == tokens_of(other)


# --- log-probs of the tokens drawn

FILTERS = [
    {},
    {"temperature": 0.7},
    {"temperature": 1.5, "top_k": 12},
    {"top_p": 0.8},
    {"min_p": 0.1},
    {"temperature": 1.2, "top_k": 40, "top_p": 0.9, "min_p": 0.02},
]


@pytest.mark.parametrize("options", FILTERS, ids=str)
def test_logprobs_are_those_of_the_filtered_distribution(tiny, tiny_jax, prompts, filter_oracle, log_softmax, options):
    completions = generate(tiny_jax, prompts[:8], params(n=2, seed=3, **options))
    checked = 0
    for prompt, group in zip(prompts, completions, strict=False):
        for completion in group:
            assert len(completion.logprobs) == len(completion.tokens) == 12
            logits_tv = tiny.logits(prompt + list(completion.tokens))[len(prompt) - 1 : -1]
            for step, token in enumerate(completion.tokens):
                scaled, kept, unsure = filter_oracle(logits_tv[step], **options)
                if unsure.any():
                    continue
                expected = log_softmax(np.where(kept, scaled, -np.inf))[token]
                np.testing.assert_allclose(completion.logprobs[step], expected, atol=3e-4)
                checked += 1
    assert checked > 0.9 * 8 * 2 * 12


def test_sampled_logprobs_equal_a_full_forward(tiny_jax, prompts, pad_rows, log_softmax):
    completions = generate(tiny_jax, prompts, params(n=1, seed=5))
    rows = [np.array(prompt + list(group[0].tokens)) for prompt, group in zip(prompts, completions, strict=True)]
    logits_btv = np.asarray(tiny_jax(*map(jnp.asarray, pad_rows(rows))))
    for row, (prompt, group) in enumerate(zip(prompts, completions, strict=True)):
        logp_tv = log_softmax(logits_btv[row, len(prompt) - 1 : len(prompt) + 11])
        expected = logp_tv[np.arange(12), list(group[0].tokens)]
        np.testing.assert_allclose(np.asarray(group[0].logprobs), expected, atol=1e-4)


# --- shape of the answer, stop tokens


def test_n_samples_of_each_prompt_in_order(tiny_jax, prompts):
    completions = generate(tiny_jax, prompts[:3], params(n=5, max_new_tokens=6))
    assert [len(group) for group in completions] == [5, 5, 5]
    for group in completions:
        assert len({tuple(completion.tokens) for completion in group}) == 5
        for completion in group:
            assert completion.finish_reason == "length"
            assert len(completion.tokens) == len(completion.logprobs) == 6
            assert all(0 <= token < VOCAB_SIZE for token in completion.tokens)


def test_one_new_token(tiny_jax, prompts):
    completions = generate(tiny_jax, prompts[:3], params(n=2, max_new_tokens=1))
    assert all(len(c.tokens) == 1 and c.finish_reason == "length" for group in completions for c in group)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_stop_token_ends_its_row_alone_and_is_included(tiny_jax, prompts, temperature):
    free = generate(tiny_jax, prompts[:8], params(n=3, max_new_tokens=20, temperature=temperature))
    drawn = [list(map(int, completion.tokens)) for group in free for completion in group]
    stops = (drawn[0][0], drawn[3][7], drawn[10][19], drawn[20][4])  # first, inner and last positions
    stopped = generate(
        tiny_jax, prompts[:8], params(n=3, max_new_tokens=20, temperature=temperature, stop_token_ids=stops)
    )
    reasons = []
    for row, completion in zip(drawn, [c for group in stopped for c in group], strict=True):
        hits = [step for step, token in enumerate(row) if token in stops]
        expected = row[: hits[0] + 1] if hits else row
        assert list(map(int, completion.tokens)) == expected
        assert len(completion.logprobs) == len(expected)
        assert completion.finish_reason == ("stop" if hits else "length")
        reasons.append(completion.finish_reason)
    if temperature:
        assert {"stop", "length"} == set(reasons)


def test_all_rows_stopping_at_once(tiny_jax, prompts):
    completions = generate(tiny_jax, prompts[:4], params(n=2, stop_token_ids=tuple(range(VOCAB_SIZE))))
    assert all(len(c.tokens) == 1 and c.finish_reason == "stop" for group in completions for c in group)


# --- a sample depends on (seed, prompt index, sample index) alone


def test_seeds(tiny_jax, prompts):
    first = tokens_of(generate(tiny_jax, prompts[:3], params(n=2, seed=1)))
    assert tokens_of(generate(tiny_jax, prompts[:3], params(n=2, seed=1))) == first
    assert tokens_of(generate(tiny_jax, prompts[:3], params(n=2, seed=2))) != first


def test_dropping_the_last_prompts_changes_nothing(tiny_jax, prompts):
    whole = generate(tiny_jax, prompts[:6], params(n=2))
    part = generate(tiny_jax, prompts[:4], params(n=2))
    assert tokens_of(part) == tokens_of(whole)[:4]
    assert tokens_of(generate(tiny_jax, prompts[:1], params(n=2))) == tokens_of(whole)[:1]
    np.testing.assert_allclose(np.asarray(part[3][1].logprobs), np.asarray(whole[3][1].logprobs), atol=1e-4)


def test_longer_neighbours_change_nothing(tiny_jax, prompts):
    whole = tokens_of(generate(tiny_jax, prompts[:5], params(n=2)))
    longer = [*prompts[:2], prompts[2] * 60, prompts[3], prompts[4] * 2]
    other = tokens_of(generate(tiny_jax, longer, params(n=2)))
    for index in (0, 1, 3):
        assert other[index] == whole[index]
    assert other[2] != whole[2]


def test_more_samples_or_tokens_only_add(tiny_jax, prompts):
    few = tokens_of(generate(tiny_jax, prompts[:3], params(n=2, max_new_tokens=7)))
    many = tokens_of(generate(tiny_jax, prompts[:3], params(n=5, max_new_tokens=19)))
    assert [[row[:7] for row in group[:2]] for group in many] == few


def test_the_same_prompt_at_two_indices_draws_twice(tiny_jax, prompts):
    first, second = tokens_of(generate(tiny_jax, [prompts[5], prompts[5]], params(n=3)))
    assert not {tuple(row) for row in first} & {tuple(row) for row in second}


# --- the drawn distribution (fixed seeds; a right sampler fails a fresh seed once in 10,000)


def assert_drawn_from(counts, probabilities):
    """Chi-square with the bins below 5 expected draws pooled."""
    counts, expected = np.asarray(counts, float), np.asarray(probabilities) * np.sum(counts)
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    assert len(counts) >= 4
    if expected[-1] < 5:
        assert counts[-1] <= 20
        counts, expected = counts[:-1], expected[:-1]
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < stats.chi2.ppf(1 - 1e-4, len(counts) - 1)
    assert statistic > stats.chi2.ppf(1e-4, len(counts) - 1)  # nearer than chance allows: not independent draws


@pytest.mark.parametrize("options", [{}, {"temperature": 0.8, "top_k": 30, "top_p": 0.95}], ids=str)
def test_first_tokens_follow_the_softmax(tiny, tiny_jax, prompts, filter_oracle, log_softmax, options):
    group = generate(tiny_jax, [prompts[4]], params(n=3000, max_new_tokens=1, seed=1, **options))[0]
    counts = np.bincount([completion.tokens[0] for completion in group], minlength=VOCAB_SIZE)
    scaled, kept, _ = filter_oracle(tiny.logits(prompts[4])[-1], **options)
    assert counts[~kept].sum() == 0
    assert_drawn_from(counts, np.exp(log_softmax(np.where(kept, scaled, -np.inf))))


def test_draws_of_steps_and_of_prompts_are_independent(tiny, tiny_jax, prompts, log_softmax):
    """One number reused for two steps or two prompts keeps each margin and shows only in the pairs."""
    keep = 3
    completions = generate(
        tiny_jax, [prompts[4], prompts[4]], params(n=2500, max_new_tokens=2, seed=2, temperature=2.0, top_k=keep)
    )
    first = [[int(c.tokens[0]) for c in group] for group in completions]

    def top(tokens):
        logits = tiny.logits(tokens)[-1] / 2.0
        ids = np.argsort(-logits)[:keep]
        return ids.tolist(), np.exp(log_softmax(logits[ids]))

    ids, probabilities = top(prompts[4])
    pairs = np.zeros((keep, keep))
    for a, b in zip(*first, strict=True):
        pairs[ids.index(a), ids.index(b)] += 1
    assert_drawn_from(pairs.ravel(), np.outer(probabilities, probabilities).ravel())

    follow = {token: top([*prompts[4], token]) for token in ids}
    steps = np.zeros((keep, keep))
    for completion in completions[0]:
        a, b = map(int, completion.tokens)
        steps[ids.index(a), follow[a][0].index(b)] += 1
    expected = np.array([probabilities[i] * follow[token][1] for i, token in enumerate(ids)])
    assert_drawn_from(steps.ravel(), expected.ravel())
