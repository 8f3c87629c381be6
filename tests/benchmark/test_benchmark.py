"""scripts/benchmark.py: one JSON line whose numbers are what docs/performance.md says they are."""

import importlib.util
import io
import json
import os
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from toys import ONE_LAYER

from socialr1_jax import Qwen3Config
from socialr1_jax.benchmark.benchmark import PHASES, _decode, benchmark, parity, tail_lengths
from socialr1_jax.benchmark.config import BenchmarkConfig
from socialr1_jax.benchmark.peaks import Peaks
from socialr1_jax.cli import COMMANDS
from socialr1_jax.models import shapes
from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.qwen3 import declare_weights, init_params
from socialr1_jax.models.shapes import SHAPES
from socialr1_jax.sampling import Completion, Engine

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "benchmark.py"
PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers" / "hf_shapes.py"
TOY = Qwen3Config(
    vocab_size=96,
    **ONE_LAYER,
    max_position_embeddings=512,
)
# Numbers of weights of the published models; a tied output matrix counts once.
PUBLISHED = {
    "0.6b": 596_049_920,
    "1.7b": 1_720_574_976,
    "4b": 4_022_468_096,
    "8b": 8_190_735_360,
    "14b": 14_768_307_200,
    "32b": 32_762_123_264,
}


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        module = load(SCRIPT)
        patch.setattr(shapes, "SHAPES", {"tiny": TOY})
        yield module


