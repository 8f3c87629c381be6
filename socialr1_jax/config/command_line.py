"""Parse a command line into a configuration: files, overrides, help, dry run."""

import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pydantic.fields import FieldInfo

from socialr1_jax.config.loading import ConfigT, config_file, field_of, leaves, load_config, read_yaml, to_yaml
from socialr1_jax.config.sections import ConfigError, Section, scalar_text, shown_text
from socialr1_jax.config.unused_settings import ABSENT, value_at
from socialr1_jax.runtime.terminal import print_line, program, remark


def parse_args(
    config_class: type[ConfigT],
    argv: Sequence[str] | None = None,
    *,
    description: str,
    default_config: str | Path | None = None,
    check: Callable[[ConfigT], None] = lambda config: None,
) -> ConfigT:
    """Build a configuration from a command line.

    Accepts `--config FILE.yaml` (several: later ones win field by field), `section.field=value`, `--name value` for
    every top-level field (`--name` alone sets a bool to true), arguments without a name if the class has `positional`,
    `--help` and `--dry-run`. The last two print and exit 0. Faults are printed on stderr, one line each, and exit 2.

    Args:
        argv: arguments without the program's name; None uses those of the process.
        description: one or two sentences for `--help`.
        default_config: YAML file, or its name, to start from if the command line has no `--config`.
        check: called by a dry run with the configuration; its ValueError or OSError is reported as a fault.
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


def _split(config_class: type[Section], arguments: list[str]) -> tuple[list[str], list[str | Mapping[str, Any]], bool]:
    """Return the configuration files, the overrides, and whether it is a dry run."""
    paths: list[str] = []
    overrides: list[str | Mapping[str, Any]] = []
    unnamed: list[str] = []
    dry_run = False
    rest = arguments[:]
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
            if equals:
                raise ConfigError("--dry-run takes no value")
            dry_run = True
            continue
        kind = None if name == "config" else field_of(config_class, name)[0]
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
    return paths, overrides + _positional(config_class, unnamed), dry_run


def _positional(config_class: type[Section], unnamed: list[str]) -> list[Mapping[str, Any]]:
    """Return the settings of the arguments without a name, in the order of `positional`."""
    settings: list[Mapping[str, Any]] = []
    for name in config_class.positional:
        several = _takes_several(config_class, name)
        taken = unnamed[:] if several else unnamed[:1]
        del unnamed[: len(taken)]
        if taken:
            settings.append({name: taken if several else taken[0]})
    if unnamed:
        raise _unexpected(unnamed[0])
    return settings


def _takes_several(config_class: type[Section], name: str) -> bool:
    return field_of(config_class, name)[0] is not str


def _unexpected(argument: str) -> ConfigError:
    return ConfigError(f"unexpected argument {shown_text(argument)}; fields are set by section.field=value")


def _fail(message: str) -> NoReturn:
    remark("\n".join(f"error: {line}" for line in message.splitlines()))
    raise SystemExit(2)


def _help(config_class: type[Section], description: str, default_config: str | Path | None) -> str:
    """Return the help text: every field with its default and meaning, one block for each section."""
    values = read_yaml(config_class, config_file(default_config)) if default_config is not None else {}
    rows: dict[str, list[tuple[str, str, str]]] = {}
    titles: dict[str, str] = {}
    for name, section, field in leaves(config_class):
        group = name.rpartition(".")[0]
        titles[group] = (
            (section.__doc__ or "").strip().partition("\n")[0] if group else "Each is also a flag: --name value."
        )
        rows.setdefault(group, []).append((name, _default_text(name, field, values), field.description or ""))
    arithmetic = "" if config_class.arithmetic is Section.arithmetic else " and the batch arithmetic"
    flags = [
        ("--config FILE.yaml", str(default_config or ""), "start from this file; if repeated, later files win"),
        ("--dry-run", "", f"print the resolved configuration{arithmetic}, then exit"),
        ("--help", "", "print this text, then exit"),
    ]
    every = [row for group in rows.values() for row in group] + flags
    name_width, default_width = (min(34, max(len(row[i]) for row in every)) for i in (0, 1))
    indent = name_width + default_width + 6
    width = max(indent + 30, min(140, shutil.get_terminal_size((120, 24)).columns))

    def block(block_rows: list[tuple[str, str, str]]) -> Iterator[str]:
        for name, default, meaning in block_rows:
            lines = textwrap.wrap(meaning, width - indent, break_on_hyphens=False) or [""]
            head = f"  {name:<{name_width}}  {default:<{default_width}}  "
            if len(head) > indent:  # a long name or default gets its own line
                yield head.rstrip()
                head = " " * indent
            yield (head + lines[0]).rstrip()
            yield from (" " * indent + line for line in lines[1:])

    unnamed = "".join(
        f"{name.upper()} {'... ' if _takes_several(config_class, name) else ''}" for name in config_class.positional
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
    if (from_file := value_at(values, name)) not in (ABSENT, None):
        default = from_file
    if default is None:
        return "(required)"
    if isinstance(default, tuple | list):
        return "[" + ", ".join(str(item) for item in default) + "]"
    if default == "":
        return '""'
    return scalar_text(default)
