"""Make a command line of a class of typed fields: YAML file, overrides, help, dry run.

A configuration is a class derived from ``Section``: scalars are its top-level fields, nested ``Section`` classes its
sections. Nothing heavy is imported here, so that a misspelt key is reported within a fraction of a second.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, NoReturn, TypeVar, get_args, get_origin

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from socialr1_jax.config.setting_names import absent_reason, known_name
from socialr1_jax.config.unused_settings import unused_settings
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.terminal import print_line, printable, program, remark

_MOST_BYTES = 1 << 20  # of a configuration file
_MOST_VALUES = 100_000  # in it, those behind an alias counted each time
_MOST_DIGITS = 100  # characters of a number
_MOST_FAULTS = 20  # lines about a configuration
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

    @classmethod
    def filled_in(cls, values: Any) -> Any:
        """Returns what was given with short flags put into the settings that they stand for."""
        return values

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, value: Any) -> Any:
        return cls.spread(value)

    @classmethod
    def spread(cls, value: Any) -> Any:
        """Returns the fields that a number stands for; any other value as it is."""
        number = real_number(value)
        if cls.plain and isinstance(number, int | float) and not isinstance(number, bool):
            return dict.fromkeys(cls.plain, number)
        return value

    def arithmetic(self) -> str:
        """Returns what ``--dry-run`` prints below the resolved configuration; "" for nothing."""
        return ""


def _expanded(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    if _NEVER_IN_NAMES.search(value):
        raise ValueError(f"{_shown(value)} holds a zero character or half of one: remove it")
    return os.path.expanduser(value)


def _shown(value: Any) -> str:
    return printable(repr(value), 200)


def real_number(value: Any) -> Any:
    """Returns the number of a text that holds one; any other value as it is."""
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
            raise ValueError(f"{_shown(value)} is not an XLA flag: --xla_name=value, without spaces")
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
    """Returns the text of a JSON or YAML scalar, one spelling for configuration and data: true, 3, 0.5, "" for null."""
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
ConfigT = TypeVar("ConfigT", bound=Section)


def load_config(
    config_class: type[ConfigT],
    path: str | Path | Sequence[str | Path] | None = None,
    overrides: Sequence[str | Mapping[str, Any]] = (),
) -> ConfigT:
    """Builds a configuration from YAML files (later ones win) and overrides (over those), also in their order.

    A file is found by ``config_file``. An override is a text ``section.field=value`` or nested values.

    Raises ConfigError: a file that is missing or no YAML, an unknown key (with a known one that is near), a wrong
    type, a value out of range, numbers that do not fit together, a setting that another one makes useless
    (`config/unused_settings.py`).
    """
    values: dict[str, Any] = {}
    layer_of: dict[str, int] = {}
    files = [path] if isinstance(path, str | Path) else path or []
    layers = [(number, f"{one}: ", _read_yaml(config_class, config_file(one))) for number, one in enumerate(files)]
    layers += [
        (len(files), "", _read_override(config_class, given) if isinstance(given, str) else dict(given))
        for given in overrides
    ]
    for number, where, given in layers:
        layer_of |= dict.fromkeys((name for name, _, _ in _leaves(config_class) if _is_given(given, name)), number)
        _merge(values, given, where)
    values = config_class.filled_in(values)
    unused = unused_settings(config_class, values, layer_of)
    config = validated(config_class, values)
    if unused:
        raise ConfigError("\n".join(map(printable, unused[:_MOST_FAULTS])))
    return config


def validated(config_class: type[ConfigT], values: Mapping[str, Any]) -> ConfigT:
    """Builds a configuration of nested values. Raises ConfigError for types, ranges and numbers that do not fit."""
    try:
        return config_class.model_validate(values)
    except ValidationError as error:
        faults = error.errors(include_url=False)
        lines = [printable(_explain(config_class, fault)) for fault in faults[:_MOST_FAULTS]]
        lines += [f"and {len(faults) - _MOST_FAULTS} more"] if len(faults) > _MOST_FAULTS else []
        raise ConfigError("\n".join(lines)) from None


def save_config(config: Section, path: str | Path) -> None:
    """Writes the resolved configuration as YAML; the file appears whole or not at all."""
    write_whole(path, to_yaml(config))


def to_yaml(config: Section) -> str:
    """Returns the configuration as YAML that ``load_config`` reads back to an equal object."""
    values = config.model_dump(mode="json")
    for replaced, name in config.either:
        if values[name]:
            del values[replaced]
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=120)


def parse_args(
    config_class: type[ConfigT],
    argv: Sequence[str] | None = None,
    *,
    description: str,
    default_config: str | Path | None = None,
    check: Callable[[ConfigT], None] = lambda config: None,
) -> ConfigT:
    """Builds the configuration that a command line asks for.

    Understands ``--config FILE.yaml`` (``default_config`` when it is not given; several: later ones win field by
    field), ``section.field=value``, ``--name value`` for every top-level field (``--name`` alone sets a bool, as
    ``--name true`` does), arguments without a name for a class with ``positional``, ``--help`` and ``--dry-run``. The
    last two print and exit 0; a fault prints one line per fault on stderr and exits 2.

    Args:
        config_class: the class to build.
        argv: arguments without the program's name; None takes those of the process.
        description: one or two sentences for ``--help``.
        default_config: YAML file, or its name, to start from when the command line names none.
        check: called by a dry run with the configuration; a ValueError or OSError is a fault.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if any(argument in ("-h", "--help") for argument in arguments):
            print_line(_help(config_class, description, default_config))
            raise SystemExit(0)
        paths, overrides, dry_run = _split(config_class, arguments)
        config = load_config(config_class, paths or default_config, overrides)
    except ConfigError as error:
        _fail(str(error))
    if dry_run:
        arithmetic = config.arithmetic()
        print_line((to_yaml(config) + (f"\n{arithmetic}" if arithmetic else "")).removesuffix("\n"))
        try:
            check(config)
        except (ValueError, OSError) as error:
            _fail(str(error))
        raise SystemExit(0)
    return config


