"""Count compilations per thread and name them in the log: `with told("decode of 40 rows"): program(...)`."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import jax

log = logging.getLogger(__name__)
_threads = threading.local()


@dataclass
class Compiled:
    """The number of programs that a thread compiled or read from the compilation cache, and the seconds taken."""

    programs: int = 0
    seconds: float = 0.0


def compiled() -> Compiled:
    """Return the live counters of this thread."""
    if not hasattr(_threads, "compiled"):
        _threads.compiled = Compiled()
    counters: Compiled = _threads.compiled
    return counters


def compile_count() -> int:
    """Return the number of programs that this thread compiled or read from the compilation cache."""
    return compiled().programs


@contextmanager
def told(what: str) -> Iterator[None]:
    """Log `what` with the duration of the block if it compiled anything; the console shows this with --verbose."""
    before, started = compile_count(), time.perf_counter()
    yield
    if compile_count() > before:
        log.debug("compiled %s in %.1f s", what, time.perf_counter() - started)


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        compiled().programs += 1
        compiled().seconds += duration_secs
    elif event == "/jax/core/compile/jaxpr_to_mlir_module_duration":
        compiled().seconds += duration_secs


jax.monitoring.register_event_duration_secs_listener(_listen)
