"""Compilations: each told once with its time: `with told("decode of 40 rows"): program(...)`."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import jax

log = logging.getLogger(__name__)
_counts = threading.local()


def compile_count() -> int:
    """How many programs this thread has compiled, or read from the compilation cache."""
    return getattr(_counts, "compiled", 0)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Logs `what` with the seconds of the block, if the block compiled anything."""
    before, started = compile_count(), time.perf_counter()
    yield
    if compile_count() > before:
        log.info("compiled %s in %.1f s", what, time.perf_counter() - started)


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    if event == "/jax/core/compile/backend_compile_duration":
        _counts.compiled = compile_count() + 1


jax.monitoring.register_event_duration_secs_listener(_listen)
