"""Train a Qwen3 folder or hub id with GRPO and the Social-R1 reward, on any question file.

    python scripts/train_grpo.py --config configs/socialr1_8b_a100x8.yaml data.train=questions.jsonl

With the same configuration it resumes from the newest checkpoint in `output_dir`. Exit status: 0 complete, 75
interrupted and saved (queue it again), 1 stopped itself (the message gives the reason), 2 bad arguments or input.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("train", __file__)
if __name__ == "__main__":
    run_script(main)
