"""Places of prompt texts in the benchmark authors' repositories, and parsers to extract them.

The files are parsed as Python or YAML, or matched as text; none of the authors' code is imported or run.
"""

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter
from typing import NamedTuple, Self

import yaml

from socialr1_jax.evaluation.request import FIELD
from socialr1_jax.evaluation.task import BenchmarkError
from socialr1_jax.runtime.files import sha256
from socialr1_jax.runtime.terminal import printable

_DEFINED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_PERCENT = re.compile(r"%(%|s)")
_Fields = tuple[str, ...]
_Parts = list[str | None]  # literal parts of a text; None is a field


class AuthorsConstant(NamedTuple):
    """A name in one of the authors' files, and the texts bound to it.

    name: in Python `NAME`, `function.name` or `Class.method.name` (assignment, augmented assignment, dictionary key,
        parameter default or keyword argument), `.return` for returned values, `.__doc__` for a docstring; in YAML a
        path of keys; in other files a regular expression whose groups are the fields.
    texts: our names of the bound texts, in file order, with the fields of each. Names that begin with "_" are skipped.
    """

    file: str
    name: str
    texts: Mapping[str, _Fields]


@dataclass(frozen=True, kw_only=True)
class TextSource:
    """A version of a repository and the places of its texts. `known`: SHA-256 of all its texts.

    `other`: another supported version.
    """

    version: str
    known: str
    places: Sequence[AuthorsConstant]
    other: Self | None = None

    @property
    def versions(self) -> tuple[Self, ...]:
        """Return this version and the other supported ones."""
        return (self, *(self.other.versions if self.other else ()))

    @property
    def fields(self) -> dict[str, _Fields]:
        pairs = ((text, fields) for place in self.places for text, fields in place.texts.items())
        return {text: fields for text, fields in pairs if not text.startswith("_")}

    def of_texts(self, texts: Mapping[str, str]) -> Self:
        """Return the version that shares the most names with these texts."""
        return max(self.versions, key=lambda version: len(version.fields.keys() & texts.keys()))

    def read(self, checkout: Path) -> tuple[dict[str, str], dict[str, str], Self]:
        """Return the texts by name, the SHA-256 of each file they are from, and the version.

        Raises BenchmarkError naming the first file or text missing for the best matching version.
        """
        texts, files, errors, version = min((one._read(checkout) for one in self.versions), key=lambda one: len(one[2]))
        if errors:
            raise BenchmarkError(f"{errors[0]}; give a checkout of {version.version}")
        return texts, files, version

    def _read(self, checkout: Path) -> tuple[dict[str, str], dict[str, str], list[str], Self]:
        texts: dict[str, str] = {}
        files: dict[str, str] = {}
        errors: list[str] = []
        for place in self.places:
            try:
                texts |= _texts(checkout / place.file, place)
                files[place.file] = sha256(checkout / place.file)
            except BenchmarkError as error:
                errors.append(str(error))
        return texts, files, errors, self


def fields_of(text: str) -> set[str]:
    return {name for name in FIELD.findall(text) if name}


def _texts(path: Path, place: AuthorsConstant) -> dict[str, str]:
    """Return the texts of a place, keyed by our names. Raises BenchmarkError."""
    if not path.is_file():
        raise BenchmarkError(f"{path}: there is no such file")
    try:
        bound = _bound(path, place.name)
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError, yaml.YAMLError) as error:
        raise BenchmarkError(f"{path}: cannot be read ({printable(f'{type(error).__name__}: {error}', 200)})") from None
    if len(bound) != len(place.texts):
        raise BenchmarkError(f"{path}: {place.name!r} has {len(bound)} texts instead of {len(place.texts)}")
    texts = {}
    for parts, (text, fields) in zip(bound, place.texts.items(), strict=True):
        if text.startswith("_"):
            continue
        try:
            texts[text] = _template(parts, fields)
        except ValueError as error:
            raise BenchmarkError(f"{path}: {place.name!r} {printable(str(error), 200)}") from None
    return texts


