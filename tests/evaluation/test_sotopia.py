"""SOTOPIA's scenarios and episodes: what each side sees, how replies are read, and when an episode is over."""

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from socialr1_jax.evaluation.sotopia.episode import (
    ACTIONS,
    Episode,
    Setting,
    Turn,
    Utterance,
    episodes_of,
    parse_action,
    run_id,
)
from socialr1_jax.evaluation.sotopia.play import is_episode
from socialr1_jax.evaluation.sotopia.profiles import (
    ENVIRONMENT,
    SETS,
    Agent,
    AgentPair,
    Scenario,
    load,
    own_profile,
    rendered,
    seen_of,
)
from socialr1_jax.evaluation.task import BenchmarkError

REAL = Path(__file__).resolve().parents[3] / "shared" / "benchmarks" / "sotopia"
real = pytest.mark.skipif(not REAL.exists(), reason="no benchmark files here")


def agent(name, **more):
    words = {
        "id": name.lower(),
        "name": f"{name} Stone",
        "age": 41,
        "occupation": "Night Porter",
        "gender": "Woman",
        "pronouns": "She/her",
        "public_info": f"{name} keeps bees.",
        "personality": f"{name} is blunt.",
        "secret": f"{name} owes a debt.",
    }
    return Agent(**(words | more))


def setting(relationship=3, tested=0, seed=0, number=0, rules="0.1.4", **more):
    words = {
        "id": f"s{number}",
        "codename": f"code{number}",
        "text": "They share a taxi.",
        "goals": ("Get out first", "Pay <extra_info>half, of 30</extra_info> at most"),
        "relationship": relationship,
    }
    pair = AgentPair(Scenario(**(words | more)), (agent("Ada"), agent("Bo")))
    return Setting(pair=pair, tested=tested, seed=seed, rules=rules)


def act(kind="speak", argument="Hello."):
    return Utterance(json.dumps({"action_type": kind, "argument": argument}))


def after(one, *replies):
    episode = Episode(one)
    for reply in replies:
        episode = episode.after(reply)
    return episode


def prompt(episode):
    (message,) = episode.messages()
    assert message["role"] == "user"
    return message["content"]


# ------------------------------------------------------------------------------------------------------- who sees what


@pytest.mark.parametrize(
    ("relationship", "seen"),
    [
        (0, ""),
        (1, "name"),
        (2, "name age job public"),
        (3, "name age job public personality"),
        (4, "name age job public personality"),
        (5, "name age job public personality"),
    ],
)
def test_what_is_seen_of_another(relationship, seen):
    facts = {
        "name": "Bo Stone",
        "age": "41",
        "job": "night porter",
        "public": "keeps bees",
        "personality": "Bo is blunt",
        "secret": "owes a debt",
    }
    text = seen_of(agent("Bo"), relationship)
    assert [name for name, fact in facts.items() if fact in text] == seen.split()
    assert all(fact in own_profile(agent("Bo")) for fact in facts.values())
    asked = prompt(Episode(setting(relationship)))
    background = asked.partition("Bo Stone's background: ")[2].partition("\n")[0]
    assert background == (text or "Unknown")
    assert "Ada owes a debt" in asked
    assert "Bo owes a debt" not in asked
    other = prompt(Episode(setting(relationship, rules="head")))  # there nobody sees anything of the other
    assert other == asked.replace(f"Bo Stone's background: {background}", "Bo Stone's background: Unknown")


def test_profile_in_words():
    assert seen_of(agent("Bo"), 2) == "Bo Stone is a 41-year-old female night porter. She/her pronouns. Bo keeps bees."
    assert "41-year-old night porter" in seen_of(agent("Bo", gender="?"), 2)


def test_each_side_sees_its_own_goal_alone():
    first = prompt(Episode(setting()))
    second = prompt(after(setting(), act()))
    assert "Ada Stone's goal: Get out first\nBo Stone's goal: Unknown" in first
    assert "half, of 30" not in first
    assert "Ada Stone's goal: Unknown\nBo Stone's goal: Pay half, of 30 at most" in second
    assert "Get out first" not in second
    assert "Bo owes a debt" in second
    assert "Ada owes a debt" not in second
    told = after(setting(0), act()).transcript()
    for text in ("Get out first", "Pay half, of 30 at most", "Ada owes a debt", "Bo owes a debt", "Bo is blunt"):
        assert text in told


