"""An episode as an immutable state: whose turn it is, the prompt of that turn, and when the episode is over.

This module does no I/O or sampling. Turns count from 0, as in the agents' prompts, and the first agent has the even
ones; in the judge's prompt they count from 1.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Self

from socialr1_jax.evaluation.request import Messages, Wording, chat
from socialr1_jax.evaluation.sotopia.official import agent_prompt
from socialr1_jax.evaluation.sotopia.profiles import (
    ENVIRONMENT,
    Agent,
    AgentPair,
    Scenario,
    SetName,
    own_profile,
    rendered,
    seen_of,
)
from socialr1_jax.evaluation.task import Data
from socialr1_jax.rewards.rubric import harmless, without_chat_tokens

ACTIONS = ("none", "speak", "non-verbal communication", "action", "leave")
MOST_TURNS = 20
MOST_STALE = 2  # consecutive "none" actions allowed; one more ends the episode
PROMPTS = "2"  # version of the prompts, part of the run id
Rules = Literal["0.1.4", "head"]  # the authors' tag, or their newest commit

_MOST_READ = 200_000  # characters of a reply searched for objects
_MOST_STARTS = 100  # opening braces tried per reply
_DECODER = json.JSONDecoder(strict=False)  # allows line breaks inside strings
_KEPT = 2_000  # characters stored of an unparsable reply
_ACTED = {"none": "did nothing", "speak": 'said: "{}"', "leave": "left the conversation"}  # in the history
_HOW_TO_ACT = (
    "Your kinds of action are: none (do nothing), speak (say something), non-verbal communication (a gesture or an "
    "expression), action (do something physical), leave (end the conversation for yourself). You can leave when your "
    "goal is reached, when the conversation makes you uncomfortable, when it no longer interests you, or for any other "
    "reason.\n"
    "Reply with one JSON object and nothing else:\n"
    '{"action_type": "<kind of action>", "argument": "<what you say, how you gesture, or what you do; empty for none '
    'and leave>"}'
)


class Utterance(NamedTuple):
    """The reply of a player or a judge.

    text: without thoughts; "" if they did not end. truncated: cut at the token limit, or the prompt was too long.
    error: why there is no reply, after the speaker's own retries; "" if there is one.
    """

    text: str
    truncated: bool = False
    error: str = ""


class Turn(NamedTuple):
    """An action of agent 0 or 1. `reply`: start of the raw text if it held no action (`parsed` is False)."""

    agent: int
    action: str
    argument: str
    parsed: bool = True
    truncated: bool = False
    reply: str = ""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that determines an episode. tested: index of the agent that the tested model plays.

    rules: "0.1.4": the waiting agent counts as idle, so one idle turn of the second agent ends the episode; the visible
    part of the other agent's profile depends on the relationship. "head": three idle turns in a row end it; the other
    agent's profile is hidden. wording: the authors' prompts of that version; None for our own.
    """

    pair: AgentPair
    tested: int
    seed: int = 0
    rules: Rules = "0.1.4"
    wording: Wording | None = field(default=None, compare=False)

    @property
    def scenario(self) -> Scenario:
        return self.pair.scenario

    @property
    def agents(self) -> tuple[Agent, Agent]:
        return self.pair.agents

    @property
    def key(self) -> str:
        """Return the episode's key in files, stable across runs."""
        ids = "-".join(agent.id for agent in self.agents)
        return f"{self.scenario.id}-{ids}-{self.tested}-{self.seed}"


def episodes_of(data: Data, name: SetName, seeds: int = 1, rules: Rules = "0.1.4") -> list[Setting]:
    """Return every pair of a set, with the tested model as first and as second agent, for each of `seeds` seeds."""
    return [
        Setting(pair=pair, tested=tested, seed=seed, rules=rules, wording=data.wording)
        for seed in range(seeds)
        for pair in data.items
        if pair.scenario.is_in(name)
        for tested in (0, 1)
    ]


