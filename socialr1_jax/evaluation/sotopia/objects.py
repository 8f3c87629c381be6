"""JSON objects in what a model said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_MOST_READ = 200_000  # characters
_MOST_STARTS = 100  # braces where an object may begin
_DECODER = json.JSONDecoder(strict=False)  # takes line breaks within texts


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """The objects in a text in their order, without those inside others; what is around and between them is ignored.

    Of a text without end only the beginning is read.
    """
    text = text[:_MOST_READ]
    start = text.find("{")
    for _ in range(_MOST_STARTS):
        if start < 0:
            return
        end = start + 1
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            pass
        else:
            yield value
        start = text.find("{", end)
