"""Questions: that every source of the run opens and enough is left to train on; a sample one for other checks."""

from collections.abc import Iterator
from pathlib import Path

from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, good_or, short

STORY = "Ann puts the ball into the box and leaves. Ben moves the ball to the bag."
QUESTION, OPTIONS = "Where will Ann look for the ball?", "A. the box, B. the bag"


def check_data(config: DoctorConfig) -> Iterator[Line]:
    from socialr1_jax.data.evaluation_sets import refuse_evaluation_sets
    from socialr1_jax.data.question_sources import open_questions
    from socialr1_jax.data.tables import DataError

    data, rollouts = config.data, config.replay_rollouts
    if rollouts:
        there = Path(rollouts).is_file()
        fix = "set replay_rollouts to a file that save_rollouts wrote"
        yield good_or("problem", "rollouts", there, f"{rollouts} is {'there' if there else 'no file'}", fix)
    if not data.train:
        raise NotChecked("data.train is not given")
    try:
        refuse_evaluation_sets(data.train, data.train_on_evaluation_set)
    except DataError as error:
        yield Line("data.train", "problem", short(error), "train on other questions")
    counts = []
    for key, path in [("data.train", path) for path in data.train] + [("data.eval", path) for path in data.eval]:
        try:
            questions = open_questions(
                [path], columns=data.columns, where=data.where, allow_bad_rows=data.allow_bad_rows
            )
        except DataError as error:
            fix = f"mend the file, or set {key}, data.columns and data.where so that its rows are questions"
            yield Line(key, "problem", short(error), fix)
            continue
        bad = f", {questions.dropped:,} bad rows are dropped" if questions.dropped else ""
        yield Line(key, "ok", f"{path}: {len(questions):,} questions{bad}")
        counts.append(len(questions))
    if not data.eval and len(counts) == len(data.train) and sum(counts) <= data.holdout:
        found = f"data.holdout {data.holdout} holds out all {sum(counts)} questions: none is left to train on"
        yield Line("data.train", "problem", found, "lower data.holdout, or give data.eval")