# ---------------------------------------------------------------------------------------------------- the command line


def _split(config_class: type[Section], arguments: list[str]) -> tuple[list[str], list[str | Mapping[str, Any]], bool]:
    """(configuration files, overrides, dry run) of an argument list."""
    paths: list[str] = []
    overrides: list[str | Mapping[str, Any]] = []
    unnamed: list[str] = []
    dry_run = False
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--"):
            key, equals, _ = argument.partition("=")
            known = key.partition(".")[0] in config_class.model_fields
            if equals and (known or not config_class.positional):
                overrides.append(argument)
            elif config_class.positional and not argument.startswith("-"):
                unnamed.append(argument)
            else:
                raise _unexpected(argument)
            continue
        name, equals, value = argument[2:].partition("=")
        name = name.replace("-", "_")
        if name == "dry_run":
            dry_run = True
            continue
        kind = None if name == "config" else _field(config_class, name)[0]
        if not equals:
            if kind is bool and rest[:1] not in (["true"], ["false"]):
                value = "true"
            elif rest:
                value = rest.pop(0)
            else:
                raise ConfigError(f"--{name} needs a value")
        if name == "config":
            paths.append(value)
        else:
            overrides.append(f"{name}={value}")
    for name in config_class.positional:
        several = _field(config_class, name)[0] is not str
        taken = unnamed[:] if several else unnamed[:1]
        del unnamed[: len(taken)]
        if taken:
            overrides.append({name: taken if several else taken[0]})
    if unnamed:
        raise _unexpected(unnamed[0])
    return paths, overrides, dry_run


def _unexpected(argument: str) -> ConfigError:
    return ConfigError(f"unexpected argument {_shown(argument)}; fields are set by section.field=value")


def _fail(message: str) -> NoReturn:
    remark("\n".join(f"error: {line}" for line in message.splitlines()))
    raise SystemExit(2)


