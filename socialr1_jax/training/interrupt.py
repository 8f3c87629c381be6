"""Ctrl-C and SIGTERM: the first lets the step finish and be saved, the second ends the program at once."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from socialr1_jax.training.console import console

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Whether the user asked to stop."""

    asked = False


@contextmanager
def stop_after_step() -> Iterator[Stop]:
    """Within, the first signal sets `asked`; the second acts as it did before. Only in the main thread."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in _SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        stop.asked = True
        restore()
        console.print("stopping after this step, then saving; once more ends at once without saving")

    for number in _SIGNALS:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
