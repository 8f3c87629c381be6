"""Measure prefill, decode, update and a whole GRPO step on random weights; one JSON line on standard output.

    python scripts/benchmark.py --shape tiny --dtype float32 --rows 40 --prompt 128 --new 128
    python scripts/benchmark.py --shape tiny --rows 40 --prompt 128 --new 128 --prompts 8 --group 5
    python scripts/benchmark.py --shape tiny --prompts 8 --peers --record docs/benchmarks.jsonl
    python scripts/benchmark.py --suite gpu --record docs/benchmarks.jsonl

docs/performance.md explains the numbers.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("benchmark", __file__)
if __name__ == "__main__":
    run_script(main)