def _help(config_class: type[Section], description: str, default_config: str | Path | None) -> str:
    """Returns every field with its default and meaning, one block a section."""
    values = _read_yaml(config_class, config_file(default_config)) if default_config is not None else {}
    rows: dict[str, list[tuple[str, str, str]]] = {}
    titles: dict[str, str] = {}
    for name, section, field in _leaves(config_class):
        group = name.rpartition(".")[0]
        titles[group] = (
            (section.__doc__ or "").strip().splitlines()[0] if group else "Each is also a flag: --name value."
        )
        rows.setdefault(group, []).append((name, _default_text(name, field, values), field.description or ""))
    arithmetic = " and the batch arithmetic" * (config_class.arithmetic is not Section.arithmetic)
    flags = [
        ("--config FILE.yaml", str(default_config or ""), "start from this file; given again: and what this one says"),
        ("--dry-run", "", f"print the resolved configuration{arithmetic}, then exit"),
        ("--help", "", "this text"),
    ]
    every = [row for group in rows.values() for row in group] + flags
    name_width, default_width = (min(34, max(len(row[i]) for row in every)) for i in (0, 1))
    indent = name_width + default_width + 6
    width = max(indent + 30, min(140, shutil.get_terminal_size((120, 24)).columns))

    def block(block_rows: list[tuple[str, str, str]]) -> Iterator[str]:
        for name, default, meaning in block_rows:
            lines = textwrap.wrap(meaning, width - indent, break_on_hyphens=False) or [""]
            head = f"  {name:<{name_width}}  {default:<{default_width}}  "
            if len(head) > indent:  # a long name or default has the line for itself
                yield head.rstrip()
                head = " " * indent
            yield (head + lines[0]).rstrip()
            yield from (" " * indent + line for line in lines[1:])

    unnamed = "".join(
        f"{name.upper()} " + "... " * (_field(config_class, name)[0] is not str) for name in config_class.positional
    )
    out = [
        f"usage: {program()} {unnamed}[--config FILE.yaml] [--name value ...] [section.field=value ...] [--dry-run]",
        "",
    ]
    out += [*textwrap.wrap(description, width), "", "options", *block(flags)]
    for group, group_rows in sorted(rows.items(), key=lambda item: item[0] != ""):  # top-level fields first
        out += ["", f"{group or 'top level'}: {titles[group]}", *block(group_rows)]
    return "\n".join(out)


def _default_text(name: str, field: FieldInfo, values: Mapping[str, Any]) -> str:
    default: Any = None if field.is_required() else field.get_default(call_default_factory=True)
    found: Any = values
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if found is not None:
        default = found
    if default is None:
        return "(required)"
    if isinstance(default, tuple | list):
        return "[" + ", ".join(str(item) for item in default) + "]"
    if default == "":
        return '""'
    return scalar_text(default)


# ---------------------------------------------------------------------------------------------------------- the fields


_NAME = "NAME"  # in place of the name of a table's entry


def _section_of(kind: Any) -> type[Section] | None:
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None


def _entry_of(kind: Any) -> type[Section] | None:
    """Returns the section of a table's entries, None for a type that is no table."""
    return _section_of(get_args(kind)[1]) if get_origin(kind) is dict else None


def _leaves(config_class: type[Section], prefix: str = "") -> Iterator[tuple[str, type[Section], FieldInfo]]:
    """(dotted name, the section that declares it, field) of every value; a table's are those of an entry NAME."""
    for name, field in config_class.model_fields.items():
        entry = _entry_of(field.annotation)
        section = _section_of(field.annotation) or entry
        if section is None:
            yield prefix + name, config_class, field
        else:
            yield from _leaves(section, f"{prefix}{name}.{f'{_NAME}.' if entry else ''}")


def _field(config_class: type[Section], key: str) -> tuple[Any, FieldInfo]:
    """Returns the type of a dotted name and the field that declares it; below a mapping (data.where.kind), its values'.

    Raises ConfigError for an unknown name.
    """
    kind: Any = config_class
    for part in key.split("."):
        if section := _section_of(kind):
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
    """Returns the dotted names that can be set: of every value, and of every section that a number stands for."""
    leaves = {name: section for name, section, _ in _leaves(config_class)}
    return list(leaves) + list({name.rpartition(".")[0]: 0 for name, section in leaves.items() if section.plain})