def _bound(path: Path, name: str) -> list[_Parts]:
    """Return the parts of the texts bound to `name`, in file order."""
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".py":
        return _of_python(ast.parse(content), name)
    if path.suffix in (".yaml", ".yml"):
        value = yaml.safe_load(content)
        for key in name.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        return [[value]] if isinstance(value, str) and value else []
    match = re.fullmatch(name, content, re.DOTALL)
    if match is None:
        return []
    ends = [0, *(end for group in range(1, match.re.groups + 1) for end in match.span(group)), len(content)]
    pieces: _Parts = [content[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]
    return [[part for piece in pieces for part in (piece, None)][:-1]]


def _of_python(tree: ast.Module, name: str) -> list[_Parts]:
    *path, bound = name.split(".")
    scopes: list[ast.AST] = [tree]
    for step in path:
        inner = (node for scope in scopes for node in ast.walk(scope))
        scopes = [node for node in inner if isinstance(node, _DEFINED) and node.name == step]
    if bound == "__doc__":
        return [[text] for scope in scopes if isinstance(scope, _DEFINED) and (text := ast.get_docstring(scope))]
    values = [value for scope in scopes for value in _values(scope, bound)]
    values.sort(key=lambda value: (value.lineno, value.col_offset))
    parts = [_parts(value) for value in values]
    return [pieces for pieces in parts if any(part for part in pieces)]  # drop values without literal text


def _values(scope: ast.AST, name: str) -> Iterator[ast.expr]:
    """Yield the expressions bound to a name in a function, or in a module outside its functions."""
    nodes = [scope]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(_is_named(target, name) for target in targets):
                yield node.value
        elif isinstance(node, ast.Dict):
            yield from (value for key, value in zip(node.keys, node.values, strict=True) if _is_key(key, name))
        elif isinstance(node, ast.Return) and node.value and name == "return":
            # a text, or a call with a text as its first argument
            yield node.value.args[0] if isinstance(node.value, ast.Call) and node.value.args else node.value
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
    """Return the literal texts joined by an expression, with None for each computed value."""
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
    """Split a text of the % operator at its fields."""
    pieces = _PERCENT.split(text)
    return [None if place % 2 and piece == "s" else piece for place, piece in enumerate(pieces)]


def _template(parts: _Parts, fields: _Fields) -> str:
    """Join parts to a template with `{name}` for computed values or `str.format` fields. Raises ValueError."""
    computed = parts.count(None)
    if fields and not computed:
        return _formatted("".join(part or "" for part in parts), fields)
    if computed != len(fields):
        raise ValueError(f"has {computed} fields instead of {len(fields)}")
    names = iter(fields)
    return "".join(f"{{{next(names)}}}" if part is None else _escaped(part) for part in parts)


def _formatted(text: str, fields: _Fields) -> str:
    pieces = list(Formatter().parse(text))  # (literal text, field or None, format, conversion)
    for _, field, form, conversion in pieces:
        if field is not None and (form or conversion or field not in fields):
            raise ValueError(f"has the field {field!r}, which is not one of {', '.join(fields)}")
    if missing := [field for field in fields if all(field != piece[1] for piece in pieces)]:
        raise ValueError(f"has no field {missing[0]!r}")
    return "".join(_escaped(text) if name is None else f"{_escaped(text)}{{{name}}}" for text, name, *_ in pieces)


def _escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _at(file: str, name: str, /, *names: str, **texts: str) -> AuthorsConstant:
    """Return a place. names: its texts without fields; texts: fields of the other texts, separated by spaces."""
    fields = dict.fromkeys(names, "") | texts
    return AuthorsConstant(file, name, {text: tuple(words.split()) for text, words in fields.items()})


_LANGUAGES = ("en", "zh")
_CHOICES = "story question choice_a choice_b"
_FORMS = ("yes_no", "free", "choice", "list")  # of TactfulToM, in the order of `get_system_prompt`
_HITOM = r"[^\n]+\nStory:\n(.+)\nQuestion: ([^\n]+)\nChoices: ([^\n]+)\n\n[^\n]+\n"
_RESULTS = "code/get_original_results.py"  # of TactfulToM
_PROMPTS, _RESPONSE = "src/configs/prompts.yaml", "src/configs/response.yaml"  # of EmoBench
# of SOTOPIA
_GENERATE, _MESSAGES = "sotopia/generation_utils/generate.py", "sotopia/messages/message_classes.py"
_PARALLEL, _EVALUATORS = "sotopia/envs/parallel.py", "sotopia/envs/evaluators.py"
_SCORES = "sotopia/database/evaluation_dimensions.py"
_BACKGROUND = "ScriptBackground.to_natural_language"
_TURN = "agent history turn_number action_list format_instructions"
_DIMENSIONS = "believability relationship knowledge secret social_rules financial_and_material_benefits goal"
_JUDGED = [f"asks_{name}" for name in _DIMENSIONS.split()]
_SHOWN = "kind argument"
_ACTED = {"none": "", "speak": "argument", "non-verbal communication": _SHOWN, "action": _SHOWN, "leave": ""}
_PROFILE = "first_name last_name age gender occupation pronouns public_info personality first_name secret"
_SOTOPIA_BOTH = (
    _at(_GENERATE, "agenerate_action.template", "_script", turn=_TURN),
    _at(_MESSAGES, "Observation.to_natural_language.return", begins="context", seen="number acted"),
    *(  # text after the field `agent` in a profile is visible to that agent only
        _at(
            _PARALLEL,
            f"_agent_profile_to_{known}_self.return",
            **{text: _PROFILE.replace(before, f"agent {before}", 1)},
        )
        for known, text, before in (
            ("stranger", "profile_stranger", "first_name"),
            ("name", "profile_name", "age"),
            ("aquaintance", "profile_acquaintance", "personality"),
            ("friendabove", "profile_friend", "first_name secret"),
        )
    ),
)

SOURCES = {
    "tombench": TextSource(
        version="zhchen18/ToMBench @ 4f491f0",
        known="5905247bbcd44eb381ae28ebf469048a53edc6732b4ccad73298533e4d405d1f",
        places=[
            place
            for lang in _LANGUAGES
            for place in (
                _at("prompts.py", f"SystemEvaluatePrompt_{lang}", f"system_{lang}"),
                _at("prompts.py", f"SystemEvaluatePrompt_{lang}_cot", f"system_cot_{lang}"),
                _at(
                    "prompts.py",
                    f"UserEvaluatePrompt4Choices_{lang}",
                    **{f"user_4_{lang}": f"{_CHOICES} choice_c choice_d"},
                ),
                _at("prompts.py", f"UserEvaluatePrompt2Choices_{lang}", **{f"user_2_{lang}": _CHOICES}),
            )
        ],
    ),
    "emobench": TextSource(
        version="Sahandfer/EmoBench @ 3b4f843",
        known="53626d16213ee8dde6baaeb4839770ca2422093959b2ce04549a48f146acd9d5",
        places=[
            _at("src/utils.py", "get_response_format.res_format", format="statement conditions"),
            *(
                place
                for lang in _LANGUAGES
                for place in (
                    _at(_PROMPTS, f"sys.{lang}", f"system_{lang}"),
                    _at(_PROMPTS, f"EU.{lang}", **{f"user_EU_{lang}": "scenario subject emo_choices cause_choices"}),
                    _at(_PROMPTS, f"EA.{lang}", **{f"user_EA_{lang}": "scenario subject q_type choices"}),
                    _at(_RESPONSE, f"base.{lang}", f"statement_{lang}"),
                    _at(_RESPONSE, f"cot.{lang}", f"statement_cot_{lang}"),
                    _at(_RESPONSE, f"EU.{lang}", f"conditions_EU_{lang}"),
                    _at(_RESPONSE, f"EA.{lang}", f"conditions_EA_{lang}"),
                    _at(_RESPONSE, f"reasoning.{lang}", f"reasoning_{lang}"),
                )
            ),
        ],
    ),
    "motivebench": TextSource(
        version="chicosirius/MotiveBench @ ea5faa1",
        known="3402d792d3b1a3f7deac33d53cc5f02a5a60ab4c1b508e6528fd1f8e57c74977",
        places=[
            _at("client_eval.py", "get_model_response.content", "system"),
            *(
                _at(
                    "client_eval.py",
                    f"load_questions.question_{number}",
                    **{f"user_cot_{kind}": "question options", f"user_{kind}": "question options"},
                )
                for number, kind in enumerate(("motivation", "behavior", "both"), 1)
            ),
        ],
    ),
    "tactfultom": TextSource(
        version="nii-cl/tactful-tom @ 0881b0d",
        known="560bcd0269eb74aaeaa8836cdc347f840df5d6bc1aa774bd7b7b3341e0c2f623",
        places=[
            _at(
                _RESULTS,
                "get_system_prompt.system_prompt",
                *(f"system_{cot}{form}" for cot in ("", "cot_") for form in _FORMS),
            ),
            _at(_RESULTS, "get_user_prompt.context_prompt", context="text"),
            _at(_RESULTS, "get_llm_input.information_prompt", information="text", target_question="text"),
            _at(_RESULTS, "get_user_prompt.question_prompt", question="text"),
            _at(_RESULTS, "get_user_prompt.option_prompt", options="text"),
            _at(_RESULTS, "get_user_prompt.cot_prompt", "cot"),
            _at(_RESULTS, "generate_set.content", cot_answer="reply"),
        ],
    ),
    "hitom": TextSource(
        version="ying-hui-he/Hi-ToM_dataset @ 56dda76",
        known="e83c57af26c6e50bb932fdb242c57ccffbc406154c388f1d6dbec61ad8b3fd20",
        places=[
            _at(
                f"Hi-ToM_prompts/No_Tell/{folder}/length_1/sample_1/order_0.txt",
                _HITOM,
                **{text: "story question choices"},
            )
            for text, folder in (("user", "CoT"), ("user_vp", "MC"))
        ],
    ),
    "simpletom": TextSource(
        version="yulinggu-cs/SimpleToM @ 0f054a7",
        known="72df4fece84b848c3d99a36e6ee428c7146bd913be22b2c70751155476ecc4f1",
        places=[
            _at("inference/run_inference.py", "run_qa.content", "system"),
            _at(
                "inference/utils.py", "question_prompt.prompt", user="labels story before question final quoted_labels"
            ),
            _at("inference/utils.py", "question_prompt.final_prompt", "final"),
            _at("inference/prompts.py", "COT_PROMPT", "final_cot"),
        ],
    ),
    "sotopia": TextSource(
        version="sotopia-lab/sotopia @ v0.1.4",
        known="a5e419e2d70d0d913f7300e75079a3972ab715c47675474a4a84dcacb36f47f0",
        places=[
            *_SOTOPIA_BOTH,
            _at(
                _MESSAGES,
                f"{_BACKGROUND}.return",
                context="scenario first second first background_1 second background_2 first goal_1 second goal_2",
                _without="",
            ),
            _at(_MESSAGES, "AgentAction.to_natural_language.return", **_ACTED),
            _at(_MESSAGES, "AgentAction.description", "action_type", "argument"),
            _at(_PARALLEL, "astep.message", number="number"),
            _at(_EVALUATORS, "__acall__.template", judge="history format_instructions"),
            _at(_EVALUATORS, "SotopiaDimensions.__doc__", "dimensions"),
            _at(_EVALUATORS, "SotopiaDimensions.description", *_JUDGED),
        ],
        other=TextSource(
            version="sotopia-lab/sotopia @ a0aaafb",
            known="871e81f9c87340b37042f66fb7a5d2b81c1487b30ca205a36ae3b5fbe4b72e85",
            places=[
                *_SOTOPIA_BOTH,
                _at(_MESSAGES, f"{_BACKGROUND}.participants_str", participants="first second", _more=""),
                _at(_MESSAGES, f"{_BACKGROUND}.backgrounds_text", "_hidden", background="name background"),
                _at(_MESSAGES, f"{_BACKGROUND}.goals_text", "_hidden", goal="name goal", _without=""),
                _at(_MESSAGES, f"{_BACKGROUND}.return", context="scenario participants backgrounds goals", _without=""),
                _at(_MESSAGES, "AgentAction.to_natural_language.action_str", **_ACTED),
                _at(_MESSAGES, "AgentAction.to_natural_language.return", acted="to acted"),
                _at(_MESSAGES, "AgentAction.description", "action_type", "argument", "to"),
                _at(_PARALLEL, "_process_incoming_actions.message", number="number"),
                _at(_EVALUATORS, "__acall__.template", judge="history agent_instruction format_instructions"),
                _at(_EVALUATORS, "__acall__.agent_instruction", agents="count agents"),
                _at(_SCORES, "SotopiaDimensions.__doc__", "dimensions"),
                _at(_SCORES, "SotopiaDimensions.description", *_JUDGED),
                *(
                    _at(_SCORES, f"{kind}ReasoningScore.description", f"reasoning_{kind}", f"score_{kind}")
                    for kind in ("Negative", "Positive", "Bidirectional")
                ),
            ],
        ),
    ),
}
