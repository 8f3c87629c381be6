"""Build preference pairs for a content reward model, from a policy's own thoughts or from generated stories.

    python scripts/build_pairs.py --source policy --policy DIR --questions questions.jsonl --output pairs.jsonl
    python scripts/build_pairs.py --source responses --responses rollouts.jsonl --output pairs.parquet
    python scripts/build_pairs.py --source corruptions --output pairs.jsonl corruptions.count=1000

An interrupted run resumes from OUTPUT.work, which holds the responses and verdicts so far.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("pairs", __file__)
if __name__ == "__main__":
    run_script(main)
