"""Refuse a setting that has no effect because of another one, unless the other one was given later.

A configuration class lists settings that depend on others: `needs = (Need("content.model", "preset", ("full", ...)),)`,
settings that replace others: `replaces = {"model.path": "model.random"}`,
and alternatives: `either = (("steps", "epochs"),)`.
Files and the command line are layers; later ones win. A layer that turns a feature off removes the feature's settings
from earlier layers (an ablation's preset over a recipe). A setting for a feature that is off in the same layer or an
earlier one is a fault: its author expects it to have an effect.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel

ABSENT = object()


class Need(NamedTuple):
    """A dependency: `field` has an effect only if `other` has one of `values`; () stands for any non-empty value.

    Both are dotted names relative to the class that lists the need; a section stands for all of its fields.
    """

    field: str
    other: str
    values: tuple[Any, ...] = ()

    def is_met(self, value: Any) -> bool:
        """Return whether the field has an effect if the other one has this value."""
        return value in self.values if self.values else bool(value)


def unused_settings(config_class: type[BaseModel], values: dict[str, Any], layer_of: Mapping[str, int]) -> list[str]:
    """Remove settings that a later layer disabled from `values`; return one line for each unused one that remains.

    values: the merged layers, nested; layer_of: dotted name -> number of the last layer that set it.
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
        actual = _value(config_class, values, need.other)
        if need.is_met(actual):
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
                f"{_shown(actual)}; change {need.other}, or leave {name} out"
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
    first, _, rest = name.partition(".")
    field = config_class.model_fields[first]
    value = None if field.is_required() else field.get_default(call_default_factory=True)
    for part in filter(None, rest.split(".")):
        value = value.get(part) if isinstance(value, Mapping) else getattr(value, part, None)
    return list(value) if isinstance(value, tuple) else value


def value_at(values: Any, name: str) -> Any:
    """Return the value of a dotted name in nested mappings; `ABSENT` if there is none."""
    for part in name.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return ABSENT
        values = values[part]
    return values


def _value(config_class: type[BaseModel], values: Mapping[str, Any], name: str) -> Any:
    value = value_at(values, name)
    if value is ABSENT:
        return _default(config_class, name)
    return list(value) if isinstance(value, tuple) else value


def _remove(values: dict[str, Any], name: str) -> None:
    *parents, last = name.split(".")
    for parent in parents:
        values = values[parent]
    values.pop(last, None)
