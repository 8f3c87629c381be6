"""The engine: continuous batching changes when rows are computed and nothing else.

Oracles are transformers' greedy tokens, the teacher-forced forward, and the engine itself on one prompt alone.
"""

import logging
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import VOCAB_SIZE
from toys import decode_by_length

from socialr1_jax import SamplingParams, load_hf
from socialr1_jax.grpo import token_logprobs
from socialr1_jax.models.kv_cache import Sharing
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.runtime.compiles import compile_count
from socialr1_jax.sampling import Engine, batch, decode
from socialr1_jax.sampling import engine as engine_module
from socialr1_jax.sampling.memory import plan_batch

LENGTHS = [1, 2, 34, 5, 8, 13, 21, 3, 4, 6, 7, 9, 10, 70, 12, 14, 15, 16, 31, 33]
NEW = [3, 24, 1, 2, 20, 4, 5, 6, 24, 2, 7, 1, 3, 9, 24, 2, 11, 1, 5, 24]  # most are short, some are not


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(7)
    return [rng.integers(0, VOCAB_SIZE, size=length).tolist() for length in LENGTHS]


@pytest.fixture(scope="module")
def engine(tiny_jax):
    return Engine(params=tiny_jax.params, config=tiny_jax.config, num_tokens=VOCAB_SIZE, segment_tokens=8)


@pytest.fixture(params=["xla", "triton"])
def kernel(request, monkeypatch):
    if request.param == "triton":
        decode_by_length(monkeypatch.setattr)


def tokens_of(groups):
    return [[completion.tokens for completion in group] for group in groups]


@pytest.fixture(scope="module")
def greedy(tiny, prompts):
    """transformers' 24 greedy tokens after each prompt."""
    import torch

    rows = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        row = tiny.torch_model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False)
        rows.append(row[0, len(prompt) :].tolist())
    return rows


@pytest.fixture(scope="module")
def sampled(engine, prompts):
    return engine.sample(prompts, SamplingParams(n=2, max_new_tokens=24, seed=5))


# --- the same tokens in every manner of batching


@pytest.mark.parametrize("max_rows", [512, 1])
def test_greedy_tokens_of_different_lengths_equal_transformers(engine, prompts, greedy, max_rows, monkeypatch):
    sizes = []

    def resized(state, rows, slots):
        sizes.append((state.last_b.size, rows.size))
        return decode.resized(state, rows, slots)

    monkeypatch.setattr(batch, "resized", resized)
    each = [SamplingParams(max_new_tokens=new, temperature=0) for new in NEW]
    groups = replace(engine, max_rows=max_rows).sample(prompts, each)
    assert tokens_of(groups) == [[row[:new]] for row, new in zip(greedy, NEW, strict=True)]
    assert any(after < before for before, after in sizes) == (max_rows > 1)


@pytest.fixture
def short_of_memory(engine, monkeypatch):
    """An engine with room for 16 rows of 8 slots, or for 5 of the 24 that a response needs."""
    for module in (batch, engine_module):
        monkeypatch.setattr(module, "slot_stride", lambda _: 8)
    plan = Engine.plan
    monkeypatch.setattr(Engine, "plan", lambda *args: replace(plan(*args), tokens=16 * 8))
    moved = []
    for name in ("to_host", "from_host"):
        move = getattr(batch, name)
        monkeypatch.setattr(batch, name, lambda *args, name=name, move=move: moved.append(name) or move(*args))
    return replace(engine, max_rows=16, segment_tokens=4), moved


def test_rows_that_waited_in_host_memory_go_on(short_of_memory, prompts, greedy, sampled):
    """With the kernel for GPUs test_mesh.py moves rows."""
    engine, moved = short_of_memory
    each = [SamplingParams(n=2, max_new_tokens=24, seed=5, temperature=i % 2) for i in range(13)]
    for i, group in enumerate(tokens_of(engine.sample(prompts[:13], each))):
        assert group == (tokens_of(sampled[i : i + 1])[0] if i % 2 else [greedy[i]] * 2)
    assert moved.count("to_host") == moved.count("from_host") == 11  # from 16 rows to 8 to 5


