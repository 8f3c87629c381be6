"""Show progress on the console: one live line with a bar in a terminal, plain lines elsewhere.

Text is shown literally: markup and emoji codes are not interpreted and control characters are removed.
"""

import logging
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import TracebackType
from typing import IO, Any, cast

import rich.console
from rich.live import Live
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from socialr1_jax.runtime.terminal import LossyStream, counted, print_error, printable, readable

_BETWEEN_LINES = 10.0  # minimum seconds between two plain lines
_WIDE = 3000  # characters: wider than any line that `printable` returns
_BAR = 24  # characters of a live bar


class Console(rich.console.Console):
    """A rich console for untrusted text. A closed or full stdout does not end the program."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    @property
    def file(self) -> IO[str]:
        return cast(IO[str], LossyStream(super().file))

    @file.setter
    def file(self, file: IO[str]) -> None:
        self._file = file

    @property
    def size(self) -> rich.console.ConsoleDimensions:
        """Return the terminal's size; without a terminal a wide one, so that nothing is wrapped or cut."""
        return super().size if self.is_terminal else rich.console.ConsoleDimensions(_WIDE, 25)

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    @property
    def shows_live(self) -> bool:
        """Return True if the terminal can redraw a line."""
        return self.is_terminal and not self.is_dumb_terminal

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return the text of a string, cell or title, with each line shortened by `printable`."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **settings)

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        """Yield the segments of an object without control characters; all output passes through here."""
        segments: Iterable[Segment] = super().render(renderable, options)
        if isinstance(renderable, Table) and not self.is_terminal:
            segments = _without_filling(segments)
        for segment in segments:
            yield segment if segment.control else segment._replace(text=readable(segment.text))


def _without_filling(segments: Iterable[Segment]) -> Iterator[Segment]:
    for line in Segment.split_lines(segments):
        while line and not line[-1].text.strip(" "):
            line.pop()
        if line:
            line[-1] = line[-1]._replace(text=line[-1].text.rstrip(" "))
        yield from (*line, Segment.line())


console = Console()


@contextmanager
def _passed_on(log: logging.Logger, take: Callable[[str], None], level: int = logging.NOTSET) -> Iterator[None]:
    """Pass the messages of a logger and its children to a function within this block, and to no other logger."""
    handler = logging.Handler(level)
    handler.emit = lambda record: take(record.getMessage())  # type: ignore[method-assign]
    propagate, log.propagate = log.propagate, False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = propagate


@contextmanager
def shown_log(quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """Show the package's log on the console within this block: INFO and above, or DEBUG and above if `verbose`.

    If `quiet`, only warnings are shown, on stderr. Orbax's log is suppressed: it reports a failure with a traceback per
    thread, and checkpoints.py logs the same in one sentence.
    """
    log, absl = logging.getLogger("socialr1_jax"), logging.getLogger("absl")
    if log.handlers:  # a surrounding program already shows the log
        yield
        return
    show = print_error if quiet else console.print  # which does not break the live bar
    level, absl_level, was_quiet = log.level, absl.level, console.quiet
    with _passed_on(log, lambda message: show(printable(message))):
        log.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)
        absl.setLevel(logging.CRITICAL)
        console.quiet |= quiet
        try:
            yield
        finally:
            console.quiet = was_quiet
            absl.setLevel(absl_level)
            log.setLevel(level)


@contextmanager
def collected_warnings(name: str) -> Iterator[list[str]]:
    """Collect the warnings of a logger and its children within this block instead of showing them."""
    messages: list[str] = []
    with _passed_on(logging.getLogger(name), messages.append, logging.WARNING):
        yield messages


def print_finding(status: str, name: str, found: str, fix: str) -> None:
    """Print a line of the doctor and, indented below it, the fix; lines wrap in a terminal only."""
    indent, width = " " * 24, max(64, console.width)
    texts = [f"{status:<8} {name:<14} {found}", *([f"{indent}fix: {fix}"] if fix else [])]
    wrapped = [
        textwrap.fill(printable(text), width, subsequent_indent=indent, break_on_hyphens=False) for text in texts
    ]
    line = Text("\n".join(wrapped))
    line.stylize({"ok": "green", "warning": "yellow", "problem": "bold red"}.get(status, "dim"), 0, 8)
    console.print(line, soft_wrap=True)


