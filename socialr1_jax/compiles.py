"""Compilations: each told once with its time (`with told("decode of 40 rows"): program(...)`), and kept on disk."""

import hashlib
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax

log = logging.getLogger(__name__)
_counts = threading.local()


def keep_programs() -> None:
    """Keeps every compiled program on disk, so that the next call of a script reads it instead of compiling it.

    They lie in `~/.cache/socialr1_jax`, apart for processors of other abilities, and may be removed at any time.
    JAX's own settings (JAX_COMPILATION_CACHE_DIR, JAX_ENABLE_COMPILATION_CACHE,
    JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS) win. On GPUs XLA's choices of kernels are kept with them.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(home / "socialr1_jax" / f"compiled-{_processor()}"))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)


def _processor() -> str:
    """What the processor can do, in eight digits: a program for another one may not run here."""
    abilities, listed = platform.machine(), Path("/proc/cpuinfo")
    if listed.exists():
        lines = listed.read_text().splitlines()
        abilities += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(abilities.encode()).hexdigest()[:8]


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
