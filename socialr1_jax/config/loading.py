"""Build a configuration from YAML files and overrides; a fault names the key and the fix.

A configuration is a class derived from `Section`; nested `Section` classes are its sections. A misspelt key is reported
within a fraction of a second, since nothing heavy is imported.
"""

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from socialr1_jax.config.sections import ConfigError, Section, section_class, shown_text
from socialr1_jax.config.setting_names import absent_reason, known_name
from socialr1_jax.config.unused_settings import ABSENT, unused_settings, value_at
from socialr1_jax.config.yaml_text import parse_yaml
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.terminal import printable

_MOST_BYTES = 1 << 20  # of a configuration file
_MOST_FAULTS = 20  # lines printed
ConfigT = TypeVar("ConfigT", bound=Section)


def load_config(
    config_class: type[ConfigT],
    path: str | Path | Sequence[str | Path] | None = None,
    overrides: Sequence[str | Mapping[str, Any]] = (),
) -> ConfigT:
    """Build a configuration from YAML files, then overrides; later ones win.

    Files are found by `config_file`. An override is a string `section.field=value` or a nested mapping.

    Raises ConfigError for a file that is missing or not YAML, an unknown key (suggesting a known one), a wrong type, a
    value out of range, numbers that do not fit together, or a setting without effect (`config/unused_settings.py`).
    """
    values: dict[str, Any] = {}
    layer_of: dict[str, int] = {}
    files = [path] if isinstance(path, str | Path) else path or []
    layers = [(number, f"{file}: ", read_yaml(config_class, config_file(file))) for number, file in enumerate(files)]
    layers += [
        (len(files), "", _read_override(config_class, given) if isinstance(given, str) else dict(given))
        for given in overrides
    ]
    for number, where, given in layers:
        named = (name for name, _, _ in leaves(config_class) if value_at(given, name) is not ABSENT)
        layer_of |= dict.fromkeys(named, number)
        _merge(values, given, where)
    values = config_class.filled_in(values)
    unused = unused_settings(config_class, values, layer_of)
    config = validated(config_class, values)
    if unused:
        raise ConfigError("\n".join(map(printable, unused[:_MOST_FAULTS])))
    return config


def validated(config_class: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Build a configuration from nested values. Raises ConfigError for a wrong type or a value out of range."""
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [printable(_explain(config_class, fault)) for fault in faults[:_MOST_FAULTS]]
        lines += [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
        raise ConfigError("\n".join(lines)) from None


def save_config(config: Section, path: str | Path) -> None:
    """Write the resolved configuration as YAML, atomically."""
    write_whole(path, to_yaml(config))


def to_yaml(config: Section) -> str:
    """Return the configuration as YAML that `load_config` reads back to an equal object."""
    values = config.model_dump(mode="json")
    for replaced, name in config.either:
        if values[name]:
            del values[replaced]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


_ENTRY = "NAME"  # placeholder for a key of a table


def _entry_of(kind: Any) -> type[Section] | None:
    """Return the section class of a table's entries; None if the type is not a table."""
    return section_class(get_args(kind)[1]) if get_origin(kind) is dict else None


def leaves(config_class: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section], FieldInfo]]:
    """Yield the dotted name, the declaring section and the field of every value; entries of tables are named NAME."""
    for name, field in config_class.model_fields.items():
        entry = _entry_of(field.annotation)
        section = section_class(field.annotation) or entry
        if section is None:
            yield prefix + name, config_class, field
        else:
            yield from leaves(section, f"{prefix}{name}.{f'{_ENTRY}.' if entry else ''}")


def field_of(config_class: type[Section], key: str) -> tuple[Any, FieldInfo]:
    """Return the type and field of a dotted name; below a mapping (data.where.kind), the type of its values.

    Raises ConfigError for an unknown name.
    """
    kind: Any = config_class
    for part in key.split("."):
        if section := section_class(kind):
            if part not in section.model_fields:
                break
            field = section.model_fields[part]
            kind = field.annotation
        elif get_origin(kind) is dict:
            kind = get_args(kind)[1]
        else:
            break
    else:
        return kind, field
    raise _unknown(key, names_of(config_class))


