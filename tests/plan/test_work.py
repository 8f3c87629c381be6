"""The assumed lengths of responses: the law, decoding them as the engine does, and packing them."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toys import ONE_LAYER

from socialr1_jax import Qwen3Config, SamplingParams
from socialr1_jax.config.loading import load_config
from socialr1_jax.config.run import PlanConfig
from socialr1_jax.config.sections import ConfigError
from socialr1_jax.grpo import step
from socialr1_jax.models.qwen3 import init_params
from socialr1_jax.models.shapes import named_shape
from socialr1_jax.plan import work
from socialr1_jax.plan.work import decode_lengths, packed_updates, response_lengths, work_of
from socialr1_jax.sampling import Engine, batch
from socialr1_jax.sampling import engine as engine_module


def config(*settings):
    return load_config(PlanConfig, None, ["model.path=m", *settings])


@pytest.mark.parametrize(
    ("law", "mean", "middle", "expected"),
    [
        ("constant", 700, 700, 700),
        ("exponential", 700, 700 * np.log(2), 700 * (1 - np.exp(-3072 / 700))),  # E min(x, limit)
        ("lognormal", 700, 700 / np.sqrt(2), None),  # exp(mu), with variance log 2
    ],
)
def test_lengths_follow_the_law(law, mean, middle, expected):
    lengths = response_lengths(config(f"response_law={law}", f"response_tokens={mean}"))
    assert lengths.shape == (64, 5)
    assert np.median(lengths) == pytest.approx(middle, rel=0.01)
    assert lengths.min() >= 1
    assert lengths.max() <= 3072
    if expected:
        assert lengths.mean() == pytest.approx(expected, rel=0.01)


def test_a_law_without_tokens_is_one_line():
    with pytest.raises(ConfigError, match="response_law exponential has no tokens: set response_tokens"):
        config("response_law=exponential")


@pytest.mark.parametrize("tokens", [8 * 32, 3 * 32])
def test_decoding_takes_the_engines_steps(monkeypatch, tokens):
    """More responses than rows, of lengths that refill and shrink the batch; rows that wait in host memory."""
    for module in (batch, engine_module, work):
        monkeypatch.setattr(module, "slot_stride", lambda _: 8)
    plan = Engine.plan
    monkeypatch.setattr(Engine, "plan", lambda *args: replace(plan(*args), tokens=tokens))
    lengths = np.ceil(np.random.default_rng(3).exponential(10, 12)).astype(int)
    if tokens < 256:  # the engine knows each row's limit, the plan one for all: equal for whole segments
        lengths = -(-lengths // 8) * 8
    model = Qwen3Config(**ONE_LAYER, vocab_size=16, max_position_embeddings=512)
    params = init_params(model, jax.random.key(0))
    engine = Engine(params=params, config=model, num_tokens=16, segment_tokens=8, max_rows=8, memory=1 << 40)
    each = [SamplingParams(n=2, max_new_tokens=int(length)) for length in lengths]
    rollout = engine.rollout([[5, 6, 7]] * 12, each)
    parked = []
    monkeypatch.setattr(rollout, "_park", lambda size, park=rollout._park: parked.append(size) or park(size))
    segments = len(list(rollout.steps())) - 1
    assert bool(parked) == (tokens < 256)
    lengths_pg = np.repeat(lengths[:, None], 2, axis=1)
    limit = int(lengths.max())
    planned = decode_lengths(lengths_pg, rollout.plan, 3, shards=1, platform="cpu", segment=8, limit=limit)
    assert (planned.steps, planned.segments) == (rollout.wall_steps, segments)
    assert planned.drawn == 2 * lengths.sum()
    assert planned.pairs == sum(2 * sum(2 + t for t in range(1, length + 1)) for length in lengths)


@pytest.mark.parametrize(("backend", "width", "filled"), [("cudnn", 4096, 1.0), ("triton", 7168, 0.875)])
def test_bins_are_narrow_if_attention_computes_their_square(backend, width, filled, monkeypatch):
    """Two bins of 4,096 or one of 7,168, whose whole square cuDNN computes."""
    monkeypatch.setattr(step, "row_shards", lambda: 8)
    given = config("response_law=constant", "response_tokens=1500", "grpo.micro_batch_tokens=8192")
    model = named_shape("8b")
    updates = packed_updates(given, model, backend, None, response_lengths(given), 128)
    assert {batch.rows.tokens_bt.shape[1] for update in updates for batch in update} == {width}
    runs = work_of(updates, 16, 4096, 8, model.vocab_size, backend).runs
    assert (runs.calls, runs.filled) == (12, filled)
    assert runs.square == pytest.approx(filled * width / 4096)
    assert (runs.live < 0.25) == (backend == "triton")
