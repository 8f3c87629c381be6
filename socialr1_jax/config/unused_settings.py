"""Refuse a setting that would be ignored because of another one, unless the other one was given later.

A class of settings lists what counts only with what: `needs = (Need("content.model", "preset", ("full", ...)), ...)`,
what it takes the place of: `replaces = {"model.path": "model.random"}`,
and two that say the same in two ways: `either = (("steps", "epochs"),)`.
Files and the command line are layers: later ones win. A layer that turns a feature off takes the settings of earlier
layers for it away (an ablation's preset over a recipe); a setting for a feature that is off in its own layer or an
earlier one is a fault, since whoever wrote it expects it to count.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

ABSENT = object()


class Need(NamedTuple):
    """`field` counts only while `other` has one of `values`; () stands for any value that is not empty.

    Both are dotted names within the class that lists the need; a section stands for all of its fields.
    """

    field: str
    other: str
    values: tuple[Any, ...] = ()

    def is_met(self, value: Any) -> bool:
        """Return whether the field counts while the other one has this value."""
        return value in self.values if self.values else bool(value)


def unused_settings(config_class: type[BaseModel], values: dict[str, Any], layer_of: Mapping[str, int]) -> list[str]:
    """Take settings that a later layer made useless out of `values`; return one line for each that is a fault.

    values: the merged layers, nested; layer_of: dotted name -> number of the layer that gave it last.
    """
    layer_of, faults = dict(layer_of), []
    for name, other in getattr(config_class, "replaces", {}).items():
        if (
            name in layer_of
            and layer_of[name] > layer_of.get(other, layer_of[name])
            and _value(config_class, values, name)
        ):
            layer_of[other] = layer_of[name]
            _remove(values, other)
    for pair in getattr(config_class, "either", ()):
        given = sorted(
            (layer_of[name], name) for name in pair if name in layer_of and _value(config_class, values, name)
        )
        if len(given) < 2:
            continue
        if given[0][0] == given[1][0]:
            faults.append(f"{pair[0]} and {pair[1]} are both given, and only one of them can count: leave one out")
        else:
            _remove(values, given[0][1])
    for need in _needs(config_class):
        found = _value(config_class, values, need.other)
        if need.is_met(found):
            continue
        for name in [key for key in layer_of if key == need.field or key.startswith(f"{need.field}.")]:
            if _value(config_class, values, name) == _default(config_class, name):
                continue
            if layer_of.get(need.other, -1) > layer_of[name]:
                _remove(values, name)
                continue
            wanted = "is set" if not need.values else f"is {' or '.join(map(_shown, need.values))}"
            faults.append(
                f"{name} would be ignored: it counts only while {need.other} {wanted}, and {need.other} is "
                f"{_shown(found)}; change {need.other}, or leave {name} out"
            )
    return faults


def _shown(value: Any) -> str:
    return "not set" if value in ("", (), [], None) else str(value).lower() if isinstance(value, bool) else str(value)


def _needs(config_class: type[BaseModel], prefix: str = "") -> Iterator[Need]:
    for need in getattr(config_class, "needs", ()):
        yield Need(prefix + need.field, prefix + need.other, need.values)
    for name, field in config_class.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _needs(field.annotation, f"{prefix}{name}.")


def _default(config_class: type[BaseModel], name: str) -> Any:
    """Return the default of a dotted name."""
    first, _, rest = name.partition(".")
    field = config_class.model_fields[first]
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    for part in filter(None, rest.split(".")):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return list(value) if isinstance(value, tuple) else value


def value_at(values: Any, name: str) -> Any:
    """Return the value under a dotted name of nested mappings; `ABSENT` if there is none."""
    for part in name.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return ABSENT
        values = values[part]
    return values


def _value(config_class: type[BaseModel], values: Mapping[str, Any], name: str) -> Any:
    found = value_at(values, name)
    if found is ABSENT:
        return _default(config_class, name)
    return list(found) if isinstance(found, tuple) else found


def _remove(values: dict[str, Any], name: str) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        values = values[parent]
    values.pop(last, None)
