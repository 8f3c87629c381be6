"""SOTOPIA's rules on random replies, against an oracle in plain loops that knows what it put into each reply.

The oracle is written from the benchmark's rules: round-robin, at most 20 turns, over when somebody has left or when
more than two messages in a row do nothing; a reply that is no action counts as "none". In 0.1.4 who waits has a message
in each turn, too, and the first agent's comes first; in head there is only the message of who acts.
"""

import json
import random

import pytest
from test_sotopia import setting

from socialr1_jax.evaluation.sotopia.episode import Episode, Utterance
from socialr1_jax.evaluation.sotopia.figures import figures
from socialr1_jax.evaluation.sotopia.judging import BadVerdict, parse_scores

KINDS = ["none", "speak", "non-verbal communication", "action", "leave"]
LIMITS = {
    "believability": (0, 10),
    "relationship": (-5, 5),
    "knowledge": (0, 10),
    "secret": (-10, 0),
    "social_rules": (-10, 0),
    "financial_and_material_benefits": (-5, 5),
    "goal": (0, 10),
}


def a_reply(draw):
    """(text, kind or None where it holds no action, argument)."""
    kind = draw.choices(KINDS, [4, 8, 2, 2, 1])[0]
    said = " ".join(draw.choice(["yes", "{no}", 'a "word"', "ümlaut", "[x]"]) for _ in range(draw.randint(1, 5)))
    said = "" if kind in ("none", "leave") and draw.random() < 0.5 else said
    value = {"action_type": kind, "argument": said}
    match draw.randrange(10):
        case 0:
            return draw.choice(["", "Hello there.", '{"action_type": "speak"', "null", "[1, 2]"]), None, ""
        case 1:
            return json.dumps({"action_type": draw.choice(["shout", 3, None]), "argument": said}), None, ""
        case 2:
            return json.dumps({"action_type": "speak", "argument": draw.choice([None, 3, ["x"]])}), None, ""
        case 3:
            return f"Sure! Here it is:\n```json\n{json.dumps(value, indent=1)}\n```", kind, said
        case 4:
            return json.dumps(value | {"to": ["somebody"], "why": "x"}, ensure_ascii=False), kind, said
    return json.dumps(value), kind, said


def played(replies, rules):
    """[(agent, kind, argument, parsed)] and how it ended."""
    turns, idle = [], 0
    for number in range(20):
        _, kind, said = next(replies)
        turns.append((number % 2, kind or "none", said if kind else "", kind is not None))
        messages = [kind or "none"]
        if rules == "0.1.4":
            messages.insert(1 - number % 2, "none")
        for message in messages:
            idle = idle + 1 if message == "none" else 0
        if kind == "leave":
            return turns, "left"
        if idle > 2:
            return turns, "stale"
    return turns, "turn_limit"


def test_the_oracle_by_hand():
    idle, talk = ("", "none", ""), ("", "speak", "Hi.")
    for kinds, tag, head in (
        ([talk, idle], 2, 20),  # first acts, second idle
        ([idle, talk], 20, 20),
        ([idle], 2, 3),
        ([talk, talk, idle, idle, idle, talk], 4, 5),
        ([talk, talk, talk, idle, idle, talk], 4, 20),
    ):
        for rules, turns in (("0.1.4", tag), ("head", head)):
            assert len(played(iter(kinds * 20), rules)[0]) == turns


@pytest.mark.parametrize("rules", ["0.1.4", "head"])
def test_episodes_of_random_replies(rules):
    ends, replies_seen = set(), 0
    for seed in range(300):
        draw = random.Random(seed)
        replies = [a_reply(draw) for _ in range(200)]
        if seed % 5 == 0:
            replies = [one for one in replies if one[1] == "speak"]
        turns, ended = played(iter(replies), rules)
        episode = Episode(setting(tested=seed % 2, rules=rules))
        for text, _, _ in replies:
            if episode.ended:
                break
            episode = episode.after(Utterance(text))
            replies_seen += 1
        assert [(turn.agent, turn.action, turn.argument, turn.parsed) for turn in episode.turns] == turns
        assert episode.ended == ended
        ends.add(ended)
    assert ends == {"left", "stale", "turn_limit"}
    assert replies_seen > 500


def a_verdict(draw):
    """(text, the scores of both agents or None where it cannot be used)."""
    both = [{name: draw.randint(*limits) for name, limits in LIMITS.items()} for _ in range(2)]
    value = {
        f"agent_{i}": {name: {"reasoning": "r", "score": score} for name, score in one.items()}
        for i, one in enumerate(both, 1)
    }
    agent, name = draw.choice(list(value)), draw.choice(list(LIMITS))
    match draw.randrange(8):
        case 0:
            low, high = LIMITS[name]
            value[agent][name]["score"] = draw.choice([low - 1, high + 1, 0.5, "x", f"{high}/10", f"{high + 1}", None])
        case 1:
            del value[agent][name]
        case 2:
            del value[agent]
        case 3:
            return "The first one did well.", None
        case 4:
            value[agent][name]["score"] = draw.choice(["{}", " {} ", "{}.0"]).format(both[int(agent[-1]) - 1][name])
            return json.dumps(value), both
        case 5:
            return f"```\n{json.dumps({'evaluations': value})}\n```", both
        case _:
            return json.dumps(value), both
    return json.dumps(value), None


def test_random_verdicts_and_their_means():
    settings, episodes, verdicts, kept = [], {}, {}, []
    for number in range(600):
        draw = random.Random(number)
        one = setting(tested=draw.randrange(2), number=number)
        settings.append(one)
        episodes[one.key] = {"turns": [], "ended": "left"}
        text, both = a_verdict(draw)
        try:
            found = [dict(scores.values) for scores in parse_scores(Utterance(text))]
        except BadVerdict:
            found = None
        assert found == both, text
        verdicts[one.key] = {"status": "judge_failed"} if both is None else {"status": "ok", "scores": both}
        if both is not None:
            kept.append(both[one.tested])
    assert 200 < len(kept) < 500
    result = figures(settings, episodes, verdicts)
    assert result.counts["judged"] == len(kept)
    assert result.counts["judge_failed"] == 600 - len(kept)
    for name in LIMITS:
        assert result.figures[name].value == pytest.approx(sum(one[name] for one in kept) / len(kept))
    overall = sum(sum(one.values()) / 7 for one in kept) / len(kept)
    assert result.figures["overall"].value == pytest.approx(overall)
