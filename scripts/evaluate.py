"""Evaluate a model on benchmarks of social reasoning, by official rules and the cards' prompt, or on your questions.

    python scripts/evaluate.py --model runs/mine/export --tasks static --data_dir DATA --output runs/mine/evaluation
    python scripts/evaluate.py --model NAME --base_url http://localhost:8000/v1 --tasks tombench,fantom --data_dir DATA
    python scripts/evaluate.py --model runs/mine/export --tasks questions.jsonl --by type,plot --output runs/mine/own

The same command resumes after an interruption. `--list` shows the benchmarks, docs/evaluation.md explains them.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("evaluate", __file__)
if __name__ == "__main__":
    run_script(main)
