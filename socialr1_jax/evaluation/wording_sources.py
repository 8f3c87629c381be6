"""Where the authors of benchmarks keep the texts of their prompts, and how a text is read from there.

Their files are parsed as Python, read as YAML or searched as text; nothing of theirs is imported or run.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import NamedTuple

import yaml

from socialr1_jax.evaluation.task import FIELD, BenchmarkError
from socialr1_jax.files import sha256
from socialr1_jax.terminal import printable

_PERCENT = re.compile(r"%(%|s)")
_Fields = tuple[str, ...]
_Parts = list[str | None]  # of a text; None is a field


class Place(NamedTuple):
    """A name in a file of theirs and the texts that are bound to it.

    name: in Python `NAME` or `function.name` (assigned or added to it, a dictionary's key, a parameter's default); in
        YAML a path of keys; in other files a pattern whose groups are the fields.
    texts: our names of the texts that are bound to it, in the order of the file, with the fields of each.
    """

    file: str
    name: str
    texts: Mapping[str, _Fields]


@dataclass(frozen=True, kw_only=True)
class Source:
    """A repository's version and the places of its texts. `known`: SHA-256 of all texts of that version."""

    version: str
    known: str
    places: Sequence[Place]

    def fields(self) -> dict[str, _Fields]:
        """Return the fields of every text, by our name of the text."""
        return {text: fields for place in self.places for text, fields in place.texts.items()}

    def read(self, checkout: Path) -> tuple[dict[str, str], dict[str, str]]:
        """Return the texts by name, and the SHA-256 of every file that they are in. Raises BenchmarkError."""
        texts: dict[str, str] = {}
        files: dict[str, str] = {}
        for place in self.places:
            path = checkout / place.file
            if not path.is_file():
                raise BenchmarkError(f"{path}: there is no such file; give a checkout of {self.version}")
            try:
                found = _bound(path, place.name)
                files[place.file] = sha256(path)
            except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, yaml.YAMLError) as error:
                reason = printable(f"{type(error).__name__}: {error}", 200)
                raise BenchmarkError(f"{path}: cannot be read ({reason}); give a checkout of {self.version}") from None
            if len(found) != len(place.texts):
                counts = f"{len(found)} texts instead of {len(place.texts)}"
                raise BenchmarkError(f"{path}: {place.name!r} has {counts}; give a checkout of {self.version}")
            for parts, (text, fields) in zip(found, place.texts.items(), strict=True):
                try:
                    texts[text] = _template(parts, fields)
                except ValueError as error:
                    reason = printable(str(error), 200)
                    raise BenchmarkError(
                        f"{path}: {place.name!r} {reason}; give a checkout of {self.version}"
                    ) from None
        return texts, files


def fields_of(text: str) -> set[str]:
    """Return the names of a text's fields."""
    return {name for name in FIELD.findall(text) if name}


