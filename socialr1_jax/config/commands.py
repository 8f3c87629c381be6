"""Settings of commands that have only a few: reports, comparisons, audits, samples scored again."""

from typing import ClassVar

from pydantic import Field

from socialr1_jax.config.command_line import Section, TextMap, Texts


class ReportConfig(Section):
    """Which runs, and where the page goes."""

    positional: ClassVar[tuple[str, ...]] = ("runs",)

    runs: Texts = Field(min_length=1, description="output_dir of a run, finished or not; several are compared")
    output: str = Field(
        "", description='the page (.html); "" = report.html, in the run or, for several, in the working folder'
    )


class CompareConfig(Section):
    """Which two runs, and where the figures go."""

    positional: ClassVar[tuple[str, ...]] = ("first", "second")

    first: str = Field(
        min_length=1,
        description="output folder of evaluate.py, or a run's folder (RUN@STEP: its evaluation at that step), or a "
        "file of one",
    )
    second: str = Field(min_length=1, description="the same; the difference is second minus first")
    output: str = Field("", description="file for the figures and all changed questions as JSON")


class RescoreConfig(Section):
    """Which samples, and where the figures go."""

    positional: ClassVar[tuple[str, ...]] = ("samples",)

    samples: str = Field(min_length=1, description="samples_<task>.jsonl of evaluate.py")
    output: str = Field("", description='file for the figures as JSON; "" = print them only')


class AuditConfig(Section):
    """Which questions, how their files are read, and where the figures go."""

    positional: ClassVar[tuple[str, ...]] = ("files",)

    files: Texts = Field(
        min_length=1, description="question files, folders, hub datasets or stories:[heldout:]COUNT[:SEED]"
    )
    columns: TextMap = Field({}, description="our field name -> the file's column name, where they differ")
    where: TextMap = Field({}, description="keep only the rows whose column has this value")
    first_label: int = Field(0, ge=0, le=1, description="number of the first option, where gold answers are numbers")
    output: str = Field("", description="file for the figures as JSON")
    plot: str = Field("", description="file for a plot of them, a PNG")
