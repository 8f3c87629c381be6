"""The scorer: who is asked about what, what is unscorable and why, own reward functions, and the watch over terms."""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pytest

from socialr1_jax.config.rewards import RewardConfig
from socialr1_jax.data.examples import Example
from socialr1_jax.rewards import JudgeRefused, RewardTerms, Scorer, Verdict, social_r1_reward
from socialr1_jax.rewards.shares import ShareWatch, variance_shares
from socialr1_jax.training.watches import UnscorableWindow

EXAMPLE = Example(
    id="7", story="Anna left.", question="Who knows?", options=("Anna", "Ben"), answer="B", meta={"k": "v"}
)
THOUGHTS = " ".join(f"Fact {i} on {i * 7919}." for i in range(80))


def response(answer="B", thoughts=THOUGHTS):
    return f"<think>{thoughts}</think><Answer>{answer}</Answer>"


class ScriptedJudge:
    """Answers after some time with what it was told to; keeps what it was asked."""

    everywhere = False

    def __init__(self, answers=None, seconds=0.0):
        self.asked, self._answers, self._seconds, self._pool = [], answers, seconds, ThreadPoolExecutor(8)

    def submit(self, story, question, thoughts) -> Future:
        at = len(self.asked)
        self.asked.append((story, question, thoughts))
        return self._pool.submit(self._answer, at)

    def _answer(self, at):
        time.sleep(self._seconds)
        answer = self._answers[at] if self._answers else Verdict(0.5)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def finish(self, stop):
        self._pool.shutdown(wait=True)
        self._pool = ThreadPoolExecutor(8)

    def counters(self):
        return {"calls": float(len(self.asked))}

    def close(self):
        self._pool.shutdown()


def scorer_with(judge, config=None, **more):
    found = Scorer(config or RewardConfig(), **more)
    found.judge = judge
    return found


ENDPOINT = RewardConfig(structure={"judge": "endpoint", "model": "m", "base_url": "http://localhost:1/v1"})


@pytest.fixture
def endpoint(monkeypatch):
    """A configuration with a judge on a server, whose place a scripted one takes."""
    monkeypatch.setattr("socialr1_jax.rewards.scorer.make_judge", lambda config: None)
    return ENDPOINT


def test_results_come_by_place_whatever_the_order(endpoint):
    scorer = scorer_with(ScriptedJudge([Verdict(0.1), Verdict(0.2), Verdict(0.3)]), endpoint)
    for place in (2, 0, 1):
        scorer.submit(place, response(), EXAMPLE)
    assert [terms.structure for terms in scorer.results(0)] == [0.2, 0.3, 0.1]
    assert scorer.results(0) == []


def test_judge_sees_thoughts_alone_and_when_needed(endpoint):
    judge = ScriptedJudge()
    scorer = scorer_with(judge, endpoint)
    scorer.submit(0, response("A"), EXAMPLE)
    scorer.submit(1, "no tags", EXAMPLE)
    first, second = scorer.results(0)
    assert judge.asked == [("Anna left.", "Who knows?", THOUGHTS)]
    assert first.total == pytest.approx(social_r1_reward(response("A"), "B", 0.5, preset="no_content").total)
    assert (second.total, second.cause) == (0.0, "")
    without = scorer_with(judge, endpoint.model_copy(update={"preset": "no_structure"}), content=lambda rows: [0.5])
    without.submit(0, response(), EXAMPLE)
    assert without.results(0)[0].total > 0
    assert len(judge.asked) == 1


def test_unjudged_response_is_nan_with_its_cause(endpoint):
    scorer = scorer_with(ScriptedJudge([Verdict.unscorable("timeout"), Verdict(0.9)]), endpoint)
    scorer.submit(0, response(), EXAMPLE)
    scorer.submit(1, response(), EXAMPLE)
    first, second = scorer.results(0)
    assert math.isnan(first.total)
    assert (first.cause, second.cause) == ("judge_timeout", "")
    metrics = scorer.metrics()
    assert metrics["unscorable/judge_timeout"] == 1
    assert metrics["judge/calls"] == 2
    assert "unscorable/judge_timeout" not in scorer.metrics()


def test_a_refusal_is_raised(endpoint):
    scorer = scorer_with(ScriptedJudge([Verdict(0.9), JudgeRefused("wrong key")]), endpoint)
    scorer.submit(0, response(), EXAMPLE)
    scorer.submit(1, response(), EXAMPLE)
    with pytest.raises(JudgeRefused, match="wrong key"):
        scorer.results(0)


