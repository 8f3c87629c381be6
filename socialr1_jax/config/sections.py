"""The base of configuration classes, and the types of their fields. Nothing heavy is imported here."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from socialr1_jax.runtime.terminal import printable

_NEVER_IN_NAMES = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # not allowed in a path


class ConfigError(ValueError):
    """Raised for an invalid configuration; each fault is one line that names the key and the fix."""


class Need(NamedTuple):
    """A dependency: `fields` have an effect only if `other` has one of `values`; () stands for any non-empty value.

    Names are dotted and relative to the class that lists the need; a section stands for all of its fields.
    """

    fields: str  # separated by blanks
    other: str
    values: tuple[Any, ...] = ()


class Section(BaseModel):
    """Base of every configuration class: frozen, no unknown keys, no silent conversion of types.

    Strings are paths, also in lists, so a leading `~` becomes the home folder. Exceptions are fields of type `FreeText`
    and mappings.
    A field of type `dict[str, SomeSection]` is a table: its keys are chosen by the user.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)
    plain: ClassVar[tuple[str, ...]] = ()  # fields that a number given for the whole section sets
    positional: ClassVar[tuple[str, ...]] = ()  # fields of arguments without a name; a list takes all that are left
    # Settings without effect because of others (`unused_settings.py`):
    needs: ClassVar[tuple[Need, ...]] = ()
    replaces: ClassVar[dict[str, str]] = {}  # setting -> the one that it replaces if it is given later
    either: ClassVar[tuple[tuple[str, str], ...]] = ()  # alternatives; the second one is used if it is set

    @field_validator("*", mode="before")
    @classmethod
    def _expand_home(cls, value: Any, field: ValidationInfo) -> Any:
        if _FREE_TEXT in cls.model_fields[field.field_name or ""].metadata:
            return value
        if isinstance(value, list | tuple):
            return type(value)(_expanded(item) for item in value)
        return _expanded(value)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: Any) -> Any:
        return cls.filled_in(cls.spread(value))

    @classmethod
    def filled_in(cls, values: Any) -> Any:
        """Return the values with shorthand flags expanded into the settings they stand for."""
        return values

    @classmethod
    def spread(cls, value: Any) -> Any:
        """Return the fields that a number stands for; return any other value unchanged."""
        number = real_number(value)
        if cls.plain and isinstance(number, int | float) and not isinstance(number, bool):
            return dict.fromkeys(cls.plain, number)
        return value

    def arithmetic(self) -> str:
        """Return the text that `--dry-run` prints below the resolved configuration, or ""."""
        return ""


def section_class(kind: Any) -> type[Section] | None:
    """Return a field's type if it is a configuration class, else None."""
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _expanded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if _NEVER_IN_NAMES.search(value):
        raise ValueError(f"{shown_text(value)} holds a zero character or half of one: remove it")
    return os.path.expanduser(value)


def shown_text(value: Any) -> str:
    """Return a value's `repr` for a message, in at most 200 characters."""
    return printable(repr(value), 200)


def real_number(value: Any) -> Any:
    """Convert a string that holds a number to a float; return any other value unchanged."""
    # YAML 1.1 reads 5e-7 (no dot), a common spelling of learning rates, as a string.
    with suppress(ValueError):
        return float(value) if isinstance(value, str) else value
    return value


def listed(value: Any) -> Any:
    """Return a text as a tuple of one and a list as a tuple; return any other value unchanged."""
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(value) if isinstance(value, list) else value


def _flags(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value.startswith("--xla_") or "=" not in value or value.split() != [value]:
            raise ValueError(f"{shown_text(value)} is not an XLA flag: --xla_name=value, without spaces")
    return values


def _scalar_text(value: Any) -> Any:
    if value is None:  # removes the mapping of an earlier layer
        return {}
    if isinstance(value, Mapping):
        return {key: scalar_text(item) for key, item in value.items()}
    return value


def flat_settings(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return a configuration with dotted names: {"grpo.baseline": "mean", ...}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flat_settings(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def scalar_text(value: Any) -> str:
    """Return the text of a JSON or YAML scalar as configuration and data spell it: true, 3, 0.5, "" for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_FREE_TEXT = "free text"
FreeText = Annotated[str, _FREE_TEXT]  # prose, not a path
Real = Annotated[float, BeforeValidator(real_number), Field(allow_inf_nan=False)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]
Sources = Annotated[tuple[str, ...], BeforeValidator(listed)]
XlaFlags = Annotated[Sources, AfterValidator(_flags)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]  # in files written by this package
TextMap = Annotated[dict[str, str], BeforeValidator(_scalar_text)]
