"""Settings of conversions between model folders."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from socialr1_jax.config.command_line import Section, Texts


class ConvertConfig(Section):
    """The model to read and the folder to write."""

    src: str = Field(min_length=1, description="model folder to read (hf_to_orbax.py also takes a hub id)")
    dst: str = Field(min_length=1, description="folder to write; an earlier one of the same kind is replaced")
    dtype: Literal["", "float32", "bfloat16", "float16"] = Field(
        "", description='of all weights written; "" keeps each one\'s own'
    )
    verify: bool = Field(False, description="read back what was written and compare every tensor's SHA-256")
    allow_nonfinite: bool = Field(False, description="convert weights that hold NaN or infinities, too")

    @model_validator(mode="after")
    def _apart(self) -> ConvertConfig:
        source, target = Path(os.path.realpath(self.src)), Path(os.path.realpath(self.dst))
        if target.is_symlink():  # `realpath` stops at a link that leads back to itself
            raise ValueError(f"dst {self.dst} is a link that leads back to itself; give another dst")
        if target.exists() and not target.is_dir():
            raise ValueError(f"dst {self.dst} is a file; give a folder")
        # Writing replaces the whole folder, so the source must be outside of it.
        if source == target or target in source.parents:
            raise ValueError(f"dst {self.dst} would replace src {self.src}; give another dst")
        return self


class HfToOrbaxConfig(ConvertConfig):
    """The model to read and the folder to write."""

    ignore_fields: Texts = Field((), description="fields of config.json that are unknown here but harmless: [a, b]")


class OrbaxToHfConfig(ConvertConfig):
    """The model to read and the folder to write."""

    step: str = Field("latest", description="of a run's checkpoints: latest, best, or a number of steps")
    max_file_bytes: int = Field(5_000_000_000, ge=1, description="tensors that make a file larger begin a new one")
