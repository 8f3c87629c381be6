"""Share settings, progress and one-line errors between the command lines in `convert/`.

Imports no JAX.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.sections import Section
from socialr1_jax.runtime.terminal import print_error, print_line

_QUIET_SECONDS = 5.0  # between two lines of progress


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
    def _apart(self) -> Self:
        source, target = Path(os.path.realpath(self.src)), Path(os.path.realpath(self.dst))
        if target.is_symlink():  # `realpath` stops at a link that leads back to itself
            raise ValueError(f"dst {self.dst} is a link that leads back to itself; give another dst")
        if target.exists() and not target.is_dir():
            raise ValueError(f"dst {self.dst} is a file; give a folder")
        # Writing replaces the whole folder, so the source must be outside of it.
        if source == target or target in source.parents:
            raise ValueError(f"dst {self.dst} would replace src {self.src}; give another dst")
        return self


def convert(config: ConvertConfig, run: Callable[[], str]) -> int:
    """Calls `run`, which converts and returns what it verified; exit status 0, or 2 with the reason on stderr."""
    started = time.monotonic()
    try:
        verified = run()
    except (OSError, ValueError) as error:
        print_error(f"{Path(sys.argv[0]).name}: error: {error}")
        return 2
    print_line(f"{config.dst}: converted from {config.src} in {time.monotonic() - started:.0f} s")
    if verified:
        print_line(verified)
    return 0


def fingerprint(files: Sequence[Path], **settings: Any) -> dict[str, Any]:
    """Returns what a conversion reads: names, sizes and times of its files. If equal, a killed one is resumed."""
    states = {str(file.resolve()): [file.stat().st_size, file.stat().st_mtime_ns] for file in files}
    return {"files": states, **settings}


def progress(total: int, part: str = "file") -> Callable[[str], None]:
    """Returns a function that prints on stderr, now and then, which of `total` parts, as they are called, it writes."""
    done, said = 0, 0.0

    def say(name: str) -> None:
        nonlocal done, said
        done += 1
        if time.monotonic() - said > _QUIET_SECONDS or done == total:
            said = time.monotonic()
            print_error(f"{part} {done} of {total}: {name}")

    return say