def _unknown(key: str, known: Iterable[str]) -> ConfigError:
    known, short = list(known), key[:200]
    name = known_name(short)
    if name is None and (why := absent_reason(short)):
        return ConfigError(f"{_shown(key)} has no counterpart here: {why}")
    nearest = name if name in known else _nearest(short, known)
    return ConfigError(f"unknown key {_shown(key)}; {f'did you mean {nearest!r}?' if nearest else '--help lists all'}")


def _nearest(key: str, known: Iterable[str]) -> str | None:
    """Returns the known dotted name that ``key`` misspells, with its section or without; None if none is near.

    No word is dropped from the last part: logging_steps is not steps.
    """

    def likeness(name: str) -> float:
        (above, _, last), (our_above, _, our_last) = key.rpartition("."), name.rpartition(".")
        words, our_words = set(last.split("_")), set(our_last.split("_"))
        spelling = difflib.SequenceMatcher(None, last, our_last).ratio()
        if above == our_above and words < our_words:  # one was left out
            spelling = max(spelling, 0.7)
        place = difflib.SequenceMatcher(None, above, our_above).ratio() if above else 1.0
        if our_words < words or spelling < 0.66 or (place < 0.5 and (our_above or spelling < 1.0)):
            return 0.0
        return spelling + place + 0.01 * difflib.SequenceMatcher(None, key, name).ratio()

    nearest = max(known, key=likeness)
    return nearest if likeness(nearest) else None


def _read_override(config_class: type[Section], override: str) -> dict[str, Any]:
    """Returns the nested values that a text `section.field=value` gives."""
    key, equals, text = override.partition("=")
    if not equals:
        raise ConfigError(f"{_shown(override)} is not of the form section.field=value")
    kind, field = _field(config_class, key)
    removed = text == "null" and get_origin(field.annotation) is dict  # the value of a mapping, as in a file
    whole_text = (kind is str and not removed) or (kind == tuple[str, ...] and not text.lstrip().startswith("["))
    try:
        given = text if whole_text or not text else parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{key}: cannot read the value {_shown(text)} ({error})") from None
    *parents, last = key.split(".")
    values = {last: given}
    for parent in reversed(parents):
        values = {parent: values}
    _check_keys(config_class, values, config_class, "")
    return values


def _is_given(values: Any, name: str) -> bool:
    for part in name.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return False
        values = values[part]
    return True


_REMOVED = object()  # in place of a table's entry: null, which takes the one of an earlier file away


