"""Train the content reward model on preference pairs, starting from a Qwen3 folder or hub id.

    python scripts/train_reward_model.py --config configs/reward_model_4b_a100x8.yaml data.pairs=pairs.jsonl

With the same configuration it resumes from the newest checkpoint in `output_dir`. The result is `output_dir`/export,
for `rewards.content.model`. Exit statuses are those of train_grpo.py.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("train-reward-model", __file__)
if __name__ == "__main__":
    run_script(main)
