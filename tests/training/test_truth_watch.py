"""Statements read from thoughts against the simulated minds, and the watch that compares reward terms with them."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from toys import changed, steps_of

from socialr1_jax.data.examples import Example
from socialr1_jax.rewards import RewardTerms
from socialr1_jax.rewards import truth_watch as module
from socialr1_jax.rewards.scorer import Scorer
from socialr1_jax.rewards.truth_watch import TruthWatch
from socialr1_jax.stories.corruptions import corruption_pairs
from socialr1_jax.stories.scripts import HELD_OUT_NAMES, Script
from socialr1_jax.stories.stories import ALL_TYPES, generate_stories
from socialr1_jax.stories.trace_truth import Story, read_story, read_thoughts, share_of_truth
from socialr1_jax.stories.world import Event
from socialr1_jax.training import grpo, sampler, validation

pytestmark = pytest.mark.usefixtures("programs_once")

WEIGHTS = {"outcome": 1.0, "structure": 1.0, "content": 1.0, "tau": 1.0}
SCRIPT = Script(
    plot="leave",
    room="attic",
    people=("Anna", "Ben"),
    events=(
        Event(kind="put", who="Anna", thing="apple", place="box"),
        Event(kind="leave", who="Ben"),
        Event(kind="move", who="Anna", thing="apple", place="bag"),
    ),
    asked="Ben",
    other="Anna",
    thing="apple",
)
STORY = Story(script=SCRIPT, world=SCRIPT.play(), answer="B", size=2)


@pytest.fixture(scope="module")
def examples():
    """Hard stories' questions by their id."""
    kinds = ((3, 1), (4, 2))
    drawn = [generate_stories(200, seed=seed, options=options, difficulty="hard") for options, seed in kinds]
    return {example.id: example for stories in drawn for example in stories}


def truth_of(example: Example, thoughts: str) -> float:
    story = read_story(example)
    assert story
    return share_of_truth(read_thoughts(thoughts, story), story)


# --- statements


def test_reference_traces_are_true_and_fully_read(examples):
    assert {example.meta["type"] for example in examples.values()} == set(ALL_TYPES)
    for example in examples.values():
        story = read_story(example)
        assert story, example
        statements = read_thoughts(example.thoughts, story)
        assert [one for one in statements if not one.true] == [], example
        assert share_of_truth(statements, story) == 1.0
        for line in example.thoughts.split("\n")[:2]:
            for sentence in re.split(r"(?<=\.) ", line.split(": ", 1)[1]):
                assert any(one.text in sentence for one in statements), (
                    f"trace_truth.py has no form for: {sentence} (in the trace of {example.id})"
                )


@pytest.mark.parametrize("kind", ["wrong_perceiver", "ungrounded_claim"])
def test_corrupted_traces_are_false(kind, examples):
    pairs = corruption_pairs(list(examples.values())[:120], seed=1, kinds=(kind,))
    truths = [truth_of(examples[pair.meta["story_id"]], pair.rejected) for pair in pairs]
    assert np.mean(np.array(truths) < 1) > 0.97
    assert np.mean(truths) < 0.9


@pytest.mark.parametrize(
    ("thoughts", "verdicts"),
    [
        ("Anna puts the apple in the box, seen by Anna and Ben.", [True, True]),
        ("Anna puts the apple in the box, seen by Anna alone.", [True, False]),
        ("Ben puts the apple in the box", [False]),
        ("Anna moves it to the bag, with only Anna to see it.", [True, True]),
        ("Ben leaves, Anna stays. By now the apple is in the bag.", [True, True, True]),
        ("Ben was away by then, so Ben still thinks of the box.", [True, True]),
        ("Ben saw the last step, so for Ben it is in the bag.", [False, False]),
        ("for Zoe it is in the bag. Zoe was away. Zoe has no idea where it is.", [False, False, False]),
        ("Ben thinks that it is in the box. Anna knows the apple is in the bag", [True, True]),
        ("to Anna, Ben has box in mind. to Ben, Anna has bag in mind", [True, False]),
        ("So the answer is B.\nSo the answer is A.", [True, False]),
        ("Ben still thinks of the box. Ben thinks box. Ben thinks box too.", [True]),  # one statement
        ("He still thinks of the box. She puts the apple in the box. Nothing here is read.", []),
        ("Ben\u2028thinks \x1b[31mbox \ud800 " + "and just " * 50, []),
        ("", []),
    ],
)
def test_a_statement_is_judged_by_the_story(thoughts, verdicts):
    assert [one.true for one in read_thoughts(thoughts, STORY)] == verdicts


