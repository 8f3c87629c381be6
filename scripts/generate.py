"""Ask a model one question and print thoughts and answer as they are generated.

    python scripts/generate.py --model DIR --story "Anna put the coin in the drawer and left. Ben took it away." \\
        --question "Where will Anna look for the coin?" --options "A. the drawer, B. the shelf, C. the box"
    python scripts/generate.py --model runs/mine --step best --file quiz.csv --row 3 --columns '{options: choices}'

`--file` has the formats of scripts/evaluate.py. Only the requested row needs to be a valid question.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("generate", __file__)
if __name__ == "__main__":
    run_script(main)
