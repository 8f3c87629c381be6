"""The benchmarks by name, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from socialr1_jax.evaluation.task import Task


def get_task(name: str) -> Task:
    """The benchmark of that name; SOTOPIA, which is played, is none of them (sotopia/run.py)."""
    return import_module(f"socialr1_jax.evaluation.tasks.{name}").TASK
