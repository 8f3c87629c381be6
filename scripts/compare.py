"""Compare two finished runs on the same questions: paired difference, 95 % interval, p, and changed answers.

    python scripts/compare.py runs/base/evaluation runs/grpo/evaluation      # two outputs of evaluate.py
    python scripts/compare.py runs/grpo@0 runs/grpo                          # a run's evaluation at step 0 and its last
    python scripts/compare.py runs/one runs/two --output comparison.json

FIRST and SECOND may also be files: samples_<task>.jsonl, rollouts.jsonl, or an output of score_responses.py.
docs/evaluation.md explains how the interval and p are computed.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("compare", __file__)
if __name__ == "__main__":
    run_script(main)