def test_omitting_or_repeating_truth_gains_nothing(examples):
    example = next(iter(examples.values()))
    encode = example.thoughts.split("\n")[0]
    assert 0 < truth_of(example, encode) < 1
    assert truth_of(example, encode) == truth_of(example, f"{encode} " * 9)
    assert truth_of(example, "") == 0


def test_a_broken_or_foreign_script_is_not_counted(examples):
    example, other = list(examples.values())[:3:2]
    good = json.loads(example.meta["script"])
    forged = [
        "",
        "{",
        "[]",
        "7",
        "null",
        "\ud83d",
        json.dumps(good | {"events": 5}),
        json.dumps(good | {"order": 10**30}),
        json.dumps(good | {"people": ["A"] * 99}),
        "[" * 9999,
        other.meta["script"],
    ]
    for text in forged[:5] + forged[6:]:
        assert read_story(replace(example, meta={"script": text})) is None, text
    assert read_story(replace(example, thoughts="It is so.")) is None
    assert read_story(replace(example, meta={})) is None


# --- the watch


def response(thoughts: str) -> str:
    return f"<think>{thoughts}</think><Answer>A</Answer>"


def some_terms(structure: float, content: float, **changes: object) -> RewardTerms:
    return replace(RewardTerms(1.0, 1.0, 1.0, structure, content, 1.0, 1.0, WEIGHTS), **changes)


def test_terms_are_compared_with_the_truth_within_groups(examples):
    two = list(examples.values())[:2]
    texts = [response(example.thoughts.split("\n", k)[0]) for example in two for k in (1, 0)]
    texts[0] = response("Nothing that is read.")  # group 1: 0 and 1; group 2: a part and 1
    terms = [some_terms(0.1, 5.0), some_terms(0.9, 1.0), some_terms(0.5, 1.0), some_terms(0.5, math.nan)]
    metrics, warnings = TruthWatch()(two, terms, texts)
    part = truth_of(two[1], two[1].thoughts.split("\n")[0])
    assert metrics["truth/mean"] == pytest.approx((0 + 1 + part + 1) / 4)
    assert metrics["truth/content_correlation"] == pytest.approx(-1)
    assert 0 < metrics["truth/structure_correlation"] <= 1
    assert metrics["truth/structure_gap"] == pytest.approx(0)  # the first step
    own = [replace(term, extra={"own": -term.structure}) for term in terms]
    more, _ = TruthWatch()(two, own, texts)
    assert more == metrics | {
        "truth/own_correlation": pytest.approx(-metrics["truth/structure_correlation"]),
        "truth/own_gap": pytest.approx(0),
    }
    assert warnings == []
    malformed = [replace(term, format=0.0) for term in terms]
    assert TruthWatch()(two, malformed, texts) == ({}, [])


def test_nothing_is_decoded_without_scripts():
    plain = Example(id="1", story="s", question="q", answer="yes", meta={"script": "{}"})
    for examples in ([], [plain], [replace(plain, meta={})]):
        assert TruthWatch()(examples, [some_terms(1.0, 1.0)] * len(examples), [""] * len(examples)) == ({}, [])


