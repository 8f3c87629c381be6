"""Train the content reward model on preference pairs, from a Qwen3 folder or hub id.

    python scripts/train_reward_model.py --config configs/reward_model_4b_a100x8.yaml data.pairs=pairs.jsonl

Called again with the same configuration, it resumes from the newest checkpoint in `output_dir`. The result,
`output_dir`/export, is what `rewards.content.model` takes. Exit status as of train_grpo.py.
"""

from __future__ import annotations

from pathlib import Path

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.runtime.interrupt import REQUEUE, SAVED
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import print_error, print_line, run_script


def main(argv: list[str] | None = None) -> int:
    config = parse_args(RewardModelConfig, argv, description="Train a reward model on preference pairs.")
    prepare(config.xla_flags)
    from socialr1_jax.run.run import TrainingStopped
    from socialr1_jax.runtime.processes import is_first  # imports JAX: only once the arguments are right
    from socialr1_jax.training.reward_model import say_results, train_reward_model

    folder = Path(config.output_dir)
    try:
        complete = train_reward_model(config)
    except (ValueError, FileNotFoundError) as error:  # bad configuration, model folder or file of pairs
        print_error(f"train_reward_model.py: error: {error}")
        return 2
    except TrainingStopped as error:
        print_error(f"train_reward_model.py: stopped: {error}")
        return 1
    if not complete and is_first():
        print_line(SAVED)
    elif is_first():
        say_results(folder)
        print_line(f"reward model: {folder}/export   figures: {folder}/summary.json")
    return 0 if complete else REQUEUE


if __name__ == "__main__":
    run_script(main)
