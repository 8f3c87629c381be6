"""One episode as a state that replies lead on from: whose turn it is, what it is asked, and when it is over.

Nothing here waits, draws or writes. Turns count from 0, as in the agents' prompts; the first agent has the even ones.
The judge reads them counted from 1.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from socialr1_jax.evaluation.request import Messages, Wording
from socialr1_jax.evaluation.sotopia.official import agent_prompt
from socialr1_jax.evaluation.sotopia.profiles import (
    ENVIRONMENT,
    Agent,
    AgentPair,
    Benchmark,
    Scenario,
    SetName,
    own_profile,
    rendered,
    seen_of,
)
from socialr1_jax.rewards.rubric import harmless, without_chat_tokens

ACTIONS = ("none", "speak", "non-verbal communication", "action", "leave")
MOST_TURNS = 20
MOST_STALE = 2  # actions in a row that are "none"; one more ends the episode
PROMPTS = "2"  # version of the prompts, part of every run's identity
Rules = Literal["0.1.4", "head"]  # the authors' tag, or their newest commit

_MOST_READ = 200_000  # characters of a reply that objects are looked for in
_MOST_STARTS = 100  # braces where an object may begin
_DECODER = json.JSONDecoder(strict=False)  # takes line breaks within texts
_KEPT = 2_000  # characters of a reply that could not be read
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

    text: without thoughts, "" where they did not end. truncated: cut at the limit of tokens, or the prompt was too long
    to be asked. error: why there is no reply at all, after the speaker's own retries; "" else.
    """

    text: str
    truncated: bool = False
    error: str = ""


class Turn(NamedTuple):
    """agent: 0 or 1. parsed: the reply held an action. reply: what was said instead where it did not, cut."""

    agent: int
    action: str
    argument: str
    parsed: bool = True
    truncated: bool = False
    reply: str = ""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Everything that determines an episode. tested: which of the two agents the tested model plays.

    rules: "0.1.4": who waits counts as idle, so that one idle turn of the second agent ends the episode; what is seen
    of the other depends on the relationship. "head": three idle turns in a row end it; nothing is seen of the other.
    wording: of the authors' prompts of that version; None for our own.
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
        """Names the episode in files; the same in every run."""
        ids = "-".join(agent.id for agent in self.agents)
        return f"{self.scenario.id}-{ids}-{self.tested}-{self.seed}"


def episodes_of(benchmark: Benchmark, name: SetName, seeds: int = 1, rules: Rules = "0.1.4") -> list[Setting]:
    """Every pair of a set, with the tested model as the first and as the second agent, `seeds` times."""
    return [
        Setting(pair=pair, tested=tested, seed=seed, rules=rules, wording=benchmark.wording)
        for seed in range(seeds)
        for pair in benchmark.pairs_of(name)
        for tested in (0, 1)
    ]