class Policy:
    """A toy that repeats a habit: the more it is worth, the oftener it appends claims that the story does not hold."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.examples = list(generate_stories(40, seed=seed, difficulty="easy"))

    def step(self, padding: float) -> tuple[list[Example], list[str]]:
        asked = [self.examples[i] for i in self.rng.choice(40, 4, replace=False)]
        names = ("Anna", "Ben", "Carl", "Dora", "Emma", "Finn", "Gina", "Hugo")
        texts = []
        for example in asked:
            for _ in range(4):
                lies = " ".join(f"{name} has no idea where it is." for name in names[: self.rng.poisson(padding)])
                texts.append(response(f"{lies} {example.thoughts}" if lies else example.thoughts))
        return asked, texts

    def walk(self, watch: TruthWatch, steps: int, worth: float, pay: str = "content") -> list[tuple[int, str]]:
        """The warnings of a run that is paid for length through the content term, by step."""
        found, padding = [], 1.0
        for step in range(1, steps + 1):
            asked, texts = self.step(padding)
            weights = WEIGHTS | ({} if pay == "content" else {"content": 0.0})
            lengths = [len(text) / 500 for text in texts]
            terms = [some_terms(0.7 + 0.1 * self.rng.normal(), x, weights=weights) for x in lengths]
            _, warnings = watch(asked, terms, texts)
            found += [(step, warning) for warning in warnings]
            padding += worth
        return found


@pytest.mark.parametrize("seed", range(4))
def test_term_that_pays_length_is_named_soon(seed):
    ((step, warning),) = Policy(seed).walk(TruthWatch(), 40, worth=0.2)
    assert step <= 30
    assert re.match(r"content has risen from \S+ to \S+ while the truth of the thoughts fell from 0\.\d+ to 0", warning)
    assert re.search(r'stories-train-.*statements are false, as ".* has no idea where it is', warning)


def test_no_warning_without_change_or_weight():
    assert Policy(5).walk(TruthWatch(), 40, worth=0.0) == []
    assert Policy(5).walk(TruthWatch(), 40, worth=0.15, pay="") == []


def test_noise_and_honest_learning_raise_no_alarm():
    alarms = 0
    for seed in range(100):
        rng, seen = np.random.default_rng(seed), module._Seen(first=[], spread=[], recent=[], best=[])
        learning = 0.003 * (seed % 2)
        for step in range(100):
            truth = 0.5 + learning * step + 0.04 * rng.normal() + 0.3 * rng.normal(size=16)
            term = 0.5 + learning * step + 0.04 * rng.normal() - 0.3 * (truth - truth.mean()) + rng.normal(size=16)
            module._add(seen, term, truth)
            if module._parting(seen):
                alarms += 1
                break
    assert alarms <= 1


def test_resumed_watch_equals_an_uninterrupted_one():
    whole, first = TruthWatch(), TruthWatch()
    runs = [Policy(3), Policy(3)]
    expected = runs[0].walk(whole, 14, worth=0.0) + runs[0].walk(whole, 26, worth=0.4)
    runs[1].walk(first, 14, worth=0.0)
    resumed = TruthWatch()
    resumed.set_state(json.loads(json.dumps(first.get_state())))
    assert runs[1].walk(resumed, 26, worth=0.4) == expected != []
    assert resumed.get_state() == whole.get_state()
    for state in ({}, {"seen": {"content": {}}, "said": []}, {"seen": {}, "said": 5}):
        with pytest.raises(ValueError, match="validation error"):
            resumed.set_state(state)


@pytest.mark.slow
def test_run_warns_when_content_pays_length(start, tmp_path, monkeypatch, capsys):
    """A real run; its policy is replaced by reference traces with ever more false claims behind them."""
    steps, policy = 30, np.random.default_rng(0)
    texts: dict[int, str] = {}

    class Padded(Scorer):
        def submit(self, place: int, text: str, example: Example, scalar: float | None = None) -> None:
            lies = " ".join(f"{name} was away." for name in HELD_OUT_NAMES[: policy.poisson(0.15 * len(finished))])
            texts[place] = response(f"{example.thoughts} {lies}")
            super().submit(place, texts[place], example)

    finished: list[int] = []

    def sampled(*args: object, **kwargs: object) -> tuple[list, list[str]]:
        completions, _ = validation.sample_and_submit(*args, **kwargs)
        finished.append(len(finished))
        return completions, [texts[place] for place in range(len(completions))]

    config = changed(start, tmp_path, steps=steps, rewards={"preset": "full", "content": {"model": "length"}})
    padded = Padded(config.rewards, lambda batch: [len(thoughts) / 500 for _, _, thoughts in batch])
    monkeypatch.setattr(grpo, "make_scorer", lambda *_: padded)
    monkeypatch.setattr(sampler, "sample_and_submit", sampled)
    assert grpo.train_grpo(config)
    output = capsys.readouterr()
    assert len(re.findall(r"step \d+: content\s+has\s+risen", output.out + output.err)) == 1
    rows = steps_of(tmp_path)
    assert rows[-1]["truth/mean"] < rows[0]["truth/mean"]
    assert rows[-1]["truth/content_gap"] > 1
    assert rows[-1]["truth/content_correlation"] < -0.5