def test_only_time_after_the_last_response_counts(endpoint):
    scorer = scorer_with(ScriptedJudge(seconds=0.3), endpoint)
    scorer.submit(0, response(), EXAMPLE)
    time.sleep(0.4)  # the sampler is at work
    scorer.results(0)
    assert scorer.metrics()["judge/waited_seconds"] < 0.2
    scorer.submit(0, response(), EXAMPLE)
    scorer.results(0)
    assert scorer.metrics()["judge/waited_seconds"] > 0.2


def test_each_process_asks_about_its_share(endpoint):
    """Two processes, played one after the other; what they give each other goes through a common place."""
    judges = [ScriptedJudge([Verdict(0.1), Verdict(0.3)]), ScriptedJudge([Verdict(0.2), Verdict(0.4)])]
    scorers = [scorer_with(judge, endpoint, process=(i, 2)) for i, judge in enumerate(judges)]
    for scorer in scorers:
        for place in range(4):
            scorer.submit(place, response(), EXAMPLE)
    shares = [[], []]

    def divide(function, items):
        for i, scorer in enumerate(scorers):
            shares[i] = [function(item) for item in scorer.held][i::2]
        return [shares[i % 2][i // 2] for i in range(len(items))]

    for scorer in scorers:
        scorer.held = list(scorer._waiting)
        scorer.divide = divide
    assert [terms.structure for terms in scorers[0].results(0)] == [0.1, 0.2, 0.3, 0.4]
    assert [len(judge.asked) for judge in judges] == [2, 2]


def test_content_scores_only_what_counts():
    seen = []

    def content(rows):
        seen.extend(rows)
        return [math.nan, 0.5][: len(rows)]

    scorer = Scorer(RewardConfig(preset="full"), content)
    scorer.submit(0, response(), EXAMPLE)
    scorer.submit(1, response(), EXAMPLE)
    scorer.submit(2, "no tags", EXAMPLE)
    scorer.submit(3, response(), EXAMPLE, scalar=1.0)
    first, second, third, fourth = scorer.results(0)
    assert len(seen) == 2
    assert (first.cause, second.cause, third.cause) == ("content", "", "")
    assert second.content == pytest.approx(2.5**1.2)
    assert fourth.content == pytest.approx(3.0**1.2)
    scorer = Scorer(RewardConfig(preset="no_content"), content)
    scorer.submit(0, response(), EXAMPLE)
    scorer.results(0)
    assert len(seen) == 2


# ------------------------------------------------------------------------------------------------- own reward functions


def extra_config(tmp_path, monkeypatch, body, **more):
    name = f"own_{abs(hash(body)) % 10**9}"
    (tmp_path / f"{name}.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    return RewardConfig(extra={"own": {"function": f"{name}:reward", **more}})


def score_one(config):
    scorer = Scorer(config)
    scorer.submit(0, response(), EXAMPLE)
    return scorer.results(0)[0]


def test_an_own_function_is_added_with_its_weight(tmp_path, monkeypatch):
    body = (
        "def reward(records):\n"
        "    assert records[0]['meta'] == {'k': 'v'}\n"
        "    return [r['step'] + len(r['given_answer']) for r in records]\n"
    )
    config = extra_config(tmp_path, monkeypatch, body, weight={"start": 2.0, "end": 4.0, "steps": 10})
    scorer = Scorer(config)
    scorer.submit(0, response(), EXAMPLE)
    scorer.submit(1, "no tags", EXAMPLE)
    first, second = scorer.results(5)
    plain = Scorer(RewardConfig())
    plain.submit(0, response(), EXAMPLE)
    assert first.total == pytest.approx(plain.results(5)[0].total + 3.0 * 6.0)
    assert first.raw()["own"] == 6.0
    assert first.parts()["own"] == 18.0
    assert second.total == 0.0  # the format's gate comes before everything


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def reward(records):\n    return []\n", "gave 0 numbers for 1 response"),
        ("def reward(records):\n    return [float('inf')]\n", "infinite"),
        ("reward = 3\n", "has no function 'reward'"),
        ("import not_there_at_all\n", "cannot import"),
    ],
)
def test_a_wrong_own_function_is_an_error(tmp_path, monkeypatch, body, message):
    config = extra_config(tmp_path, monkeypatch, body)
    with pytest.raises(ValueError, match=message):
        score_one(config)


TWO = """
def brevity(records):
    lengths = [len(record["response"]) for record in records]
    for record in records:
        record["meta"].clear()
        record["response"] = ""
    return [1.0 if length < 10 else 0.25 for length in lengths]


def shy(records):
    assert all(record["meta"] and record["response"] for record in records)
    return [float("nan") if "Anna" in record["response"] else -2.0 for record in records]
"""


def test_functions_have_own_weights_gates_and_causes(tmp_path, monkeypatch):
    (tmp_path / "two.py").write_text(TWO)
    monkeypatch.chdir(tmp_path)
    functions = {
        "error": {"function": "two.py:brevity", "weight": 2, "gated": False},
        "shy": {"function": "two.py:shy", "weight": {"start": 1.0, "end": 0.0, "steps": 4}},
    }
    responses = (response(), "no tags", "Anna", response("Anna"))
    found = {}
    for name, gated in (("gated", True), ("not", False)):
        scorer = Scorer(RewardConfig(extra=functions | {"shy": functions["shy"] | {"gated": gated}}))
        for place, text in enumerate(responses):
            scorer.submit(place, text, EXAMPLE)
        found[name] = scorer.results(1), scorer.metrics()
    plain = social_r1_reward(response(), "B", found["gated"][0][0].structure, step=1, preset="no_content").total
    assert [terms.total for terms in found["gated"][0]] == pytest.approx(
        [plain + 2 * 0.25 - 0.75 * 2, 2.0, 2.0, math.nan], nan_ok=True
    )
    assert [terms.total for terms in found["not"][0]] == pytest.approx(
        [plain + 2 * 0.25 - 0.75 * 2, 2 - 0.75 * 2, math.nan, math.nan], nan_ok=True
    )
    assert [terms.weights["shy"] for terms in found["gated"][0]] == [0.75, 0.0, 0.0, 0.75]
    assert [terms.raw()["shy"] for terms in found["gated"][0]] == pytest.approx(
        [-2, -2, math.nan, math.nan], nan_ok=True
    )
    assert (found["gated"][1]["unscorable/extra_shy"], found["not"][1]["unscorable/extra_shy"]) == (1, 2)
    shares = variance_shares(found["gated"][0][:2], totals(found["gated"][0][:2], 2))
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["error"] != 0.0
    assert shares["shy"] == 0.0  # its numbers do not differ: what the gate makes of them is the format's


def test_an_own_function_may_find_a_response_unscorable(tmp_path, monkeypatch):
    config = extra_config(tmp_path, monkeypatch, "def reward(records):\n    return [float('nan')] * len(records)\n")
    terms = score_one(config)
    assert math.isnan(terms.total)
    assert terms.cause == "extra_own"


# ------------------------------------------------------------------------------------------------------ shares of terms


def some_terms(structures, contents, outcomes):
    return [
        social_r1_reward(response("B" if right else "A"), "B", s, c, 0)
        for s, c, right in zip(structures, contents, outcomes, strict=True)
    ]


def totals(terms, group):
    return np.array([one.total for one in terms]).reshape(-1, group)


@pytest.mark.parametrize("preset", ["full", "outcome_only", "no_content", "no_structure", "no_length"])
def test_parts_add_up_to_the_total(preset):
    functions = {"gated": {"function": "a:b", "weight": {"start": 0.5}}, "always": {"function": "a:c", "gated": False}}
    config = RewardConfig(preset=preset, extra=functions)
    for text in (response(), response("A"), response("B", "short"), response() + response("A"), "no tags"):
        for extra in (0.0, 2.0):
            given = {"gated": extra, "always": -extra}
            terms = social_r1_reward(text, "B", 0.7, -0.5, 100, config=config, extra=given)
            assert sum(terms.parts().values()) == pytest.approx(terms.total)
            assert terms.parts()["format"] == (terms.format if preset == "outcome_only" else 0.0)
            assert terms.parts()["gated"] == (0.75 * extra if terms.format else 0.0)
            assert terms.parts()["always"] == -extra
    malformed = social_r1_reward("<Answer>B</Answer>", "B", config=config, extra={"gated": math.nan, "always": 1.0})
    assert all(math.isfinite(part) for part in malformed.parts().values())


def test_failed_format_has_no_parts():
    terms = social_r1_reward("no tags", "B", None, None)
    assert set(terms.parts().values()) == {0.0}
    group = [terms, *some_terms([0.1, 0.9], [0.5, 0.1], [1, 0])]
    shares = variance_shares(group, totals(group, 3))
    assert sum(shares.values()) == pytest.approx(1.0)


def test_shares_are_those_of_the_variance_within_groups():
    terms = some_terms([0.1, 0.9, 0.4, 0.5], [0.5, 0.1, 1.0, 0.2], [1, 0, 1, 1])
    shares = variance_shares(terms, totals(terms, 2))
    assert sum(shares.values()) == pytest.approx(1.0)
    parts = {name: np.array([t.parts()[name] for t in terms]).reshape(2, 2) for name in terms[0].parts()}
    total = np.array([t.total for t in terms]).reshape(2, 2)
    centre = total - total.mean(1, keepdims=True)
    for name, part in parts.items():
        expected = ((part - part.mean(1, keepdims=True)) * centre).sum() / (centre**2).sum()
        assert shares[name] == pytest.approx(expected)
    terms = some_terms([0.1, 0.9], [0.5, 0.5], [1, 1])
    alone = variance_shares(terms, totals(terms, 2))
    assert alone["structure"] == pytest.approx(1.0)
    assert variance_shares(terms, np.ones((1, 2))) == {}


def test_constant_term_has_no_share():
    """What length makes of its part is the length's."""
    terms = [social_r1_reward(response("B", THOUGHTS[:n]), "B", 0.3, 0.5, 0) for n in (300, 500, 1000)]
    shares = variance_shares(terms, totals(terms, 3))
    assert [shares[name] for name in ("outcome", "structure", "content", "format")] == [0.0] * 4
    assert shares["length_and_format"] == pytest.approx(1.0)
    terms = some_terms([0.1, 0.9, 0.9], [0.5, 0.5, 0.5], [1, 1, 0])
    shares = variance_shares(
        [*terms, social_r1_reward("no tags", "B", None, None)], np.array([[*(t.total for t in terms), 0.0]])
    )
    assert shares["content"] == 0.0
    assert sum(shares.values()) == pytest.approx(1.0)


def test_shares_leave_out_what_could_not_be_scored():
    terms = some_terms([0.1, 0.9, None], [0.5, 0.1, 1.0], [1, 0, 1])
    assert variance_shares(terms, totals(terms, 3)) == pytest.approx(variance_shares(terms[:2], totals(terms[:2], 2)))


def test_the_watch_speaks_once_after_enough_steps():
    watch = ShareWatch()
    said = [watch({"outcome": 0.01, "structure": 1.29, "content": -0.3}) for _ in range(60)]
    assert [len(lines) for lines in said] == [0] * 19 + [2] + [0] * 40
    assert any("structure alone" in line for line in said[19])
    assert any("content works against" in line for line in said[19])
    watch = ShareWatch()
    assert not any(watch({"outcome": 0.5, "structure": 0.5}) for _ in range(60))
    assert not any(ShareWatch()({"outcome": 1.0, "structure": 0.0}) for _ in range(60))  # the only term there is


# ---------------------------------------------------------------------------------------------------- too many failures


def unscored(count, of, cause="judge_timeout"):
    good = RewardTerms(1.0, 1.0, 1.0, 0.5, math.nan, 1.0, 1.0, {})
    bad = RewardTerms(math.nan, 1.0, 1.0, math.nan, math.nan, 1.0, 1.0, {}, cause=cause)
    return [bad] * count + [good] * (of - count)


def test_the_window_counts_failures_over_steps():
    window = UnscorableWindow(RewardConfig(most_unscorable=0.25, unscorable_window=4))
    for _ in range(10):
        window.add(unscored(2, 10))
        assert window.problem == ""
    window.add(unscored(5, 10))  # 11 of 40
    assert "11 of 40 responses of the last 4 steps could not be scored (judge_timeout 11)" in window.problem


def test_dead_judge_stops_the_run_early():
    window = UnscorableWindow(RewardConfig(most_unscorable=0.25, unscorable_window=4))
    window.add(unscored(10, 10))  # a quarter of the window: still allowed
    assert window.problem == ""
    window.add(unscored(10, 10))
    assert "20 of 20" in window.problem
