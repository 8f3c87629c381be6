"""Score responses with the Social-R1 reward, offline.

    python scripts/score_responses.py --input I.jsonl --output O.jsonl --preset no_content --judge rules
    python scripts/score_responses.py --input I.jsonl --output O.jsonl --preset full --content-model DIR \\
        --judge endpoint --judge-base-url http://localhost:8000/v1 --judge-model NAME

Each row of the input holds story, question, options, answer and response; the output adds reward, status and terms.
Rows with `type` or `twin_id`, such as those of generated stories, also get accuracy by type and pair accuracy printed.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("score-responses", __file__)
if __name__ == "__main__":
    run_script(main)
