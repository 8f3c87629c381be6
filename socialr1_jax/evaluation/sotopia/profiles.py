"""Scenarios, agents and pairs from SOTOPIA's files, and the parts of them visible to each side."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any, Literal, NamedTuple

from socialr1_jax.evaluation.task import BenchmarkError, Data, Remark
from socialr1_jax.evaluation.tasks.reading import Reading, field, read_json, text, texts
from socialr1_jax.runtime.terminal import counted

SetName = Literal["all", "hard", "cooperative", "competitive"]
SETS: tuple[SetName, ...] = ("all", "hard", "cooperative", "competitive")
RELATIONSHIPS = ("stranger", "know by name", "acquaintance", "friend", "romantic relationship", "family member")
PAIRS = 450  # published pairs of agents
ENVIRONMENT = "environment"  # viewer that sees everything: the judge

_FILES = (
    "environment_profiles.jsonl",
    "agent_profiles.jsonl",
    "relationship_profiles.jsonl",
    "env_agent_combo_storages.jsonl",
    "used_env.json",
)
_CODENAMES = {"cooperative": "mutual", "competitive": "craigslist"}  # set -> word in its scenarios' codenames
GENDERS = {"Man": "male", "Woman": "female", "Nonbinary": "nonbinary"}
_TAG = re.compile(r"<(/?)(root|p|extra_info|strategy_hint|clarification_hint)\b([^<>]*)>")
_VIEWER = re.compile(r"""viewer\s*=\s*["']([^"']*)["']""")


@dataclass(frozen=True, kw_only=True)
class Agent:
    """A character; `personality` includes values and decision style."""

    id: str
    name: str
    age: int
    occupation: str
    gender: str
    pronouns: str
    public_info: str
    personality: str
    secret: str

    @property
    def first_name(self) -> str:
        return self.name.partition(" ")[0]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """A situation with a goal for each of two agents. relationship: index in `RELATIONSHIPS`; hard: is in that set."""

    id: str
    codename: str
    text: str
    goals: tuple[str, str]
    relationship: int
    hard: bool = False

    def is_in(self, name: SetName) -> bool:
        """Return whether the scenario is in a set; its codename decides for the cooperative and competitive sets."""
        if name in _CODENAMES:
            return _CODENAMES[name] in self.codename.lower()
        return name == "all" or self.hard


class AgentPair(NamedTuple):
    """Two agents in a scenario; the first agent has the first goal and the first turn."""

    scenario: Scenario
    agents: tuple[Agent, Agent]


def load(folder: Path) -> Data:
    """Load the pairs from the five files. Raises BenchmarkError naming the file, the row and its fault."""
    reading = Reading(folder)
    paths = {name: reading.find(name) for name in _FILES}
    rows = {name: reading.rows(path) for name, path in paths.items() if path.suffix == ".jsonl"}
    used_file = paths["used_env.json"]
    used = read_json(used_file)
    hard, wanted = (frozenset(texts(used, name, str(used_file))) for name in ("sotopia_hard_env", "sotopia_env"))
    given = (_scenario(where, row, hard) for where, row in rows["environment_profiles.jsonl"])
    scenarios = {scenario.id: scenario for scenario in given}
    agents = {agent.id: agent for agent in starmap(_agent, rows["agent_profiles.jsonl"])}
    relationships = {
        (text(row, "agent1_id", where), text(row, "agent2_id", where)): _relationship(row, where)
        for where, row in rows["relationship_profiles.jsonl"]
    }
    pairs = []
    for where, row in rows["env_agent_combo_storages.jsonl"]:
        ids = texts(row, "agent_ids", where)
        if (scenario := scenarios.get(text(row, "env_id", where))) is None:
            raise BenchmarkError(f"{where}: no scenario {row['env_id']}")
        if len(ids) != 2 or ids[0] == ids[1] or not agents.keys() >= set(ids):
            raise BenchmarkError(f"{where}: 'agent_ids' {ids} are not two of the agents")
        pairs.append(AgentPair(scenario, (agents[ids[0]], agents[ids[1]])))
    if wanted != scenarios.keys() or not hard <= wanted:
        raise BenchmarkError(f"{used_file}: its scenarios are not those of environment_profiles.jsonl")
    reading.count(len(pairs), PAIRS, "pairs of agents")
    data = reading.data(pairs)
    return replace(data, remarks=data.remarks + _contradictions(pairs, relationships))


def rendered(raw: str, viewer: str) -> str:
    """Return the `visible` part of a text without outer white space."""
    return visible(raw, viewer).strip()


def visible(raw: str, viewer: str) -> str:
    """Strip a text's tags and the parts for other viewers ("agent_0", "agent_1", `ENVIRONMENT`).

    Only the benchmark's own tags are stripped.
    """
    shown: list[str] = []
    hidden: list[bool] = []  # stack of open tags: is it for another viewer?
    at = 0
    for tag in _TAG.finditer(raw):
        if not any(hidden):
            shown.append(raw[at : tag.start()])
        at = tag.end()
        if tag[1]:
            if hidden:
                hidden.pop()
        else:
            named = _VIEWER.search(tag[3])
            hidden.append(named is not None and viewer not in (named[1], ENVIRONMENT))
    if not any(hidden):
        shown.append(raw[at:])
    return "".join(shown)


def seen_of(agent: Agent, relationship: int) -> str:
    """Return the part of a profile visible to the other agent: nothing to a stranger, and never the secret."""
    if relationship == 0:
        return ""
    if relationship == 1:
        return agent.name
    gender = GENDERS.get(agent.gender, "")
    facts = " ".join(f"{agent.age}-year-old {gender} {agent.occupation.lower()}".split())
    known = f"{agent.name} is a {facts}. {agent.pronouns} pronouns. {agent.public_info}"
    return known if relationship == 2 else f"{known} Personality and values: {agent.personality}"


def own_profile(agent: Agent) -> str:
    """Return an agent's full profile, visible to itself and the judge."""
    return f"{seen_of(agent, len(RELATIONSHIPS) - 1)} Secret: {agent.secret}"


