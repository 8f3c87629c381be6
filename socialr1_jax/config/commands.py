"""Settings of small commands: reports, comparisons, audits, rescoring and conversions."""

import os
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from socialr1_jax.config.sections import Section, Sources, TextMap, Texts


class ReportConfig(Section):
    """The runs to report, and the page to write."""

    positional = ("runs",)

    runs: Sources = Field(min_length=1, description="output_dir of a run, finished or not; several are compared")
    output: str = Field(
        "", description='the page (.html); "" = report.html in the run or, for several, in the working folder'
    )


class CompareConfig(Section):
    """The two evaluations to compare, and the file to write."""

    positional = ("first", "second")

    first: str = Field(
        min_length=1, description="folder of evaluate.py or of a run (RUN@STEP: its evaluation then), or a file in one"
    )
    second: str = Field(min_length=1, description="the other, in the same forms; the difference is second minus first")
    output: str = Field("", description="file for the figures and all changed questions as JSON")


class RescoreConfig(Section):
    """The samples to score, and the file to write."""

    positional = ("samples",)

    samples: str = Field(min_length=1, description="samples_<task>.jsonl of evaluate.py")
    output: str = Field("", description='file for the figures as JSON; "" = print them only')


class AuditConfig(Section):
    """The questions to audit, how to read their files, and the files to write."""

    positional = ("files",)

    files: Sources = Field(min_length=1, description="files, folders, hub datasets or stories:[heldout:]COUNT[:SEED]")
    columns: TextMap = Field({}, description="our field name -> the file's column name, if they differ")
    where: TextMap = Field({}, description="keep only the rows whose column has this value")
    first_label: int = Field(0, ge=0, le=1, description="number of the first option, if gold answers are numbers")
    output: str = Field("", description="file for the figures as JSON")
    plot: str = Field("", description="file for a plot of the figures (.png)")


class ConvertConfig(Section):
    """The model to read and the folder to write."""

    src: str = Field(min_length=1, description="model folder to read (hf_to_orbax.py also takes a hub id)")
    dst: str = Field(min_length=1, description="folder to write; an existing one of the same kind is replaced")
    dtype: Literal["", "float32", "bfloat16", "float16"] = Field(
        "", description='type of all weights written; "" keeps each one\'s own'
    )
    verify: bool = Field(False, description="read back what was written and compare every tensor's SHA-256")
    allow_nonfinite: bool = Field(False, description="also convert weights that contain NaN or infinities")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        source, target = Path(os.path.realpath(self.src)), Path(os.path.realpath(self.dst))
        if target.is_symlink():  # `realpath` does not resolve a circular link
            raise ValueError(f"dst {self.dst} is a link that leads back to itself; give another dst")
        if target.exists() and not target.is_dir():
            raise ValueError(f"dst {self.dst} is a file; give a folder")
        # Writing replaces the whole folder, so the source must be outside of it.
        if source == target or target in source.parents:
            raise ValueError(f"dst {self.dst} would replace src {self.src}; give another dst")
        return self


class HfToOrbaxConfig(ConvertConfig):
    """The model to read and the folder to write."""

    ignore_fields: Texts = Field((), description="unknown fields of config.json to ignore: [a, b]")


class OrbaxToHfConfig(ConvertConfig):
    """The model to read and the folder to write."""

    step: str = Field("latest", description="checkpoint of a run: latest, best, or a number of steps")
    max_file_bytes: int = Field(5_000_000_000, ge=1, description="size limit of one file of weights")
