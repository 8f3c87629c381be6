"""Measure what checkpoints cost: restoring beside a plain read of the same bytes, saving beside steps that do not.

    python scripts/benchmark_checkpoints.py --shape 0.6b
    python scripts/benchmark_checkpoints.py --restore=false --steps 40

Prints one JSON line. Restoring is measured with the files out of the page cache, as after a restart, and in it.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("benchmark checkpoints", __file__)
if __name__ == "__main__":
    run_script(main)
