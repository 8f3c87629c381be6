"""Compute what a run needs on accelerators that are not here: memory, traffic, shortest and expected time.

    python scripts/plan.py --config configs/socialr1_8b_a100x8.yaml --topology a100-80gb:8

Every phase is compiled for the topology by XLA; nothing runs. Exit status 1 when a phase does not fit; what would make
it fit is compiled, too, before it is said.
"""

from __future__ import annotations

import os

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.run import PlanConfig
from socialr1_jax.runtime.terminal import print_error, run_script


def main(argv: list[str] | None = None) -> int:
    config = parse_args(PlanConfig, argv, description="Compile a run for devices that are not here.")
    kind, _, count = config.topology.partition(":")
    os.environ["JAX_PLATFORMS"] = "cpu"  # this process computes nothing; the topology is described, not opened
    os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    if kind == "cpu" and count.isdigit():
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_force_host_platform_device_count={count}".strip()
    from socialr1_jax.plan.advice import advice
    from socialr1_jax.plan.phase import DoesNotFit
    from socialr1_jax.plan.plan import make_plan  # imports JAX: only once the arguments are right
    from socialr1_jax.plan.tables import print_plan

    refused: DoesNotFit | None = None
    try:
        plan = make_plan(config)
    except ValueError as error:
        print_error(f"plan.py: error: {error}")
        return 2
    except DoesNotFit as error:
        plan, refused = make_plan(config, ()), error
        print_error(f"plan.py: {error}")
    else:
        print_plan(plan, config)
    for problem in plan.problems:
        print_error(f"plan.py: {problem}")
    if too_large := [refused.part] if refused else plan.parts_too_large:
        print_error("plan.py: looking for what would fit; each proposal is compiled")
    for line in advice(config, plan, too_large):
        print_error(f"plan.py: {line}")
    return 1 if refused or plan.problems else 0


if __name__ == "__main__":
    run_script(main)
