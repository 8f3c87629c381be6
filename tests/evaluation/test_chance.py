"""Letters drawn at random come to chance level on every benchmark with options, within the interval that we give."""

import random
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from socialr1_jax.chat.answers import Reply
from socialr1_jax.evaluation.runner import load_data
from socialr1_jax.evaluation.scoring import figures, score
from socialr1_jax.evaluation.tasks import get_task
from socialr1_jax.questions.intervals import share_interval

DATA = Path(__file__).resolve().parents[3] / "shared" / "benchmarks"
LETTERED = re.compile(r"^\(?([A-Z])[.)] ", re.MULTILINE)
TASKS = ("tombench", "socialiqa", "simpletom", "emobench", "motivebench", "hitom", "tactfultom", "fantom")


def options(request) -> int:
    """How many options the prompt shows: the letters at line starts from A on, the last such run."""
    letters = LETTERED.findall(request.messages[-1]["content"])
    letters = letters[len(letters) - 1 - letters[::-1].index("A") :]
    assert letters == [chr(ord("A") + i) for i in range(len(letters))], letters
    return len(letters)


@pytest.mark.parametrize("name", TASKS)
def test_random_letters(name):
    """Of twenty draws the 95 % interval holds the chance level in at least fifteen (fewer: 1 in 3,000 by luck)."""
    if not (DATA / name).is_dir():
        pytest.skip(f"no data of {name} here")
    task = get_task(name)
    asked = task.requests(load_data(task, DATA), "social_r1", 0)
    requests = [request for request in asked if task.in_headline(request.meta)]
    counts = [options(request) for request in requests]
    held, values = 0, []

    @cache
    def scored_as(place, letter):
        reply = Reply(f"<think>A?</think>\n<Answer>{chr(ord('A') + letter)}</Answer>", "stop", 9)
        return score(task, "social_r1", requests[place], 0, reply)

    for seed in range(20):
        draw = random.Random(seed)
        scored = [scored_as(place, draw.randrange(count)) for place, count in enumerate(counts)]
        assert {one.status for one in scored} == {"ok"}
        first, found = next(iter(figures(task, "social_r1", scored).items()))
        chance = np.mean([1 / count for count in counts])
        low, high = share_interval(*found)
        held += bool(low < chance < high)
        values.append(found.value)
    print(f"{name}/{first}: mean {np.mean(values):.4f}, chance {chance:.4f}, within in {held} of 20")
    assert held >= 15