@pytest.mark.parametrize("max_rows", [5, 1])
def test_a_sample_does_not_depend_on_the_batch(engine, prompts, sampled, max_rows):
    """1 row at once: each sample in a group of its own, prefilled again."""
    sampling = SamplingParams(n=2, max_new_tokens=24, seed=5)
    assert tokens_of(replace(engine, max_rows=max_rows).sample(prompts, sampling)) == tokens_of(sampled)


def test_sample_is_equal_in_any_batch_and_order(engine, prompts, sampled, kernel):
    sampling = SamplingParams(n=2, max_new_tokens=24, seed=5)
    alone, other = (tokens_of(engine.sample(prompts[13:14], sampling, step=i, prompt_ids=[13])) for i in (0, 1))
    assert alone == tokens_of(sampled[13:14]) != other
    order = [*range(19, -1, -1)]
    found = engine.sample([prompts[i] for i in order], sampling, prompt_ids=order)
    assert tokens_of(found) == [tokens_of(sampled)[i] for i in order]


def test_repeated_prompt_gets_its_own_draws(engine, prompts):
    """The k-th time its sample indices begin at k * n, whatever stands between and however rows are batched."""
    sampling = SamplingParams(n=2, max_new_tokens=12, seed=5)
    [six], [other] = (
        tokens_of(engine.sample(prompts[i : i + 1], replace(sampling, n=n), prompt_ids=[7 + i]))
        for i, n in ((3, 6), (4, 2))
    )
    assert len(set(map(tuple, six))) == 6
    order = [3, 4, 3, 3]
    for rows in (512, 1):
        found = replace(engine, max_rows=rows).sample(
            [prompts[i] for i in order], sampling, prompt_ids=[7 + i for i in order]
        )
        assert tokens_of(found) == [six[:2], other, six[2:4], six[4:]]


def test_smallest_temperatures_are_greedy_in_the_trainer_too(engine, tiny_jax, prompts, pad_rows):
    """Log-probs come to their limit, 0; the largest float is no infinity."""
    temperatures = [1e-4, 1e-8, 1e-10, 1e-30, 1e-38, 1e-45, 5e-324]
    asked = [SamplingParams(max_new_tokens=8, temperature=value) for value in (0, *temperatures, 1e300)]
    (greedy,), *found = engine.sample(prompts[3:4] * len(asked), asked)
    for temperature, (completion,) in zip(temperatures, found, strict=False):
        assert completion.tokens == greedy.tokens, temperature
        np.testing.assert_allclose(completion.logprobs, 0, atol=1e-6)
        batch = pad_rows([np.array(prompts[3] + completion.tokens)])
        logp_t = np.asarray(token_logprobs(tiny_jax, *batch, temperature=temperature))[0, len(prompts[3]) :]
        np.testing.assert_allclose(logp_t, completion.logprobs, atol=1e-6)
    np.testing.assert_allclose(found[-1][0].logprobs, -np.log(VOCAB_SIZE), rtol=1e-6)
    assert min(greedy.logprobs) < -1e-3  # at temperature 0 itself they are the plain softmax's


def test_refilled_rows_equal_full_forwards(engine, tiny_jax, prompts, greedy, pad_rows, log_softmax, kernel):
    """Drawn and greedy ones, the latter with transformers' tokens."""
    each = [
        SamplingParams(max_new_tokens=new, temperature=0.7 * (i % 3 > 0), top_k=9, raw_logprobs=i % 2 == 0)
        for i, new in enumerate(NEW)
    ]
    prompts = prompts[13:] + prompts[:13]  # the longest first, so that prefixes need not grow: fewer programs
    groups = replace(engine, max_rows=6).sample(prompts, each)
    expected = [row[:new] for row, new in zip(greedy[13:] + greedy[:13], NEW, strict=True)]
    assert tokens_of(groups[::3]) == [[row] for row in expected[::3]]
    rows = [np.array(prompt + group[0].tokens) for prompt, group in zip(prompts, groups, strict=True)]
    logits_btv = np.asarray(tiny_jax(*map(jnp.asarray, pad_rows(rows))))
    for i, (prompt, [completion], new) in enumerate(zip(prompts, groups, NEW, strict=True)):
        logits_tv = logits_btv[i, len(prompt) - 1 : len(prompt) + new - 1]
        at = (np.arange(new), completion.tokens)
        kept_tv = logits_tv >= np.sort(logits_tv, axis=-1)[:, -9:-8]
        drawn_from = log_softmax(np.where(kept_tv, logits_tv / (0.7 if i % 3 else 1), -np.inf))[at]
        np.testing.assert_allclose(completion.logprobs, drawn_from, atol=1e-4)
        if i % 2:
            assert completion.raw_logprobs is None
        else:
            np.testing.assert_allclose(completion.raw_logprobs, log_softmax(logits_tv)[at], atol=1e-4)


