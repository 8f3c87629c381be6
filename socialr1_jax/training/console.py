"""Progress on the console: a live bar with ETA in a terminal, plain lines elsewhere."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(highlight=False)
_QUIET_SECONDS = 10.0  # between two plain lines


class _ToConsole(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        console.print(record.getMessage(), markup=False)


@contextmanager
def shown_log() -> Iterator[None]:
    """Within, the package's log from INFO on is on the console."""
    log, handler = logging.getLogger("socialr1_jax"), _ToConsole()
    level, propagate = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
    try:
        yield
    finally:
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
        elif time.monotonic() - self._said > _QUIET_SECONDS or self.done in (self.first + 1, self.total):
            self._said = time.monotonic()
            left = (self._said - self.started) / (self.done - self.first) * (self.total - self.done)
            console.print(f"{self.name} {self.done}/{self.total}  {text}  eta {left:.0f} s")


@contextmanager
def working(text: str) -> Iterator[None]:
    """Says what a longer wait is for."""
    if console.is_terminal:
        with console.status(text):
            yield
    else:
        console.print(text)
        yield
