"""Extract the wording of a benchmark's prompts from its authors' repository, for the protocol `official`.

    git clone https://github.com/zhchen18/ToMBench checkout && git -C checkout checkout 4f491f0
    python scripts/benchmark_prompts.py --benchmark tombench --source checkout --output data/tombench/prompts.json

Their files are read as text and never executed. See docs/evaluation.md.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("prompts", __file__)
if __name__ == "__main__":
    run_script(main)
