"""Train the content reward model on preference pairs, from a Qwen3 folder or hub id.

    python scripts/train_reward_model.py --config configs/reward_model_4b_a100x8.yaml data.pairs=pairs.jsonl

Called again with the same configuration, it resumes from the newest checkpoint in `output_dir`. The result,
`output_dir`/export, is what `rewards.content.model` takes. Exit status as of train_grpo.py.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("train-reward-model", __file__)
if __name__ == "__main__":
    run_script(main)
