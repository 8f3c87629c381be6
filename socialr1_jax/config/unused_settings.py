"""Refuse a setting that has no effect because of another one, unless the other one was given later.

A configuration class lists settings that depend on others (`needs`) or replace them (`replaces`), and alternatives
(`either`). Files and the command line are layers; later ones win. A layer that turns a feature off removes the settings
of the feature from earlier layers (an ablation's preset over a recipe). A setting for a feature that is off in the same
layer or an earlier one is a fault: its author expects it to have an effect.
"""

from collections.abc import Iterator, Mapping
from functools import partial, reduce
from typing import Any

from socialr1_jax.config.sections import Section, section_class

ABSENT = object()


def unused_settings(config_class: type[Section], values: dict[str, Any], layer_of: Mapping[str, int]) -> list[str]:
    """Remove settings that a later layer disabled from `values`; return one line for each unused one that remains.

    values: the merged layers, nested; layer_of: dotted name -> number of the last layer that set it.
    """
    layer_of, faults = dict(layer_of), []
    value = partial(_value, config_class, values)
    for name, other in config_class.replaces.items():
        layer = layer_of.get(name, -1)
        if layer > layer_of.get(other, layer) and value(name):
            layer_of[other] = layer
            _remove(values, other)
    for pair in config_class.either:
        given = sorted((layer_of[name], name) for name in pair if name in layer_of and value(name))
        if len(given) == 2 and given[0][0] < given[1][0]:
            _remove(values, given[0][1])
        elif len(given) == 2:
            faults.append(f"{pair[0]} and {pair[1]} are both given, and only one of them can count: leave one out")
    for field, other, wanted in _needs(config_class):
        actual = value(other)
        if actual in wanted if wanted else actual:
            continue
        for name in [key for key in layer_of if f"{key}.".startswith(f"{field}.")]:
            if value(name) == _value(config_class, {}, name):
                continue
            if layer_of.get(other, -1) > layer_of[name]:
                _remove(values, name)
                continue
            state = f"is {' or '.join(map(_shown, wanted))}" if wanted else "is set"
            faults.append(
                f"{name} would be ignored: it counts only while {other} {state}, and {other} is {_shown(actual)}; "
                f"change {other}, or leave {name} out"
            )
    return faults


def _shown(value: Any) -> str:
    return "not set" if value in ("", (), [], None) else str(value).lower() if isinstance(value, bool) else str(value)


def _needs(config_class: type[Section], prefix: str = "") -> Iterator[tuple[str, str, tuple[Any, ...]]]:
    """Yield (field, other, values) of every `Need`, with names from the top."""
    for fields, other, values in config_class.needs:
        yield from ((prefix + field, prefix + other, values) for field in fields.split())
    for name, info in config_class.model_fields.items():
        if section := section_class(info.annotation):
            yield from _needs(section, f"{prefix}{name}.")


def _value(config_class: type[Section], values: Mapping[str, Any], name: str) -> Any:
    """Return the value of a setting, or its default if it is not given; a tuple as a list, as in YAML."""
    value = value_at(values, name)
    if value is ABSENT:
        first, *rest = name.split(".")
        value = reduce(getattr, rest, config_class.model_fields[first].default)
    return list(value) if isinstance(value, tuple) else value


def value_at(values: Any, name: str) -> Any:
    """Return the value of a dotted name in nested mappings; `ABSENT` if there is none."""
    for part in name.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return ABSENT
        values = values[part]
    return values


def _remove(values: dict[str, Any], name: str) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        values = values[parent]
    values.pop(last, None)
