"""Parse questions in the chat format of TRL and verl: turns of the roles system, user and assistant."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from socialr1_jax.data.tables import json_kind, unique_keys
from socialr1_jax.runtime.terminal import shown

_ROLES = ("system", "user", "assistant")
_LIST_OF_OBJECTS = re.compile(r"\s*\[\s*[{\]]")

Turns = tuple[Mapping[str, str], ...]


def turns_column(known: Collection[str], named: Collection[str]) -> str:
    """Return the column in `known` that holds the turns; "" if there is none, or if there are `story` and `question`.

    named: fields of a question whose columns are given.
    """
    by_name = {column.lower(): column for column in reversed([*known])}
    if all(name in named or name in by_name for name in ("story", "question")):
        return ""
    return by_name.get("messages") or by_name.get("prompt", "")


def parse_turns(value: Any, column: str) -> Turns:
    """Return the turns in a cell, each with `role` and `content`; a plain string is a user turn.

    The cell is a list of objects, or one as JSON text (tables have no lists). The content is a string, or a list of
    parts of type text, which are joined. Only the first turn may be the system's.

    Raises ValueError naming the turn and the fault: no turn, an unknown role, no text, an image, or a tool call.
    """
    name = shown(column)
    if isinstance(value, str) and _LIST_OF_OBJECTS.match(value):
        value = _from_json(value, name)
    elif isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise ValueError(f"{name} holds {json_kind(value)}, not a list of turns")
    if not value:
        raise ValueError(f"{name} is an empty list; a question has a user's turn")
    turns = tuple(_turn(turn, f"turn {number} of {name}") for number, turn in enumerate(value, 1))
    for number, turn in enumerate(turns[1:], 2):
        if turn["role"] == "system":
            raise ValueError(f"turn {number} of {name} is the system's; only the first one can be")
    return turns


def ground_truth(value: Any, column: str) -> Any:
    """Return the gold answer in a cell of verl's column `reward_model`. Raises ValueError if there is none."""
    if isinstance(value, str):
        value = _from_json(value, shown(column))
    if not isinstance(value, Mapping) or "ground_truth" not in value:
        raise ValueError(f"{shown(column)} holds no 'ground_truth'; name the answers' column in columns")
    return value["ground_truth"]


def _from_json(text: str, name: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is not JSON ({error}); write it with json.dumps") from None


def _turn(turn: Any, name: str) -> Mapping[str, str]:
    if not isinstance(turn, Mapping) or "role" not in turn or "content" not in turn:
        raise ValueError(f"{name} is not an object with 'role' and 'content'")
    role, content = turn["role"], turn["content"]
    if role not in _ROLES:
        raise ValueError(f"{name} has the role {shown(role)}; the roles are {', '.join(_ROLES)}")
    if turn.get("tool_calls"):
        raise ValueError(f"{name} calls a tool; only text can be asked")
    if isinstance(content, list):
        content = "".join(_part(part, name) for part in content)
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"{name} has no text")
    return {"role": role, "content": content}


def _part(part: Any, name: str) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else json_kind(part)
    if kind != "text":
        raise ValueError(f"{name} holds a part of type {shown(kind)}; only text can be asked")
    text: Any = part.get("text")
    return text if isinstance(text, str) else ""