def _merge(values: dict[str, Any], more: Mapping[str, Any], where: str) -> None:
    """Merges sections field by field, everything else as a whole. `where` stands before a name in an error.

    Raises ConfigError for an entry of a table that is to be removed and is not there, and for a mapping that would be
    merged with something else.
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
                raise ConfigError(f"{where}{name} is not a mapping but {_shown(below)}")
            _merge(below, value, f"{where}{name}.")
        else:
            values[name] = value


def parse_yaml(text: str) -> Any:
    """Returns the value of a YAML text: mappings with texts as keys, lists, texts, numbers, booleans, null.

    Dates are texts. Raises ConfigError naming the line for any other tag, a key given twice (YAML keeps the last one in
    silence), and for nesting, numbers or aliases without bound.
    """
    try:
        loader = _Loader(text)
        return loader.value_of(loader.get_single_node())
    except RecursionError:
        raise ConfigError("lists and mappings are nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise ConfigError(printable(f"{where}not YAML ({error.problem})", 300)) from None
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # a character that YAML does not allow
        raise ConfigError(printable(f"not YAML ({error})", 300)) from None


_TAG = "tag:yaml.org,2002:"
_SCALARS = ("bool", "float", "int", "null")


class _Loader(yaml.SafeLoader):
    """Composes with PyYAML and builds the values itself, since its constructors raise any error and have no bounds."""

    _count = 0

    def value_of(self, node: yaml.Node | None) -> Any:
        if node is None:  # an empty text
            return None
        self._count += 1
        if self._count > _MOST_VALUES:
            raise _fault(node, f"more than {_MOST_VALUES:,} values, those behind an alias counted each time")
        if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
            return [self.value_of(item) for item in node.value]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        keys = set()
        for key_node, value_node in node.value:
            key, value = key_node.value, self.value_of(value_node)
            if not isinstance(key, str):
                raise _fault(key_node, "a key is not a text but a list or mapping")
            if key in keys:
                raise _fault(key_node, f"the key {_shown(key)} is given twice")
            keys.add(key)
            if key_node.tag != f"{_TAG}merge":
                values[key] = value
                continue
            for other in reversed(value) if isinstance(value, list) else [value]:
                if not isinstance(other, dict):
                    raise _fault(value_node, "<< is followed by no mapping")
                merged |= other
        return merged | values

    def _scalar(self, node: yaml.Node) -> Any:
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.ScalarNode) and kind == "str":
            return node.value
        if isinstance(node, yaml.ScalarNode) and kind in _SCALARS and len(node.value) <= _MOST_DIGITS:
            with contextlib.suppress(ValueError, LookupError, OverflowError):
                value = self.construct_object(node)
                if not isinstance(value, int) or abs(value) < 2**63:
                    return value
        shown = _shown(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise _fault(node, f"{shown} cannot be read as {printable(kind, 80)}")


_Loader.yaml_implicit_resolvers = {  # no dates
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) in (*_SCALARS, "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _fault(node: yaml.Node, reason: str) -> ConfigError:
    return ConfigError(f"line {node.start_mark.line + 1}: {reason}")


def config_file(name: str | Path) -> Path:
    """Return the file that `--config` names.

    It is the file of that path, or else the configuration of that name among those that come with the package: `smoke`,
    `smoke.yaml` and `configs/smoke.yaml` are one. Any other path is returned as it is.
    """
    path = Path(os.path.expanduser(name))
    known = path.as_posix().removeprefix("configs/").removesuffix(".yaml")
    return path if os.path.isfile(path) else _own_configs().get(known, path)


def _own_configs() -> dict[str, Path]:
    """Return the configurations that come with the package, by name: of a wheel inside it, of a checkout beside it."""
    package = Path(__file__).parents[1]
    folder = next(filter(Path.is_dir, (package / "configs", package.parent / "configs")), package)
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in sorted(folder.rglob("*.yaml"))}


def _read_yaml(config_class: type[Section], path: Path) -> dict[str, Any]:
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
    """Raises ConfigError for an unknown key; puts what is meant in place of null and of a section's plain number."""
    for key, value in values.items():
        field = config_class.model_fields.get(key)
        if field is None:
            raise _unknown(prefix + key, names_of(root) + list(root.model_fields))
        if section := _section_of(field.annotation):
            values[key] = _checked(root, section, value, prefix + key)
        elif entry := _entry_of(field.annotation):
            values[key] = _checked_table(root, entry, value, prefix + key)


def _checked(root: type[Section], section: type[Section], value: Any, name: str) -> dict[str, Any]:
    fields = {} if value is None else section.spread(value)  # null: a section whose lines are all commented out
    if not isinstance(fields, dict):
        wanted = "takes a number, or fields" if section.plain else "is a section; set its fields"
        raise ConfigError(f"{name} {wanted} such as {name}.{next(iter(section.model_fields))}, not {_shown(value)}")
    _check_keys(root, fields, section, f"{name}.")
    return fields


def _checked_table(root: type[Section], entry: type[Section], value: Any, name: str) -> dict[str, Any]:
    table = {} if value is None else value
    for one in table.values() if isinstance(table, dict) else [table]:
        if one is not None and not isinstance(one, dict):
            first = f"{name}.{_NAME}.{next(iter(entry.model_fields))}"
            raise ConfigError(f"{name} holds sections under names of your own: set {first}, not {_shown(one)}")
    return {key: _REMOVED if one is None else _checked(root, entry, one, f"{name}.{key}") for key, one in table.items()}


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
    """Returns one line for one fault that pydantic found."""
    key = printable(".".join(str(part) for part in fault["loc"]), 200)
    kind, value, context = fault["type"], _shown(fault["input"]), fault.get("ctx", {})
    if kind == "missing":
        return f"{key} is required: {_field(config_class, key)[1].description}"
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
