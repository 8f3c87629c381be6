"""Score the responses of a JSONL file with the Social-R1 reward.

    python scripts/score_responses.py --input I.jsonl --output O.jsonl --preset no_content --judge rules
    python scripts/score_responses.py --input I.jsonl --output O.jsonl --preset full --content-model DIR \\
        --judge endpoint --judge-base-url http://localhost:8000/v1 --judge-model NAME

Each input row has story, question, options, answer and response; the output adds reward, status and terms. For rows
with `type` or `twin_id`, such as those of generated stories, accuracy by type and pair accuracy are printed too.
"""

from socialr1_jax.cli import script
from socialr1_jax.runtime.terminal import run_script

main = script("score-responses", __file__)
if __name__ == "__main__":
    run_script(main)