@dataclass(frozen=True)
class Episode:
    """An episode after its first `turns`."""

    setting: Setting
    turns: tuple[Turn, ...] = ()

    @property
    def ended(self) -> str:
        """Return why the episode is over: left, stale or turn_limit; "" if it is not."""
        if self.turns and self.turns[-1].action == "leave":
            return "left"
        recent = self.turns[-MOST_STALE - 1 :]
        actions = [turn.action for turn in recent]
        if self.setting.rules == "0.1.4":  # every turn counts two actions: the waiting agent's is "none"
            actions = [turn.action if turn.agent == agent else "none" for turn in recent for agent in (0, 1)]
        if actions[-MOST_STALE - 1 :] == ["none"] * (MOST_STALE + 1):
            return "stale"
        return "turn_limit" if len(self.turns) >= MOST_TURNS else ""

    @property
    def agent(self) -> int:
        return len(self.turns) % 2

    @property
    def turn_key(self) -> str:
        return f"{self.setting.key}#{len(self.turns)}"

    def messages(self) -> Messages:
        """Return the next agent's prompt: its profile and goal, the visible part of the other profile, the history."""
        setting, me = self.setting, self.agent
        if setting.wording:
            return chat(agent_prompt(setting.wording, setting, self.turns, ACTIONS))
        agents = setting.agents
        relationship = setting.scenario.relationship if setting.rules == "0.1.4" else 0  # 0: strangers
        name = agents[me].name
        seen = [own_profile(agent) if i == me else seen_of(agent, relationship) for i, agent in enumerate(agents)]
        goals = [rendered(goal, f"agent_{i}") if i == me else "" for i, goal in enumerate(setting.scenario.goals)]
        return chat(
            f"You are {name}. Act and speak as {name} would, and try to reach {name}'s goal in a way that fits "
            f"{name}'s character. Nobody else can see this goal. Keep the conversation natural and realistic; do not "
            "repeat what was said before.\n\n"
            f"{_context(setting, seen, goals, f'agent_{me}')}\n\n"
            f"The conversation so far:\n{self._history(without_chat_tokens, 0) or '(It begins with you.)'}\n\n"
            f"You are {name}, and it is turn #{len(self.turns)}. {_HOW_TO_ACT}"
        )

    def seed(self) -> int:
        """Return the seed of the next reply, 0 to 2**31 - 1."""
        return seed_of(self.turn_key)

    def after(self, reply: Utterance) -> Self:
        """Return the episode one turn later; a reply without an action counts as "none", with `parsed` False.

        Raises ValueError if the episode is over.
        """
        if self.ended:
            raise ValueError(f"episode {self.setting.key} is over: {self.ended}")
        action = parse_action(reply.text)
        if action is None:
            turn = Turn(self.agent, "none", "", False, reply.truncated, _clean(reply.text[:_KEPT]))
        else:
            turn = Turn(self.agent, *action, True, reply.truncated)
        return replace(self, turns=(*self.turns, turn))

    def transcript(self) -> str:
        """Return the transcript for the judge: both profiles and goals, and all turns except idle ones.

        The players' words are sanitised by `harmless`.
        """
        seen = [own_profile(agent) for agent in self.setting.agents]
        goals = [rendered(goal, ENVIRONMENT) for goal in self.setting.scenario.goals]
        history = self._history(harmless, 1, idle=False) or "(Nothing was said or done.)"
        return f"{_context(self.setting, seen, goals, ENVIRONMENT)}\n\nThe conversation:\n{history}"

    def row(self, run: str) -> dict[str, Any]:
        setting = self.setting
        return {
            "key": setting.key,
            "run": run,
            "env_id": setting.scenario.id,
            "codename": setting.scenario.codename,
            "agent_ids": [agent.id for agent in setting.agents],
            "agents": [agent.name for agent in setting.agents],
            "tested": setting.tested,
            "seed": setting.seed,
            "rules": setting.rules,
            "ended": self.ended,
            "turns": [turn._asdict() for turn in self.turns],
        }

    @classmethod
    def from_row(cls, setting: Setting, row: Mapping[str, Any]) -> Self:
        return cls(setting, tuple(Turn(**turn) for turn in row["turns"]))

    def _history(self, clean: Callable[[str], str], first: int, idle: bool = True) -> str:
        lines = []
        for number, turn in enumerate(self.turns, first):
            if idle or turn.action != "none":
                name = self.setting.agents[turn.agent].name
                acted = _ACTED.get(turn.action, f"[{turn.action}] {{}}").format(clean(turn.argument))
                lines.append(f"Turn #{number}: {name} {acted}")
        return "\n".join(lines)


def parse_action(text: str) -> tuple[str, str] | None:
    """Return (action, argument) from the first JSON object in a reply that is an action; None if there is none.

    Code fences, surrounding text, extra fields and the case of the action are ignored. The argument must be a string;
    only none and leave may omit it or set it to null. Line breaks in it become spaces, so it cannot forge a turn.
    """
    for *_, value in objects_in(text):
        if not isinstance(kind := value.get("action_type"), str):
            continue
        kind, argument = kind.strip().lower(), value.get("argument")
        if argument is None and kind in ("none", "leave"):
            argument = ""
        if kind in ACTIONS and isinstance(argument, str):
            return kind, " ".join(_clean(argument).split())
    return None


def objects_in(text: str, decoder: json.JSONDecoder = _DECODER) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Yield (start, end, object) for the top-level JSON objects in a text.

    Only the first 200,000 characters are searched. A ValueError of the decoder means that no object starts there. If an
    object is laid out like its schema, its "properties" are used, as in the authors' parser.
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


def seed_of(key: str) -> int:
    """Derive a seed from a key, 0 to 2**31 - 1."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) >> 1


def run_id(identity: Mapping[str, Any]) -> str:
    """Hash the identity of the players (or the judge) and the version of the prompts to the run's id in files."""
    return hashlib.sha256(json.dumps([PROMPTS, identity], sort_keys=True).encode()).hexdigest()[:16]


def _clean(text: str) -> str:
    """Replace unpaired surrogates, which tokenizers reject."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _context(setting: Setting, seen: list[str], goals: list[str], viewer: str) -> str:
    first, second = (agent.name for agent in setting.agents)
    return (
        "The context of this interaction:\n"
        f"Scenario: {rendered(setting.scenario.text, viewer)}\n"
        f"Participants: {first} and {second}\n"
        f"{first}'s background: {seen[0] or 'Unknown'}\n"
        f"{second}'s background: {seen[1] or 'Unknown'}\n"
        f"{first}'s goal: {goals[0] or 'Unknown'}\n"
        f"{second}'s goal: {goals[1] or 'Unknown'}"
    )
