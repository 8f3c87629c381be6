"""Detect compilations and implicit transfers inside a measured step."""

import logging
import os
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import jax

_FINISHED = re.compile(r"Finished XLA compilation of (?:jit\()?([^ ()]+)\)? in ([\d.e-]+) sec")
_SHAPES = re.compile(r"Compiling (?:jit\()?([^ ()]+)\)? with global shapes and types (.*?)\. Argument mapping", re.S)
_MISSED = re.compile(r"TRACING CACHE MISS.*?(?:for (\S+) defined at|never seen function:\s+(\S+))", re.S)
_PLACE = re.compile(r"( id=\d+)? defined at \S+")
_TRANSFER = re.compile(r"((?:host|device)-to-(?:host|device)) transfer: ?(?:aval=(.*?), \w+=)?")


@dataclass(frozen=True)
class Compilation:
    """A program compiled, or read from the disk, within a measured step. `cause` is what JAX says of it."""

    function: str
    phase: str
    seconds: float
    cause: str
    told: str = ""  # what the package's own log calls it


@dataclass
class Watch:
    """Record of what was seen. `transfers` counts by (phase, direction, array)."""

    compilations: list[Compilation] = field(default_factory=list)
    transfers: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    now: str = ""  # the phase

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A phase of a step: an annotation of the trace, and the name that what happens in it is noted under."""
        self.now = name
        with jax.profiler.TraceAnnotation(name), _caught_stderr(self._note_transfers), jax.transfer_guard("log"):
            yield

    def _note_transfers(self, line: str) -> bool:
        found = _TRANSFER.search(line)
        if found:
            self.transfers[self.now, found[1], found[2] or "a constant"] += 1
        return bool(found)


@contextmanager
def watching() -> Iterator[Watch]:
    """Within, compilations are noted, and in its phases implicit transfers, too.

    On a CPU, reading a device's array is no transfer: it lies in the host's memory.
    """
    seen = Watch()
    logs = [logging.getLogger(name) for name in ("jax", "socialr1_jax.runtime.compiles")]
    flags = {name: getattr(jax.config, name) for name in ("jax_log_compiles", "jax_explain_cache_misses")}
    propagate, handler = logs[0].propagate, _Hears(seen)
    for log in logs:
        log.addHandler(handler)
    logs[0].propagate = False  # hundreds of unwanted lines
    for name in flags:
        jax.config.update(name, True)
    try:
        yield seen
    finally:
        for name, value in flags.items():
            jax.config.update(name, value)
        logs[0].propagate = propagate
        for log in logs:
            log.removeHandler(handler)


class _Hears(logging.Handler):
    """Makes records of what JAX logs of its compilations."""

    def __init__(self, seen: Watch) -> None:
        super().__init__()
        self._seen, self._causes, self._told = seen, dict[str, str](), 0

    def emit(self, record: logging.LogRecord) -> None:
        text, seen = record.getMessage(), self._seen
        if record.name.startswith("socialr1_jax"):
            seen.compilations[self._told :] = [replace(one, told=text) for one in seen.compilations[self._told :]]
            self._told = len(seen.compilations)
        elif found := _MISSED.search(text):
            lines = _PLACE.sub("", text).splitlines()[1:]
            self._causes[found[1] or found[2]] = " ".join(" ".join(lines).split())
        elif found := _SHAPES.search(text):
            self._causes.setdefault(found[1], f"the first call with {found[2]}")
        elif found := _FINISHED.search(text):
            cause = self._causes.pop(found[1], "")
            seen.compilations.append(Compilation(found[1], seen.now, float(found[2]), cause))


@contextmanager
def _caught_stderr(note: Callable[[str], bool]) -> Iterator[None]:
    """Gives `note` each line that the process writes to stderr meanwhile; those that it does not take go on at once.

    The transfer guard of XLA writes there and nowhere else.
    """
    stderr = os.dup(2)
    read, write = os.pipe()
    os.dup2(write, 2)
    os.close(write)

    def pass_on() -> None:
        with open(read, errors="replace") as lines:
            for line in lines:
                if not note(line):
                    os.write(stderr, line.encode())

    reader = threading.Thread(target=pass_on, daemon=True)
    reader.start()
    try:
        yield
    finally:
        os.dup2(stderr, 2)  # closes the pipe's last end for writing: the reader comes to its end
        reader.join()
        os.close(stderr)