@pytest.mark.parametrize(
    ("raw", "agent_0", "agent_1", "environment"),
    [
        ("plain & < 3 > 2", "plain & < 3 > 2", "plain & < 3 > 2", "plain & < 3 > 2"),
        ("a <extra_info>b</extra_info>", "a b", "a b", "a b"),
        ("a <extra_info>b <clarification_hint>c</clarification_hint></extra_info> d", "a b c d", "a b c d", "a b c d"),
        ('a <p viewer="environment">b</p> c', "a  c", "a  c", "a b c"),
        ("a <p viewer='agent_0'>b <strategy_hint>c</strategy_hint></p>d", "a b cd", "a d", "a b cd"),
        ('<extra_info viewer="agent_1">b</extra_info>', "", "b", "b"),
        ('<p viewer="agent_1"><p>b</p></p>c', "c", "bc", "bc"),
        ("</p> lost <extra_info>open", "lost open", "lost open", "lost open"),
        ('<p viewer="agent_1">open', "", "open", "open"),
        ("<private> x", "<private> x", "<private> x", "<private> x"),
    ],
)
def test_tags(raw, agent_0, agent_1, environment):
    assert [rendered(raw, viewer) for viewer in ("agent_0", "agent_1", ENVIRONMENT)] == [agent_0, agent_1, environment]


# ---------------------------------------------------------------------------------------------------------- the replies


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"action_type": "speak", "argument": "Hi"}', ("speak", "Hi")),
        ('{"action_type": "speak", "argument": "Hi", "to": ["Bo"]}', ("speak", "Hi")),
        ('```json\n{"action_type": "action", "argument": "nods"}\n```', ("action", "nods")),
        ('Sure! {"action_type": " Leave ", "argument": ""} Bye {', ("leave", "")),
        ('{"action_type": "leave"}', ("leave", "")),
        ('{"action_type": "none", "argument": null}', ("none", "")),
        ('{x} {} {"action_type": "speak", "argument": "{\\"a\\"}"}', ("speak", '{"a"}')),
        ('{"action_type": "speak", "argument": "one\nTurn #3: Ada\\nleft  it"}', ("speak", "one Turn #3: Ada left it")),
        ('{"action_type": "speak", "argument": "\\ud800 é 你"}', ("speak", "? é 你")),
        ('{"action_type": "non-verbal communication", "argument": "smiles"}', ("non-verbal communication", "smiles")),
        ('{"properties": {"action_type": "speak", "argument": "Hi"}, "title": "x"}', ("speak", "Hi")),
        ('{"action_type": "speak"}', None),
        ('{"action_type": "speak", "argument": null}', None),
        ('{"action_type": "speak", "argument": 3}', None),
        ('{"action_type": "leave", "argument": []}', None),
        ('{"action_type": "shout", "argument": "Hi"}', None),
        ('{"action_type": ["speak"], "argument": "Hi"}', None),
        ('{"action_type": 1, "argument": "Hi"}', None),
        ('{"argument": "Hi"}', None),
        ('[{"action_type": "shout"}, 3]', None),
        ('{"action_type": "speak", "argument": "cut', None),
        ("", None),
        ("null", None),
        ("Hello!", None),
        ("NaN", None),
        ("[" * 5000, None),
        ('{"a":' * 50_000, None),
        ("{" * 500_000, None),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_how_a_reply_is_read(text, found):
    assert parse_action(text) == found


# ------------------------------------------------------------------------------------------------------------ the turns


def test_a_transcript_by_hand():
    one = setting(relationship=1, tested=1, rules="head")
    episode = Episode(one)
    assert "(It begins with you.)" in prompt(episode)
    assert "You are Ada Stone, and it is turn #0." in prompt(episode)
    replies = [
        act(),
        act("none", ""),
        act("action", "opens a window"),
        Utterance("Mmh"),
        act("non-verbal communication", "nods"),
    ]
    for number, reply in enumerate(replies):
        assert (episode.ended, episode.agent, len(episode.turns)) == ("", number % 2, number)
        episode = episode.after(reply)
    assert (
        prompt(episode)
        .partition("so far:\n")[2]
        .startswith(
            'Turn #0: Ada Stone said: "Hello."\n'
            "Turn #1: Bo Stone did nothing\n"
            "Turn #2: Ada Stone [action] opens a window\n"
            "Turn #3: Bo Stone did nothing\n"
            "Turn #4: Ada Stone [non-verbal communication] nods\n\n"
            "You are Bo Stone, and it is turn #5."
        )
    )
    episode = episode.after(Utterance('{"action_type": "leave"}', truncated=True))
    assert episode.ended == "left"
    assert episode.transcript().partition("The conversation:\n")[2] == (
        'Turn #1: Ada Stone said: "Hello."\n'
        "Turn #3: Ada Stone [action] opens a window\n"
        "Turn #5: Ada Stone [non-verbal communication] nods\n"
        "Turn #6: Bo Stone left the conversation"
    )
    assert episode.turns[3] == Turn(1, "none", "", parsed=False, reply="Mmh")
    assert episode.turns[5] == Turn(1, "leave", "", truncated=True)
    row = json.loads(json.dumps(episode.row("run")))
    assert is_episode(row)
    assert Episode.from_row(one, row) == episode
    assert (row["key"], row["tested"], row["rules"], row["ended"]) == ("s0-ada-bo-1-0", 1, "head", "left")
    with pytest.raises(ValueError, match="is over: left"):
        episode.after(act())


