"""Every regular expression of the package takes time in proportion to a text, or less than is noticed.

The patterns are collected from the source: those compiled at the top of a module, and texts given to a function of
`re`. Each is searched in texts that make backtracking grow: its own literals again and again, blanks, digits, openings
without an end. A pattern is fine when texts of 30,000 characters are searched at once, or when a text of twice the
length takes about twice the time.
"""

import ast
import contextlib
import importlib
import re
import signal
import time
from functools import cache
from pathlib import Path

import pytest

import socialr1_jax
from socialr1_jax.rewards.answers import named_letter

LENGTH = 20_000  # characters; a quadratic pattern takes seconds for them, a cubic one hours
QUICK = 0.03  # seconds that need no second look
LIMIT = 0.3
OWN = {"socialr1_jax.profiling.watch"}  # reads the log lines of JAX
FUNCTIONS = {"search", "match", "fullmatch", "sub", "subn", "split", "findall", "finditer"}


def names():
    """The modules that use `re`."""
    root = Path(socialr1_jax.__file__).parent
    files = [file for file in sorted(root.rglob("*.py")) if re.search(r"^import re$", file.read_text(), re.MULTILINE)]
    found = ["socialr1_jax." + ".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    return [name for name in found if name not in OWN]


@cache
def used(name):
    """{place: (pattern, method)} of a module: `match` and `fullmatch` try one place of a text, the others every one."""
    module = importlib.import_module(name)
    source = Path(module.__file__).read_text()
    patterns = {}
    for variable, value in vars(module).items():
        group = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
        for number, pattern in enumerate(group):
            if isinstance(pattern, re.Pattern):
                methods = set(re.findall(rf"\b{variable}(?:\[[^\]]*\])?\.(\w+)\(", source))
                whole = "search" if not methods or methods - {"match", "fullmatch"} else min(methods)
                patterns[f"{name}.{variable}.{number}"] = pattern, whole
    for call in ast.walk(ast.parse(source)):
        is_re = isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr in FUNCTIONS
        if not is_re or not isinstance(call.func.value, ast.Name) or call.func.value.id != "re" or not call.args:
            continue
        text = literal(call.args[0])
        if text is not None:
            flags = [getattr(re, one.attr, None) for one in ast.walk(call) if isinstance(one, ast.Attribute)]
            flags = sum({flag for flag in flags if isinstance(flag, re.RegexFlag)})
            with contextlib.suppress(re.error):  # parts of it are put in while it runs
                patterns[f"{name}:{call.lineno}"] = re.compile(text, flags), call.func.attr
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
    pieces = [
        " ",
        "\n",
        "\t ",
        "0",
        "a",
        "A",
        "_",
        ".",
        "-",
        "*",
        "(",
        "[",
        "<",
        '"',
        ",",
        "a ",
        "A. ",
        "a1",
        "x=",
        "\\",
    ]
    pieces += [part + more for part in parts for more in ("", " ", "A", "1")] + ["".join(parts), " ".join(parts)]
    return list(dict.fromkeys(piece for piece in pieces if piece))


def seconds(pattern, method, text):
    """The processor time that a pattern takes for a text, at most LIMIT."""
    if isinstance(pattern.pattern, bytes):
        text = text.encode("utf-8", "replace")
    begun = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        if method in ("match", "fullmatch"):
            getattr(pattern, method)(text)
        else:
            for _ in pattern.finditer(text):
                pass
    except TimeoutError:
        return LIMIT
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return time.process_time() - begun


def slow(pattern, method):
    """(piece, seconds) for which twice the text takes much more than twice the time, or None."""
    for piece in hostile(pattern):
        texts = [piece * (length // len(piece)) + "\x00" for length in (LENGTH // 2, LENGTH)]
        if seconds(pattern, method, texts[1]) >= QUICK:
            half, whole = (min(seconds(pattern, method, text) for _ in range(2)) for text in texts)
            if whole >= LIMIT or whole > 2.8 * half:
                return piece, whole
    return None


@pytest.fixture(autouse=True)
def _alarm():
    def end(*_):
        raise TimeoutError

    before = signal.signal(signal.SIGPROF, end)
    yield
    signal.signal(signal.SIGPROF, before)


@pytest.mark.parametrize("name", names())
def test_no_pattern_takes_more_than_linear_time(name):
    found = {where: slow(*pattern) for where, pattern in used(name).items()}
    assert not {where: why for where, why in found.items() if why}


def test_the_test_finds_slow_patterns():
    for text in (r"\s*[,;\s]\s*x", r"<Answer>\s*([A-Z]).*?</Answer>", r"(a+)+$"):
        assert slow(re.compile(text, re.DOTALL), "search"), text
    assert sum(len(used(name)) for name in names()) > 100


def test_a_run_of_combining_marks_takes_no_time():
    """Python's normalization sorts such a run in quadratic time."""
    started = time.process_time()
    assert named_letter("The answer is B" + "\u0301\u0323" * 80_000) in ("", "B")
    assert time.process_time() - started < 5
