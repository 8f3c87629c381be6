"""The base of configuration classes, and the types of their fields. Nothing heavy is imported here."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

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

_NEVER_IN_NAMES = re.compile("[\0\ud800-\udc7f\udd00-\udfff]")  # what no path can be made of


class ConfigError(ValueError):
    """Raised for a configuration that cannot be used; one line per fault names the key and the fix."""


class Section(BaseModel):
    """Base of every configuration class: frozen, no unknown keys, no silent conversion of types.

    ``~`` at the start of a text, or of a text in a list, is the home folder: any such text is a path, except in fields
    of type ``FreeText`` and in mappings.
    A field of type ``dict[str, SomeSection]`` is a table: sections under names that the user gives.
    A number that is given for a whole section goes into the fields of ``plain``, if its class names any.
    Arguments without a name set the fields of ``positional`` in their order; the last one takes all that are left if it
    holds several texts.
    """

    plain: ClassVar[tuple[str, ...]] = ()
    positional: ClassVar[tuple[str, ...]] = ()

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, validate_default=True)
    # Pairs of fields that say the same in two ways; the second one counts where it is set.
    either: ClassVar[tuple[tuple[str, str], ...]] = ()

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
        """Return what was given with short flags put into the settings that they stand for."""
        return values

    @classmethod
    def spread(cls, value: Any) -> Any:
        """Return the fields that a number stands for; any other value as it is."""
        number = real_number(value)
        if cls.plain and isinstance(number, int | float) and not isinstance(number, bool):
            return dict.fromkeys(cls.plain, number)
        return value

    def arithmetic(self) -> str:
        """Return what ``--dry-run`` prints below the resolved configuration; "" for nothing."""
        return ""


def _expanded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if _NEVER_IN_NAMES.search(value):
        raise ValueError(f"{shown_text(value)} holds a zero character or half of one: remove it")
    return os.path.expanduser(value)


def shown_text(value: Any) -> str:
    """Return a value for a message: as Python writes it, in at most 200 characters."""
    return printable(repr(value), 200)


def real_number(value: Any) -> Any:
    """Return the number of a text that holds one; any other value as it is."""
    # YAML 1.1 reads 5e-7 (no dot) as a text, and everybody writes learning rates that way.
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        return (value,) if value else ()
    return tuple(value) if isinstance(value, list) else value


def _flags(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not value.startswith("--xla_") or "=" not in value or value.split() != [value]:
            raise ValueError(f"{shown_text(value)} is not an XLA flag: --xla_name=value, without spaces")
    return values


def _scalar_text(value: Any) -> Any:
    if value is None:  # takes away what was given before it
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
    """Return the text of a JSON or YAML scalar, one spelling for configuration and data: true, 3, 0.5, "" for null."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


_FREE_TEXT = "free text"
FreeText = Annotated[str, _FREE_TEXT]  # words of a person, not a path
Real = Annotated[float, BeforeValidator(real_number), Field(allow_inf_nan=False)]
Texts = Annotated[tuple[str, ...], BeforeValidator(lambda v: tuple(v) if isinstance(v, list) else v)]
# One text, or a list of them.
Sources = Annotated[tuple[str, ...], BeforeValidator(_listed)]
XlaFlags = Annotated[Sources, AfterValidator(_flags)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**53)]  # in a file that this program writes
TextMap = Annotated[dict[str, str], BeforeValidator(_scalar_text)]
