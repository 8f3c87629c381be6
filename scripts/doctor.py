"""Check whether a run can start on this machine: packages, devices, memory, model, questions, judge, one tiny step.

    python scripts/doctor.py --config configs/socialr1_8b_a100x8.yaml data.train=questions.jsonl

Prints one line per check, with the fix below it. Exit status 1 if there is a problem.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("doctor", __file__)
if __name__ == "__main__":
    run_script(main)
