"""Train a small Qwen3 from scratch with Social-R1 on theory-of-mind stories, in minutes on a laptop.

python scripts/quickstart.py --output_dir runs/quickstart --seed 0
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("quickstart", __file__)
if __name__ == "__main__":
    run_script(main)