@pytest.mark.parametrize(
    ("replies", "tag", "head"),
    [
        ([act()], (20, "turn_limit"), (20, "turn_limit")),
        ([Utterance("no JSON")], (2, "stale"), (3, "stale")),
        ([act("none", "")], (2, "stale"), (3, "stale")),
        ([act("leave", "")], (1, "left"), (1, "left")),
        ([act(), act("leave", "")], (2, "left"), (2, "left")),
        ([act(), act("none", "")], (2, "stale"), (20, "turn_limit")),  # the second agent idles once
        ([act("none", ""), act()], (20, "turn_limit"), (20, "turn_limit")),  # the first one always, which is allowed
        ([act("none", ""), act("none", ""), act()], (2, "stale"), (20, "turn_limit")),
        ([act()] * 17 + [Utterance("")] * 3, (18, "stale"), (20, "stale")),
        ([act()] * 18 + [Utterance(""), act()], (20, "turn_limit"), (20, "turn_limit")),
        ([act()] * 19 + [Utterance("")], (20, "stale"), (20, "turn_limit")),
        ([act()] * 19 + [act("leave", "")], (20, "left"), (20, "left")),
    ],
)
def test_when_an_episode_ends(replies, tag, head):
    for rules, ended in (("0.1.4", tag), ("head", head)):
        episode = Episode(setting(rules=rules))
        while not episode.ended:
            episode = episode.after(replies[len(episode.turns) % len(replies)])
        assert (len(episode.turns), episode.ended) == ended, rules


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x, max_size=3), max_leaves=5
)
any_reply = st.one_of(
    st.text(),
    st.sampled_from(["", "{", "null", "[]", '{"action_type": "leave"', "x" * 100_000, '{"action_type":' * 3000]),
    st.fixed_dictionaries({"action_type": json_values, "argument": json_values}).map(json.dumps),
    st.builds(lambda kind, said: act(kind, said).text, st.sampled_from(ACTIONS), st.text()),
)


@settings(max_examples=150, deadline=None)
@example(["\ud800"], True)
@given(st.lists(any_reply, min_size=1, max_size=20), st.booleans())
def test_any_replies_end_within_twenty_turns(replies, truncated):
    episode = Episode(setting())
    while not episode.ended:
        prompt(episode).encode()  # a tokenizer could take it
        assert 0 <= episode.seed() < 2**31
        episode = episode.after(Utterance(replies[len(episode.turns) % len(replies)], truncated))
    assert 1 <= len(episode.turns) <= 20
    episode.transcript().encode()
    row = json.loads(json.dumps(episode.row("run")))
    assert is_episode(row)
    assert Episode.from_row(episode.setting, row) == episode


def test_seeds_and_keys_differ():
    ones = [setting(tested=tested, seed=seed, number=n) for tested in (0, 1) for seed in (0, 1) for n in (0, 1)]
    assert len({one.key for one in ones}) == 8
    episodes = [after(one, *[act()] * turns) for one in ones for turns in range(3)]
    assert len({episode.seed() for episode in episodes}) == len({episode.turn_key for episode in episodes}) == 24
    assert run_id({"a": 1, "b": 2}) == run_id({"b": 2, "a": 1}) != run_id({"a": 2, "b": 2})


# ------------------------------------------------------------------------------------------------------------ the files


def written(folder, **more):
    """Two scenarios, the second one hard, each with the same pair of agents."""
    people = [
        {
            "agent_id": one,
            "first_name": one,
            "last_name": "S",
            "age": 30,
            "occupation": "Cook",
            "gender": "Man",
            "gender_pronoun": "He/him",
            "public_info": "x",
            "personality_and_values": "y",
            "secret": "z",
        }
        for one in ("a", "b")
    ]
    scenarios = [
        {"env_id": one, "codename": name, "scenario": "s", "agent_goals": ["g", "h"], "relationship": "2"}
        for one, name in (("e", "Mutual_1"), ("f", "craigslist_2"))
    ]
    files = {
        "agent_profiles.jsonl": people,
        "environment_profiles.jsonl": scenarios,
        "relationship_profiles.jsonl": [{"agent1_id": "b", "agent2_id": "a", "relationship": "4"}],
        "env_agent_combo_storages.jsonl": [{"env_id": one, "agent_ids": ["a", "b"]} for one in "ef"],
    }
    for name, rows in (files | more).items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "used_env.json").write_text(json.dumps({"sotopia_env": ["e", "f"], "sotopia_hard_env": ["f"]}))
    return folder


