"""Greedy tokens against transformers, log-probs of what was drawn, stop tokens, seeds, and the drawn distribution.

Most tests use the shape of `standard` (6 prompts x 2 samples x 12 tokens), because each new shape is compiled.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import NUM_TOKENS, VOCAB_SIZE
from scipy import stats

from socialr1_jax import SamplingParams, generate, load_hf
from socialr1_jax.sampling import Engine

LENGTHS = [1, 2, 34, 5, 8, 13, 21, 3, 4, 6, 7, 9, 10, 11, 12, 14, 15, 16, 31, 33]


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(7)
    return [rng.integers(0, VOCAB_SIZE, size=length).tolist() for length in LENGTHS]


def params(**fields):
    return SamplingParams(**({"n": 2, "max_new_tokens": 12, "stop_token_ids": ()} | fields))


@pytest.fixture(scope="module")
def standard(tiny_jax, prompts):
    return generate(tiny_jax, prompts[:6], params())


def tokens_of(completions):
    return [[list(map(int, completion.tokens)) for completion in group] for group in completions]


# --- greedy


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("untied_gqa4_bias", {}),
        ("tied_gqa2_3layers", {"seed": 9, "top_k": 5, "top_p": 0.5, "min_p": 0.1}),
        ("tied_gqa2_3layers", {"repetition_penalty": 1.3}),
    ],
)
def test_greedy_tokens_equal_transformers(tiny_models, prompts, name, options):
    import torch

    tiny, prompts = tiny_models(name), prompts[:6]
    expected = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        row = tiny.torch_model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            do_sample=False,
            repetition_penalty=options.get("repetition_penalty", 1.0),
        )
        expected.append([row[0, len(prompt) :].tolist()])
    assert np.mean([len(set(row[0])) for row in expected]) > 4  # a model that repeats one token would show little
    completions = generate(load_hf(tiny.folder), prompts, params(n=1, temperature=0.0, max_new_tokens=20, **options))
    assert tokens_of(completions) == expected


def test_repetition_penalty_is_that_of_its_row(tiny, tiny_jax, prompts, log_softmax):
    """Also where rows are refilled; log-probs are those of the distribution with the penalty."""
    each = [params(seed=3, repetition_penalty=penalty) for penalty in (1.0, 5.0, 0.5)]
    asked = [prompts[0]] * 3
    engine = Engine(params=tiny_jax.params, config=tiny_jax.config, num_tokens=tiny_jax.num_tokens, max_rows=2)
    alone = [engine.sample([prompts[0]], one, prompt_ids=[i])[0] for i, one in enumerate(each)]
    together = engine.sample(asked, each, prompt_ids=range(3))
    assert tokens_of(together) == tokens_of(alone)
    without = engine.sample(asked, params(seed=3), prompt_ids=range(3))
    same = [one == other for one, other in zip(tokens_of(without), tokens_of(alone), strict=True)]
    assert same == [True, False, False]
    logits_v = tiny.logits(prompts[0])[-1]
    logits_v[prompts[0]] *= np.where(logits_v[prompts[0]] < 0, 5.0, 1 / 5.0)
    for completion in alone[1]:
        expected = log_softmax(logits_v)[completion.tokens[0]]
        np.testing.assert_allclose(completion.logprobs[0], expected, atol=1e-4)
    with pytest.raises(ValueError, match="repetition_penalty=0 is out of range"):
        params(repetition_penalty=0)


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
    completions = generate(tiny_jax, prompts[:6], params(seed=3, **options))
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
    assert checked > 0.9 * 6 * 2 * 12


def test_sampled_logprobs_equal_a_full_forward(tiny_jax, prompts, standard, pad_rows, log_softmax):
    drawn = [(prompt, completion) for prompt, group in zip(prompts, standard, strict=False) for completion in group]
    rows = [np.array(prompt + list(completion.tokens)) for prompt, completion in drawn]
    logits_btv = np.asarray(tiny_jax(*map(jnp.asarray, pad_rows(rows))))
    for row, (prompt, completion) in enumerate(drawn):
        logp_tv = log_softmax(logits_btv[row, len(prompt) - 1 : len(prompt) + 11])
        expected = logp_tv[np.arange(12), list(completion.tokens)]
        np.testing.assert_allclose(np.asarray(completion.logprobs), expected, atol=1e-4)


def test_padded_vocabulary_rows_are_never_drawn(padded_vocabulary, tiny, prompts, log_softmax):
    completions = generate(load_hf(padded_vocabulary), prompts[:6], params(temperature=3.0))
    for prompt, group in zip(prompts, completions, strict=False):
        for completion in group:
            assert max(completion.tokens) < NUM_TOKENS  # 20 of 160 rows are padding: 144 draws would find one
            logits_tv = tiny.logits(prompt + list(completion.tokens))[len(prompt) - 1 : -1, :NUM_TOKENS]
            expected = log_softmax(logits_tv / 3.0)[np.arange(12), list(completion.tokens)]
            np.testing.assert_allclose(np.asarray(completion.logprobs), expected, atol=3e-4)


# --- stop tokens


def test_stop_token_ends_its_row_and_is_included(tiny_jax, prompts, standard):
    drawn = [row for group in tokens_of(standard) for row in group]
    stops = (drawn[0][0], drawn[3][11], drawn[10][4])  # a first, a last and an inner position
    stopped = generate(tiny_jax, prompts[:6], params(stop_token_ids=stops))
    reasons = set()
    for row, completion in zip(drawn, [c for group in stopped for c in group], strict=True):
        hits = [step for step, token in enumerate(row) if token in stops]
        expected = row[: hits[0] + 1] if hits else row
        assert list(map(int, completion.tokens)) == expected
        assert len(completion.logprobs) == len(expected)
        assert completion.finish_reason == ("stop" if hits else "length")
        reasons.add(completion.finish_reason)
    assert reasons == {"stop", "length"}


def test_all_rows_stopping_at_once(tiny_jax, prompts):
    completions = generate(tiny_jax, prompts[:6], params(stop_token_ids=tuple(range(VOCAB_SIZE))))
    assert all(len(c.tokens) == 1 and c.finish_reason == "stop" for group in completions for c in group)


# --- a sample depends on (seed, prompt index, sample index) alone


def test_seeds(tiny_jax, prompts, standard):
    assert tokens_of(generate(tiny_jax, prompts[:6], params(seed=0))) == tokens_of(standard)
    other = tokens_of(generate(tiny_jax, prompts[:6], params(seed=1)))
    assert all(a != b for a, b in zip(other, tokens_of(standard), strict=True))


def test_more_samples_and_tokens_only_add(tiny_jax, prompts, standard):
    more = generate(tiny_jax, prompts[:6], params(n=5, max_new_tokens=19))
    assert [len(group) for group in more] == [5] * 6
    for group in more:
        assert len({tuple(completion.tokens) for completion in group}) == 5
        for completion in group:
            assert completion.finish_reason == "length"
            assert len(completion.tokens) == len(completion.logprobs) == 19
            assert all(0 <= token < VOCAB_SIZE for token in completion.tokens)
    assert [[row[:12] for row in group[:2]] for group in tokens_of(more)] == tokens_of(standard)


def test_neighbours_do_not_matter(tiny_jax, prompts, standard):
    """Others are longer (238 tokens instead of 34), or gone."""
    found = generate(tiny_jax, [*prompts[:2], prompts[2] * 7, prompts[3], prompts[4] * 2], params())
    same = [a == b for a, b in zip(tokens_of(found), tokens_of(standard), strict=False)]
    assert same == [True, True, False, True, False]
    np.testing.assert_allclose(np.asarray(found[3][1].logprobs), np.asarray(standard[3][1].logprobs), atol=1e-4)


def test_the_same_prompt_at_two_indices_draws_twice(tiny_jax, prompts):
    first, second, *_ = tokens_of(generate(tiny_jax, [prompts[5]] * 6, params()))
    assert not {tuple(row) for row in first} & {tuple(row) for row in second}


# --- the drawn distribution (fixed seeds; a right sampler fails a fresh seed about once in 5,000)


def assert_drawn_from(counts, probabilities):
    """Chi-square with the bins below 5 expected draws pooled."""
    counts, expected = np.asarray(counts, float), np.asarray(probabilities) * np.sum(counts)
    rare = expected < 5
    bins = [*zip(counts[~rare], expected[~rare], strict=True)]
    if expected[rare].sum() >= 5:
        bins.append((counts[rare].sum(), expected[rare].sum()))
    else:
        assert counts[rare].sum() <= 20
    assert len(bins) >= 4
    statistic = sum((count - mean) ** 2 / mean for count, mean in bins)
    assert statistic < stats.chi2.ppf(1 - 1e-4, len(bins) - 1)
    assert statistic > stats.chi2.ppf(1e-4, len(bins) - 1)  # nearer than chance allows: the draws are not independent


def test_first_tokens_follow_the_softmax(tiny, tiny_jax, prompts, log_softmax):
    group = generate(tiny_jax, [prompts[4]], params(n=3000, max_new_tokens=1, seed=1))[0]
    assert all(len(completion.tokens) == 1 and completion.finish_reason == "length" for completion in group)
    counts = np.bincount([completion.tokens[0] for completion in group], minlength=VOCAB_SIZE)
    assert_drawn_from(counts, np.exp(log_softmax(tiny.logits(prompts[4])[-1])))


def test_draws_of_steps_and_of_prompts_are_independent(tiny, tiny_jax, prompts, log_softmax):
    """One number reused for two steps or two prompts keeps each margin and shows only in the pairs."""
    keep = 3
    sampling = params(n=2500, max_new_tokens=2, seed=2, temperature=2.0, top_k=keep)
    completions = tokens_of(generate(tiny_jax, [prompts[4], prompts[4]], sampling))

    def top(tokens):
        logits = tiny.logits(tokens)[-1] / 2.0
        ids = np.argsort(-logits)[:keep]
        return ids.tolist(), np.exp(log_softmax(logits[ids]))

    ids, probabilities = top(prompts[4])
    follow = {token: top([*prompts[4], token]) for token in ids}
    prompt_pairs, step_pairs = np.zeros((keep, keep)), np.zeros((keep, keep))
    for row, neighbour in zip(*completions, strict=True):
        prompt_pairs[ids.index(row[0]), ids.index(neighbour[0])] += 1
        step_pairs[ids.index(row[0]), follow[row[0]][0].index(row[1])] += 1
    assert_drawn_from(prompt_pairs.ravel(), np.outer(probabilities, probabilities).ravel())
    expected = [probability * follow[token][1] for token, probability in zip(ids, probabilities, strict=True)]
    assert_drawn_from(step_pairs.ravel(), np.concatenate(expected))
