"""Score the samples of evaluate.py again, without generating.

python scripts/score.py samples_hitom.jsonl --output figures.json
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("score", __file__)
if __name__ == "__main__":
    run_script(main)
