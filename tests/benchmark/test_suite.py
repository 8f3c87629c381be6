"""A suite of benchmarks: parts that fit one card, in processes with deadlines, recorded one by one."""

import subprocess
import time
from types import SimpleNamespace

import pytest

from socialr1_jax.benchmark import suite
from socialr1_jax.benchmark.config import BenchmarkConfig
from socialr1_jax.benchmark.record import BEGIN, END, print_benchmark, read_record
from socialr1_jax.models.arithmetic import Arithmetic
from socialr1_jax.models.shapes import named_shape


def test_the_parts_fit_80_gib():
    """Float32 weights twice, moments, gradient and two copies in bfloat16; or weights, copy and caches."""
    assert len(suite.parts("gpu")) == len(suite.parts("trial"))
    for part in suite.parts("gpu"):
        costs = Arithmetic(named_shape(part.shape), 2, 1)
        copies = 2 * costs.rollout_copy + part.rows * (part.prompt + part.new) * costs.cache_token
        assert (24 * costs.parameters if part.update else copies) < 0.92 * 80 * 2**30, part
    for part in suite.parts("trial"):
        assert part.shape == "nano"
        assert part.rows * (part.prompt + part.new) <= 96
        BenchmarkConfig.model_validate(part.model_dump(exclude={"seconds"}))


def test_a_suite_records_what_its_time_allows(tmp_path, monkeypatch, capfd):
    (tmp_path / "performance.md").write_text(f"{BEGIN}\n{END}\n")
    file, run, clock = tmp_path / "benchmarks.jsonl", subprocess.run, iter((0.0, 0.0, 1.0, 2.0, 85.0))
    monkeypatch.setattr(suite, "_PARTS", suite._PARTS[1:5])
    monkeypatch.setattr(suite, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    limits = []

    def part(command, timeout):
        limits.append(timeout)
        if len(limits) == 1:
            return run(command, timeout=100)
        if len(limits) == 2:
            return subprocess.CompletedProcess(command, 3)
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(suite.subprocess, "run", part)
    begun = time.monotonic()
    assert print_benchmark(BenchmarkConfig(suite="trial", record=str(file), seconds=100)) == 1
    assert time.monotonic() - begun < 100
    assert limits == [25.0, 25.0, 25.0]
    (line,) = read_record(file)
    expected = "--shape nano --dtype bfloat16 --weights int8 --rows 4 --prompt 16 --new 8 --repeats 2 --update false"
    assert line["command"].endswith(f"python scripts/benchmark.py {expected}")
    assert line["result"]["prefill_tok_s"] > 0
    assert line["result"].get("decode_tok_s", 1) > 0  # eight tokens may be too short to measure
    assert 0 < line["result"]["of_peak"]["prefill"] < 1
    assert expected in (tmp_path / "performance.md").read_text()
    said = [text for text in capfd.readouterr().err.splitlines() if "--shape nano" in text]
    for text, reason in zip(said, ("ended with status 3", "took more than 25 s", "no time left for"), strict=True):
        assert reason in text


@pytest.mark.parametrize(
    "settings",
    [{"suite": "gpu"}, {"suite": "gpu", "record": "x", "rows": 2}, {"sampling": False, "update": False}],
)
def test_settings_that_a_suite_refuses(settings):
    with pytest.raises(ValueError, match="leave out"):
        BenchmarkConfig(**settings)
