"""The benchmarks by name, each imported when it is asked for."""

from __future__ import annotations

from importlib import import_module

from socialr1_jax.evaluation.task import BenchmarkError, Task


def get_task(name: str) -> Task:
    """The benchmark of that name. Raises BenchmarkError for sotopia, which is not wired in yet."""
    if name == "sotopia":
        raise BenchmarkError("sotopia cannot be run from here yet; take it out of tasks")
    return import_module(f"socialr1_jax.evaluation.tasks.{name}").TASK
