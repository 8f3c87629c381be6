"""Score responses with the Social-R1 reward, offline and without a model.

    python scripts/score_responses.py --input I.jsonl --output O.jsonl --preset no_content --judge rules

Each row of the input holds story, question, options, answer and response; the output adds reward and terms.
"""

from __future__ import annotations

import sys

from socialr1_jax.command_line import parse_args
from socialr1_jax.rewards.scoring import ScoreConfig, score_file


def main(argv: list[str] | None = None) -> int:
    config = parse_args(ScoreConfig, argv, description="Score the responses of a JSONL file with the Social-R1 reward.")
    try:
        summary = score_file(config)
    except OSError as error:
        print(f"score_responses.py: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"score_responses.py: error: {error}", file=sys.stderr)
        return 2
    print(
        f"{config.output}: {summary.responses} responses, mean reward {summary.mean_reward:.4f}, "
        f"format rate {summary.format_rate:.4f}, accuracy {summary.accuracy:.4f}, unscorable {summary.unscorable}"
    )
    if summary.unscorable:
        print(
            f"score_responses.py: {summary.unscorable} rewards are null: preset {config.preset} needs a content score; "
            "give a 'content' number in the rows, or use --preset no_content",
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
