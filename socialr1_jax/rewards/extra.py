"""Load and call user-defined reward functions, configured as module:function or file.py:function."""

import importlib.util
import inspect
import math
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.data.tables import listed
from socialr1_jax.runtime.terminal import counted, print_line, printable, shown

_STANDARD, _INSTALLED = (
    tuple(sysconfig.get_paths()[name] for name in names) for names in (("stdlib", "platstdlib"), ("purelib", "platlib"))
)
_MOST = 300  # characters of an error's message
_TRL = ("prompts", "completions", "prompt_ids", "completion_ids")  # arguments of TRL's reward functions


class ExtraRewardError(ValueError):
    """Raised when a user-defined reward function fails or returns invalid rewards."""


ExtraReward = Callable[[Sequence[dict[str, Any]]], Sequence[float]]


def load_extras(config: RewardConfig) -> dict[str, ExtraReward]:
    """Return the functions of `rewards.extra` by name. Each file runs once, even with several functions.

    Modules are also searched for in the current folder. Raises ValueError if a module or function is missing, if the
    module raises (with the line), or if a function cannot be called with the records alone.
    """
    _search_here()
    modules: dict[str, Any] = {}
    functions = {}
    for name, extra in config.extra.items():
        place, _, function_name = extra.function.rpartition(":")
        try:
            if place not in modules:
                modules[place] = _run_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
        except (Exception, SystemExit) as error:  # user code may raise anything
            reason = _place_and_words(error)
            raise ValueError(f"rewards.extra.{name}: cannot import {place!r}: {reason}") from error
        function = getattr(modules[place], function_name, None)
        if not callable(function):
            raise ValueError(f"rewards.extra.{name}: {place} has no function {function_name!r}")
        if takes := _other_arguments(function):
            raise ValueError(
                f"rewards.extra.{name}: {extra.function} takes {takes}, but is called as {function_name}(records), "
                "with a list of one dict a response; see 'Your own reward functions' in docs/rewards.md"
            )
        functions[name] = function
    return functions


def _other_arguments(function: Callable[..., Any]) -> str:
    """Return the arguments of a function that cannot be called with the records alone or expects TRL's, else ""."""
    try:
        # Ignore __wrapped__: a decorator may have changed the arguments.
        signature = inspect.signature(function, follow_wrapped=False)
    except (TypeError, ValueError):  # some builtins have none
        return ""
    parameters = list(signature.parameters.values())
    bare = [p.replace(default=p.empty, annotation=p.empty) for p in parameters]
    takes = printable(str(signature.replace(parameters=bare, return_annotation=signature.empty)), _MOST)
    try:
        signature.bind([])
    except TypeError:
        return takes
    return f"{takes}, as in TRL" if parameters[0].name in _TRL else ""


def function_files(config: RewardConfig) -> dict[str, Path]:
    """Return the file of each function of `rewards.extra` by name, without running it; built-in modules have none."""
    _search_here()
    files = {}
    for name, extra in config.extra.items():
        place = extra.function.rpartition(":")[0]
        if not place.endswith(".py"):
            try:
                spec = importlib.util.find_spec(place)
            except (Exception, SystemExit):  # its package cannot be imported, which `load_extras` reports
                continue
            place = (spec and spec.has_location and spec.origin) or ""
        if place and Path(place).is_file():
            files[name] = Path(place).absolute()
    return files


def _search_here() -> None:
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)


def _run_file(file: Path) -> Any:
    """Run a file as a module and return it; it can import modules from its own folder."""
    if not file.is_file():
        raise FileNotFoundError("there is no such file")
    file = file.absolute()
    if str(file.parent) not in sys.path:
        sys.path.append(str(file.parent))
    spec = spec_from_file_location(f"rewards_extra_{file.stem}", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)  # before it runs, because dataclasses look up their module
    spec.loader.exec_module(module)
    return module


