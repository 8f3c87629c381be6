"""Progress on the console: a live bar with ETA in a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False)
_BETWEEN_LINES = 10.0  # seconds between two plain lines, for steps that are faster


class _ToConsole(logging.Handler):
    """Through rich, so that lines do not cut the live bar."""

    def emit(self, record: logging.LogRecord) -> None:
        console.print(record.getMessage(), markup=False)


@contextmanager
def shown_log(quiet: bool = False) -> Iterator[None]:
    """Within, the package's log is on the console: from INFO on, or warnings alone, on stderr, when `quiet`.

    Orbax's own log is not: what it tells with a traceback of each of its threads, checkpoints.py says in a sentence.
    """
    log, handler = logging.getLogger("socialr1_jax"), logging.StreamHandler() if quiet else _ToConsole()
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
            columns = ("{task.description}", BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), "eta")
            self._progress = Progress(
                *columns, TimeRemainingColumn(), TextColumn("{task.fields[text]}"), console=console
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
        self.done += 1
        if self._progress:
            self._progress.update(self._task, completed=self.done, text=text)
        elif time.monotonic() - self._said > _BETWEEN_LINES or self.done in (self.first + 1, self.total):
            self._said = time.monotonic()
            left = (self._said - self.started) / (self.done - self.first) * (self.total - self.done)
            console.print(f"{self.name} {self.done}/{self.total}  {text}  eta {_time(left)}")


@contextmanager
def working(text: str) -> Iterator[None]:
    """Says what a longer wait is for."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text)
        yield


def _time(seconds: float) -> str:
    """For people: 45 s, 12 min, 5.2 h."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