def test_every_prompt_has_its_own_parameters(engine, prompts, greedy):
    each = [
        SamplingParams(max_new_tokens=5, temperature=0),
        SamplingParams(n=3, max_new_tokens=7, top_k=1, seed=3),
        SamplingParams(n=2, max_new_tokens=2, top_p=1e-6),
        SamplingParams(max_new_tokens=24, min_p=1.0, stop_token_ids=(greedy[3][2], greedy[3][9])),
    ]
    groups = engine.sample(prompts[:4], each)
    first = next(i for i, token in enumerate(greedy[3]) if token in each[3].stop_token_ids)
    expected = [greedy[0][:5]], [greedy[1][:7]] * 3, [greedy[2][:2]] * 2, [greedy[3][: first + 1]]
    assert tokens_of(groups) == list(expected)
    assert (groups[3][0].finish_reason, groups[3][0].stop) == ("stop", greedy[3][first])


# --- handed out as they end


def test_completions_come_as_they_end(engine, prompts, greedy):
    each = [SamplingParams(max_new_tokens=new, temperature=0) for new in NEW]
    order = [(i, sample) for i, sample, _ in engine.completions(prompts, each)]
    assert sorted(order) == [(i, 0) for i in range(20)]
    seen = [NEW[i] for i, _ in order]
    assert seen.index(24) > max(i for i, new in enumerate(seen) if new <= 8)


def test_rows_are_refilled_while_others_decode(engine, prompts, monkeypatch):
    """60 tokens through 3 rows take 20 steps and not the 40 of two static batches with a long row each."""
    steps = []
    run = batch.decode_segment

    def counted(weights, config, state, *args, **options):
        before = int(state.left_b.sum())
        state, drawn = run(weights, config, state, *args, **options)
        steps.append(before - int(state.left_b.sum()))
        return state, drawn

    monkeypatch.setattr(batch, "decode_segment", counted)
    each = [SamplingParams(max_new_tokens=new) for new in (20, 5, 5, 5, 5, 20)]
    groups = replace(engine, max_rows=3).sample(prompts[:6], each)
    assert [len(group[0].tokens) for group in groups] == [20, 5, 5, 5, 5, 20]
    assert sum(steps) == 60
    assert len(steps) <= 6


# --- ends


def words(ids):
    return "".join(f"<{i}>" for i in ids)


def test_stop_string_ends_at_its_completing_token(engine, prompts, greedy):
    across = words(greedy[1][4:7])[1:-1]  # begins and ends inside a token
    sampling = SamplingParams(max_new_tokens=24, temperature=0, stop=(across, "never"))
    with_text = replace(engine, decode=words, segment_tokens=3)
    [[first], [second]] = with_text.sample(prompts[1:3], sampling)
    end = next(i for i in range(25) if across in words(greedy[1][:i]))
    assert first.tokens == greedy[1][:end]
    assert len(first.logprobs) == end
    assert (first.finish_reason, first.stop) == ("stop", across)
    assert (second.tokens, second.finish_reason, second.stop) == (greedy[2], "length", None)


