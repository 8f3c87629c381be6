"""The training commands: run, print the closing lines and return the exit status."""

from pathlib import Path

from socialr1_jax.config.pairs import PairsConfig
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.reward_model import RewardModelConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.report import write_report
from socialr1_jax.run.summary import write_summary
from socialr1_jax.runtime.interrupt import REQUEUE, SAVED, stop_on_signal
from socialr1_jax.runtime.processes import is_first
from socialr1_jax.runtime.terminal import print_error, print_line
from socialr1_jax.training.build_pairs import build_pairs, say_pairs
from socialr1_jax.training.grpo import train_grpo
from socialr1_jax.training.quickstart import run_quickstart
from socialr1_jax.training.reward_model import say_results, train_reward_model


def quickstart(config: QuickstartConfig) -> int:
    """Run the quickstart and return its exit status."""
    return 0 if run_quickstart(config) else REQUEUE


def train(config: RunConfig) -> int:
    """Train with GRPO, write summary and report, and return the exit status."""
    folder = Path(config.output_dir)
    complete = train_grpo(config)
    if complete and is_first():
        with stop_on_signal():  # takes seconds: ignore signals until the report is written
            write_summary(folder, start="start")
            print_line(f"trained weights: {folder}/export   report: {write_report(folder)}")
    return _status(complete)


def reward_model(config: RewardModelConfig) -> int:
    """Train a reward model, print its results, and return the exit status."""
    folder = Path(config.output_dir)
    complete = train_reward_model(config)
    if complete and is_first():
        say_results(folder)
        print_line(f"reward model: {folder}/export   figures: {folder}/summary.json")
    return _status(complete)


def _status(complete: bool) -> int:
    if not complete and is_first():
        print_line(SAVED)
    return 0 if complete else REQUEUE


def pairs(config: PairsConfig) -> None:
    """Build preference pairs and print their counts."""
    try:
        say_pairs(build_pairs(config), config.output)
    except KeyboardInterrupt:
        print_error(f"\ninterrupted; {config.output}.work has the results so far. Run the same command to resume")
        raise
