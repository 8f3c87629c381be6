"""Build the question to a model that judges structure, and read its reply.

The policy's text must not be able to set its own score. Three measures prevent that:

* Story, question and thoughts are each fenced, and characters that could close a fence, open a chat role or form JSON
  or a tag are replaced.
* A grade counts only together with the code of this question. The code is a hash of the three texts: no text can
  contain its own code, so an echo of a text is never a grade. Equal texts have equal codes, so answers can be cached.
* Conflicting grades and invalid numbers make the reply unscorable.

Remaining risk: prompt injection that persuades the judge to give a high grade. The rubric warns against it. A
user-defined rubric (`read_rubric`) has the same form, fences and code. The judge of SOTOPIA shares `harmless`,
`material_hash` and `folded_keys`, its players share `without_chat_tokens`.
"""

import hashlib
import json
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from socialr1_jax.rewards.stages import STAGES
from socialr1_jax.rewards.verdict import Verdict
from socialr1_jax.runtime.terminal import shown

RUBRIC_VERSION = "1"  # of the package's rubric; a changed text needs a new version

_FILE = f"rubric_v{RUBRIC_VERSION}.txt"
_EXAMPLE = f"socialr1_jax/rewards/{_FILE}"
_BORDER = "=== user ==="  # the line between the two messages of a rubric file
_MOST_BYTES = 65_536  # of a rubric file
_TEXTS = ("story", "question", "thoughts")
_HARMLESS = str.maketrans({"<": "‹", ">": "›", "{": "(", "}": ")", "[": "(", "]": ")", '"': "'"})
_CHAT_TOKEN = re.compile(r"<(?=[|｜/A-Za-z_])|\[(?=/?[A-Z_]{3,20}\])")  # <|im_end|>, </s>, [INST]; not <3
_RARE = re.compile(r"[^\t\n -~]")
_DROPPED = ("Cc", "Cf", "Cs")  # control, format and surrogate characters: invisible, but can hide text
_UNSEEN = re.compile(  # fillers, variation selectors and tags, which are invisible too
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff]"
)

_MOST_CODES, _MOST_BRACES = 8, 20  # examined in a reply; bounds the time for a hostile one
_MOST_VIOLATIONS, _LONGEST_VIOLATION = 20, 60
_SLACK = 0.051  # models round each number to a tenth


@dataclass(frozen=True)
class Rubric:
    """The messages to a judge: `user` is a `string.Template`; `version` identifies the text in cache keys."""

    version: str
    system: str
    user: str