def extra_rewards(name: str, function: ExtraReward, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return {"rewards": one finite float or NaN per record} or {"error": the reason, in one line}.

    The error names the function, its file and line (the raising line if it raised), and the record if known. `name` is
    the function's name in `rewards.extra`.
    """
    own, code = getattr(function, "__name__", type(function).__name__), getattr(function, "__code__", None)
    who = f"rewards.extra.{name}: {own}"
    defined = f"{who} ({code.co_filename}:{code.co_firstlineno})" if code else who
    given = _Records(records)
    try:
        result = function(given)
        numbers = list(result) if isinstance(result, Iterable) else None  # a generator runs here
    except (Exception, SystemExit) as error:  # user code may raise anything
        words = f"{_place_and_words(error)}{_keys_of_meta(error, records)}"
        return {"error": f"{who} failed{_at_record(error, records, given.place)}: {words}"}
    if numbers is None:
        return {"error": f"{defined} gave {shown(result)}; give a list of {counted(len(records), 'number')}"}
    if len(numbers) != len(records):
        gave = f"{counted(len(numbers), 'number')} for {counted(len(records), 'response')}"
        return {"error": f"{defined} gave {gave}; give one each"}
    rewards = []
    for place, number in enumerate(numbers):
        try:
            rewards.append(float(number))
        except (TypeError, ValueError, OverflowError):
            where = _record_name(place, records)
            return {"error": f"{defined} gave {shown(number)} for {where}; give a number, NaN for none"}
        if math.isinf(rewards[-1]):
            where = _record_name(place, records)
            return {"error": f"{defined} gave an infinite number for {where}; give NaN for what has none"}
    return {"rewards": rewards}


class _Records(list[dict[str, Any]]):
    """Records that keep the place which the newest loop over them has reached, None before it and after its end."""

    place: int | None = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for self.place, record in enumerate(super().__iter__()):
            yield record
        self.place = None


def _place_and_words(error: BaseException) -> str:
    """Return "file:line: type: message" of an error; the line is in user code, else in an installed package."""
    if isinstance(error, SyntaxError):
        place, words = f"{error.filename}:{error.lineno}: ", error.msg
    else:
        frames = [
            frame
            for frame in traceback.extract_tb(error.__traceback__)
            if frame.filename != __file__ and not frame.filename.startswith(("<", *_STANDARD))
        ]
        frames = [frame for frame in frames if not frame.filename.startswith(_INSTALLED)] or frames
        place, words = (f"{frames[-1].filename}:{frames[-1].lineno}: " if frames else ""), str(error)
    return printable(f"{place}{type(error).__name__}{': ' if words else ''}{words}", _MOST)


def _keys_of_meta(error: BaseException, records: Sequence[dict[str, Any]]) -> str:
    """Return "; meta has ..." for a KeyError whose key is missing from some record's `meta`, else ""."""
    if not isinstance(error, KeyError) or all(key in record["meta"] for key in error.args for record in records):
        return ""
    keys = dict.fromkeys(key for record in records for key in record["meta"])
    return f"; meta has {listed(keys) or 'no keys'}"


def _at_record(error: BaseException, records: Sequence[dict[str, Any]], reached: int | None) -> str:
    """Return " at response ..." for the one record that the failing code held in a variable, "" if none or several.

    The innermost frame that holds a record decides: a loop's variable, or the argument of a helper. If none does, it is
    the one that a loop has `reached`: since Python 3.12 the variable of a list comprehension is gone after an error.
    """
    for frame, _ in reversed(list(traceback.walk_tb(error.__traceback__))):
        variables = list(frame.f_locals.values())
        places = [place for place, record in enumerate(records) if any(_belongs(value, record) for value in variables)]
        if len(places) == 1 and frame.f_code.co_filename != __file__:
            return f" at {_record_name(places[0], records)}"
    return "" if reached is None else f" at {_record_name(reached, records)}"


def _belongs(value: Any, record: dict[str, Any]) -> bool:
    """Return True if a value is a record, its `meta` or its text: the same object, not an equal one."""
    if value is record or value is record.get("meta"):
        return True
    # Python interns strings of one character, so identity says nothing about them.
    return isinstance(value, str) and len(value) > 1 and (value is record["response"] or value is record["thoughts"])


def _record_name(place: int, records: Sequence[dict[str, Any]]) -> str:
    named = f" (id {shown(own)})" if (own := records[place]["id"]) else ""  # score_responses.py has none
    return f"response {place + 1} of {len(records)}{named}"


def check_extras(config: Any) -> None:
    """Print the names of the functions in `rewards.extra`. Raises the errors of `load_extras`."""
    print_line(f"own functions: {', '.join(load_extras(config.rewards)) or 'none'}")
