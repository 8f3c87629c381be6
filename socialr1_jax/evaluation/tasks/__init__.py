"""Benchmarks by name, one per file, each imported on first use."""

from importlib import import_module

from socialr1_jax.config.evaluation import is_question_source
from socialr1_jax.evaluation.question_file import questions_task
from socialr1_jax.evaluation.task import Task


def get_task(name: str) -> Task:
    """Return the task of a benchmark, or one that can rescore the samples of a question file.

    SOTOPIA is played rather than asked, so it has no `Task` (see sotopia/run.py).
    """
    if is_question_source(name):
        return questions_task(name)
    return import_module(f"{__name__}.{name}").TASK
