"""JSON objects in what a model said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

_MOST_READ = 200_000  # characters
_MOST_STARTS = 100  # braces where an object may begin
_DECODER = json.JSONDecoder(strict=False)  # takes line breaks within texts


def objects_in(text: str, decoder: json.JSONDecoder = _DECODER) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (start, end, object) of the JSON objects in a text, without those inside others.

    Of a very long text only the beginning is read. A ValueError of the decoder means that no object begins there. Of an
    object that is laid out like its schema, what stands under "properties" counts, as in the authors' reader.
    """
    text = text[:_MOST_READ]
    start = text.find("{")
    for _ in range(_MOST_STARTS):
        if start < 0:
            return
        end = start + 1
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            pass
        else:
            inner = value.get("properties")
            yield start, end, inner if isinstance(inner, dict) else value
        start = text.find("{", end)