def _scenario(where: str, row: Any, hard: Collection[str]) -> Scenario:
    goals = texts(row, "agent_goals", where)
    if len(goals) != 2:
        raise BenchmarkError(f"{where}: {len(goals)} goals instead of 2")
    return Scenario(
        id=text(row, "env_id", where),
        codename=text(row, "codename", where),
        text=text(row, "scenario", where),
        goals=(goals[0], goals[1]),
        relationship=_relationship(row, where),
        hard=row["env_id"] in hard,
    )


def _agent(where: str, row: Any) -> Agent:
    return Agent(
        id=text(row, "agent_id", where),
        name=f"{text(row, 'first_name', where)} {text(row, 'last_name', where)}",
        age=field(row, "age", int, where),
        occupation=text(row, "occupation", where),
        gender=text(row, "gender", where),
        pronouns=text(row, "gender_pronoun", where),
        public_info=text(row, "public_info", where),
        personality=text(row, "personality_and_values", where),
        secret=text(row, "secret", where),
    )


def _relationship(row: Any, where: str) -> int:
    level = str(field(row, "relationship", (str, int), where))
    if level not in map(str, range(len(RELATIONSHIPS))):
        raise BenchmarkError(f"{where}: 'relationship' {level!r} is not 0 to {len(RELATIONSHIPS) - 1}")
    return int(level)


def _contradictions(pairs: list[AgentPair], relationships: Mapping[tuple[str, str], int]) -> tuple[Remark, ...]:
    """Return a remark on pairs whose relationship in the file contradicts their scenario's, which takes precedence."""
    count = 0
    for scenario, (first, second) in pairs:
        levels = {relationships.get(ids) for ids in ((first.id, second.id), (second.id, first.id))} - {None}
        count += bool(levels) and scenario.relationship not in levels
    if not count:
        return ()
    what = "with another relationship than their scenario; what they see follows the scenario"
    return (Remark(f"{counted(count, 'pair')} {what}"),)
