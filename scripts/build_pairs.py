"""Preference pairs for a content reward model: from a policy's own thoughts, or from generated stories.

    python scripts/build_pairs.py --source policy --policy DIR --questions questions.jsonl --output pairs.jsonl
    python scripts/build_pairs.py --source responses --responses rollouts.jsonl --output pairs.parquet
    python scripts/build_pairs.py --source corruptions --output pairs.jsonl corruptions.count=1000

An interrupted run resumes from OUTPUT.work, which holds the responses and verdicts so far.
"""

from __future__ import annotations

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.pairs import PairsConfig
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import print_error, run_script


def main(argv: list[str] | None = None) -> int:
    config = parse_args(PairsConfig, argv, description="Build preference pairs for a content reward model.")
    prepare()
    from socialr1_jax.rewards.verdict import JudgeRefused  # imports JAX: only once the arguments are right
    from socialr1_jax.training.build_pairs import build_pairs, say_summary

    try:
        say_summary(build_pairs(config), config.output)
    except (OSError, ValueError, ImportError, JudgeRefused) as error:
        print_error(f"build_pairs.py: error: {error}")
        return 2
    except KeyboardInterrupt:
        print_error(f"\ninterrupted; {config.output}.work has what was made. Run the same command to resume")
        return 130
    return 0


if __name__ == "__main__":
    run_script(main)