def _bound(path: Path, name: str) -> list[_Parts]:
    """Return the parts of the texts that are bound to `name`, in the order of the file."""
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".py":
        return _of_python(ast.parse(content), name)
    if path.suffix in (".yaml", ".yml"):
        value = yaml.safe_load(content)
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return [[value]] if isinstance(value, str) and value else []
    found = re.fullmatch(name, content, re.DOTALL)
    if found is None:
        return []
    ends = [0, *(end for group in range(1, found.re.groups + 1) for end in found.span(group)), len(content)]
    pieces: _Parts = [content[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]
    return [[part for piece in pieces for part in (piece, None)][:-1]]


def _of_python(tree: ast.Module, name: str) -> list[_Parts]:
    function, _, bound = name.rpartition(".")
    scopes: list[ast.AST] = [tree]
    if function:
        defined = (ast.FunctionDef, ast.AsyncFunctionDef)
        scopes = [node for node in ast.walk(tree) if isinstance(node, defined) and node.name == function]
    values = [value for scope in scopes for value in _values(scope, bound)]
    values.sort(key=lambda value: (value.lineno, value.col_offset))
    parts = [_parts(value) for value in values]
    return [one for one in parts if any(part for part in one)]  # neither a value that is no text, nor an empty one


def _values(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    """Yield the expressions that are bound to a name in a function, or in a module outside its functions."""
    nodes = [scope]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_is_named(target, name) for target in targets):
                yield node.value
        elif isinstance(node, ast.Dict):
            yield from (value for key, value in zip(node.keys, node.values, strict=True) if _is_key(key, name))
        elif isinstance(node, ast.keyword) and node.arg == name:
            yield node.value
        elif isinstance(node, ast.arguments):
            plain = [*node.posonlyargs, *node.args]
            pairs = [*zip(plain[len(plain) - len(node.defaults) :], node.defaults, strict=True)]
            pairs += [(of, value) for of, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value]
            yield from (value for of, value in pairs if of.arg == name)
        inner = isinstance(scope, ast.Module) and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        nodes += [] if inner else ast.iter_child_nodes(node)


def _is_named(target: ast.expr, name: str) -> bool:
    if isinstance(target, ast.Subscript):
        return _is_key(target.slice, name)
    return isinstance(target, ast.Name) and target.id == name


def _is_key(key: ast.expr | None, name: str) -> bool:
    return isinstance(key, ast.Constant) and key.value == name


def _parts(node: ast.expr) -> _Parts:
    """Return what an expression joins: texts, and None for each value that is computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        return [part for value in node.values for part in _parts(value)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_parts(node.left), *_parts(node.right)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mod):
        marked = _parts(node.left)
        return [piece for part in marked for piece in ([None] if part is None else _marks(part))]
    return [None]


def _marks(text: str) -> _Parts:
    """Return the parts of a text of the % operator."""
    pieces = _PERCENT.split(text)
    return [None if place % 2 and piece == "s" else piece for place, piece in enumerate(pieces)]


def _template(parts: _Parts, fields: _Fields) -> str:
    """Return a text of ours: the computed values, or the fields of `str.format`, as `{name}`. Raises ValueError."""
    computed = parts.count(None)
    if fields and not computed:
        return _formatted("".join(part or "" for part in parts), fields)
    if computed != len(fields):
        raise ValueError(f"has {computed} fields instead of {len(fields)}")
    names = iter(fields)
    return "".join(f"{{{next(names)}}}" if part is None else _escaped(part) for part in parts)


def _formatted(text: str, fields: _Fields) -> str:
    pieces = []
    found = []
    for literal, field, spec, conversion in Formatter().parse(text):
        pieces.append(_escaped(literal))
        if field is not None:
            if spec or conversion or field not in fields:
                raise ValueError(f"has the field {field!r}, which is none of {', '.join(fields)}")
            pieces.append(f"{{{field}}}")
            found.append(field)
    if missing := [field for field in fields if field not in found]:
        raise ValueError(f"has no field {missing[0]!r}")
    return "".join(pieces)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


_LANGUAGES = ("en", "zh")
_FOUR = ("story", "question", "choice_a", "choice_b", "choice_c", "choice_d")
_EU = ("scenario", "subject", "emo_choices", "cause_choices")
_EA = ("scenario", "subject", "q_type", "choices")
_ASKED = ("question", "options")
_TACTFULTOM = "code/get_original_results.py"
_FORMS = ("yes_no", "free", "choice", "list")  # in the order of get_system_prompt
_HITOM = r"[^\n]+\nStory:\n(.+)\nQuestion: ([^\n]+)\nChoices: ([^\n]+)\n\n[^\n]+\n"

SOURCES = {
    "tombench": Source(
        version="zhchen18/ToMBench @ 4f491f0",
        known="5905247bbcd44eb381ae28ebf469048a53edc6732b4ccad73298533e4d405d1f",
        places=[
            place
            for lang in _LANGUAGES
            for place in (
                Place("prompts.py", f"SystemEvaluatePrompt_{lang}", {f"system_{lang}": ()}),
                Place("prompts.py", f"SystemEvaluatePrompt_{lang}_cot", {f"system_cot_{lang}": ()}),
                Place("prompts.py", f"UserEvaluatePrompt4Choices_{lang}", {f"user_4_{lang}": _FOUR}),
                Place("prompts.py", f"UserEvaluatePrompt2Choices_{lang}", {f"user_2_{lang}": _FOUR[:4]}),
            )
        ],
    ),
    "emobench": Source(
        version="Sahandfer/EmoBench @ 3b4f843",
        known="53626d16213ee8dde6baaeb4839770ca2422093959b2ce04549a48f146acd9d5",
        places=[
            Place("src/utils.py", "get_response_format.res_format", {"format": ("statement", "conditions")}),
            *(
                place
                for lang in _LANGUAGES
                for place in (
                    Place("src/configs/prompts.yaml", f"sys.{lang}", {f"system_{lang}": ()}),
                    Place("src/configs/prompts.yaml", f"EU.{lang}", {f"user_EU_{lang}": _EU}),
                    Place("src/configs/prompts.yaml", f"EA.{lang}", {f"user_EA_{lang}": _EA}),
                    Place("src/configs/response.yaml", f"base.{lang}", {f"statement_{lang}": ()}),
                    Place("src/configs/response.yaml", f"cot.{lang}", {f"statement_cot_{lang}": ()}),
                    Place("src/configs/response.yaml", f"EU.{lang}", {f"conditions_EU_{lang}": ()}),
                    Place("src/configs/response.yaml", f"EA.{lang}", {f"conditions_EA_{lang}": ()}),
                    Place("src/configs/response.yaml", f"reasoning.{lang}", {f"reasoning_{lang}": ()}),
                )
            ),
        ],
    ),
    "motivebench": Source(
        version="chicosirius/MotiveBench @ ea5faa1",
        known="3402d792d3b1a3f7deac33d53cc5f02a5a60ab4c1b508e6528fd1f8e57c74977",
        places=[
            Place("client_eval.py", "get_model_response.content", {"system": ()}),
            *(
                Place(
                    "client_eval.py",
                    f"load_questions.question_{number}",
                    {f"user_cot_{kind}": _ASKED, f"user_{kind}": _ASKED},
                )
                for number, kind in enumerate(("motivation", "behavior", "both"), 1)
            ),
        ],
    ),
    "tactfultom": Source(
        version="nii-cl/tactful-tom @ 0881b0d",
        known="560bcd0269eb74aaeaa8836cdc347f840df5d6bc1aa774bd7b7b3341e0c2f623",
        places=[
            Place(
                _TACTFULTOM,
                "get_system_prompt.system_prompt",
                {f"system_{cot}{form}": () for cot in ("", "cot_") for form in _FORMS},
            ),
            Place(_TACTFULTOM, "get_user_prompt.context_prompt", {"context": ("text",)}),
            Place(
                _TACTFULTOM,
                "get_llm_input.information_prompt",
                {"information": ("text",), "target_question": ("text",)},
            ),
            Place(_TACTFULTOM, "get_user_prompt.question_prompt", {"question": ("text",)}),
            Place(_TACTFULTOM, "get_user_prompt.option_prompt", {"options": ("text",)}),
            Place(_TACTFULTOM, "get_user_prompt.cot_prompt", {"cot": ()}),
            Place(_TACTFULTOM, "generate_set.content", {"cot_answer": ("reply",)}),
        ],
    ),
    "hitom": Source(
        version="ying-hui-he/Hi-ToM_dataset @ 56dda76",
        known="e83c57af26c6e50bb932fdb242c57ccffbc406154c388f1d6dbec61ad8b3fd20",
        places=[
            Place(
                f"Hi-ToM_prompts/No_Tell/{folder}/length_1/sample_1/order_0.txt",
                _HITOM,
                {text: ("story", "question", "choices")},
            )
            for text, folder in (("user", "CoT"), ("user_vp", "MC"))
        ],
    ),
    "simpletom": Source(
        version="yulinggu-cs/SimpleToM @ 0f054a7",
        known="72df4fece84b848c3d99a36e6ee428c7146bd913be22b2c70751155476ecc4f1",
        places=[
            Place("inference/run_inference.py", "run_qa.content", {"system": ()}),
            Place(
                "inference/utils.py",
                "question_prompt.prompt",
                {"user": ("labels", "story", "before", "question", "final", "quoted_labels")},
            ),
            Place("inference/utils.py", "question_prompt.final_prompt", {"final": ()}),
            Place("inference/prompts.py", "COT_PROMPT", {"final_cot": ()}),
        ],
    ),
}
