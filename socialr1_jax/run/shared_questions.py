"""Find questions of an evaluation that the run also trains on."""

import logging
from collections.abc import Iterable, Mapping
from itertools import islice

from socialr1_jax.data.examples import Example

_MOST = 100_000  # questions looked at, of training and of each set
FIX = "evaluate on questions that are not in data.train"
log = logging.getLogger(__name__)


def warn_of_shared(train: Iterable[Example], sets: Mapping[str, Iterable[Example]]) -> None:
    """Log a warning if questions of the sets are also trained on."""
    if shared := shared_questions(train, sets):
        log.warning("%s: %s", shared, FIX)


def shared_questions(train: Iterable[Example], sets: Mapping[str, Iterable[Example]]) -> str:
    """Return how many questions of each set have the text of one to train on (story, question, options); "" for none.

    Ids make no difference. Of training and of each set the first 100,000 are compared.
    """
    asked = {name: [_key(example) for example in islice(part, _MOST)] for name, part in sets.items()}
    wanted = {key for keys in asked.values() for key in keys}
    trained = {key for example in islice(train, _MOST) if (key := _key(example)) in wanted}
    counts = {name: (sum(key in trained for key in keys), len(keys)) for name, keys in asked.items()}
    shared = [f"{both:,} of {count:,} questions of {name}" for name, (both, count) in counts.items() if both]
    return f"{' and '.join(shared)} are also trained on (same story, question and options)" if shared else ""


def _key(example: Example) -> int:
    turns = tuple(tuple(turn.items()) for turn in example.messages)
    return hash((example.story, example.question, example.options, turns))