def test_rows_ended_by_a_string_make_room(engine, prompts, greedy, kernel):
    each = [SamplingParams(max_new_tokens=24, temperature=0, stop=(f"<{row[3]}>",)) for row in greedy]
    order = [*range(13, 20), *range(13)]  # the longest first, as above; six rows as below
    groups = replace(engine, decode=words, max_rows=6).sample([prompts[i] for i in order], [each[i] for i in order])
    assert tokens_of(groups) == [[greedy[i][: greedy[i].index(greedy[i][3]) + 1]] for i in order]


def test_a_thinking_budget_puts_the_end_in(engine, prompts):
    free = SamplingParams(max_new_tokens=12, seed=2)
    end = 7
    [[plain]] = engine.sample(prompts[:1], free)
    assert end not in plain.tokens[:8]
    [[bounded]] = engine.sample(prompts[:1], replace(free, thinking_budget=4, think_end_id=end))
    assert bounded.tokens[:5] == [*plain.tokens[:4], end]
    assert bounded.logprobs[4] == 0
    assert len(bounded.tokens) == 12
    assert end not in bounded.tokens[5:]  # once: what follows is the answer
    [[at_once]] = engine.sample(prompts[:1], replace(free, thinking_budget=0, think_end_id=end))
    assert at_once.tokens[0] == end
    ended = plain.tokens[1]  # thought less than it may
    [[early]] = engine.sample(prompts[:1], replace(free, thinking_budget=4, think_end_id=ended))
    assert early.tokens == plain.tokens


def test_row_without_finite_logits_ends_cleanly(engine, prompts, greedy, caplog, kernel):
    bad = 150
    params = engine.params | {"embed_tokens": engine.params["embed_tokens"].at[bad].set(jnp.nan)}
    keep = [i for i in range(20) if bad not in prompts[i] and bad not in greedy[i]][:6]
    # The last bad token is behind the 64 slots that the next prompt overwrites. With six rows the last prompts get the
    # rows that failed.
    asked = [prompts[keep[0]], [3, bad, 5], [4] * 70 + [bad], *(prompts[i] for i in keep[1:])]
    groups = replace(engine, params=params, max_rows=6).sample(asked, SamplingParams(max_new_tokens=24, temperature=0))
    assert [(c.tokens, c.finish_reason) for [c] in groups[1:3]] == [([], "error")] * 2
    assert tokens_of([groups[0], *groups[3:]]) == [[greedy[i]] for i in keep]
    assert "prompt 1: logits are not finite, a response ends with an error" in caplog.messages


def test_stop_string_before_a_failure_leaves_clean_places(tiny, prompts, greedy):
    model = load_hf(tiny.folder)
    row = LENGTHS.index(70)  # what fails lies behind the 64 slots that the next prompt writes anew
    bad = next(token for j, token in enumerate(greedy[row]) if j > 1 and token not in prompts[row] + greedy[row][:j])
    after = next(i for i in range(20) if i != row and bad not in prompts[i] and bad not in greedy[i])
    params = model.params
    params["embed_tokens"] = params["embed_tokens"].at[bad].set(jnp.nan)
    engine = Engine(params=params, config=model.config, num_tokens=VOCAB_SIZE, max_rows=1, decode=words)
    greedily = SamplingParams(max_new_tokens=24, temperature=0)
    [[failed]] = engine.sample([prompts[row]], greedily)
    assert (failed.tokens, failed.finish_reason) == (greedy[row][: greedy[row].index(bad) + 1], "error")
    asked = [replace(greedily, stop=(f"<{greedy[row][0]}>",)), greedily]
    [[stopped], [next_one]] = engine.sample([prompts[row], prompts[after]], asked)
    assert (stopped.tokens, stopped.finish_reason) == (greedy[row][:1], "stop")
    assert next_one.tokens == greedy[after]


# --- memory and bad input, before anything is compiled