def names_of(config_class: type[Section]) -> list[str]:
    """Return the dotted names that can be set: all values, and all sections that accept a plain number."""
    sections = {name: section for name, section, _ in leaves(config_class)}
    return list(sections) + list({name.rpartition(".")[0]: 0 for name, section in sections.items() if section.plain})


def _unknown(key: str, known: Iterable[str]) -> ConfigError:
    known, short = list(known), key[:200]
    name = known_name(short)
    if name is None and (why := absent_reason(short)):
        return ConfigError(f"{shown_text(key)} has no counterpart here: {why}")
    nearest = name if name in known else _nearest(short, known)
    hint = f"did you mean {nearest!r}?" if nearest else "--help lists all"
    return ConfigError(f"unknown key {shown_text(key)}; {hint}")


def _nearest(key: str, known: Iterable[str]) -> str | None:
    """Return the known dotted name that `key` misspells, with or without its section; None if none is close.

    A name that lacks a word of the last part is no match: logging_steps is not steps.
    """

    def likeness(name: str) -> float:
        (above, _, last), (our_above, _, our_last) = key.rpartition("."), name.rpartition(".")
        words, our_words = set(last.split("_")), set(our_last.split("_"))
        spelling = difflib.SequenceMatcher(None, last, our_last).ratio()
        if above == our_above and words < our_words:  # a word was left out
            spelling = max(spelling, 0.7)
        place = difflib.SequenceMatcher(None, above, our_above).ratio() if above else 1.0
        if our_words < words or spelling < 0.66 or (place < 0.5 and (our_above or spelling < 1.0)):
            return 0.0
        return spelling + place + 0.01 * difflib.SequenceMatcher(None, key, name).ratio()

    nearest = max(known, key=likeness)
    return nearest if likeness(nearest) else None