@dataclass(frozen=True)
class Episode:
    """An episode after some turns."""

    setting: Setting
    turns: tuple[Turn, ...] = ()

    @property
    def ended(self) -> str:
        """Return why it is over: left, stale or turn_limit; "" while it is not."""
        if self.turns and self.turns[-1].action == "leave":
            return "left"  # of two agents one is no longer active
        recent = self.turns[-MOST_STALE - 1 :]
        actions = [turn.action for turn in recent]
        if self.setting.rules == "0.1.4":  # both agents act in every turn, the first one first, and who waits is idle
            actions = [turn.action if turn.agent == agent else "none" for turn in recent for agent in (0, 1)]
        if actions[-MOST_STALE - 1 :] == ["none"] * (MOST_STALE + 1):
            return "stale"
        return "turn_limit" if len(self.turns) >= MOST_TURNS else ""

    @property
    def agent(self) -> int:
        """Whose turn it is."""
        return len(self.turns) % 2

    @property
    def turn_key(self) -> str:
        """Names the turn to come."""
        return f"{self.setting.key}#{len(self.turns)}"

    def messages(self) -> Messages:
        """Return the prompt of the agent whose turn it is: profile, goal, the visible part of the other, history."""
        setting, me = self.setting, self.agent
        if setting.wording:
            asked = agent_prompt(setting.wording, setting, self.turns, ACTIONS, without_chat_tokens)
            return ({"role": "user", "content": asked},)
        agents = setting.agents
        relationship = setting.scenario.relationship if setting.rules == "0.1.4" else 0  # as between strangers
        name = agents[me].name
        seen = [own_profile(one) if i == me else seen_of(one, relationship) for i, one in enumerate(agents)]
        goals = [rendered(goal, f"agent_{i}") if i == me else "" for i, goal in enumerate(setting.scenario.goals)]
        text = (
            f"You are {name}. Act and speak as {name} would, and try to reach {name}'s goal in a way that fits "
            f"{name}'s character. Nobody else can see this goal. Keep the conversation natural and realistic; do not "
            "repeat what was said before.\n\n"
            f"{_context(setting, seen, goals, f'agent_{me}')}\n\n"
            f"The conversation so far:\n{self._history(without_chat_tokens, 0) or '(It begins with you.)'}\n\n"
            f"You are {name}, and it is turn #{len(self.turns)}. {_HOW_TO_ACT}"
        )
        return ({"role": "user", "content": text},)

    def seed(self) -> int:
        """Return the seed of the next reply, 0 to 2**31 - 1."""
        return seed_of(self.turn_key)

    def after(self, reply: Utterance) -> Episode:
        """The episode one turn later. A reply without an action is "none", and the turn says that it was not parsed.

        Raises ValueError when the episode is over.
        """
        if self.ended:
            raise ValueError(f"episode {self.setting.key} is over: {self.ended}")
        found = parse_action(reply.text)
        if found is None:
            turn = Turn(self.agent, "none", "", False, reply.truncated, _clean(reply.text[:_KEPT]))
        else:
            turn = Turn(self.agent, *found, True, reply.truncated)
        return replace(self, turns=(*self.turns, turn))

    def transcript(self) -> str:
        """Return what the judge reads: both profiles and goals, and all turns in which something was done.

        What the players said in them is `harmless`.
        """
        seen = [own_profile(agent) for agent in self.setting.agents]
        goals = [rendered(goal, ENVIRONMENT) for goal in self.setting.scenario.goals]
        history = self._history(harmless, 1, idle=False) or "(Nothing was said or done.)"
        return f"{_context(self.setting, seen, goals, ENVIRONMENT)}\n\nThe conversation:\n{history}"

    def row(self, run: str) -> dict[str, Any]:
        """The episode as a line of the episodes' file."""
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
    def from_row(cls, setting: Setting, row: Mapping[str, Any]) -> Episode:
        """The episode of a line."""
        return cls(setting, tuple(Turn(**turn) for turn in row["turns"]))

    def _history(self, clean: Callable[[str], str], first: int, idle: bool = True) -> str:
        lines = []
        for number, turn in enumerate(self.turns, first):
            if idle or turn.action != "none":
                name = self.setting.agents[turn.agent].name
                lines.append(f"Turn #{number}: {name} {_described(turn.action, clean(turn.argument))}")
        return "\n".join(lines)


def parse_action(text: str) -> tuple[str, str] | None:
    """(action, argument) of a reply: of the first JSON object in it that is an action; None if there is none.

    Code fences, words around the object, further fields and the case of the kind do no harm. An argument is a text,
    and may be absent or null for none and leave alone. Line breaks in it become spaces, so that no turn can be forged.
    """
    return next(filter(None, (_action(value) for *_, value in objects_in(text))), None)


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


def seed_of(key: str) -> int:
    """Return the seed that a key gives, 0 to 2**31 - 1."""
    return int(hashlib.sha256(key.encode()).hexdigest()[:8], 16) >> 1


def run_id(identity: Mapping[str, Any]) -> str:
    """Names a run in files: who plays (or judges) and how, JSON. Other prompts or another identity give another one."""
    return hashlib.sha256(json.dumps([PROMPTS, identity], sort_keys=True).encode()).hexdigest()[:16]


def _action(value: dict[str, Any]) -> tuple[str, str] | None:
    if not isinstance(kind := value.get("action_type"), str):
        return None
    kind, argument = kind.strip().lower(), value.get("argument")
    if argument is None and kind in ("none", "leave"):
        argument = ""
    if kind not in ACTIONS or not isinstance(argument, str):
        return None
    return kind, " ".join(_clean(argument).split())


def _clean(text: str) -> str:
    """Without halves of surrogate pairs, which no tokenizer takes."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _described(action: str, argument: str) -> str:
    match action:
        case "none":
            return "did nothing"
        case "speak":
            return f'said: "{argument}"'
        case "leave":
            return "left the conversation"
        case _:
            return f"[{action}] {argument}"


def _context(setting: Setting, seen: list[str], goals: list[str], viewer: str) -> str:
    first, second = (agent.name for agent in setting.agents)
    lines = [
        "The context of this interaction:",
        f"Scenario: {rendered(setting.scenario.text, viewer)}",
        f"Participants: {first} and {second}",
        *(
            f"{agent.name}'s background: {known or 'Unknown'}"
            for agent, known in zip(setting.agents, seen, strict=True)
        ),
        *(f"{agent.name}'s goal: {goal or 'Unknown'}" for agent, goal in zip(setting.agents, goals, strict=True)),
    ]
    return "\n".join(lines)
