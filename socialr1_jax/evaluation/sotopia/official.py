"""Prompts in the authors' wording: the texts of prompts.json, filled in like the authors' code does.

Their prompts contain a JSON Schema of the reply that pydantic generates; this module builds the same schema from the
same descriptions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from socialr1_jax.evaluation.request import Wording
from socialr1_jax.evaluation.sotopia.profiles import ENVIRONMENT, GENDERS, Agent, visible
from socialr1_jax.rewards.rubric import harmless, without_chat_tokens

if TYPE_CHECKING:
    from socialr1_jax.evaluation.sotopia.episode import Rules, Setting, Turn
    from socialr1_jax.evaluation.sotopia.judging import Dimension

AGENTS = ("agent_1", "agent_2")  # names in the judge's reply: first and second agent
_PROFILES = ("stranger", "name", "acquaintance", "friend", "friend", "friend")  # indexed by relationship
_UNKNOWN = "Unknown"
_DIMENSIONS = "SotopiaDimensions"
_REF = {"$ref": f"#/$defs/{_DIMENSIONS}"}
_KINDS = {(0, 10): "Positive", (-10, 0): "Negative", (-5, 5): "Bidirectional"}  # of scores, by (low, high)


def rules_of(wording: Wording) -> Rules:
    """Return the authors' version that the texts are from."""
    return "head" if "participants" in wording.texts else "0.1.4"


def agent_prompt(wording: Wording, setting: Setting, turns: tuple[Turn, ...], actions: tuple[str, ...]) -> str:
    """Return the prompt of the agent whose turn follows `turns`."""
    me = len(turns) % 2
    seen = [wording.text("begins", context=_context(wording, setting, me))]
    for number, turn in enumerate(turns):
        acted = "" if turn.action == "none" else _acted(wording, setting, turn, without_chat_tokens)
        seen.append(wording.text("seen", number=str(number), acted=acted))
    return _unindented(
        wording.text(
            "turn",
            agent=setting.agents[me].name,
            history="\n".join(seen),
            turn_number=str(len(turns)),
            action_list=" ".join(actions),
            format_instructions=json.dumps(_action_schema(wording, actions)),
        )
    )


def judge_prompt(
    wording: Wording, setting: Setting, turns: tuple[Turn, ...], dimensions: Mapping[str, Dimension]
) -> str:
    """Return the judge's prompt without idle turns.

    The authors' code also drops utterances that contain their phrase for doing nothing, so an agent could hide a turn.
    Here they are kept.
    """
    lines = [_context(wording, setting, None)]
    for number, turn in enumerate(turns, 1):
        lines.append(wording.text("number", number=str(number)))
        if turn.action != "none":
            lines.append(_acted(wording, setting, turn, harmless))
    agents = ", ".join(f'"{agent}"' for agent in AGENTS)
    return _unindented(
        wording.text(
            "judge",
            history="\n".join(lines),
            agent_instruction=wording.text("agents", count="2", agents=agents) if rules_of(wording) == "head" else "",
            format_instructions=json.dumps(judge_schema(wording, dimensions)),
        )
    )


def judge_schema(wording: Wording, dimensions: Mapping[str, Dimension]) -> dict[str, Any]:
    """Return the JSON Schema of a verdict in the authors' judge prompt."""
    head = rules_of(wording) == "head"
    scores: dict[str, Any] = {}
    for name, dimension in dimensions.items():
        asks = {"description": wording.text(f"asks_{name}")}
        if head:
            scores[name] = {"$ref": f"#/$defs/{_KINDS[dimension.low, dimension.high]}ReasoningScore", **asks}
        else:
            pair = {"maxItems": 2, "minItems": 2, "prefixItems": [{"type": "string"}, {"type": "integer"}]}
            scores[name] = {**asks, **pair, "title": _title(name), "type": "array"}
    of_agent = object_schema(scores, _DIMENSIONS, closed=head, description=wording.text("dimensions"))
    if not head:
        both = object_schema({f"{name}_evaluation": _REF for name in AGENTS}, f"EvaluationForTwoAgents[{_DIMENSIONS}]")
        return {"$defs": {_DIMENSIONS: of_agent}, **both}
    defs = {}
    for kind in sorted(_KINDS.values()):
        fields = {
            name: {"description": wording.text(f"{name}_{kind}"), "title": _title(name), "type": of}
            for name, of in (("reasoning", "string"), ("score", "integer"))
        }
        defs[f"{kind}ReasoningScore"] = object_schema(fields, f"{kind}ReasoningScore", closed=True)
    evaluations = {"additionalProperties": _REF, "title": "Evaluations", "type": "object"}
    whole = object_schema({"evaluations": evaluations}, f"EvaluationForAgents[{_DIMENSIONS}]", closed=True)
    return {"$defs": defs | {_DIMENSIONS: of_agent}, **whole}


