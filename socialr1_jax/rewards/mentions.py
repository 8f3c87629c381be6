"""Find option letters named in prose, and answers announced before any inference."""

import re

# A capital letter on its own is a candidate; a bounded neighbourhood decides. This is cheaper than one large pattern
# tried at every character, and excludes articles ("A boy"), the pronoun ("I") and names ("Room B is dark").
# The lookbehind follows the letter: in front of it, it would be tried at every character (40 us for 600 characters).
_LETTER = re.compile(r"[A-Z](?<![^\W_].)(?![^\W_])")
_REACH = 28

_NAMED = re.compile(
    r"\b(?:options?|choices?|answers?|letters?)(?:\s(?:is|are|as|be|was|would be|must be|should be|has to be))?"
    r"(?:\s*:)?[\s(*\"'`]{0,5}$",
    re.IGNORECASE,
)
_CHOSEN = re.compile(
    r"\b(?:choose|chose|choosing|pick|picking|select|selecting|go with|eliminate|reject|rule out|it's|is|be|so|"
    r"therefore|thus|hence),?\s[(*\"'`]{0,3}$",
    re.IGNORECASE,
)
_CLAUSE_START = re.compile(r"(?:^|[\n.!?;:,(*–—-]|\s(?:and|or|nor))[\s(*\"'`]{0,4}$")
_LISTED_BEFORE = re.compile(r"(?<![^\W_])[A-Z](?:,|/|\s(?:and|or|nor))(?:\s(?:and|or))?\s{0,2}$")
_LISTED_AFTER = re.compile(r"(?:,|/|\s(?:and|or|nor))(?:\s(?:and|or))?\s{0,2}[A-Z](?![^\W_])")
_LABEL_AFTER = re.compile(r"[)*\"'`]{0,3}:(?=\s|$)|[)\]]|\*\*")
_LINE_LABEL_AFTER = re.compile(r"\.(?=\s)")
_VERB_AFTER = re.compile(
    r"\s(?:is|says|would|matches|fits|seems|looks|sounds|appears|works|cannot|must|should|could|may)\b"
)
_CLOSED_AFTER = re.compile(r"[)*\"'`]{0,3}(?:\s*[.,;:!?\n]|\s*$|\s(?:because|since|as)\b)")

_ANNOUNCED = re.compile(
    r"""\b(?:
        (?:answer|choice|option|response)[ ](?:\(?[a-z]\)?[ ])?(?:is|must[ ]be|should[ ]be|would[ ]be|has[ ]to[ ]be)\b
            (?![ ](?:not|unclear|unknown|what|which|in[ ]the[ ]story|asked|needed|to[ ]be)\b)
      | (?:i|we)(?:[ ](?:would|will|should|can)|'d|'ll)?[ ](?:choose|pick|select|go[ ]with)\b
      | [a-h][ ]is[ ](?:right|correct|the[ ]answer|the[ ]best)\b
      | justif(?:y|ies|ying)[ ](?:the|this|that|my|our)[ ](?:answer|choice|option)
    )(?P<because>[^.!?\n]{0,80}?\b(?:because|since)\b)?""",
    re.IGNORECASE | re.VERBOSE,
)


def option_mentions(text: str) -> list[int]:
    """Return the positions of named option letters: "option B", "answer is (C)", "A: shelf", "A and B", "so B."."""
    return [match.start() for match in _LETTER.finditer(text) if _is_mention(text, match.start())]


def _is_mention(text: str, at: int) -> bool:
    before, after = text[max(0, at - _REACH) : at], text[at + 1 : at + 1 + _REACH]
    if _NAMED.search(before) or _LISTED_BEFORE.search(before) or _LISTED_AFTER.match(after):
        return True
    letter = text[at]
    if letter != "I" and _CHOSEN.search(before) and _CLOSED_AFTER.match(after):
        return True
    if before.endswith("(") and after.startswith(")"):
        return True
    if not _CLAUSE_START.search(before):
        return False
    line = before.rstrip(" \t*-(")
    starts_line = not line or line.endswith("\n")  # "A. shelf" is a label only there; elsewhere "A." may be an initial
    return bool(
        _LABEL_AFTER.match(after)
        or (starts_line and _LINE_LABEL_AFTER.match(after))
        or (letter != "I" and _VERB_AFTER.match(after))
    )


def announces_answer(text: str, before: int, reasons_before: int) -> bool:
    """Return True if the text announces its answer ("the answer is", "I choose") before position `before`.

    An announcement followed by its reason ("the answer is B because") counts before position `reasons_before`.
    """
    return any(match.start() < before or match.group("because") for match in _ANNOUNCED.finditer(text[:reasons_before]))