def _read_override(config_class: type[Section], override: str) -> dict[str, Any]:
    """Parse `section.field=value` into a nested mapping."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{shown_text(override)} is not of the form section.field=value")
    kind, field = field_of(config_class, key)
    removed = text == "null" and get_origin(field.annotation) is dict  # removes an entry, as in a file
    whole_text = (kind is str and not removed) or (kind == tuple[str, ...] and not text.lstrip().startswith("["))
    try:
        given = text if whole_text or not text else parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{key}: cannot read the value {shown_text(text)} ({error})") from None
    *parents, last = key.split(".")
    values = {last: given}
    for parent in reversed(parents):
        values = {parent: values}
    _check_keys(config_class, values, config_class, "")
    return values


_REMOVED = object()  # stands for null as a table's entry, which removes that of an earlier layer


def _merge(values: dict[str, Any], more: Mapping[str, Any], where: str) -> None:
    """Merge `more` into `values`: mappings key by key, other values as a whole. `where` is the prefix of errors.

    Raises ConfigError if an entry to be removed does not exist, or if a mapping meets a value of another type.
    """
    for name, value in more.items():
        if value is _REMOVED:
            if values.pop(name, None) is None:
                there = f"only {', '.join(values)}" if values else "none"
                raise ConfigError(
                    f"{where}{name} is null, which removes what was given before it, and there is {there}"
                )
        elif isinstance(value, dict):
            if (below := values.get(name)) is None:
                below = values[name] = {}
            if not isinstance(below, dict):
                raise ConfigError(f"{where}{name} is not a mapping but {shown_text(below)}")
            _merge(below, value, f"{where}{name}.")
        else:
            values[name] = value


def config_file(name: str | Path) -> Path:
    """Return the file that `--config` names: a path, or the name of a configuration that comes with the package.

    `smoke`, `smoke.yaml` and `configs/smoke.yaml` are the same. An unknown path is returned unchanged.
    """
    path = Path(os.path.expanduser(name))
    known = path.as_posix().removeprefix("configs/").removesuffix(".yaml")
    # A broken link is an error: the user meant that file.
    return path if os.path.isfile(path) or os.path.islink(path) else _own_configs().get(known, path)


def _own_configs() -> dict[str, Path]:
    """Return the configurations that come with the package, by name: inside a wheel, or next to it in a checkout."""
    package = Path(__file__).parents[1]
    folder = next(filter(Path.is_dir, (package / "configs", package.parent / "configs")), package)
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}


def read_yaml(config_class: type[Section], path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise ConfigError(f"the file has more than {_MOST_BYTES:,} bytes, so it is no configuration")
        values = parse_yaml(content.decode("utf-8"))
        values = {} if values is None else values
        if not isinstance(values, dict):
            raise ConfigError("the file does not hold key: value lines")
        _check_keys(config_class, values, config_class, "")
    except OSError as error:
        there = "" if path.is_absolute() else f"; by name there are {', '.join(_own_configs())}"
        raise ConfigError(f"{path}: cannot read the configuration file ({error.strerror}){there}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: the configuration file is not UTF-8 text") from None
    except ValueError as error:  # a ConfigError, or a zero byte in the name
        raise ConfigError(f"{path}: {error}") from None
    return values


def _check_keys(root: type[Section], values: dict[str, Any], config_class: type[Section], prefix: str) -> None:
    """Expand null and plain numbers into the mappings they stand for. Raises ConfigError for an unknown key."""
    for key, value in values.items():
        field = config_class.model_fields.get(key)
        if field is None:
            raise _unknown(prefix + key, names_of(root) + list(root.model_fields))
        if section := section_class(field.annotation):
            values[key] = _checked(root, section, value, prefix + key)
        elif entry := _entry_of(field.annotation):
            values[key] = _checked_table(root, entry, value, prefix + key)


def _checked(root: type[Section], section: type[Section], value: Any, name: str) -> dict[str, Any]:
    fields = {} if value is None else section.spread(value)  # null: every line of the section is commented out
    if not isinstance(fields, dict):
        wanted = "takes a number, or fields" if section.plain else "is a section; set its fields"
        raise ConfigError(f"{name} {wanted} such as {name}.{next(iter(section.model_fields))}, not {shown_text(value)}")
    _check_keys(root, fields, section, f"{name}.")
    return fields


def _checked_table(root: type[Section], entry: type[Section], value: Any, name: str) -> dict[str, Any]:
    table = {} if value is None else value
    for item in table.values() if isinstance(table, dict) else [table]:
        if item is not None and not isinstance(item, dict):
            first = f"{name}.{_ENTRY}.{next(iter(entry.model_fields))}"
            raise ConfigError(f"{name} holds sections under names of your own: set {first}, not {shown_text(item)}")
    return {k: _REMOVED if item is None else _checked(root, entry, item, f"{name}.{k}") for k, item in table.items()}


_PLAIN = {
    "int_type": "is not a whole number",
    "int_from_float": "is not a whole number",
    "float_type": "is not a number",
    "finite_number": "is not a finite number",
    "bool_type": "is not true or false",
    "string_type": "is not a text (put it in quotes)",
    "tuple_type": "is not a list such as [a, b]",
    "dict_type": "is not a mapping such as {name: value}",
}
_LIMITS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _explain(config_class: type[Section], fault: Any) -> str:
    """Return the message of one fault found by pydantic."""
    key = printable(".".join(str(part) for part in fault["loc"]), 200)
    kind, value, context = fault["type"], shown_text(fault["input"]), fault.get("ctx", {})
    if kind == "missing":
        return f"{key} is required: {field_of(config_class, key)[1].description}"
    if kind in _PLAIN:
        return f"{key}: {value} {_PLAIN[kind]}"
    if kind in _LIMITS:
        name, words = _LIMITS[kind]
        return f"{key} must be {words} {context[name]}, not {value}"
    if kind == "literal_error":
        return f"{key} must be one of {context['expected']}, not {value}"
    if kind == "value_error":
        return f"{key}: {context['error']}" if key else str(context["error"])
    return f"{key}: {fault['msg']}"
