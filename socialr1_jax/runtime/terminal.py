"""Print safely: escape control characters, and survive standard streams that are closed, full or missing."""

import atexit
import contextlib
import io
import os
import reprlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TextIO, cast

_MOST = 2000  # characters of a message
_VALUES = reprlib.Repr()
_VALUES.maxlevel, _VALUES.maxdict, _VALUES.maxlist, _VALUES.maxstring, _VALUES.maxother = 3, 8, 8, 100, 100
_MOST_LINES = 100  # of a message on stderr
_LAYOUT = "\n\t\u200c\u200d"  # breaks, and the joiners used in some scripts and emoji
_READER_IS_GONE = 128 + signal.SIGPIPE  # exit status that a shell reports for `command | head`
_program = ""  # set by `named`


class CommandEnded(RuntimeError):
    """Raised to end a command with a one-line message after `word` and the exit status `status`."""

    word = "error"
    status = 2


def printable(text: str, most: int = _MOST) -> str:
    r"""Return `text` on one line without control characters, cut to `most` characters.

    Separators become spaces; control, formatting and unassigned characters and surrogates become escapes (`\x1b`).
    """
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-(most // 2) :]}"
    if text.isprintable():
        return text
    escaped = (c if c.isprintable() else " " if c.isspace() else c.encode("unicode_escape").decode() for c in text)
    return "".join(escaped)


def gib(size: float) -> str:
    """Return bytes as GiB with two decimals: "1.50"."""
    return f"{size / 2**30:.2f}"


def seconds_text(value: float) -> str:
    """Format seconds with three digits: 1.23 s, 45.6 ms, 7.8 µs."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value < 1000 * size else f"{value / size:.0f} {unit}"
    return f"{value / 1e-6:.3g} µs" if value else "0"


def amount_text(value: float) -> str:
    """Format an amount with three digits and an SI prefix, ready for a unit: "1.23 T", "45.6 G"."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g} " if value else "0 "


def percent_text(value: float | None) -> str:
    """Format a share as a percentage, None as a dash."""
    return "–" if value is None else f"{100 * value:.1f} %"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the singular for 1: "1 device", "1,024 devices"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def first_line(error: Exception) -> str:
    """Return the first line of an error's message in at most 300 characters; its type if the message is empty."""
    return printable((str(error).strip().splitlines() or [type(error).__name__])[0], 300)


def shown(value: object, most: int = 120) -> str:
    """Return an abbreviated `repr` of a value for a message, in at most `most` characters."""
    return printable(_VALUES.repr(value), most)


def readable(text: str) -> str:
    """Return `text` with its line breaks and tabs, and other control characters made `printable`."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in _LAYOUT else printable(c) for c in text)


class LossyStream:
    """A text stream that drops output if the reader is gone or the disk is full.

    Characters outside the stream's encoding become escapes.
    """

    def __init__(self, stream: Any) -> None:
        if stream is None:  # closed when Python started
            stream = io.StringIO()
        self._stream: Any = stream._stream if isinstance(stream, LossyStream) else stream

    def write(self, text: str) -> int:
        with self._guarded():
            try:
                self._stream.write(text)
            except UnicodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def flush(self) -> None:
        with self._guarded():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _guarded(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # ValueError: the stream is closed
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        pass


class _ResultStream(LossyStream):
    """A stream that ends the program if it cannot write."""

    def _lost(self, error: Exception) -> None:
        if isinstance(error, BrokenPipeError):
            raise SystemExit(_READER_IS_GONE) from None
        remark(f"error: cannot write to standard output: {error}")
        raise SystemExit(2) from None


def print_result(text: str, end: str = "\n") -> None:
    """Print a command's result on stdout; end the program if stdout is gone or full."""
    _print(text + end, _ResultStream(sys.stdout))


def print_line(text: str) -> None:
    """Print a remark on stdout; drop it if stdout is gone or full."""
    _print(text + "\n", LossyStream(sys.stdout))


def print_error(message: str) -> None:
    """Print the lines of a message on stderr, each made `printable`; drop them if stderr is gone or full."""
    lines = message.splitlines() or [""]
    if len(lines) > _MOST_LINES:
        lines = [*lines[:_MOST_LINES], f"... and {counted(len(lines) - _MOST_LINES, 'more line')}"]
    _print("".join(printable(line) + "\n" for line in lines), LossyStream(sys.stderr))


def remark(message: str) -> None:
    """Print the lines of a message on stderr, each prefixed with the name of this program."""
    print_error("\n".join(f"{program()}: {line}" for line in message.splitlines() or [""]))


def program() -> str:
    """Return the name of this program in messages: the one set by `named`, else that of its file."""
    return _program or os.path.basename(sys.argv[0])


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """Set the name of this program in messages within the block."""
    global _program
    before, _program = _program, name
    try:
        yield
    finally:
        _program = before


def _print(text: str, stream: LossyStream) -> None:
    stream.write(readable(text))
    stream.flush()


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main` and exit with the status it returns, or 130 after Ctrl-C.

    A standard stream that is closed, full or without a reader affects neither the work nor the status.
    """
    keep_streams()
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def keep_streams() -> None:
    """Make this process's standard streams lossy, and open those that were closed when it started.

    Otherwise the next files opened would get descriptors 0 to 2, and libraries write their messages there.
    """
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), "r" if name == "stdin" else "w"))
    sys.stdout, sys.stderr = cast(TextIO, LossyStream(sys.stdout)), cast(TextIO, LossyStream(sys.stderr))
    atexit.register(_discard_unwritten)


def _discard_unwritten() -> None:
    """Redirect streams that cannot be flushed to the null device: the interpreter's flush would change the status."""
    for stream in filter(None, (sys.__stdout__, sys.__stderr__)):
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
