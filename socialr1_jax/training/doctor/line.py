"""What a check takes and gives: the configuration of a run, and lines, which a terminal shows."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from pydantic import Field

from socialr1_jax.config import RunConfig
from socialr1_jax.terminal import printable

Status = Literal["ok", "warning", "problem", "skipped"]


class DoctorConfig(RunConfig):
    """A run, and how far its environment is looked at."""

    required: ClassVar[tuple[str, ...]] = ()

    no_step: bool = Field(False, description="leave out the tiny GRPO step, most of the doctor's time")


@dataclass(frozen=True)
class Line:
    """What one check found. `fix` says what to do, "" where nothing is to be done."""

    name: str
    status: Status
    found: str
    fix: str = ""


class NotChecked(Exception):
    """A check that means nothing here; the message says why."""


def good_or(bad: Status, name: str, good: bool, found: str, fix: str) -> Line:
    """The line of a check that is good, or `bad` with its fix."""
    return Line(name, "ok", found) if good else Line(name, bad, found, fix)


def short(error: BaseException) -> str:
    """The error in one line of at most 300 characters; its type where the text alone may say little."""
    lines = [" ".join(printable(line).split()) for line in str(error).splitlines()]
    text = " ".join(line if line[-1:] in (":", ".", "") else f"{line};" for line in lines).removesuffix(";")
    if not isinstance(error, ValueError | OSError) or not text:
        text = f"{type(error).__name__}: {text}".rstrip(": ")
    return textwrap.shorten(text, 300, placeholder=" ...")


def gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"


def show(line: Line) -> None:
    """Prints a line, its fix indented beneath it; wrapped in a terminal, whole elsewhere."""
    from rich.text import Text

    from socialr1_jax.training.console import console

    style = {"ok": "green", "warning": "yellow", "problem": "bold red", "skipped": "dim"}[line.status]
    width = max(64, console.width)
    indent = " " * 24
    text, fix = (
        textwrap.fill(part, width, subsequent_indent=indent, break_on_hyphens=False)
        for part in (f"{line.status:<8} {line.name:<14} {printable(line.found)}", f"{indent}fix: {printable(line.fix)}")
    )
    out = Text(text)
    out.stylize(style, 0, 8)
    console.print(out.append(f"\n{fix}", "bold") if line.fix else out, soft_wrap=True)


def say_sum(lines: Sequence[Line]) -> None:
    """Prints how many problems and warnings there are."""
    from socialr1_jax.training.console import console

    counts = {status: sum(line.status == status for line in lines) for status in ("problem", "warning", "skipped")}
    words = [f"{counts[status]} {status}{'s' * (counts[status] != 1)}" for status in ("problem", "warning")]
    console.print(f"{', '.join(words)}, {counts['skipped']} not checked", soft_wrap=True)
