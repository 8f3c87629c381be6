"""From nothing to a small Qwen3 trained with Social-R1 on theory-of-mind stories, in minutes on a laptop.

python scripts/quickstart.py --output_dir runs/quickstart --seed 0
"""

from __future__ import annotations

from pathlib import Path

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.runtime.interrupt import REQUEUE
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import print_error, run_script

DEFAULTS = Path(__file__).resolve().parents[1] / "configs" / "quickstart.yaml"


def check_rewards(config: QuickstartConfig) -> None:
    """Raise ValueError where a reward function of `rewards.extra` cannot be had."""
    from socialr1_jax.rewards.extra import load_extras

    load_extras(config.rewards)


def main(argv: list[str] | None = None) -> int:
    config = parse_args(
        QuickstartConfig,
        argv,
        description="Train a small Qwen3 from nothing with Social-R1: stories, SFT, GRPO, export, report.",
        default_config=DEFAULTS,
        check=check_rewards,
    )
    prepare(config.xla_flags)
    from socialr1_jax.run.run import TrainingStopped  # imports JAX: only once the arguments are right
    from socialr1_jax.training.quickstart import run_quickstart

    try:
        return 0 if run_quickstart(config) else REQUEUE
    except (ValueError, FileNotFoundError) as error:
        print_error(f"quickstart.py: error: {error}")
        return 2
    except TrainingStopped as error:
        print_error(f"quickstart.py: stopped: {error}")
        return 1


if __name__ == "__main__":
    run_script(main)
