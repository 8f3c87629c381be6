"""Compilations: counted for each thread, and named in the log: `with told("decode of 40 rows"): program(...)`."""

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
    """Programs that a thread has compiled, or read from the compilation cache, and the seconds that this took."""

    programs: int = 0
    seconds: float = 0.0


def compiled() -> Compiled:
    """Return the account of this thread, which keeps counting."""
    if not hasattr(_threads, "compiled"):
        _threads.compiled = Compiled()
    account: Compiled = _threads.compiled
    return account


def compile_count() -> int:
    """Return how many programs this thread has compiled, or read from the compilation cache."""
    return compiled().programs


@contextmanager
def told(what: str) -> Iterator[None]:
    """Log `what` with the seconds of the block, if the block compiled anything; the console shows it with --verbose."""
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
