"""Tokenizer of English text after nltk's `word_tokenize`: sentences by Punkt, words by the Penn Treebank's rules.

Case and marks are kept. Sentence ends only affect words in that a final full stop becomes a separate token. They are
found by rule and short lists instead of Punkt's trained tables.
"""

import re
from collections.abc import Iterator

_ABBREVIATION = re.compile(
    r"(?:mrs?|ms|dr|prof|sen|rep|gen|col|lt|st|ave|jr|sr|vs|co|inc|ltd|corp|ok|ph\.d|u\.[skn]|[ap]\.m|d\.c"
    r"|jan|feb|aug|sept?|oct|nov|dec|tues|wed|fri|[c-hk-npr-tvw])"
)
# Capitalised words that begin a sentence after an abbreviation, and those that do after a letter such as "B.".
_STARTERS = (
    "although|both|but|correct|even|final|finally|he|hence|her|here|however|if|in|instead|it|many|most|neither|so|"
    "some|still|the|therefore|there|these|they|this|though|thus|when|which|while|yes|your"
)
_AFTER_ABBREVIATION = re.compile(rf"(?:{_STARTERS}|i)")
_AFTER_LETTER = re.compile(
    rf"(?:{_STARTERS}|a|all|an|and|answer|as|at|because|by|for|from|his|how|my|no|not|on|one|option|or|our|reason|she"
    r"|that|their|then|to|we|what|who|why|with|you)"
)
_CLOSING = "\"')\\]}‘’“”«»"
_END = re.compile(  # the second group is the next word if no closing mark precedes it
    rf"(?<![.?!])([.?!]+)(?:[{_CLOSING}]+(?=\s|$)\s*|(?=[)\";}}\]*:@'({{\[{_CLOSING}])|\s+(?=\S)(?=([\w'’-]*)))"
)
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[«“‘„]|``|`", r" \g<0> "),
        (r'^"', " `` "),
        (r"([ (\[{<])(?:\"|'')", r"\1 `` "),
        (r"(?i)(?<!\w)'(?!(?:re|ve|ll|[mtsdn])\b)(?=\w)", "' "),
        (r"([^.])\.([\])}>\"'»”’ ]*+)\s*$", r"\1 . \2 "),
        (r"([:,])(\D)", r" \1 \2"),
        (r"[:,]$|\.{2,}|[;@#$%&?!*\u2012-\u2015\[\](){}<>]|--", r" \g<0> "),
        (r"[»”’]", r" \g<0> "),
        (r"''|\"", " '' "),
        (r"\s+|$", " "),
        (r"([^' ])('[sSmMdD]?) ", r"\1 \2 "),
        (r"([^' ])('ll|'LL|'re|'RE|'ve|'VE|n't|N'T) ", r"\1 \2 "),
        (
            r"(?i)\b(can(?=not\b)|gim(?=me\b)|gon(?=na\b)|got(?=ta\b)|lem(?=me\b)|wan(?=na\s)|d(?='ye\b)|more(?='n\b))",
            r" \1 ",
        ),
        (r"(?i)(?<= )'t(?=(?:is|was)\b)", r" 't "),
    )
)


def english_words(text: str) -> list[str]:
    """Return the words and marks of a text, in order."""
    return [word for sentence in _sentences(text) for word in _words(sentence)]


def _words(sentence: str) -> list[str]:
    for pattern, replacement in _RULES:
        sentence = pattern.sub(replacement, sentence)
    return sentence.split()


def _sentences(text: str) -> Iterator[str]:
    start = 0
    for match in _END.finditer(text):
        if match[1] == "." and _goes_on(text[start : match.start()], match[2] or ""):
            continue
        yield text[start : match.end()].rstrip()
        start = match.end()
    yield text[start:].rstrip()


def _goes_on(before: str, following: str) -> bool:
    """Return whether a full stop belongs to an abbreviation, an initial or a number within a sentence."""
    word = re.split(r"\s|--", before[-40:])[-1].lower().rpartition("-")[2].lstrip("(\"'[{*")
    is_abbreviation, is_letter = bool(_ABBREVIATION.fullmatch(word)), len(word) == 1 and word.isalpha()
    if following[:1].islower():
        return is_abbreviation or is_letter or bool(_NUMBER.fullmatch(word))
    if is_abbreviation:
        return is_letter or not _AFTER_ABBREVIATION.fullmatch(following.lower())
    return is_letter and following[:1].isupper() and not _AFTER_LETTER.fullmatch(following.lower())
