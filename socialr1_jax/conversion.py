"""What the command lines in `convert/` share: two folders, and one line when something is wrong. Imports no JAX."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pydantic import Field, model_validator

from socialr1_jax.command_line import Section

ModelT = TypeVar("ModelT")


class ConvertConfig(Section):
    """Where a model lies and where it goes."""

    src: str = Field(min_length=1, description="model folder to read (hf_to_orbax.py also takes a hub id)")
    dst: str = Field(min_length=1, description="folder to write; an earlier one of the same kind is replaced")

    @model_validator(mode="after")
    def _apart(self) -> ConvertConfig:
        source, target = Path(self.src).resolve(), Path(self.dst).resolve()
        # Writing replaces the whole folder, so the source must lie outside it.
        if source == target or target in source.parents:
            raise ValueError(f"dst {self.dst} would replace src {self.src}; give another dst")
        return self


def convert(config: ConvertConfig, read: Callable[[str], ModelT], write: Callable[[ModelT, str], None]) -> int:
    """Reads `config.src`, writes `config.dst`; exit status 0, or 2 with the reason on stderr."""
    try:
        write(read(config.src), config.dst)
    except (OSError, ValueError) as error:
        print(f"{Path(sys.argv[0]).name}: error: {error}", file=sys.stderr)
        return 2
    print(f"{config.dst}: converted from {config.src}")
    return 0
