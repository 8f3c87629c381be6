"""Ask a model benchmarks of social reasoning, by their official rules and the cards' prompt, or your own questions.

    python scripts/evaluate.py --model runs/mine/export --tasks static --data_dir DATA --output runs/mine/evaluation
    python scripts/evaluate.py --model NAME --base_url http://localhost:8000/v1 --tasks tombench,fantom --data_dir DATA
    python scripts/evaluate.py --model runs/mine/export --tasks questions.jsonl --by type,plot --output runs/mine/own

Called again after an interruption, it asks what has no reply yet. `--list` shows the benchmarks. docs/evaluation.md.
"""

from __future__ import annotations

import json
from pathlib import Path

from socialr1_jax.config.command_line import parse_args
from socialr1_jax.config.evaluation import EvaluateConfig
from socialr1_jax.runtime.startup import prepare
from socialr1_jax.runtime.terminal import print_error, print_line, run_script


def main(argv: list[str] | None = None) -> int:
    description = "Evaluate a model on ten benchmarks of social reasoning, or on your own questions."
    config = parse_args(EvaluateConfig, argv, description=description)
    prepare()
    from socialr1_jax.evaluation.evaluate import evaluate, listing  # imports JAX: only once the arguments are right
    from socialr1_jax.evaluation.task import BenchmarkError

    try:
        if config.list:
            print_line(listing(Path(config.data_dir)))
            return 0
        written = evaluate(config)
    except (BenchmarkError, ValueError, OSError) as error:
        print_error(f"evaluate.py: error: {error}")
        return 2
    except KeyboardInterrupt:
        print_error(f"interrupted; {config.output} has what was answered. Run the same command to resume")
        return 130
    print_line(f"results: {written}")
    failed = json.loads(written.read_text(encoding="utf-8"))["failed"]
    for task, reason in failed.items():
        print_error(f"evaluate.py: error: {task}: no reply at all ({reason})")
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