def _action_schema(wording: Wording, actions: tuple[str, ...]) -> dict[str, Any]:
    head = rules_of(wording) == "head"
    kinds: dict[str, dict[str, Any]] = {
        "action_type": {"enum": list(actions), "title": "Action Type", "type": "string"},
        "argument": {"title": "Argument", "type": "string"},
    }
    if head:
        kinds["to"] = {"items": {"type": "string"}, "title": "To", "type": "array"}
    fields = {name: {"description": wording.text(name), **kind} for name, kind in kinds.items()}
    return object_schema(fields, "AgentAction", closed=head)


def object_schema(
    properties: Mapping[str, Any], title: str = "", *, closed: bool = False, description: str = ""
) -> dict[str, Any]:
    """Return the JSON Schema of an object with its keys in pydantic's order; `closed`: it has no other properties."""
    return {
        **({"additionalProperties": False} if closed else {}),
        **({"description": description} if description else {}),
        "properties": dict(properties),
        "required": list(properties),
        **({"title": title} if title else {}),
        "type": "object",
    }


def _title(name: str) -> str:
    return name.replace("_", " ").title()


def _context(wording: Wording, setting: Setting, viewer: int | None) -> str:
    """Return the scenario, profiles and goals visible to an agent, or to the judge (None)."""
    name = ENVIRONMENT if viewer is None else f"agent_{viewer}"
    head = rules_of(wording) == "head"
    names = [agent.name for agent in setting.agents]
    scenario = visible(setting.scenario.text, name)
    goals = [visible(goal, name) if viewer in (None, i) else _UNKNOWN for i, goal in enumerate(setting.scenario.goals)]
    seen = [
        (visible(_profile(wording, setting, i), name) if viewer in (None, i) or not head else "") or _UNKNOWN
        for i in range(2)
    ]
    if not head:
        values = dict(zip(("first", "second", "background_1", "background_2"), (*names, *seen), strict=True))
        return _unindented(wording.text("context", scenario=scenario, goal_1=goals[0], goal_2=goals[1], **values))
    backgrounds = (wording.text("background", name=who, background=own) for who, own in zip(names, seen, strict=True))
    wanted = (wording.text("goal", name=who, goal=goal) for who, goal in zip(names, goals, strict=True))
    return _unindented(
        wording.text(
            "context",
            scenario=scenario,
            participants=wording.text("participants", first=names[0], second=names[1]),
            backgrounds="".join(backgrounds).strip(),
            goals="".join(wanted).strip(),
        )
    )


def _profile(wording: Wording, setting: Setting, number: int) -> str:
    """Return a profile, with the authors' tags around text that only the agent itself may see."""
    agent: Agent = setting.agents[number]
    return wording.text(
        f"profile_{_PROFILES[setting.scenario.relationship]}",
        agent=str(number),
        first_name=agent.first_name,
        last_name=agent.name.partition(" ")[2],
        age=str(agent.age),
        gender=GENDERS.get(agent.gender, ""),
        occupation=agent.occupation.lower(),
        pronouns=agent.pronouns,
        public_info=agent.public_info,
        personality=agent.personality,
        secret=agent.secret,
    )


def _acted(wording: Wording, setting: Setting, turn: Turn, clean: Callable[[str], str]) -> str:
    acted = wording.text(turn.action, kind=turn.action, argument=clean(turn.argument))
    if rules_of(wording) == "head":
        acted = wording.text("acted", to="", acted=acted)
    return f"{setting.agents[turn.agent].name} {acted}"


def _unindented(text: str) -> str:
    return re.sub("\n +", "\n", text).strip()