def read_rubric(path: str | Path) -> Rubric:
    """Return the rubric in a user's file, with a hash of its text as version; the package's own for "".

    The file has the form of `rubric_v1.txt`: the system message, a line `=== user ===`, and the user message with
    `${code}`, `${thoughts}` and, if the judge is to see them, `${story}` and `${question}`. Each text must be between
    the lines `<NAME-${fence}>` and `</NAME-${fence}>`.

    Raises ValueError with file, fault and fix in one line.
    """
    if not path:
        return RUBRIC
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise ValueError(f"rubric {path}: cannot be read ({error.strerror}); give a text file") from None
    if len(content) > _MOST_BYTES:
        raise ValueError(f"rubric {path}: more than {_MOST_BYTES:,} bytes, which each call would send; shorten it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"rubric {path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if fault := _fault(text):
        raise ValueError(f"rubric {path}: {fault}; {_EXAMPLE} is an example")
    return _rubric(text, f"sha256:{hashlib.sha256(content).hexdigest()[:16]}")


def _rubric(text: str, version: str) -> Rubric:
    system, _, user = text.replace("\r\n", "\n").partition(f"\n{_BORDER}\n")
    return Rubric(version, system.strip(), user.strip())


def _fault(text: str) -> str:
    if not text.strip():
        return "the file is empty"
    rubric = _rubric(text, "")
    user = rubric.user
    if not rubric.system or not user:
        return f"it needs instructions, then a line {_BORDER}, then what is asked about each response"
    names = []
    for match in Template.pattern.finditer(user):
        if match["invalid"] is not None:
            return f"{shown(user[match.start() :][:20])}: a dollar sign of the text itself is written $$"
        names.append(match["named"] or match["braced"])  # None for $$
    if unknown := [name for name in names if name and name not in (*_TEXTS, "fence", "code")]:
        return f"${{{unknown[0]}}} is unknown; use ${{story}}, ${{question}}, ${{thoughts}}, ${{fence}}, ${{code}}"
    if "thoughts" not in names:
        return "it has no ${thoughts}, so every response would get the same grade"
    if "code" not in names:
        return "it has no ${code}, and a grade counts only with the code beside it"
    for name in _TEXTS:
        fenced = rf"^<(\w+)-\$\{{fence\}}>\n\$\{{{name}\}}\n</\1-\$\{{fence\}}>$"
        if names.count(name) != len(re.findall(fenced, user, re.MULTILINE)):
            return f"${{{name}}} must be alone between the lines <{name}-${{fence}}> and </{name}-${{fence}}>"
    return ""


RUBRIC = _rubric(Path(__file__).with_name(_FILE).read_text("utf-8"), RUBRIC_VERSION)


def rubric_messages(story: str, question: str, thoughts: str, rubric: Rubric = RUBRIC) -> list[dict[str, str]]:
    """Return the chat messages that ask for a grade: a constant system message and a user message.

    The three texts may be any strings; they are made harmless.
    """
    story, question, thoughts = (harmless(text) for text in (story, question, thoughts))
    user = Template(rubric.user).substitute(
        story=story,
        question=question,
        thoughts=thoughts,
        fence=material_hash("fence", story, question, thoughts),
        code=material_hash("code", story, question, thoughts),
    )
    return [{"role": "system", "content": rubric.system}, {"role": "user", "content": user.strip()}]


def answer_code(story: str, question: str, thoughts: str) -> str:
    """Return the code that a grade of these texts must carry: 16 hexadecimal digits."""
    return material_hash("code", *(harmless(text) for text in (story, question, thoughts)))


def parse_verdict(reply: str, code: str) -> Verdict:
    """Read the grade in a judge's reply to the question with this code.

    A grade is a JSON object (bare, fenced or within text) with the `code` and a `total` (or `score`), or the code
    followed by `<Score>0.8</Score>`. Thinking up to the last `</think>` is dropped first.

    Causes of an unscorable reply: `no_answer` (only thinking), `unreadable` (no grade with the code), `no_score` (a
    JSON object with the code but no total), `out_of_range` (a total or stage that is NaN, true, a text, below 0 or
    above 1), `contradictory` (conflicting grades, or a total above every stage). Never fails on a string; takes linear
    time.
    """
    answer = _without_thinking(reply)
    if not answer.strip():
        return Verdict.unscorable("no_answer")
    verdicts = [_read(fields) for fields in _objects(answer, code)]
    tag = rf"{re.escape(code)}(?i:[\s\"'`*:.,)]{{0,20}}(?:</code>\s{{0,20}})?<score>([^<>]{{1,30}})</score>)"
    for text in re.findall(tag, answer):
        if (score := _number(text)) is not None:
            verdicts.append(_in_range(score))
    if not verdicts:
        return Verdict.unscorable("unreadable")
    for verdict in verdicts:
        if verdict.cause:
            return verdict
    if any(verdict.score != verdicts[0].score for verdict in verdicts):
        return Verdict.unscorable("contradictory")
    return verdicts[0]


def harmless(text: str) -> str:
    """Return the text without invisible characters and those that could form JSON, a tag, a fence or a chat token."""
    return _RARE.sub(lambda rare: _shown(rare[0]), text).translate(_HARMLESS)


def without_chat_tokens(text: str) -> str:
    """Return the text with chat tokens such as `<|im_end|>` defused by another opening bracket."""
    return _CHAT_TOKEN.sub(lambda bracket: bracket[0].translate(_HARMLESS), text)


def _shown(character: str) -> str:
    category = unicodedata.category(character)
    if category in _DROPPED or _UNSEEN.match(character):
        return ""
    return {"Zs": " ", "Zl": "\n", "Zp": "\n"}.get(category, character)


def material_hash(purpose: str, *texts: str) -> str:
    """Return a hash of `texts`, 16 hexadecimal digits that none of them can contain, for a fence or a code."""
    return hashlib.sha256(json.dumps([RUBRIC_VERSION, purpose, *texts]).encode()).hexdigest()[:16]


def _without_thinking(reply: str) -> str:
    _, _, answer = reply.rpartition("</think>")  # the whole reply if there is none; some servers strip the opening tag
    return answer.partition("<think>")[0]  # drop unfinished thinking


def _objects(answer: str, code: str) -> list[Mapping[str, Any] | None]:
    """Return the JSON objects in an answer that carry the code; None marks contradictory grades."""
    decoder = json.JSONDecoder(object_pairs_hook=folded_keys)
    objects: dict[tuple[int, int], Mapping[str, Any] | None] = {}
    for match in list(re.finditer(re.escape(code), answer))[-_MOST_CODES:]:
        start = match.start()
        for _ in range(_MOST_BRACES):  # outwards: the stages' own object may precede the code
            start = answer.rfind("{", 0, start)
            if start < 0:
                break
            try:
                fields, end = decoder.raw_decode(answer, start)
            except DoubledKey:
                objects[start, match.end()] = None
                break
            except (ValueError, RecursionError):
                continue
            if fields.get("code") == code:
                objects[start, end] = fields
                break
    # A quotation without escapes may close the judge's object early; the judge's own total then follows it.
    first_end = min((end for _, end in objects), default=len(answer))
    for key in re.compile(r'"(?:total|score)"\s{0,20}:', re.IGNORECASE).finditer(answer, first_end):
        if not any(start < key.start() < end for start, end in objects):
            return [None]
    return list(objects.values())


class DoubledKey(ValueError):
    """Raised for a JSON object with a repeated key of different values."""


def folded_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object with lower-case keys; a hook for `JSONDecoder`. Raises DoubledKey."""
    fields: dict[str, Any] = {}
    for key, value in pairs:
        key = key.lower()
        if key in fields and fields[key] != value:
            raise DoubledKey
        fields[key] = value
    return fields


def _read(fields: Mapping[str, Any] | None) -> Verdict:
    if fields is None:
        return Verdict.unscorable("contradictory")
    totals = [fields[name] for name in ("total", "score") if fields.get(name) is not None]
    if not totals:
        return Verdict.unscorable("no_score")
    verdicts = [_in_range(_number(total)) for total in totals]
    stages = fields.get("stages")
    graded = {name: stages[name] for name in STAGES if name in stages} if isinstance(stages, Mapping) else {}
    grades = {name: _in_range(_number(grade)) for name, grade in graded.items()}
    for verdict in (*verdicts, *grades.values()):
        if verdict.cause:
            return verdict
    score = verdicts[0].score
    if any(verdict.score != score for verdict in verdicts):
        return Verdict.unscorable("contradictory")
    if len(grades) == len(STAGES) and score > max(grade.score for grade in grades.values()) + _SLACK:
        return Verdict.unscorable("contradictory")
    listed = fields.get("violations")
    names = [name.strip() for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    names = [name for name in names if name]
    return Verdict(
        score,
        stages={name: grade.score for name, grade in grades.items()},
        violations=tuple(name[:_LONGEST_VIOLATION] for name in names[:_MOST_VIOLATIONS]),
    )


def _number(value: Any) -> float | None:
    """Return a number or a numeric text as float, None for anything else, including true and false."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _in_range(value: float | None) -> Verdict:
    if value is None or not 0.0 <= value <= 1.0:  # also true of NaN
        return Verdict.unscorable("out_of_range")
    return Verdict(value)
