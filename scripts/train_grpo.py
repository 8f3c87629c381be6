"""Social-R1 training: GRPO on a Qwen3 folder or hub id, with any question file.

    python scripts/train_grpo.py --config configs/socialr1_8b_a100x8.yaml data.train=questions.jsonl

Called again with the same configuration, it resumes from the newest checkpoint in `output_dir`. Exit status: 0
complete, 75 interrupted and saved (queue it again), 1 stopped by itself (the message says why), 2 bad arguments or
input.
"""

from __future__ import annotations

from pathlib import Path

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.run import RunConfig
from socialr1_jax.runtime.interrupt import REQUEUE, SAVED, requeue_on_sigterm, stop_on_signal
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import print_error, print_line, run_script


def check_questions(config: RunConfig) -> None:
    """Print how the run would read its questions. Raise ValueError where the run would stop."""
    from socialr1_jax.rewards.extra import load_extras
    from socialr1_jax.run.console import shown_log
    from socialr1_jax.run.epochs import in_steps
    from socialr1_jax.run.questions import (
        check_positions,
        cold_start_questions,
        first_prompt,
        made_tokenizer,
        read_run_questions,
        understood,
        warn_of_few,
        warn_of_shared,
    )
    from socialr1_jax.weights.hub import cached_folder
    from socialr1_jax.weights.tokenizer_files import load_tokenizer

    if config.replay_rollouts:
        return
    load_extras(config.rewards)
    with shown_log():
        questions, sets = read_run_questions(config)
        warn_of_shared(questions, sets)
        warn_of_few(config, questions)
        if config.cold_start:
            cold_start_questions(config, questions)
    if unchecked := check_positions(config, questions, sets):
        print_line(f"positions   not checked: {unchecked}")
    in_full, lines = in_steps(config, len(questions), config.grpo.prompts_per_step)
    if lines:  # the number of epochs is one of steps now
        lines += in_full.arithmetic().splitlines()[-2:]
    lines += understood(questions, sets, config.evaluation.questions)
    if not config.model.path:
        lines += first_prompt(questions, made_tokenizer(config, questions))
    elif folder := cached_folder(config.model.path):
        lines += first_prompt(questions, load_tokenizer(folder))
    print_line("\n".join(lines))


def main(argv: list[str] | None = None) -> int:
    config = parse_args(
        RunConfig, argv, description="Train a Qwen3 with GRPO and the Social-R1 rewards.", check=check_questions
    )
    prepare(config.xla_flags)
    from socialr1_jax.report import write_report
    from socialr1_jax.run.run import TrainingStopped
    from socialr1_jax.run.summary import write_summary
    from socialr1_jax.runtime.processes import is_first  # imports JAX: only once the arguments are right
    from socialr1_jax.training.grpo import train_grpo

    folder = Path(config.output_dir)
    try:
        complete = train_grpo(config)
        if complete and is_first():
            with stop_on_signal():  # seconds, and nothing would be gained by ending now
                write_summary(folder, start="start")
                print_line(f"trained weights: {folder}/export   report: {write_report(folder)}")
    except (ValueError, FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError) as error:
        # a bad configuration, model folder, question file or checkpoint
        print_error(f"train_grpo.py: error: {error}")
        return 2
    except TrainingStopped as error:
        print_error(f"train_grpo.py: stopped: {error}")
        return 1
    if not complete:
        if is_first():
            print_line(SAVED)
        return REQUEUE
    return 0


if __name__ == "__main__":
    requeue_on_sigterm()
    run_script(main)
