"""The letter that a free reply names, for benchmarks that have no rule of their own."""

from __future__ import annotations

import re

# "B", "(B)", "**B**", "B. text"; not the article of "A friend would" nor the pronoun of "I think".
_AT_START = re.compile(r"[\s(\[*\"']*([A-Z])\s*(?:[.:)\]*\"']|$)")
_NAMED = re.compile(r"(?:\b[Aa]nswer[\s*_]*(?:\bis\b|:)|\\boxed)[\s(\[{*\"':]*([A-Z])\b")


def named_letter(reply: str, letters: str) -> str:
    """The capital that the reply begins with and that nothing but a mark follows; else the last one that is called the
    answer ("the answer is (B)", "Answer: B", "\\boxed{B}"). "" when there is none, or it is none of `letters`.
    """
    start = _AT_START.match(reply)
    named = [start.group(1)] if start else _NAMED.findall(reply)
    return named[-1] if named and named[-1] in letters else ""
