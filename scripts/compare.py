"""Compare two finished runs on the same questions: paired difference, 95 % interval, p, and what changed.

    python scripts/compare.py runs/base/evaluation runs/grpo/evaluation      # two outputs of evaluate.py
    python scripts/compare.py runs/grpo@0 runs/grpo                          # a run's evaluation at step 0 and its last
    python scripts/compare.py runs/one runs/two --output comparison.json

FIRST and SECOND may also be files: samples_<task>.jsonl, rollouts.jsonl, or an output of score_responses.py.
docs/evaluation.md says how the interval and p are made.
"""

import argparse
from pathlib import Path

from socialr1_jax.runtime.terminal import print_error, print_result, run_script


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Compare two finished runs on the same questions.")
    takes = "output folder of evaluate.py, or a run's folder (RUN@STEP: its evaluation at that step), or a file of one"
    parser.add_argument("first", metavar="FIRST", help=takes)
    parser.add_argument("second", metavar="SECOND", help="the same; the difference is SECOND minus FIRST")
    parser.add_argument("--output", metavar="FILE.json", help="file for the figures and all changed questions as JSON")
    arguments = parser.parse_args(argv)
    from socialr1_jax.evaluation import compare  # imports SciPy: only once the arguments are right
    from socialr1_jax.runtime.files import write_json

    try:
        if arguments.output:
            compare.refuse_foreign_comparison(Path(arguments.output))
        found = compare.compare(arguments.first, arguments.second)
        if arguments.output:
            write_json(Path(arguments.output), found)
    except (ValueError, OSError) as error:
        print_error(f"compare.py: error: {error}")
        return 2
    print_result(compare.text(found))
    return 0


if __name__ == "__main__":
    run_script(main)
