"""Trace the steps of a run and report where time and memory go: profile.html, profile.json, a trace, the programs.

    python scripts/profile_run.py --config configs/quickstart.yaml --phase step --steps 3
    python scripts/profile_run.py --config configs/smoke.yaml --phase update --strict grpo.micro_batch_tokens=4096

The configuration is that of a GRPO run or a quickstart; `section.field=value` overrides it. docs/profiling.md explains
the figures. Exit status: 0 done, 1 --strict found an implicit transfer, 2 bad arguments or input.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("profile", __file__)
if __name__ == "__main__":
    run_script(main)
