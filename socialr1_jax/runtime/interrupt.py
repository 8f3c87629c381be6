"""Ctrl-C and SIGTERM: the first asks the run to stop where it can, the second ends the program at once.

A separate thread receives the signals, since Python's handlers wait until a computation on the devices is over.
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
    """The run was asked to stop, and nothing of the unfinished step is kept."""


class Stop:
    """Records that the run was asked to stop."""

    def __init__(self) -> None:
        self.asked = False  # of this process

    def check(self) -> None:
        """Raises Interrupted in every process when it was asked for in any; all must come here."""
        from socialr1_jax.runtime.processes import any_of_all  # imports JAX

        if any_of_all(self.asked):
            raise Interrupted


NEVER = Stop()


def requeue_on_sigterm() -> None:
    """Let SIGTERM end a script with status REQUEUE until the run listens itself: nothing can be lost before."""
    signal.signal(signal.SIGTERM, lambda *_: os._exit(REQUEUE))


@contextmanager
def stop_on_signal() -> Iterator[Stop]:
    """Within, the first signal sets `asked`, the second exits with status 128 + its number. In the main thread only."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    heard, told = os.pipe()
    os.set_blocking(told, False)

    def listen() -> None:
        for (number,) in iter(lambda: os.read(heard, 1), b"\0"):
            if number not in _SIGNALS:
                continue
            if stop.asked:
                os._exit(128 + number)
            stop.asked = True
            print_error("stopping, then saving. Press Ctrl-C again to quit without saving")

    thread = threading.Thread(target=listen, name="signals", daemon=True)
    thread.start()
    # A handler of Python's must be there, or the signal would end the program.
    before = {number: signal.signal(number, lambda *_: None) for number in _SIGNALS}
    others = signal.set_wakeup_fd(told)
    try:
        yield stop
    finally:
        signal.set_wakeup_fd(others)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(told, b"\0")
        thread.join()
        os.close(heard)
        os.close(told)
