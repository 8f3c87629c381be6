"""The reader of multiple-choice answers: which option letter a text plainly names.

The outcome reward, the protocol `social_r1` and the benchmarks without an official reader (SocialIQA, Hi-ToM) use it.
Forms are tried from the plainest to the weakest, and the first that is there decides:

1. the first line is a letter and nothing else ("B", "(b)", "**B**", "Answer: B"), or an option's text;
2. the last statement of an answer that is not negated ("the answer is B", "\\boxed{B}", "I choose B", "B is correct");
3. the text begins with a letter and a mark ("B. stay", "B - stay", "B, because ..."), and lists no other options;
4. the last conclusion ("so B.", "it must be B");
5. a short text that ends with the only letter in it ("Definitely B").

Articles ("A friend would"), the pronoun ("I think"), words ("Anna") and lists ("A or B") name no letter. Every pattern
is bounded, so the time is linear in the text's length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from socialr1_jax.data.examples import LETTERS

_BOXED = re.compile(r"\\f?box(?:ed)?\s{0,3}|<answer>|\[answer\]", re.IGNORECASE)
_COMMAND = re.compile(r"\\(?:text|math)[a-z]{0,10}|\\[,;! ]|</?[A-Za-z]{1,20}>", re.IGNORECASE)
_EMPHASISED = re.compile(r"(?<![A-Za-z0-9])[*_`]{1,3}([A-Za-z])[*_`]{1,3}(?![A-Za-z0-9])")
_MARKS = re.compile(r"[*`~$\"“”„«»{}\[\]\\#>【】「」]|(?<![A-Za-z])['‘’_]|['‘’_](?![A-Za-z])")
_BULLET = re.compile(r"^ ?[-•–—+]+ ?| $", re.MULTILINE)
_SPACE_BEFORE_MARK = re.compile(r" ([.,;:!?)])")

_LETTER = r"(?<![A-Za-z0-9À-ɏ])(?<![A-Za-z]['’-])\(?[ ]?([A-Za-z])(?![A-Za-z0-9À-ɏ]|['’-][A-Za-z])[ ]?\)?"
_FILLER = (
    r"(?:[\s:=,.–—-]|->|['’]s(?![A-Za-z])|(?:it|that|is|are|was|be|to|as|should|must|would|will|has|have|seems?|appears?|therefore|thus|so|then|"
    r"clearly|definitely|certainly|surely|most|more|likely|probably|simply|just|option|choice|letter|number|the|my|"
    r"answer|correct|best|right|final|here|indeed|only|given|called|labell?ed|应该|为|是|选|项|应)(?![A-Za-z]))"
)
_KEY = (
    r"(?:(?<![A-Za-z])(?:answers?|ans|solution|conclusion|verdict|choose|chose|chosen|choosing|pick(?:ed|ing)?|"
    r"select(?:ed|ing)?|prefer|think|believe|say|go(?:ing)?[ ]with|opt(?:ing)?[ ]for|vote[ ]for|guess)(?![A-Za-z])"
    r"|(?<![A-Za-z])(?:options?|choices?|selection|letter|response|pick)[ ]?(?:is|was|[:=]|(?:should|must|would)[ ]be)"
    r"|答案|选择|选)"
)
_STATED = re.compile(rf"{_KEY}{_FILLER}{{0,12}}{_LETTER}", re.IGNORECASE)
_CALLED_RIGHT = re.compile(
    rf"{_LETTER}[ ](?:is|was|seems|appears|looks|would[ ]be|must[ ]be|should[ ]be)[ ](?:to[ ]be[ ])?"
    r"(?:(?:the|my|clearly|most|more|very|definitely|probably|obviously|likely)[ ]){0,3}"
    r"(?:correct|right|best|answer|true|appropriate|plausible|likely|suitable|fitting|accurate|final)(?![A-Za-z])"
    rf"|{_LETTER}[ ]?(?:正确|是正确|对)",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(
    r"(?:(?<![A-Za-z])(?:so|thus|therefore|hence|but|instead|rather|is|be|it['’]?s|that['’]?s)[, ]{1,2}|是)"
    rf"(?:(?:it|that)[ ](?:is|must[ ]be)[ ]|rather[ ]|(?:the[ ])?option[ ]){{0,2}}{_LETTER}(?=\s*(?:[.,;:!)\n]|$))",
    re.IGNORECASE,
)
_BARE_LINE = re.compile(
    rf"(?:[\s.,:=-]|(?:the|my|final|correct|best|answer|ans|option|choice|letter|is|答案|选项|选择|选|为|是)(?![A-Za-z]))"
    rf"{{0,12}}{_LETTER}[\s.,:;!?。，！)-]{{0,5}}",
    re.IGNORECASE,
)
_LEADING = re.compile(
    rf"(?:(?:option|choice|letter)[ ])?{_LETTER}(?:[.:,;!。]|[ ]?(?:[-–—=/](?=[ ])|\n|[(]|选项|项)|\)|"
    r"[ ](?:because|since|as|rather[ ]than|instead[ ]of|(?:and[ ])?not)[ ])",
    re.IGNORECASE,
)
_LIST_AFTER = re.compile(
    r"\s{0,3}(?:[,/&+、]|and|or|nor|und|oder|和|或|与){1,4}[ ]?(?:and|or|also|maybe|perhaps|both|option|choice)?[ ]?"
    + _LETTER,
    re.IGNORECASE,
)
_NEGATED_AFTER = re.compile(
    r"[).,:]?[ ](?:(?:is|was|are|can|could|would|does|do|will)(?:[ ]not(?![A-Za-z])|n['’]t)|cannot"
    r"|(?:is|was|are|seems|would[ ]be)[ ](?:\w+[ ])?(?:wrong|incorrect|false|out|ruled|excluded|impossible|implausible"
    r"|unlikely)|makes[ ]no[ ]sense)|[ ]?(?:不|错)",
    re.IGNORECASE,
)
_NEGATED_BEFORE = re.compile(r"(?:not|never|n['’]t|neither|nor|without|than|不是|不|非)[ ]?(?:be[ ]|to[ ])?\(?$", re.I)
_WORDS_AFTER_A = re.compile(
    r"[ ](?:is|are|was|and|or|nor|but|because|since|as|would|seems|fits|matches|not|which|for|in|rather|instead|over|"
    r"with|here|too|due|given|must|should|makes|if|when)(?![A-Za-z])"
)
_WORDS_AFTER_I = re.compile(r"[ ](?:is|because|since)(?![A-Za-z])")
_CAPITAL = re.compile(r"[A-Z]")
_SHORT = 6  # words of a text that may name its letter by nothing but its end
_ANY = re.compile(_LETTER)


AnswerMode = Literal["plain", "reference"]


def answer_letter(text: str, mode: AnswerMode = "plain") -> str:
    """Return the letter of the text inside `<Answer>`, "" where it names none.

    `plain` is `named_letter`; `reference` is the published pattern, the first capital letter wherever it stands.
    """
    if mode == "plain":
        return named_letter(text)
    first = _CAPITAL.search(text)
    return first[0] if first else ""


def named_letter(text: str, letters: str = LETTERS, options: Sequence[str] = ()) -> str:
    """Return the capital letter that a text plainly names, or "" where it names none, several, or none of `letters`.

    Args:
        text: an answer or a reply without its thoughts; any string.
        letters: the letters of the options.
        options: the options' texts in the order of `letters`; a reply that is one of them names it.
    """
    text = _cleaned(text)
    found = _by_option(text, letters, options)
    for form in (_bare_line, _stated, _leading, _concluded, _only_one):
        if found is not None:
            break
        found = form(text)
    return found if found and found in letters else ""


def _cleaned(text: str) -> str:
    """Return the text without typography: full-width forms, LaTeX, Markdown, JSON, quotes, tags and bullets."""
    text = unicodedata.normalize("NFKC", text).replace("→", "-").replace("|", " - ")
    text = _COMMAND.sub(" ", _BOXED.sub("\nanswer: ", text))
    text = _MARKS.sub(" ", _EMPHASISED.sub(r"(\1)", text))
    text = _BULLET.sub("", re.sub(r"[ \t]+", " ", text))
    return _SPACE_BEFORE_MARK.sub(r"\1", text).strip()


def _by_option(text: str, letters: str, options: Sequence[str]) -> str | None:
    """Return the letter of the option that the first line is the text of."""
    said = _plain(text.partition("\n")[0])
    same = [letter for letter, option in zip(letters, options, strict=False) if _plain(option) == said]
    return same[0] if len(same) == 1 else None


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", _cleaned(text).casefold()))


def _bare_line(text: str) -> str | None:
    lines = [line for line in text.split("\n", 3)[:3] if line.strip(" :.-")]
    first = " ".join(lines[:2]) if lines and re.fullmatch(r"[\s\W]*(?:\w+[ ])?answer[\s:.-]*", lines[0], re.I) else ""
    for line in filter(None, (lines[0] if lines else "", first)):
        if (match := _BARE_LINE.fullmatch(line)) and not re.fullmatch(r"(?:is|the|my|答案)[ ][a-z]", line):
            return match[1].upper()
    return None


def _stated(text: str) -> str | None:
    """Return the letter of the last statement, "" where that one names several."""
    last, letter = -1, None
    for pattern in (_STATED, _CALLED_RIGHT):
        for match in pattern.finditer(text):
            group = 1 if match[1] else 2
            at = match.start(group)
            if at > last and (found := _letter(text, at, match.end())) is not None:
                last, letter = at, found
    return letter


def _leading(text: str) -> str | None:
    match = _LEADING.match(text)
    if not match or not text[match.start(1)].isupper():
        return None
    letter = _letter(text, match.start(1), match.end(1), article=match[0][-1] in ",;!\n/ ")
    if letter and (further := chr(ord(letter) + 1)) <= "Z":  # "A. go, B. stay": a list of the options
        mark = re.escape(text[match.end(1)]) if match.end(1) < len(text) else r"\."
        if re.search(rf"(?<![A-Za-z0-9])\(?{further}\)?{mark}", text[match.end() :]):
            return ""
    return letter


def _concluded(text: str) -> str | None:
    letter = None
    for match in _CONCLUDED.finditer(text):
        found = _letter(text, match.start(1), match.end())
        letter = letter if found is None else found
    return letter


def _only_one(text: str) -> str | None:
    capitals = {match[1]: match for match in _ANY.finditer(text) if match[1].isupper()}
    if len(capitals) != 1 or len(text.split()) > _SHORT:
        return None
    ((letter, match),) = capitals.items()
    ends = not text[match.end() :].strip(" .!)?")
    return letter if ends and not _NEGATED_BEFORE.search(text[max(0, match.start(1) - 12) : match.start(1)]) else None


def _letter(text: str, at: int, end: int, *, article: bool = True) -> str | None:
    """Return the letter at `at`; None where it is an article, a pronoun or negated; "" where it begins a list."""
    letter, after = text[at], text[at + 1 : at + 60]
    if letter.islower():
        if not re.match(r"\s*(?:$|[).,;:!\n])", after):
            return None
    elif article and re.match(r"[ ][a-z]|['’]", after):
        if letter == "A" and not _WORDS_AFTER_A.match(after):
            return None
        if letter == "I" and not _WORDS_AFTER_I.match(after):
            return None
    if _NEGATED_BEFORE.search(text[max(0, at - 12) : at]) or _NEGATED_AFTER.match(after):
        return None
    listed = _LIST_AFTER.match(text, max(end, at + 1))
    if listed and listed[1].isupper() and listed[1] != letter.upper():
        second = text[listed.end(1) : listed.end(1) + 60]
        article_follows = listed[1] in "AI" and re.match(r"[ ][a-z]", second) and not _WORDS_AFTER_A.match(second)
        if not article_follows and not _NEGATED_AFTER.match(second):
            return ""
    return letter.upper()
