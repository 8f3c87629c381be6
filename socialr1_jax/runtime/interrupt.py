"""Handle Ctrl-C and SIGTERM: the first asks the run to stop and save, the second ends the program at once.

A separate thread receives the signals, since Python's handlers wait for a computation on the devices to finish.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from socialr1_jax.runtime.terminal import print_error

REQUEUE = 75  # exit status of a run that was interrupted and saved (sysexits.h: EX_TEMPFAIL)
SAVED = "interrupted and saved. Run the same command to resume"
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """Raised if the run was asked to stop; the unfinished step is discarded."""


class Stop:
    """A request to stop the run."""

    def __init__(self) -> None:
        self.asked = False  # in this process

    def check(self) -> None:
        """Raise Interrupted in every process if any was asked to stop. All processes must call this."""
        from socialr1_jax.runtime.processes import any_of_all  # imports JAX

        if any_of_all(self.asked):
            raise Interrupted


NEVER = Stop()


def requeue_on_sigterm() -> None:
    """Exit with status REQUEUE on SIGTERM until `stop_on_signal` takes over: there is nothing to save before."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(REQUEUE))


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Set `asked` on the first signal, exit with 128 + its number on the second; only works in the main thread."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def listen() -> None:
        for (number,) in iter(lambda: os.read(reader, 1), b"\0"):
            if number not in _SIGNALS:
                continue
            if stop.asked:
                os._exit(128 + number)
            stop.asked = True
            print_error("stopping, then saving. Press Ctrl-C again to quit without saving")

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    # Without a Python handler the signal would end the program.
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    others = signal.set_wakeup_fd(writer)
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(others)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(writer, b"\0")
        thread.join()
        os.close(reader)
        os.close(writer)
