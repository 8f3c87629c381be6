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
    """Record of the compilations that JAX logs: function, phase, seconds, and what JAX says of the cause."""

    def __init__(self) -> None:
        super().__init__()
        self.compilations: list[dict[str, Any]] = []
        self._phase, self._causes = "", dict[str, str]()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase of a step: an annotation of the trace, and the name that compilations in it are noted under."""
        self._phase = name
        with jax.profiler.TraceAnnotation(name):
            yield

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if found := _MISSED.search(text):
            self._causes[found[1] or found[2]] = " ".join(_PLACE.sub("", text).partition("\n")[2].split())
        elif found := _SHAPES.search(text):
            self._causes.setdefault(found[1], f"the first call with {found[2]}")
        elif found := _FINISHED.search(text):
            name, seconds, cause = found[1], float(found[2]), self._causes.pop(found[1], "")
            self.compilations.append({"function": name, "phase": self._phase, "seconds": seconds, "cause": cause})


@contextmanager
def watching() -> Iterator[Watch]:
    """Note compilations within; JAX's own lines about them, hundreds, are not shown."""
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
