"""Settings of runs side by side: those that differ between runs, or from the defaults of the configuration's class."""

from collections.abc import Mapping, Sequence
from typing import Any

from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import flat_settings, scalar_text

ABSENT = "–"


def changed(config: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """(dotted name, [value, default]) of the settings of a run that are not the defaults of its configuration class."""
    config_class = QuickstartConfig if "tiny_model" in config else RunConfig
    defaults = config_class.model_construct().model_dump(mode="json")
    return [(name, values) for name, values in differing([config, defaults]) if values[0] != ABSENT]


def differing(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """(dotted name, its value in each configuration) of the settings that are not the same in all."""
    flats = [flat_settings(config) for config in configs]
    rows = []
    for name in dict.fromkeys(name for flat in flats for name in flat):
        values = [_text(flat[name]) if name in flat else ABSENT for flat in flats]
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(scalar_text, value)) + "]"
    return "{}" if value == {} else scalar_text(value) or '""'
