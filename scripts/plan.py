"""Compute the needs of a run on accelerators that this machine lacks: memory, traffic, minimum and expected time.

    python scripts/plan.py --config configs/socialr1_8b_a100x8.yaml --topology a100-80gb:8

XLA compiles every phase for the topology; nothing runs. Exit status 1 if a phase does not fit; the suggested fix is
compiled as well before it is printed.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("plan", __file__)
if __name__ == "__main__":
    run_script(main)
