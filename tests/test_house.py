"""Rules of the house that a reader would otherwise have to check: lengths, names of tests, openings, plain words."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CODE = sorted(file for room in ("socialr1_jax", "scripts", "convert") for file in (ROOT / room).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
# Words of translated English, with the plain one. Texts that are shown to a model are no prose: stories and prompts.
BANNED = {
    r"mend(s|ed|ing)?": "fix",
    r"anew": "again",
    r"lets? go": "free, close, stop",
    r"goes on from": "resumes from",
    r"(comes|came) to nothing": "fails",
    r"of XLA's": "an XLA",
    r"answers nobody|nobody is answered": "rejects every request",
    r"(where|when) nobody": "if unknown",
}
SHOWN_TO_MODELS = {"stories", "evaluation"}


@cache
def tree(file: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse(file.read_text("utf-8"))))


def nodes(file: Path, kinds: type | tuple[type, ...]) -> Iterator[ast.AST]:
    return (node for node in tree(file) if isinstance(node, kinds))


def prose(file: Path) -> Iterator[tuple[int, str]]:
    """Yield line and text of each comment and string; of files with texts for models the docstrings alone."""
    for token in tokenize.generate_tokens(io.StringIO(file.read_text("utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
    if SHOWN_TO_MODELS & set(file.parts):
        for node in nodes(file, (*FUNCTIONS, ast.ClassDef, ast.Module)):
            yield getattr(node, "lineno", 1), ast.get_docstring(node) or ""
    else:
        yield from ((node.lineno, node.value) for node in nodes(file, ast.Constant) if isinstance(node.value, str))


def test_no_function_has_over_80_lines():
    lengths = {
        f"{file.relative_to(ROOT)}: {node.name}": node.end_lineno - node.lineno + 1
        for file in [*CODE, *TESTS]
        for node in nodes(file, FUNCTIONS)
    }
    assert not {name: length for name, length in lengths.items() if length > 80}


def test_names_of_tests_have_eight_words():
    names = {node.name for file in TESTS for node in nodes(file, FUNCTIONS) if node.name.startswith("test_")}
    assert not {name for name in names if len(name.split("_")) > 9}


def test_docstrings_stand_alone():
    """In an editor's hover: not "Whether it is" nor "And back", but a verb with its object, or what is returned."""
    openings = {
        f"{file.relative_to(ROOT)}:{node.lineno}: {text[:60]}"
        for file in CODE
        for node in nodes(file, (*FUNCTIONS, ast.ClassDef))
        if re.match(r"(What|Whether|How|Of|The same|And|As a)\b", text := ast.get_docstring(node) or "")
    }
    assert not openings


def test_no_banned_word_is_used():
    pattern = re.compile(rf"\b({'|'.join(BANNED)})\b", re.IGNORECASE)
    found = {
        f"{file.relative_to(ROOT)}:{line}: {match[0]}"
        for file in CODE
        for line, text in prose(file)
        for match in pattern.finditer(text)
    }
    assert not found, BANNED
