"""Measure the accuracy of shortcut rules on question files: positions, overlap, length, letters, word counts.

    python scripts/audit_questions.py questions.jsonl stories:4000 --output audit.json --plot audit.png
    python scripts/audit_questions.py data/tombench data/simpletom    # folders named after a benchmark
    python scripts/audit_questions.py quiz.csv --columns '{options: choices}' --where '{split: test}' --first_label 1

A rule 0.20 or more above chance is marked: such questions can be answered without reasoning about minds.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("audit", __file__)
if __name__ == "__main__":
    run_script(main)
