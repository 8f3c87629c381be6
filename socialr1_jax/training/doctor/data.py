"""Checks that every source of questions opens, enough is left to train on, and prompts leave room for responses."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from socialr1_jax.config import RunConfig
from socialr1_jax.terminal import counted
from socialr1_jax.training.doctor.line import DoctorConfig, Line, NotChecked, good_or, short

if TYPE_CHECKING:
    from socialr1_jax.data.question_sources import Questions
from socialr1_jax.training.doctor.model import local

STORY = "Ann puts the ball into the box and leaves. Ben moves the ball to the bag."
QUESTION, OPTIONS = "Where will Ann look for the ball?", "A. the box, B. the bag"


def check_data(config: DoctorConfig) -> Iterator[Line]:
    from socialr1_jax.data.bad_rows import summary
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
    train: list[Questions] = []
    sets: dict[str, Questions] = {}
    for key, path in [("data.train", path) for path in data.train] + [("data.eval", path) for path in data.eval]:
        try:
            questions = open_questions(
                [path], columns=data.columns, where=data.where, allow_bad_rows=data.allow_bad_rows,
                first_label=data.first_label,
            )  # fmt: skip
        except DataError as error:
            fix = f"correct the file, or set {key}, data.columns and data.where so that its rows are questions"
            yield Line(key, "problem", short(error), fix)
            continue
        found = f"{path}: {counted(len(questions), 'question')}"
        if questions.dropped:
            found += f", {counted(questions.dropped, 'bad row')} dropped ({summary(questions.bad_rows)})"
        fix = "correct these rows, or how they are read: data.columns, data.first_label"
        yield good_or("warning", key, not questions.dropped, found, fix)
        if key == "data.train":
            yield from _shortcuts(path, questions)
            train.append(questions)
        else:
            sets[path] = questions
        counts.append(len(questions))
    yield from _shared(train, sets)
    if not data.eval and len(counts) == len(data.train) and sum(counts) <= data.holdout:
        found = f"data.holdout {data.holdout} holds out all {sum(counts)} questions: none is left to train on"
        yield Line("data.train", "problem", found, "lower data.holdout, or give data.eval")
    elif len(counts) == len(data.train) + len(data.eval):
        yield _positions(config)


def _shared(train: list[Questions], sets: dict[str, Questions]) -> Iterator[Line]:
    from socialr1_jax.data.tables import DataError
    from socialr1_jax.training.shared_questions import FIX, shared_questions

    try:
        found = shared_questions(chain.from_iterable(train), sets)
    except DataError as error:  # a bad row of a large Parquet file
        yield Line("data.eval", "problem", short(error), "correct the file, or set data.allow_bad_rows=true")
        return
    if found:
        yield Line("data.eval", "warning", found, FIX)


def _shortcuts(path: str, questions: Questions) -> Iterator[Line]:
    from socialr1_jax.data.audit import audit_examples, shortcut_sample, strong_shortcuts
    from socialr1_jax.data.tables import DataError

    try:
        found = strong_shortcuts(audit_examples(shortcut_sample(questions), learned=False))
    except DataError as error:  # a bad row of a large Parquet file
        yield Line("shortcuts", "problem", short(error), "correct the file, or set data.allow_bad_rows=true")
        return
    if found:
        fix = "train on questions that such rules do not answer; scripts/audit_questions.py has all rules"
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        yield Line("shortcuts", "warning", f"{path}: {'; '.join(found[:3])}{more}", fix)


def check_positions(config: RunConfig) -> None:
    """Raise ConfigError when the prompt of a question leaves too few positions for its response.

    Raises NotChecked when the model, its tokenizer or the questions are not on this machine.
    """
    from socialr1_jax.data.tables import DataError
    from socialr1_jax.training.run_questions import model_positions, read_run_questions, refuse_long_questions

    model, data = config.model, config.data
    if config.replay_rollouts:
        raise NotChecked("a replay samples nothing")
    if not model.path and not model.random:
        raise NotChecked("model.path is not given")
    made = Path(config.output_dir) / "tokenizer"  # by the run, for random weights without a path
    folder = local(model.path) if model.path else made
    if folder is None or not (model.random or (folder / "config.json").exists()):
        raise NotChecked(f"{model.path} is not on this machine")
    if data.max_prompt_tokens + config.sampling.max_new_tokens <= model_positions(config, folder):
        return
    if folder == made and not folder.exists():
        raise NotChecked("the run makes its tokenizer when it starts")
    try:
        questions = read_run_questions(config)
    except DataError as error:
        raise NotChecked(short(error)) from error
    refuse_long_questions(config, *questions, folder)


def _positions(config: DoctorConfig) -> Line:
    from socialr1_jax.data.prompt_lengths import LongPromptError

    try:
        check_positions(config)
    except NotChecked as reason:
        return Line("positions", "skipped", f"not checked: {reason}")
    except LongPromptError as error:
        return Line("positions", "problem", error.found, error.fix)
    except ValueError as error:  # of the model, its tokenizer or the questions
        return Line("positions", "problem", short(error), "correct what this names, and run the same command")
    limit, new = config.data.max_prompt_tokens, config.sampling.max_new_tokens
    return Line("positions", "ok", f"prompts of up to {limit} tokens leave room for {new} new ones")