def test_the_batch_follows_the_memory(tiny_jax):
    sizes = {"rows": 64, "group": 4, "prompts": 16, "width": 64, "slots": 128}
    free = plan_batch(tiny_jax.config, 4, **sizes)
    assert (free.rows, free.prompts, free.sharers, free.prefixes) == (64, 16, 4, 16)
    # Rows x slots and prompts x width; layers, K and V, heads, width, bytes.
    assert free.cache == (64 * 128 + 16 * 64) * 2 * 2 * 2 * 24 * 4
    half = plan_batch(tiny_jax.config, 4, **sizes, memory=free.total // 2)
    assert 1 <= half.rows < 64
    assert half.total <= free.total // 2
    with pytest.raises(ValueError, match=r"one row of 64 \+ 128 tokens takes .* GiB a device"):
        plan_batch(tiny_jax.config, 4, **sizes, memory=1000)


def test_rows_are_kept_where_memory_is_short():
    """8B on one of 8 x A100: fewer prompts in a prefill, then fewer slots for each row, then fewer rows."""
    config, sizes = named_shape("8b"), {"rows": 40, "group": 5, "prompts": 8, "width": 1024, "backend": "cudnn"}
    # GiB, slots; rows, prompts, and whether some rows may have to wait.
    cases = [(54, 3072, 40, 8, False), (36, 3072, 40, 4, False), (34, 3072, 40, 8, True), (22, 3072, 40, 2, True)]
    cases += [(54, 16_384, 40, 8, True), (42, 16_384, 32, 6, True), (33, 16_384, 24, 4, True)]
    for memory, slots, *expected in cases:
        plan = plan_batch(config, 2, **sizes, slots=slots, memory=memory << 30)
        assert [plan.rows, plan.prompts, plan.tokens < plan.rows * slots] == expected, (memory, slots)
        assert plan.tokens >= max(5 * slots, plan.rows * slots // 4)
        assert plan.total <= memory << 30
        most = plan.rows_of(slots, 5)
        assert most * slots <= plan.tokens < 9 / 8 * (most + 1) * slots
    options = {"config": config, "dtype": "bfloat16", "backend": "cudnn", "max_rows": 40, "memory": 54 << 30}
    for platform, segment, rows in [("gpu", 64, 40), ("gpu", 8192, 24), ("cpu", 64, 12)]:  # a CPU has no other memory
        engine = Engine(params={}, num_tokens=1, platform=platform, segment_tokens=segment, **options)
        assert engine.plan([[0] * 1024] * 8, SamplingParams(n=5, max_new_tokens=16_384)).rows == rows


@pytest.mark.parametrize(
    ("itemsize", "memory", "sizes", "fixes"),
    [
        (4, 20.0, (1024, 32_768), ["max_new_tokens of at most", "in bfloat16", "(mesh.tensor=2)"]),
        (4, 12.0, (1024, 3072), ["in bfloat16", "(mesh.tensor=2)"]),
        (2, 12.0, (20_480, 512), ["prompts of at most"]),
        (2, 9.0, (8192, 512), ["prompts of at most", "(mesh.tensor=4)"]),
        (2, 1.6, (1024, 3072), ["(mesh.tensor=8)"]),
        (2, 0.5, (1024, 3072), []),
    ],
)
def test_what_is_proposed_makes_a_row_fit(itemsize, memory, sizes, fixes):
    config, size = named_shape("4b"), int(memory * 2**30)
    width, new = sizes

    def planned(itemsize=itemsize, width=width, new=new, tensor=1):
        return plan_batch(
            config, itemsize, rows=64, group=4, prompts=16, width=width, slots=new, tensor=tensor, memory=size
        )

    with pytest.raises(ValueError, match="sampling does not fit") as error:
        planned()
    text = str(error.value).partition("may be used. ")[2]
    assert ("take a smaller model" in text) == (not fixes)
    assert len(fixes) == len(re.findall("with |in bfloat16", text))
    assert all(fix in text for fix in fixes)
    if found := re.search("max_new_tokens of at most ([0-9]+)", text):
        assert planned(new=int(found[1])).rows == 1
        with pytest.raises(ValueError, match="does not fit"):
            planned(new=int(found[1]) + 128)
    if found := re.search("prompts of at most ([0-9]+)", text):
        assert planned(width=int(found[1])).rows >= 1
        with pytest.raises(ValueError, match="does not fit"):
            planned(width=int(found[1]) + 128)
    if "in bfloat16" in text:
        assert planned(itemsize=2).rows >= 1
    if found := re.search("mesh.tensor=([0-9]+)", text):
        assert planned(tensor=int(found[1])).rows >= 1


def test_the_plan_counts_what_the_compiler_counts(engine, tiny_jax):
    """Cache and weights exactly; temporaries are an upper bound that is not absurd."""
    from socialr1_jax.sampling.decode import decode_segment, empty_batch, empty_caches
    from socialr1_jax.sampling.rollout_weights import reshard

    plan = plan_batch(tiny_jax.config, 4, rows=16, group=4, prompts=4, width=64, slots=128)
    weights = reshard(tiny_jax.params, tiny_jax.config, "float32")
    state = empty_batch(tiny_jax.config, 16, 128, jnp.dtype("float32"), 4)
    prefixes = empty_caches(tiny_jax.config, 4, 64, jnp.dtype("float32"))
    assert plan.cache == sum(x.nbytes for x in jax.tree.leaves((state.caches, prefixes)))
    assert plan.weights == pytest.approx(sum(x.nbytes for x in jax.tree.leaves(weights)), rel=0.01)
    places = Sharing(*(jnp.zeros(shape, jnp.int32) for shape in (4, (4, 4), 16)))
    compiled = decode_segment.lower(
        weights, tiny_jax.config, state, prefixes, places, jnp.int32(0), steps=8, num_tokens=VOCAB_SIZE
    ).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * plan.temporaries


@pytest.mark.parametrize(
    ("prompt", "fields", "message"),
    [
        ([], {}, "prompt 1 is empty"),
        ([5, VOCAB_SIZE], {}, "prompt 1 has token ids outside 0..159"),
        ([5, -1], {}, "prompt 1 has token ids outside 0..159"),
        ([5] * 1020, {"max_new_tokens": 5}, "prompt 1 has 1020 tokens; with max_new_tokens=5 that passes"),
        ([5], {"stop": ("x",)}, "prompt 1 has stop strings: give the engine `decode`"),
        ([5], {"thinking_budget": 3, "think_end_id": VOCAB_SIZE}, "prompt 1: think_end_id 160 is not in 0..159"),
    ],
)
def test_bad_requests_are_told_before_a_compile(engine, prompt, fields, message):
    before = compile_count()
    with pytest.raises(ValueError, match=message):
        engine.sample([[1], prompt, [2]], [SamplingParams(), SamplingParams(**fields), SamplingParams()])
    assert compile_count() == before


def test_oversized_request_is_reported_before_compiling(engine):
    before = compile_count()
    with pytest.raises(ValueError, match=r"sampling does not fit: one row of 64 \+ 960 tokens"):
        replace(engine, memory=100_000).sample([[1] * 32], SamplingParams(max_new_tokens=900))
    assert compile_count() == before


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 0},
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"stop": ""},
        {"stop": ("a", "")},
        {"thinking_budget": -1},
        {"seed": -1},
    ],
    ids=str,
)
def test_parameters_out_of_range_are_named(fields):
    (name,) = fields
    with pytest.raises(ValueError, match=rf"SamplingParams\.{name}="):
        SamplingParams(**fields)


def test_a_budget_needs_the_token_that_ends_thinking():
    with pytest.raises(ValueError, match="thinking_budget needs think_end_id"):
        SamplingParams(thinking_budget=5)


def test_no_prompts_no_completions(engine):
    assert engine.sample([], SamplingParams()) == []


def test_every_compilation_is_told_once(engine, prompts, caplog):
    odd = replace(engine, segment_tokens=9)  # a program that no other test compiled
    with caplog.at_level(logging.DEBUG, "socialr1_jax"):
        for _ in range(2):
            odd.sample(prompts[:3], SamplingParams(max_new_tokens=5))
    told = [
        line
        for line in caplog.messages
        if line.startswith("compiled decode of 3 rows x 64 slots behind 3 prefixes of 64 in ")
    ]
    assert len(told) == 1
    assert len([line for line in caplog.messages if line.startswith("sampling 3 responses to 3 prompts")]) <= 1
