"""Every regular expression of the package takes time in proportion to a text, or less than is noticed.

The patterns are collected from the source: those compiled at the top of a module, and texts given to a function of
`re`. Each is searched in texts that make backtracking grow: its own literals again and again, blanks, digits, openings
without an end. A pattern is fine when texts of 30,000 characters are searched at once, or when a text of twice the
length takes about twice the time.
"""

import ast
import importlib
import re
import time
from pathlib import Path

import pytest

import socialr1_jax

LENGTH = 30_000  # characters; a quadratic pattern takes seconds for them, a cubic one hours
QUICK = 0.1  # seconds that need no second look
FUNCTIONS = {"compile", "search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"}


def names():
    """The modules that use `re`."""
    root = Path(socialr1_jax.__file__).parent
    files = [file for file in sorted(root.rglob("*.py")) if re.search(r"^import re$", file.read_text(), re.MULTILINE)]
    return ["socialr1_jax." + ".".join(file.relative_to(root).with_suffix("").parts) for file in files]


def compiled(name):
    """{place: pattern} of a module."""
    patterns = {}

    def take(value, where):
        if isinstance(value, re.Pattern):
            patterns[where] = value
        elif isinstance(value, dict | list | tuple):
            for number, inner in enumerate(value.values() if isinstance(value, dict) else value):
                take(inner, f"{where}.{number}")

    module = importlib.import_module(name)
    for variable, value in vars(module).items():
        take(value, f"{name}.{variable}")
    tree = ast.parse(Path(module.__file__).read_text())
    for call in ast.walk(tree):
        is_re = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in FUNCTIONS
        if not is_re or not isinstance(call.func.value, ast.Name) or call.func.value.id != "re" or not call.args:
            continue
        text = literal(call.args[0])
        if text is not None:
            flags = 0
            for named in ast.walk(call):
                if isinstance(named, ast.Attribute) and isinstance(flag := getattr(re, named.attr, None), re.RegexFlag):
                    flags |= flag
            try:
                patterns[f"{name}:{call.lineno}"] = re.compile(text, flags)
            except re.error:  # parts of it are put in while it runs
                continue
    return patterns


def literal(node):
    """The text of a pattern, with x in place of what is put into an f-string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "x" for part in node.values)
    return None


def hostile(pattern):
    """Pieces to repeat: classes of characters, the pattern's own literals, its openings."""
    source = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    plain = re.sub(r"\(\?[^()]{0,12}[:=!)]|\\[bBAZzsSdDwW]|[\^$]", " ", source)
    parts = [part for part in re.split(r"[\\(){}|?*+\[\].,;\s]+", plain) if len(part) > 1][:12]
    pieces = [" ", "\n", "\t ", "0", "a", "A", "_", ".", "-", "*", "(", "[", "<", '"', ",", "a ", "A. ", "a1", "x=", "\\"]
    pieces += [*parts, *(part + " " for part in parts), "".join(parts), " ".join(parts)]
    return list(dict.fromkeys(piece for piece in pieces if piece))


def seconds(pattern, text):
    """The time to search a text for all matches, as `finditer`, `sub` and `split` do."""
    if isinstance(pattern.pattern, bytes):
        text = text.encode("utf-8", "replace")
    begun = time.process_time()
    for _ in pattern.finditer(text):
        if time.process_time() - begun > 2:
            break
    return time.process_time() - begun


def slow(pattern):
    """The piece for which a pattern takes more than twice the time for twice the text, or None."""
    for piece in hostile(pattern):
        for tail in ("", "\x00", "!", "y"):
            length, taken = LENGTH // 64, 0.0
            while length <= LENGTH and taken < QUICK:  # in steps, so that a cubic pattern ends
                length *= 4
                taken = seconds(pattern, piece * (length // len(piece)) + tail)
            if taken >= QUICK:
                half = min(seconds(pattern, piece * (length // 2 // len(piece)) + tail) for _ in range(2))
                again = min(seconds(pattern, piece * (length // len(piece)) + tail) for _ in range(2))
                if again >= QUICK and again > 2.8 * half:
                    return piece, length, again
    return None


@pytest.mark.parametrize("name", names())
def test_no_pattern_takes_more_than_linear_time(name):
    found = {where: slow(pattern) for where, pattern in compiled(name).items()}
    assert not {where: why for where, why in found.items() if why}


def test_the_test_finds_slow_patterns():
    for text in (r"\s*[,;\s]\s*x", r"<Answer>\s*([A-Z]).*?</Answer>", r"(a+)+$", r"(?:a|a1?)+b", r"\w*\d\w*!", r" +$"):
        assert slow(re.compile(text, re.DOTALL)), text
    assert sum(len(compiled(name)) for name in names()) > 100
