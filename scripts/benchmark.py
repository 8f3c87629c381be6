"""Measure prefill, decode, update and a whole GRPO step on random weights; one JSON line on standard output.

    python scripts/benchmark.py --shape tiny --dtype float32 --rows 40 --prompt 128 --new 128
    python scripts/benchmark.py --shape tiny --rows 40 --prompt 128 --new 128 --prompts 8 --group 5
    python scripts/benchmark.py --shape tiny --prompts 8 --peers --record docs/benchmarks.jsonl

What each number means: docs/performance.md.
"""

import json
import shlex
import sys
from pathlib import Path

from socialr1_jax.benchmark.config import BenchmarkConfig
from socialr1_jax.config.command_line import parse_args
from socialr1_jax.models.shapes import SHAPES
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import print_error, print_result, run_script


def main(argv: list[str] | None = None) -> int:
    config = parse_args(BenchmarkConfig, argv, description="Measure the speed of sampling and training.")
    prepare(programs=False)
    from socialr1_jax.benchmark.benchmark import benchmark  # imports JAX: only once the arguments are right
    from socialr1_jax.benchmark.peers import PeersMissing
    from socialr1_jax.benchmark.record import around_table, read_record, record, render

    try:
        file = Path(config.record)
        if config.record:  # what is wrong with the record shows now
            around_table(file.with_name("performance.md"))
            if file.exists():
                read_record(file)
        speeds = benchmark(SHAPES[config.shape], config)
        result = {"shape": config.shape, **speeds}
        try:
            if config.record:
                asked = sys.argv[1:] if argv is None else argv
                shown = [x for x in asked if x not in ("--record", config.record) and not x.startswith("--record=")]
                record(file, shlex.join(["python", "scripts/benchmark.py", *shown]), result)
                render(file.with_name("performance.md"), read_record(file))
        finally:
            print_result(json.dumps(result))
    except (PeersMissing, OSError, ValueError) as error:
        print_error(f"benchmark.py: error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    run_script(main)
