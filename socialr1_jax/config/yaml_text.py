"""Parse YAML into plain values, with bounds on size and errors that name the line."""

import contextlib
from typing import Any

import yaml

from socialr1_jax.config.sections import ConfigError, shown_text
from socialr1_jax.runtime.terminal import printable

_MOST_VALUES = 100_000  # per document; an alias counts each time it is used
_MOST_DIGITS = 100  # characters of a number


def parse_yaml(text: str) -> Any:
    """Parse YAML: mappings with string keys, lists, strings, numbers, booleans, null.

    Dates are strings. Raises ConfigError, which names the line, for any other tag, for a repeated key (YAML silently
    keeps the last one), and for excessive nesting, numbers or aliases.
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
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # such as an invalid character
        raise ConfigError(printable(f"not YAML ({error})", 300)) from None


_TAG = "tag:yaml.org,2002:"
_SCALARS = ("bool", "float", "int", "null")


class _Loader(yaml.SafeLoader):
    """Compose nodes with PyYAML but build values here: PyYAML's constructors raise any error and have no bounds."""

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
                raise _fault(key_node, f"the key {shown_text(key)} is given twice")
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
        shown = shown_text(node.value) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        raise _fault(node, f"{shown} cannot be read as {printable(kind, 80)}")


_Loader.yaml_implicit_resolvers = {  # no dates
    first: [(tag, pattern) for tag, pattern in resolvers if tag.removeprefix(_TAG) in (*_SCALARS, "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _fault(node: yaml.Node, reason: str) -> ConfigError:
    return ConfigError(f"line {node.start_mark.line + 1}: {reason}")
