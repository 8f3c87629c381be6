"""Text of users, files and servers that is safe to print: no control characters, one line, bounded."""

import contextlib
import sys

_MOST = 2000  # characters of a message


def printable(text: str, most: int = _MOST) -> str:
    r"""Return `text` on one line that a terminal cannot obey, cut to `most` characters.

    Separators become blanks. Control, formatting, unassigned and half characters become escapes such as `\x1b`.
    """
    if len(text) > most:
        text = f"{text[: most // 2]} ... {text[-(most // 2) :]}"
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " if c.isspace() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()


def print_error(message: str) -> None:
    """Print the lines of a message on stderr, each made `printable`; a stderr that is gone or full is ignored."""
    with contextlib.suppress(OSError, ValueError):
        for line in message.splitlines() or [""]:
            print(printable(line), file=sys.stderr, flush=True)
