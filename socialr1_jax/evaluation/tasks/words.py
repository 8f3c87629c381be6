"""Tokenizer of English text after nltk's `word_tokenize`: sentences by Punkt, words by the Penn Treebank's rules.

Case and marks are kept. Sentence ends only affect words in that a final full stop becomes a separate token. They are
found by rule instead of Punkt's trained tables: abbreviations are initials and a short list.
"""

from __future__ import annotations

import re

_ABBREVIATION = re.compile(
    r"(?:mrs?|ms|dr|prof|sen|rep|gen|col|lt|st|ave|jr|sr|vs|co|inc|ltd|corp|ok|ph\.d|u\.[skn]|[ap]\.m|d\.c"
    r"|jan|feb|aug|sept|oct|nov|dec|[^\W\d_])"
)
_CLOSING = "\"')\\]}‘’“”«»"
_END = re.compile(rf"(?<![.?!])([.?!]+)(?:[{_CLOSING}]+(?=\s|$)\s*|(?=[)\";}}\]*:@'({{\[{_CLOSING}])|\s+(?=\S))")
_NUMBER = re.compile(r"-?[.,]?\d[\d,.-]*")
_RULES = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"[«“‘„]|`+", r" \g<0> "),
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


def _sentences(text: str) -> list[str]:
    sentences, start = [], 0
    for match in _END.finditer(text):
        if match[1] == "." and _is_abbreviation(text[start : match.start()], text[match.end() : match.end() + 1]):
            continue
        sentences.append(text[start : match.end()].rstrip())
        start = match.end()
    return [*sentences, text[start:].rstrip()]


def _is_abbreviation(before: str, following: str) -> bool:
    word = re.split(r"\s|--", before[-40:])[-1].lower().rpartition("-")[2].lstrip("(\"'[{“‘*")
    return bool(_ABBREVIATION.fullmatch(word) or (_NUMBER.fullmatch(word) and following.islower()))