@pytest.fixture(scope="module", autouse=True)
def peaks():
    """Peaks that were not measured, so that a share is known."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socialr1_jax.benchmark.benchmark.measure_peaks", lambda dtype, devices: Peaks(2e8, 3e7))
        yield


@pytest.fixture(scope="module")
def measured(script):
    """(the JSON line as an object, standard error) of a run with a GRPO step."""
    arguments = "--rows 3 --prompt 8 --new 240 --prompts 2 --group 3 --repeats 2 --micro_batch_tokens 500"
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        assert script.main(arguments.split()) == 0
    (line,) = out.getvalue().splitlines()
    return json.loads(line), err.getvalue()


def test_one_json_line_says_what_was_measured(measured):
    line, said = measured
    asked = {"shape": "tiny", "dtype": "float32", "rows": 3, "prompt": 8, "new": 240, "prompts": 2, "group": 3}
    assert {name: line[name] for name in asked} == asked
    assert (line["repeats"], line["remat"], line["attention"]) == (2, "attention", "xla")
    assert line["micro_batch_tokens"] == 500
    assert line["jax"] == jax.__version__
    assert line["device"]
    assert line["peak_rss_bytes"] > 10_000_000
    weights = jax.tree.leaves(jax.eval_shape(lambda: init_params(TOY, jax.random.key(0))))
    assert line["params_m"] == round(sum(x.size for x in weights) / 1e6, 2)
    assert [part.split(":")[0] for part in said.splitlines()] == [
        "prefill",
        "decode",
        "update",
        "update_whole",
        "grpo_step",
    ]


def test_speeds_are_tokens_over_the_median(measured):
    line, _ = measured
    tokens = {"prefill": 3 * 8, "decode": 3 * (240 - 1), "update": 3 * (8 + 240)}
    for name, count in tokens.items():
        low, middle, high = line["spread_s"][name]
        assert low <= middle <= high
        assert middle > 0
        assert line[f"{name}_tok_s"] == pytest.approx(count / middle, rel=2e-3)
    assert line["grpo_step_s"] == line["spread_s"]["grpo_step"][1] > 0
    assert tuple(line["grpo_phases_s"]) == PHASES
    assert min(line["grpo_phases_s"].values()) > 0
    assert sum(line["grpo_phases_s"].values()) == pytest.approx(line["grpo_step_s"], rel=2e-3)
    # Were a program compiled again in the measured call, that call would take as long as the first.
    spread = {name: value for name, value in line["spread_s"].items() if name != "update_whole"}  # update's programs
    assert all(line["compile_s"][name] > high for name, (_, _, high) in spread.items())


def test_shares_of_the_peaks(measured):
    """Model FLOP by 0.2 GFLOP/s, and bytes of weights and filled tokens by 0.03 GB/s, over the seconds of a call."""
    line, _ = measured
    assert line["peaks"] == {"tflops": 0.0002, "gb_s": 0.03}
    costs, seconds = Arithmetic(TOY, 4, 1), {name: spread[1] for name, spread in line["spread_s"].items()}
    layer = 2 * (2 * 16 * 8 * (2 + 1) + 3 * 16 * 32)  # FLOP of a token: kernels of ONE_LAYER
    pair, head = 4 * 2 * 8, 2 * 96 * 16
    flops = {
        "prefill": 3 * (8 * layer + 32 * pair),
        # one prompt of 8 for three responses of 240
        "update": 3 * (728 * layer + (32 + 3 * 240 * (8 + 120)) * pair + 720 * head),
        "update_whole": 3 * 3 * (248 * layer + 248 * 124 * pair + 247 * head),
    }
    for name, needed in flops.items():
        assert line["of_peak"][name] == pytest.approx(needed / seconds[name] / 2e8, rel=0.01, abs=1e-3)
    read = costs.decode_step(3, 120, 8, 3).bytes
    assert read == 4 * (layer / 2 + head / 2 + 2 * 8 * (3 * 120 + 8))
    assert line["of_peak"]["decode"] == pytest.approx(239 * read / seconds["decode"] / 3e7, rel=0.01, abs=1e-3)


def test_logits_against_the_cpu_in_float32():
    result = benchmark(
        TOY, BenchmarkConfig(dtype="bfloat16", rows=2, prompt=9, new=2, repeats=1, update=False, check=True)
    )
    difference = result["parity"]
    assert 1e-4 < difference["relative"] < 0.02
    assert 1e-5 < difference["largest"] < 0.02
    assert difference["same_token"] > 0.7
    params = init_params(TOY, jax.random.key(0))
    same = parity(params, TOY, np.ones((1, 4), np.int32), "float32", "xla")
    assert same == {"relative": 0.0, "largest": 0.0, "same_token": 1.0}


def test_without_update_there_is_neither_update_nor_step():
    result = benchmark(TOY, BenchmarkConfig(dtype="bfloat16", rows=2, prompt=4, new=240, repeats=2, update=False))
    assert set(result["spread_s"]) == set(result["compile_s"]) == {"prefill", "decode"}
    assert {"update_tok_s", "grpo_step_s", "grpo_phases_s", "prompts", "group"}.isdisjoint(result)
    assert min(result["prefill_tok_s"], result["decode_tok_s"]) > 0


def test_decode_is_timed_without_what_one_token_takes(monkeypatch):
    def sample(self, prompts, sampling):
        assert (len(prompts), sampling.n) == (1, 2)
        assert (sampling.temperature, sampling.filters, sampling.stop_token_ids) == (1.0, frozenset(), ())
        clock.append(clock[-1] + 0.1 + 0.02 * sampling.max_new_tokens)  # prefill, and each token
        return [[Completion([1] * (sampling.max_new_tokens - lost), [], "length")] * 2]

    clock = [0.0]
    monkeypatch.setattr(Engine, "sample", sample)
    monkeypatch.setattr("socialr1_jax.benchmark.benchmark.time", SimpleNamespace(perf_counter=lambda: clock[-1]))
    engine = Engine(params={}, config=TOY, num_tokens=96)
    lost = 0
    assert _decode(engine, 2, 8, 4) == pytest.approx(0.06)  # of 0.3 s in all
    lost = 1
    with pytest.raises(RuntimeError, match="drew 6 tokens, not 2 x 4"):
        _decode(engine, 2, 8, 4)


def test_lengths_with_a_long_tail():
    lengths = tail_lengths(400, 200)
    assert lengths.mean() == pytest.approx(50, rel=0.03)
    assert (lengths.min(), lengths.max()) == (1, 200)
    assert np.median(lengths) < 40  # most are far shorter than the mean


def test_batching_and_static_batches_share_their_lengths():
    result = benchmark(TOY, BenchmarkConfig(rows=4, prompt=4, new=40, repeats=1, update=False, requests=10))
    assert min(result["tail_tok_s"], result["tail_static_tok_s"]) > 0
    lengths = tail_lengths(10, 40)
    # 4 rows at once: at least as many steps as the longest response has, and as a quarter of all tokens
    assert result["tail_longest"] == lengths.max() == 31
    assert max(31, lengths.sum() / 4) <= result["tail_wall_steps"] < lengths.sum()
    tokens = lengths.sum()
    for name in ("tail", "tail_static"):
        assert result[f"{name}_tok_s"] == pytest.approx(tokens / result["spread_s"][name][1], rel=2e-3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name):
    config = SHAPES[name]
    table = declare_weights(config)
    in_layers = sum(np.prod(weight.shape) for weight in table.pop("layers").values())
    total = config.num_hidden_layers * in_layers + sum(np.prod(weight.shape) for weight in table.values())
    assert total == PUBLISHED[name]
    assert (config.head_dim, config.vocab_size, config.rope_theta) == (128, 151_936, 1e6)


@pytest.mark.skipif(not PEERS.exists(), reason="the baselines' shapes are not here")
def test_shapes_are_those_of_the_baselines():
    for name, fields in load(PEERS).SHAPES.items():
        assert fields == {field: getattr(SHAPES[name], field) for field in fields}
        assert SHAPES[name].tie_word_embeddings


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--prompt 508 --new 5", "prompt 508 + new 5 is more than the 512 positions"),
        ("--prompt 8 --new 8 --attention cudnn", "attention cudnn computes in bfloat16"),
        ("--new 1", "new must be at least 2"),
        ("--shape huge", "shape 'huge' is not one of tiny"),
        ("--shape tiny/2", "shape 'tiny/2': 2 does not divide the 1 layer of tiny; set a divisor"),
        ("--weights int4", "weights must be one of 'dtype', 'int8' or 'float8', not 'int4'"),
        ("--prompt 8 --new 8 --prompts 2 --update=false", "a GRPO step (prompts) includes an update"),
    ],
)
def test_bad_arguments(script, capsys, arguments, message):
    with pytest.raises(SystemExit, match="2"):
        script.main(arguments.split())
    output = capsys.readouterr()
    assert message in output.err
    assert (output.out, len(output.err.splitlines())) == ("", 1)


def test_peers_do_the_same_work_in_turn(capsys):
    pytest.importorskip("torch")
    pytest.importorskip("trl")
    result = benchmark(TOY, BenchmarkConfig(rows=4, prompt=4, new=6, prompts=2, group=2, repeats=1, peers=True))
    told = capsys.readouterr().err
    # On busy cores six tokens may take no longer than one: then the decode has no speed, and this is said.
    assert ("decode_tok_s" in result["peers"]) != ("decode of transformers: too short" in told)
    assert result["peers"].keys() | {"decode_tok_s"} == {"prefill_tok_s", "decode_tok_s", "update_tok_s", "grpo_step_s"}
    assert result["spread_s"].keys() >= {"prefill of transformers", "update of transformers", "grpo_step of TRL"}
    assert result["peers"]["prefill_tok_s"] == pytest.approx(
        16 / result["spread_s"]["prefill of transformers"][1], 2e-3
    )
    order = [line.partition(":")[0] for line in told.splitlines() if " s, " in line]
    assert order.index("prefill") < order.index("prefill of transformers") < order.index("decode")


def test_peers_share_a_gpus_memory(monkeypatch):
    monkeypatch.setattr("socialr1_jax.cli.prepare", lambda **_: None)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")
    for peers, value in ((False, None), (True, "false")):
        monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE")
        COMMANDS["benchmark"].before(BenchmarkConfig(peers=peers))
        assert os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE") == value
        monkeypatch.setenv("XLA_PYTHON_CLIENT_PREALLOCATE", "")
