"""Generate theory-of-mind stories as a question file: adjacent twins, reference thoughts, the script of each story.

python scripts/make_stories.py --count 4000 --seed 0 --output stories.jsonl stories.difficulty=hard
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("stories", __file__)
if __name__ == "__main__":
    run_script(main)
