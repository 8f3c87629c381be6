"""Progress on the console: a live bar with ETA in a terminal, plain lines elsewhere.

Whatever the text holds, it is shown as it is: no markup, no emoji codes, no control characters.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, cast

import rich.console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from socialr1_jax.terminal import LossyStream, print_error, printable, readable

_BETWEEN_LINES = 10.0  # seconds between two plain lines, for steps that are faster


class Console(rich.console.Console):
    """A rich console for any text. A stdout that loses its reader or is full does not end the program."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **settings)

    @property
    def file(self) -> IO[str]:
        return cast(IO[str], LossyStream(super().file))

    @file.setter
    def file(self, file: IO[str]) -> None:
        self._file = file

    def render_str(self, text: str, **settings: Any) -> Text:
        """Return the text of a string, cell or title, with each line cut to what a person reads."""
        return super().render_str("\n".join(map(printable, text.split("\n"))), **settings)

    def render(self, renderable: Any, options: Any = None) -> Iterator[Segment]:
        """Yield what is shown of any object; all output passes here."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=readable(segment.text))


console = Console()


class _LogLines(logging.Handler):
    """Shows each record of a log as one line."""

    def __init__(self, show: Callable[[str], None]) -> None:
        super().__init__()
        self._show = show

    def emit(self, record: logging.LogRecord) -> None:
        self._show(printable(record.getMessage()))


@contextmanager
def shown_log(quiet: bool = False) -> Iterator[None]:
    """Within, the package's log is on the console: from INFO on, or warnings alone, on stderr, when `quiet`.

    Orbax's own log is not: what it tells with a traceback of each of its threads, checkpoints.py says in a sentence.
    """
    # `console.print` does not cut the live bar.
    log, handler = logging.getLogger("socialr1_jax"), _LogLines(print_error if quiet else console.print)
    if log.handlers:  # the program around this one shows it
        yield
        return
    absl = logging.getLogger("absl")
    level, propagate, others = log.level, log.propagate, absl.level
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)
    log.propagate = False
    absl.setLevel(logging.CRITICAL)
    before, console.quiet = console.quiet, console.quiet or quiet
    try:
        yield
    finally:
        console.quiet = before
        absl.setLevel(others)
        log.removeHandler(handler)
        log.setLevel(level)
        log.propagate = propagate


class Bar:
    """A bar over `total` steps that starts at `first`; `advance(text)` after each step. Use as a context manager."""

    def __init__(self, name: str, total: int, first: int = 0) -> None:
        self.name, self.total, self.done, self.first = name, total, first, first
        self.started = self._said = time.monotonic()
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(24),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                "eta",
                TimeRemainingColumn(),
                TextColumn("{task.fields[text]}", markup=False),
                console=console,
            )
            self._task = self._progress.add_task(name, total=total, completed=first, text="")

    def __enter__(self) -> "Bar":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._progress:
            self._progress.stop()

    def advance(self, text: str) -> None:
        self.done, text = self.done + 1, printable(text)
        if self._progress:
            self._progress.update(self._task, completed=self.done, text=text)
        elif time.monotonic() - self._said > _BETWEEN_LINES or self.done in (self.first + 1, self.total):
            self._said = time.monotonic()
            left = (self._said - self.started) / (self.done - self.first) * (self.total - self.done)
            console.print(f"{self.name} {self.done}/{self.total}  {text}  eta {_time(left)}")


@contextmanager
def working(text: str) -> Iterator[None]:
    """Show what a longer wait is for."""
    if console.is_terminal:
        with console.status(Text(printable(text))):
            yield
    else:
        console.print(text)
        yield


def _time(seconds: float) -> str:
    """For people: 45 s, 12 min, 5.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
