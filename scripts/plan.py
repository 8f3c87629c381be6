"""Compute what a run needs on accelerators that are not here: memory, traffic, shortest and expected time.

    python scripts/plan.py --config configs/socialr1_8b_a100x8.yaml --topology a100-80gb:8

Every phase is compiled for the topology by XLA; nothing runs. Exit status 1 when a phase does not fit; what would make
it fit is compiled, too, before it is said.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("plan", __file__)
if __name__ == "__main__":
    run_script(main)
