"""Theory-of-mind stories as a question file: twins side by side, reference thoughts, and the script of each story.

python scripts/make_stories.py --count 4000 --seed 0 --output stories.jsonl stories.difficulty=hard
"""

from __future__ import annotations

from pathlib import Path

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.stories import MakeStoriesConfig
from socialr1_jax.questions.story_files import write_generated
from socialr1_jax.runtime.terminal import counted, print_error, print_result, run_script


def main(argv: list[str] | None = None) -> int:
    config = parse_args(MakeStoriesConfig, argv, description="Generate theory-of-mind stories as a question file.")
    try:
        count = write_generated(config)
    except (OSError, ValueError) as error:
        print_error(f"make_stories.py: error: {error}")
        return 2
    print_result(f"{counted(count, 'question')} in {Path(config.output)}")
    return 0


if __name__ == "__main__":
    run_script(main)
