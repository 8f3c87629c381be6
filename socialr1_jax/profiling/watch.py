"""Detect compilations inside a measured step, with the cause that JAX logs."""

import logging
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import jax

_FINISHED = re.compile(r"Finished XLA compilation of (?:jit\()?([^ ()]+)\)? in ([\d.e-]+) sec")
_SHAPES = re.compile(r"Compiling (?:jit\()?([^ ()]+)\)? with global shapes and types (.*?)\. Argument mapping", re.S)
_MISSED = re.compile(r"TRACING CACHE MISS.*?(?:for (\S+) defined at|never seen function:\s+(\S+))", re.S)
_PLACE = re.compile(r"( id=\d+)? defined at \S+")


class Watch(logging.Handler):
    """Records the compilations that JAX logs: function, phase, seconds and cause."""

    def __init__(self) -> None:
        super().__init__()
        self.compilations: list[dict[str, Any]] = []
        self._phase, self._causes = "", dict[str, str]()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Annotate a phase of a step in the trace, and record compilations under its name."""
        self._phase = name
        with jax.profiler.TraceAnnotation(name):
            yield

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if match := _MISSED.search(text):
            self._causes[match[1] or match[2]] = " ".join(_PLACE.sub("", text).partition("\n")[2].split())
        elif match := _SHAPES.search(text):
            self._causes.setdefault(match[1], f"the first call with {match[2]}")
        elif match := _FINISHED.search(text):
            name, seconds, cause = match[1], float(match[2]), self._causes.pop(match[1], "")
            self.compilations.append({"function": name, "phase": self._phase, "seconds": seconds, "cause": cause})


@contextmanager
def watching() -> Iterator[Watch]:
    """Record compilations in the context, and hide the hundreds of lines that JAX logs about them."""
    watch, log = Watch(), logging.getLogger("jax")
    with ExitStack() as stack:
        for name in ("jax_log_compiles", "jax_explain_cache_misses"):
            stack.callback(jax.config.update, name, getattr(jax.config, name))
            jax.config.update(name, True)
        stack.callback(setattr, log, "propagate", log.propagate)
        log.propagate = False
        stack.callback(log.removeHandler, watch)
        log.addHandler(watch)
        yield watch
