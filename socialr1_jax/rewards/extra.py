"""A reward function of the user's own, named in the configuration as module:function."""

from __future__ import annotations

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


class ExtraRewardError(ValueError):
    """The user's function failed, or gave what is no reward."""


ExtraReward = Callable[[Sequence[dict[str, Any]]], Sequence[float]]


def load_extra(name: str) -> ExtraReward:
    """The function; modules are also looked for in the folder that the program was started from.

    Raises ValueError saying which part of the name is not there.
    """
    module_name, _, function_name = name.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"rewards.extra: cannot import {module_name!r}: {error}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        raise ValueError(f"rewards.extra: {module_name} has no function {function_name!r}")
    return function


def extra_rewards(function: ExtraReward, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """{"rewards": what it gives for the records}, as many finite floats or NaN; or {"error": what is wrong}."""
    try:
        values = [float(value) for value in function(records)]
    except Exception as error:  # whatever the user's code raises
        return {"error": f"rewards.extra: {function.__name__} failed with {error!r}"}
    if len(values) != len(records):
        return {"error": f"rewards.extra gave {len(values)} numbers for {len(records)} records; give one each"}
    if any(math.isinf(value) for value in values):
        return {"error": "rewards.extra gave an infinite number; give NaN for what cannot be scored"}
    return {"rewards": values}