class Bar:
    """A progress line over `total` steps that starts at `first`; call `advance(text)` after each step.

    In a terminal the line is live and fits the width: it drops the count of compiled programs, then the last fields of
    the text, which are separated by two blanks. Elsewhere a line is printed at most every ten seconds. Use as a context
    manager.
    """

    def __init__(self, name: str, total: int, first: int = 0) -> None:
        from socialr1_jax.runtime.compiles import compiled  # imports JAX, which the doctor's lines do not need

        self.name, self.total, self.done, self.first = printable(name), total, first, first
        self._text, self._wait = "", ""
        self._started = self._printed = time.monotonic()
        self._printed_step = first  # step of the last plain line
        self._compiled, self._before = compiled(), replace(compiled())
        self._ends: list[float] = []  # end of each step in seconds since the start, without compile time
        self._live = Live(self, console=console) if console.shows_live else None

    def __enter__(self) -> "Bar":
        _bars.append(self)
        if self._live:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        _bars.remove(self)
        if self._live:
            self._live.stop()
        elif self.done > self._printed_step:
            self._print()

    def advance(self, text: str) -> None:
        """Count a step and show its text."""
        self.done, self._text = self.done + 1, printable(text)
        now = time.monotonic()
        self._ends.append(now - self._started - self._compiling)
        if self._live is None and (now - self._printed > _BETWEEN_LINES or self.done in (self.first + 1, self.total)):
            self._print()

    @contextmanager
    def waiting(self, text: str) -> Iterator[None]:
        """Show the reason for a wait between two steps within this block."""
        self._wait = text
        try:
            yield
        finally:
            self._wait = ""

    def __rich__(self) -> Text:
        """Return the live line, for the width of the console."""
        fields = (self._wait or self._text).split("  ")
        for shown in [*fields, self._compilations], *(fields[:count] for count in range(len(fields), -1, -1)):
            line = self._line(shown)
            if line.cell_len <= console.width:
                break
        line.no_wrap, line.overflow = True, "ellipsis"
        return line

    def _line(self, fields: list[str]) -> Text:
        width = min(_BAR, console.width // 8)
        full = width * self.done // self.total if self.total else width
        sign, rest = "#-" if console.options.ascii_only else "\u2501\u2500"
        seconds = int(time.monotonic() - self._started)
        parts = [f"{self.done}/{self.total}", f"{seconds // 60}:{seconds % 60:02d}", self._eta, *fields]
        bar = (sign * full, "green"), (rest * (width - full), "bright_black"), " " * bool(width)
        return Text.assemble(f"{self.name} ", *bar, "  ".join(filter(None, parts)))

    def _print(self) -> None:
        self._printed, self._printed_step = time.monotonic(), self.done
        parts = f"{self.name} {self.done}/{self.total}", self._text, self._eta, self._compilations
        console.print("  ".join(filter(None, parts)))

    @property
    def _eta(self) -> str:
        """The expected time of the remaining steps, "" until it is known and at the end.

        The estimate uses the latter half of the steps, at least two and never the first, which is slow. Compile time is
        excluded, since most of it is over early.
        """
        steps = len(self._ends)
        if steps < 3 or self.done >= self.total:
            return ""
        half = max(1, steps // 2)
        seconds = (self._ends[-1] - self._ends[half - 1]) / (steps - half)
        return f"eta {_time(seconds * (self.total - self.done))}"

    @property
    def _compiling(self) -> float:
        return self._compiled.seconds - self._before.seconds

    @property
    def _compilations(self) -> str:
        programs = self._compiled.programs - self._before.programs
        return f"{counted(programs, 'program')} compiled, {_time(self._compiling)}" if programs else ""


_bars: list[Bar] = []  # active bars; the last one is visible


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show the reason for a longer wait within this block."""
    if console.shows_live and _bars:
        with _bars[-1].waiting(printable(text)):
            yield
    elif console.shows_live:
        with console.status(Text(printable(text))):
            yield
    else:
        console.print(text)
        yield


def _time(seconds: float) -> str:
    """Format a duration: 45 s, 12 min, 5.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
