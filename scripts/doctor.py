"""Check whether a run can start on this machine: packages, devices, memory, model, questions, judge, one tiny step.

    python scripts/doctor.py --config configs/socialr1_8b_a100x8.yaml data.train=questions.jsonl

A line a check, with what to do beneath it. Exit status 1 when there is a problem.
"""

from __future__ import annotations

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.run import DoctorConfig
from socialr1_jax.runtime.startup import take_memory
from socialr1_jax.runtime.terminal import counted, print_line, run_script


def main(argv: list[str] | None = None) -> int:
    config = parse_args(DoctorConfig, argv, description="Check the environment of a run, and say how to correct it.")
    take_memory()
    from socialr1_jax.plan.doctor import examine_apart
    from socialr1_jax.run.console import print_finding  # imports rich: only once the arguments are right

    counts = {"ok": 0, "problem": 0, "warning": 0, "skipped": 0}
    try:
        for line in examine_apart(config):
            print_finding(*line)
            counts[line.status] += 1
    except KeyboardInterrupt:
        return 130
    problems, warnings = (counted(counts[status], status) for status in ("problem", "warning"))
    print_line(f"{problems}, {warnings}, {counts['skipped']} not checked")
    return 1 if counts["problem"] else 0


if __name__ == "__main__":
    run_script(main)