def test_files(tmp_path):
    found = load(written(tmp_path))
    assert [(one.scenario.id, one.tested) for one in episodes_of(found, "all")] == [
        ("e", 0),
        ("e", 1),
        ("f", 0),
        ("f", 1),
    ]
    assert [one.key for one in episodes_of(found, "hard", seeds=2)] == [
        "f-a-b-0-0",
        "f-a-b-1-0",
        "f-a-b-0-1",
        "f-a-b-1-1",
    ]
    scenarios = [pair.scenario for pair in found.items]
    assert [[one.id for one in scenarios if one.is_in(name)] for name in SETS] == [["e", "f"], ["f"], ["e"], ["f"]]
    assert {one.rules for one in episodes_of(found, "all", rules="head")} == {"head"}
    assert any("2 pairs with another relationship" in note for note in found.notes)
    assert any("agent_profiles.jsonl is not the published file" in note for note in found.notes)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("environment_profiles.jsonl", {"relationship": "6"}, r"row 2: 'relationship' '6' is not 0 to 5"),
        ("environment_profiles.jsonl", {"agent_goals": ["g"]}, "row 2: 1 goals instead of 2"),
        ("environment_profiles.jsonl", {"env_id": "x"}, "row 2: no scenario f"),
        ("agent_profiles.jsonl", {"age": "old"}, "row 2: 'age' is str instead of int"),
        ("agent_profiles.jsonl", {"secret": " "}, "row 2: 'secret' is empty"),
        ("env_agent_combo_storages.jsonl", {"agent_ids": ["a", "a"]}, "are not two of the agents"),
        ("env_agent_combo_storages.jsonl", {"env_id": "x"}, "row 2: no scenario x"),
    ],
)
def test_wrong_files_are_named(tmp_path, name, row, message):
    rows = [json.loads(line) for line in (written(tmp_path) / name).read_text().splitlines()]
    written(tmp_path, **{name: [rows[0], rows[1] | row]})
    with pytest.raises(BenchmarkError, match=message):
        load(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BenchmarkError, match=f"there is no {name}"):
        load(tmp_path)


def test_scenarios_of_another_benchmark(tmp_path):
    (written(tmp_path) / "used_env.json").write_text('{"sotopia_env": ["e"], "sotopia_hard_env": ["e"]}')
    with pytest.raises(BenchmarkError, match=r"used_env.json: its scenarios are not those of environment_profiles"):
        load(tmp_path)


@real
def test_the_real_files():
    found = load(REAL)
    agents = {agent.id for pair in found.items for agent in pair.agents}
    scenarios = [pair.scenario for pair in found.items]
    assert (len({one.id for one in scenarios}), len(agents), len(scenarios)) == (90, 40, 450)
    assert len({one.id for one in scenarios if one.hard}) == 14
    assert len((REAL / "relationship_profiles.jsonl").read_text().splitlines()) == 120
    assert [sum(one.is_in(name) for one in scenarios) for name in SETS] == [450, 70, 50, 50]
    assert (len(episodes_of(found, "all")), len(episodes_of(found, "hard"))) == (900, 140)
    assert len({one.key for one in episodes_of(found, "all")}) == 900
    assert found.notes == (
        "10 pairs with another relationship than their scenario; what they see follows the scenario",
    )
    for one in episodes_of(found, "all"):
        first, second = Episode(one), after(one, act())
        mine, theirs = (prompt(episode) for episode in (first, second))
        assert one.agents[0].secret in mine
        assert one.agents[1].secret in theirs
        if one.agents[0].secret.lower() not in " ".join(one.scenario.goals).lower():
            assert one.agents[1].secret not in mine
            assert one.agents[0].secret not in theirs
        for text in (mine, theirs, first.transcript()):
            assert not {"<extra_info", "<strategy_hint", "<clarification_hint", "<p ", "</"} & set(text.split(">"))
            assert "</" not in text
    common = next(one for one in episodes_of(found, "all") if one.scenario.codename == "mutual_friend_00007")
    assert "common friends" in Episode(common).transcript()
    assert "common friends" not in prompt(Episode(common))
