"""Log-probs of given tokens and their gradient against torch, and zeros where there is nothing to predict."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import NUM_TOKENS, VOCAB_SIZE
from flax import nnx

from socialr1_jax import load_hf, save_hf
from socialr1_jax.grpo import logprobs, token_logprobs
from socialr1_jax.grpo.logprobs import row_logprobs
from socialr1_jax.models.qwen3 import forward, head_kernel, logits


def run(model, batch, **options):
    tokens_bt, lengths_b = map(jnp.asarray, batch)
    logp_bt = token_logprobs(model, tokens_bt, lengths_b, **options)
    assert logp_bt.dtype == jnp.float32
    return np.asarray(logp_bt)


def expected_row(logits_tv, tokens, log_softmax):
    return np.append(0.0, log_softmax(logits_tv)[np.arange(len(tokens) - 1), tokens[1:]])


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
def test_equal_to_transformers_with_zeros_elsewhere(tiny, tiny_jax, ragged_rows, pad_rows, log_softmax, temperature):
    logp_bt = run(tiny_jax, pad_rows(ragged_rows, width=40), temperature=temperature)
    for row, tokens in enumerate(ragged_rows):
        expected = expected_row(tiny.logits(tokens) / temperature, tokens, log_softmax)
        np.testing.assert_allclose(logp_bt[row, : len(tokens)], expected, rtol=0, atol=3e-4)
        assert logp_bt[row, 0] == 0
        assert (logp_bt[row, len(tokens) :] == 0).all()


def test_temperature_is_1_by_default(tiny_jax, ragged_rows, pad_rows):
    batch = pad_rows(ragged_rows, width=40)
    np.testing.assert_array_equal(run(tiny_jax, batch), run(tiny_jax, batch, temperature=1.0))


@pytest.mark.parametrize("temperature", [1e30, 1e38, 1e300])
def test_the_largest_temperatures_are_uniform_and_finite(tiny_jax, ragged_rows, pad_rows, temperature):
    batch = pad_rows(ragged_rows, width=40)
    logp_bt = np.asarray(run(tiny_jax, batch, temperature=temperature))
    np.testing.assert_allclose(logp_bt[logp_bt != 0], -np.log(tiny_jax.num_tokens), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1e-4, 1e-10, 1e-30, 1e-45, 5e-324])
def test_the_smallest_temperatures_stay_finite(temperature):
    """The largest logit's log-prob is 0 and any other's is finite. All logits are below 0, and 400 of 500 ids known."""
    rng = np.random.default_rng(3)
    hidden_bud, kernel_vd = (np.abs(rng.normal(size=shape)).astype(np.float32) for shape in ((1, 6, 16), (500, 16)))
    kernel_vd = -kernel_vd
    largest_bu = np.argmax((hidden_bud @ kernel_vd.T)[..., :400], axis=-1)

    def total(hidden_bud, kernel_vd, targets_bu):
        wanted_bu = jnp.ones((1, 6), bool)
        parts = logprobs._chunked(400, hidden_bud, kernel_vd, targets_bu, wanted_bu, jnp.float32(temperature))
        return sum(map(jnp.sum, parts)), parts

    value_and_gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, (logp_bu, entropy_bu)), gradients = value_and_gradient(hidden_bud, kernel_vd, largest_bu)
    for x in (logp_bu, entropy_bu, *gradients):
        np.testing.assert_allclose(x, 0, atol=1e-3 if temperature == 1e-4 else 0)
    (_, (logp_bu, _)), _ = value_and_gradient(hidden_bud, kernel_vd, (largest_bu + 1) % 400)
    assert np.isfinite(logp_bu).all()
    assert (logp_bu < -1).all()


@pytest.mark.parametrize("length", [2, 64, 129, 300])
def test_any_length(tiny, tiny_jax, pad_rows, log_softmax, length):
    """Lengths at and beside powers of two: where chunks of positions begin and end."""
    rows = [np.random.default_rng(length).integers(0, VOCAB_SIZE, size=length - cut) for cut in (0, 1)]
    logp_bt = run(tiny_jax, pad_rows(rows))
    for row, tokens in enumerate(rows):
        expected = expected_row(tiny.logits(tokens), tokens, log_softmax)
        np.testing.assert_allclose(logp_bt[row, : len(tokens)], expected, rtol=0, atol=3e-4)


def test_padding_width_and_batch_split_do_not_matter(tiny_jax, ragged_rows, pad_rows):
    together = run(tiny_jax, pad_rows(ragged_rows, width=70, seed=1))
    for part in (slice(0, 3), slice(3, 4)):
        width = max(map(len, ragged_rows[part]))
        np.testing.assert_allclose(
            run(tiny_jax, pad_rows(ragged_rows[part], seed=2)), together[part, :width], atol=2e-5
        )


def test_padded_vocabulary_rows_are_masked(padded_vocabulary, tiny, ragged_rows, pad_rows, log_softmax):
    rows = [tokens % NUM_TOKENS for tokens in ragged_rows]
    model = load_hf(padded_vocabulary)
    logp_bt = run(model, pad_rows(rows))
    logits_btv = np.asarray(model(*map(jnp.asarray, pad_rows(rows))))
    for row, tokens in enumerate(rows):
        logits_tv = tiny.logits(tokens)
        np.testing.assert_allclose(logits_btv[row, : len(tokens)], logits_tv, rtol=0, atol=2e-4)  # as transformers
        expected = expected_row(logits_tv[:, :NUM_TOKENS], tokens, log_softmax)
        np.testing.assert_allclose(logp_bt[row, : len(tokens)], expected, rtol=0, atol=3e-4)


@pytest.mark.parametrize("name", ["untied_gqa2", "tied_gqa4_bias"])
def test_gradient_equals_torch(tiny_models, ragged_rows, pad_rows, tmp_path, name):
    """Every position has its own cotangent; the gradient is exported like weights, so that names and shapes match."""
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.numpy")
    tiny, temperature = tiny_models(name), 0.8
    weight_bt = np.random.default_rng(0).normal(size=(4, 40)).astype(np.float32)
    tokens_bt, lengths_b = map(jnp.asarray, pad_rows(ragged_rows, width=40))
    graph, params, rest = nnx.split(load_hf(tiny.folder), nnx.Param, ...)

    @jax.jit
    @jax.value_and_grad
    def value_and_gradient(params):
        model = nnx.merge(graph, params, rest)
        return (weight_bt * token_logprobs(model, tokens_bt, lengths_b, temperature=temperature)).sum()

    value, gradient = value_and_gradient(params)
    save_hf(nnx.merge(graph, gradient, rest), tmp_path / "gradient")
    found = {}
    for file in (tmp_path / "gradient").glob("*.safetensors"):
        found |= safetensors.load_file(file)

    tiny.torch_model.zero_grad()
    expected_value = 0.0
    for weights, tokens in zip(weight_bt, map(torch.tensor, ragged_rows), strict=True):
        logp_tv = torch.log_softmax(tiny.torch_model(tokens[None]).logits[0] / temperature, dim=-1)
        logp_t = logp_tv[:-1].gather(1, tokens[1:, None])[:, 0]
        total = (torch.tensor(weights[1 : len(tokens)]) * logp_t).sum()
        total.backward()
        expected_value += total.item()
    expected = {name: weight.grad.numpy() for name, weight in tiny.torch_model.named_parameters()}
    tiny.torch_model.zero_grad()

    np.testing.assert_allclose(float(value), expected_value, rtol=1e-4)
    assert sorted(found) == sorted(expected)
    for name, leaf in expected.items():
        scale = np.abs(leaf).max()
        if name.endswith("k_proj.bias"):
            assert scale > 0  # q/k norm follows, so a key's bias matters here
        np.testing.assert_allclose(found[name], leaf, rtol=0, atol=2e-4 * scale + 1e-6, err_msg=name)


def with_gradient(function):
    """Compile the log-probs and entropy of `function`, and the gradient of both by the weights."""
    weight_bt, other_bt = np.random.default_rng(1).normal(size=(2, 4, 40)).astype(np.float32)

    def total(params, wanted_bt):
        logp_bt, entropy_bt = function(params, wanted_bt)
        return jnp.sum(weight_bt * logp_bt + other_bt * entropy_bt), (logp_bt, entropy_bt)

    return jax.jit(jax.grad(total, has_aux=True))


@pytest.fixture(scope="module")
def plain(tiny_jax, ragged_rows, pad_rows):
    """A plain log-softmax of all logits."""
    tokens_bt, lengths_b = map(jnp.asarray, pad_rows(ragged_rows, width=40))

    def compute(params, wanted_bt):
        hidden_btd, _ = forward(params, tiny_jax.config, tokens_bt, lengths_b, dtype=jnp.float32)
        logp_btv = jax.nn.log_softmax(logits(hidden_btd, head_kernel(params, "float32")) / 0.9)
        chosen_bu = jnp.take_along_axis(logp_btv[:, :-1], tokens_bt[:, 1:, None], axis=2)[..., 0]
        entropy_bu = -jnp.sum(jnp.exp(logp_btv) * logp_btv, axis=2)[:, :-1]
        return [jnp.where(wanted_bt, jnp.pad(x_bu, ((0, 0), (1, 0))), 0.0) for x_bu in (chosen_bu, entropy_bu)]

    return with_gradient(compute)


@pytest.mark.parametrize("chunk", [1, 64, 1000])
def test_chunks_change_nothing_and_compute_wanted_positions(tiny_jax, ragged_rows, pad_rows, plain, monkeypatch, chunk):
    """Log-probs, entropy and both their gradients against a plain log-softmax of all logits, for any chunk length."""
    tokens_bt, lengths_b = map(jnp.asarray, pad_rows(ragged_rows, width=40))
    monkeypatch.setattr(logprobs, "_CHUNK_LOGITS", chunk * VOCAB_SIZE)

    @with_gradient
    def chunked(params, wanted_bt):
        return row_logprobs(
            params,
            tiny_jax.config,
            tokens_bt,
            lengths_b,
            0.9,
            num_tokens=tiny_jax.num_tokens,
            dtype="float32",
            wanted_bt=wanted_bt,
        )

    for first in (0, 17, 40):
        wanted_bt = (jnp.arange(40) >= first) & (jnp.arange(40) < lengths_b[:, None])
        (gradient, parts), (expected_gradient, expected) = (f(tiny_jax.params, wanted_bt) for f in (chunked, plain))
        for x_bt, expected_bt in zip(parts, expected, strict=True):
            np.testing.assert_allclose(x_bt, expected_bt, rtol=0, atol=5e-5)  # sums of another order, logits of tens
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=5e-4), gradient, expected_gradient)


def test_what_is_not_wanted_is_never_looked_at(tiny_jax):
    """NaN in the hidden states of all other positions reaches neither results nor gradients."""
    wanted_bu = jnp.zeros((3, 5), bool).at[1, 2].set(True).at[2, 4].set(True)
    hidden_bud = jnp.where(wanted_bu[..., None], 0.1, jnp.full((3, 5, tiny_jax.config.hidden_size), jnp.nan))
    targets_bu = jnp.arange(15).reshape(3, 5)

    def total(hidden_bud, kernel_vd):
        parts = logprobs._chunked(VOCAB_SIZE, hidden_bud, kernel_vd, targets_bu, wanted_bu, jnp.float32(1.0))
        return sum(jnp.sum(x_bu) for x_bu in parts), parts

    gradient = jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))
    gradients, parts = gradient(hidden_bud, tiny_jax.params["embed_tokens"])
    for x in jax.tree.leaves((parts, gradients)):
        assert np.isfinite(np.asarray(x)).all()
    for x_bu in parts:
        assert (np.asarray(x_bu) != 0).tolist() == wanted_bu.tolist()


def test_temporaries_are_a_seventh_of_whole_logits():
    """4,096 tokens, vocabulary 151,936, width 1,024, float32; log-probs, entropy and the gradient of both."""

    def plain(hidden_bud, kernel_vd, targets_bu):
        logp_buv = jax.nn.log_softmax(jnp.einsum("bud,vd->buv", hidden_bud, kernel_vd) / 0.9)
        chosen_bu = jnp.take_along_axis(logp_buv, targets_bu[..., None], axis=2)[..., 0]
        return chosen_bu, -jnp.sum(jnp.exp(logp_buv) * logp_buv, axis=2)

    def chunked(hidden_bud, kernel_vd, targets_bu):
        wanted_bu = jnp.ones(targets_bu.shape, bool)
        return logprobs._chunked(151_936, hidden_bud, kernel_vd, targets_bu, wanted_bu, jnp.float32(0.9))

    def temporaries(function):
        def total(hidden_bud, kernel_vd, targets_bu):
            return sum(jnp.sum(x_bu) for x_bu in function(hidden_bud, kernel_vd, targets_bu))

        shapes = (
            jax.ShapeDtypeStruct((4, 1024, 1024), jnp.float32),
            jax.ShapeDtypeStruct((151_936, 1024), jnp.float32),
            jax.ShapeDtypeStruct((4, 1024), jnp.int32),
        )
        compiled = jax.jit(jax.grad(total, argnums=(0, 1))).lower(*shapes).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(chunked) < 0.15 * temporaries(plain)
