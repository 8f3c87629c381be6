"""Check whether a run can start here: devices, packages, memory, disk, tokenizer, judge, data, and one tiny step.

    python scripts/doctor.py --config configs/socialr1_8b_a100x8.yaml data.train=questions.jsonl

A line a check, with what to do beneath it. Exit status 1 when there is a problem.
"""

from __future__ import annotations

from socialr1_jax.config import parse_args
from socialr1_jax.startup import take_memory
from socialr1_jax.terminal import run_script
from socialr1_jax.training.doctor import DoctorConfig, examine_apart, say_sum, show


def main(argv: list[str] | None = None) -> int:
    config = parse_args(DoctorConfig, argv, description="Check the environment of a run, and say how to correct it.")
    take_memory()
    lines = []
    try:
        for line in examine_apart(config):
            show(line)
            lines.append(line)
    except KeyboardInterrupt:
        return 130
    say_sum(lines)
    return 1 if any(line.status == "problem" for line in lines) else 0


if __name__ == "__main__":
    run_script(main)
