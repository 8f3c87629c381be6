"""The Social-R1 reward: every worked value of the specification, presets, and scores that could not be had."""

import math
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from socialr1_jax.config.rewards import ContentConfig, RewardConfig, Schedule
from socialr1_jax.data.examples import Example, normalized
from socialr1_jax.rewards import Scorer, social_r1_reward
from socialr1_jax.rewards.rules_judge import judge_thoughts
from socialr1_jax.rewards.terms import content_reward, length_window, outcome_reward, repetition_factor
from socialr1_jax.rewards.total import term_weights, total_reward

CONFIG = RewardConfig()
PRESETS = ("full", "no_content", "no_structure", "no_length", "outcome_only")


def prose(length):
    """Thoughts of a length without repeated 16-grams: numbers count up."""
    return "".join(f"Fact {i} on {i * 7919}. " for i in range(length // 12 + 2))[: length - 1] + "."


TRACE = "Encode: Anna put the coin in the box.\nInterpret: Anna thinks the coin is in the box.\n"


def response(length=1700, answer="B"):
    return f"<think>\n{prose(length)}\n</think>\n\n<Answer>{answer}</Answer>"


# ----------------------------------------------------------------------------------------------------- worked values


@pytest.mark.parametrize(
    ("format", "outcome", "structure", "scalar", "length", "step", "expected"),
    [
        (1, 1, 0.9, 0.5, 1, 0, 5.802811),
        (1, 0, 0.9, 0.5, 1, 0, 0.960562),
        (1, 1, 0.9, 0.5, 1, 200, 10.908433),
        (1, 1, 0.35, -3, 0.5, 100, 0.7625),
        (0, 1, 1, 1, 1, 50, 0),
        (1, 0, 0, -2, 1, 0, 0.01),
    ],
)
def test_worked_totals(format, outcome, structure, scalar, length, step, expected):
    total = total_reward(
        format=format,
        outcome=outcome,
        structure=structure,
        content=content_reward(scalar, CONFIG),
        length=length,
        weights=term_weights(outcome, step, "full", CONFIG),
        preset="full",
        config=CONFIG,
    )
    assert total == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("answer", "structure", "scalar", "step", "expected"),
    [
        ("B", 0.9, 0.5, 0, 5.802811),
        ("A", 0.9, 0.5, 0, 0.960562),
        ("B", 0.9, 0.5, 200, 10.908433),
        ("A", 0, -2, 0, 0.01),
    ],
)
def test_worked_totals_from_text(answer, structure, scalar, step, expected):
    terms = social_r1_reward(response(answer=answer), "B", structure, scalar, step)
    assert (terms.length_window, terms.repetition) == (pytest.approx(1.0, abs=1e-9), 1.0)
    assert terms.total == pytest.approx(expected, abs=5e-7)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (0, 0.000335350),
        (300, 0.119202922),
        (400, 0.5),
        (700, 0.997527377),
        (1700, 1.0),
        (3000, 0.5),
        (3300, 0.002472623),
    ],
)
def test_worked_windows(length, expected):
    assert length_window(length, CONFIG) == pytest.approx(expected, abs=5e-10)


def test_window_counts_stripped_characters():
    assert social_r1_reward(response(400), "B").length_window == pytest.approx(0.5, abs=1e-12)
    cjk = f"<think>  {'心' * 400} </think><Answer>B</Answer>"
    assert social_r1_reward(cjk, "B").length_window == pytest.approx(0.5, abs=1e-12)


@pytest.mark.parametrize("length", [10**6, 10**9, 10**300])
def test_window_of_huge_lengths(length):
    assert 0.0 <= length_window(length, CONFIG) < 1e-200


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("short", 0.0),
        ("a" * 15, 0.0),
        ("a" * 16, 0.0),
        ("a" * 17, 1 / 2),
        ("a" * 115, 99 / 100),
        ("0123456789abcdefXYZ" * 2, 4 / 23),  # 38 characters, period 19: 23 grams, 19 of them different
        (prose(2000), 0.0),
    ],
)
def test_repetition(text, share):
    expected = 1.0 if share <= 0.1 else math.exp(-8 * (share - 0.1))
    assert repetition_factor(text, CONFIG) == pytest.approx(expected, rel=1e-12)


@given(st.text(alphabet="ab \U0001f600\ud800", max_size=200), st.integers(1, 20))
def test_grams_are_counted_as_a_set_counts_them(text, gram):
    config = RewardConfig(repetition_gram=gram, repetition_threshold=0.0, repetition_rate=1.0)
    grams = [text[i : i + gram] for i in range(len(text) - gram + 1)]
    expected = math.exp(-(len(grams) - len(set(grams))) / len(grams)) if grams else 1.0
    assert repetition_factor(text, config) == pytest.approx(expected, rel=1e-12)


def test_repetition_is_free_up_to_the_threshold():
    # period 90 in 115 characters: 100 grams, 10 repeated; one character more: 101 grams, 11 repeated
    period = prose(90)
    assert repetition_factor((period * 2)[:115], CONFIG) == 1.0
    assert repetition_factor((period * 2)[:116], CONFIG) == pytest.approx(math.exp(-8 * (11 / 101 - 0.1)))


@pytest.mark.parametrize(
    ("step", "structure", "content"), [(0, 2, 1), (50, 1.75, 1.5), (100, 1.5, 2), (200, 1, 3), (600, 1, 3)]
)
def test_curriculum(step, structure, content):
    weights = term_weights(1.0, step, "full", CONFIG)
    assert (weights["structure"], weights["content"]) == (pytest.approx(structure), pytest.approx(content))


@pytest.mark.parametrize(
    ("shape", "quarter", "half", "last"),
    [("linear", 1.5, 2.0, 2.99), ("cosine", 1.29289322, 2.0, 2.99987664), ("step", 1, 1, 1)],
)
def test_shapes_of_a_schedule(shape, quarter, half, last):
    schedule = Schedule(start=1.0, end=3.0, steps=200, shape=shape)
    found = [schedule.at(step) for step in (0, 50, 100, 199, 200, 1000)]
    assert found == pytest.approx([1.0, quarter, half, last, 3.0, 3.0], abs=1e-8)
    with pytest.raises(ValueError, match="negative"):
        schedule.at(-1)


@pytest.mark.parametrize(("scalar", "expected"), [(0.5, 2.5**1.2), (-2, 0), (-5, 0), (-1, 1), (None, math.nan)])
def test_content(scalar, expected):
    assert content_reward(scalar, CONFIG) == pytest.approx(expected, nan_ok=True)


# ----------------------------------------------------------------------------------------------------------- outcome


@pytest.mark.parametrize(
    ("answer", "gold", "right"),
    [
        ("B", "B", 1),
        (" \n B. the shelf", "B", 1),
        ("(B)", "B", 1),
        ("**B**", "B", 1),
        ("BA", "B", 0),
        ("A", "B", 0),
        ("A or B", "B", 0),
        ("Answer: B", "B", 1),
        ("Anna", "A", 0),
        ("Both A and B", "B", 0),
        ("b", "B", 1),
        ("", "B", 0),
        ("Β", "B", 0),  # a Greek Beta
        ("the shelf", "B", 0),
        ("The  SHELF!", "the shelf", 1),
        ("“the shelf”…", "The shelf", 1),
        ("the—shelf", "the shelf", 0),  # punctuation is dropped, not turned into a blank
        ("the\n\tshelf", "the shelf", 1),
        ("the green shelf", "the shelf", 0),
        ("STRASSE", "Straße", 1),
        ("她知道。", "她知道", 1),
        ("ab", "AB", 1),  # two letters are a text
        ("b", "b", 1),
        ("", "the shelf", 0),
    ],
)
def test_outcome(answer, gold, right):
    assert outcome_reward(answer, gold) == right


def test_gold_that_says_nothing_is_an_error():
    for gold in ("", "  ", "?!"):
        with pytest.raises(ValueError, match="no letter or digit"):
            outcome_reward("B", gold)


@given(st.text())
def test_normalized_is_a_fixed_point(text):
    once = normalized(text)
    assert normalized(once) == once


# ------------------------------------------------------------------------------------------------- presets and weights


def test_presets_by_hand():
    window = 1 / (1 + math.exp(-2)) / (1 + math.exp(-50))  # 500 characters
    content, expected = 2.5**1.2, {}
    expected["full"] = (1 + 1.5 * 0.8 + 2 * content) * window
    expected["no_content"] = (1 + 1.5 * 0.8) * window
    expected["no_structure"] = (1 + 2 * content) * window
    expected["no_length"] = 1 + 1.5 * 0.8 + 2 * content
    expected["outcome_only"] = 2.0
    for preset in PRESETS:
        terms = social_r1_reward(response(500), "B", 0.8, 0.5, 100, preset)
        assert terms.total == pytest.approx(expected[preset], rel=1e-9), preset
        assert terms.raw() == {
            "format": 1.0,
            "outcome": 1.0,
            "structure": 0.8,
            "content": pytest.approx(content),
            "length_window": pytest.approx(window),
            "repetition": 1.0,
        }
        assert terms.weights == {
            "outcome": 1.0,
            "structure": 0.0 if preset in ("no_structure", "outcome_only") else 1.5,
            "content": 0.0 if preset in ("no_content", "outcome_only") else 2.0,
            "tau": 1.0,
        } | ({"format": 1.0} if preset == "outcome_only" else {})


def test_wrong_answers_weigh_the_process_less():
    assert social_r1_reward(response(answer="A"), "B").weights["tau"] == 0.2


def test_failed_format():
    text = response() + " and more"
    for preset in PRESETS:
        # the sum of outcome_only has no gate, as published: a readable right answer still counts
        assert social_r1_reward(text, "B", preset=preset).total == (1.0 if preset == "outcome_only" else 0.0)
    assert social_r1_reward("<think>no end", "B", preset="outcome_only").total == 0.0


def test_length_is_a_factor_of_the_rest():
    short, long = social_r1_reward(response(300), "B"), social_r1_reward(response(1700), "B")
    assert short.total == pytest.approx(long.total * short.length_window / long.length_window)


def test_repeated_tags_pay_in_reference_mode_alone():
    text = response() + response(answer="A")
    config = RewardConfig(preset="full", format_mode="reference")
    assert social_r1_reward(text, "B").total == 0.0
    assert social_r1_reward(text, "B", config=config).total == pytest.approx(5.802811, abs=5e-7)


def test_config_and_preset():
    config = RewardConfig(preset="outcome_only")
    assert social_r1_reward(response(), "B", config=config).total == 2.0
    assert social_r1_reward(response(), "B", preset="full", config=config).total > 5.0
    assert social_r1_reward(response(), "B").total > 5.0


OTHER = {
    "preset": "outcome_only",
    "format_mode": "reference",
    "answer_mode": "reference",
    "repetition_gram": 4,
    "length_low": 1000.0,
    "length_high": 1200.0,
    "format_gate": 1.0,
}
SECTIONS = {name: field.annotation for name, field in RewardConfig.model_fields.items() if name not in ("structure",)}
SCHEDULES = [name for name, kind in SECTIONS.items() if kind is Schedule]
ELSEWHERE = (
    "extra",
    "most_unscorable",
    "unscorable_window",
)  # read by scorer and trainer: test_scorer.py
LEAVES = [
    *(name for name, kind in SECTIONS.items() if kind not in (Schedule, ContentConfig) and name not in ELSEWHERE),
    *(f"{name}.{leaf}" for name in SCHEDULES for leaf in ("start", "end", "steps")),
    "content.shift",
    "content.power",
]


@pytest.mark.parametrize("field", LEAVES)
def test_every_constant_is_read(field):
    section, _, leaf = field.rpartition(".")
    base = RewardConfig(preset="full")
    if leaf == "steps":  # counts only where start and end differ
        base = base.model_copy(update={section: Schedule(start=1.0, end=2.0)})
    owner = getattr(base, section) if section else base
    value = getattr(owner, leaf)
    other = owner.model_copy(update={leaf: OTHER[leaf] if leaf in OTHER else type(value)(value * 1.5)})
    if section:
        other = base.model_copy(update={section: other})
    texts = [response(n, a) for n in (50, 700, 2900) for a in "AB"] + [
        response() + response(),
        "nothing",
        response(700, "Bob"),
    ]
    texts += [f"<think>{TRACE} {prose(n) + prose(400)}</think><Answer>{a}</Answer>" for n in (300, 900) for a in "AB"]
    if field in ("format_gate", "format_power"):  # the format term is 0 or 1: only in between do these two show
        values = {"outcome": 1.0, "structure": 1.0, "content": 1.0, "length": 1.0, "preset": "full"}
        weights = term_weights(1.0, 0, "full", base)
        one, two = (total_reward(format=0.5, **values, weights=weights, config=c) for c in (base, other))
        assert one != two
        return

    def table(config):
        found = [social_r1_reward(t, "B", 0.7, -0.5, s, config=config) for t in texts for s in (0, 150, 200)]
        return [terms.total for terms in found]

    assert table(base) != table(other)


# -------------------------------------------------------------------------------------------------------- unscorable


@pytest.mark.parametrize("missing", [None, math.nan])
@pytest.mark.parametrize(
    ("term", "needed_by"),
    [("structure", ("full", "no_content", "no_length")), ("content", ("full", "no_structure", "no_length"))],
)
def test_unscorable_is_nan_and_never_zero(missing, term, needed_by):
    for preset in PRESETS:
        terms = social_r1_reward(response(), "B", preset=preset, **{term: missing})
        assert math.isnan(terms.total) == (preset in needed_by), preset
        assert math.isnan(getattr(terms, term))


def test_unscorable_needs_a_weight_and_a_format():
    assert social_r1_reward("no tags", "B", structure=None, content=None).total == 0.0
    free = RewardConfig(preset="full", content_weight={"start": 0.0, "end": 0.0})
    without = social_r1_reward(response(), "B", preset="no_content").total
    assert social_r1_reward(response(), "B", content=None, config=free).total == without
    late = RewardConfig(preset="full", content_weight={"start": 0.0, "end": 3.0})
    assert not math.isnan(social_r1_reward(response(), "B", content=None, step=0, config=late).total)
    assert math.isnan(social_r1_reward(response(), "B", content=None, step=1, config=late).total)


def test_unscorable_beats_the_floor():
    assert math.isnan(social_r1_reward(response(50, "A"), "B", structure=None).total)


# ------------------------------------------------------------------------------------------------------------- judge


EXAMPLE = Example(id="1", story="A story.", question="Who?", options=("Anna", "Ben", "Cleo"), answer="B")


def scored(config, *texts):
    scorer = Scorer(config)
    for place, text in enumerate(texts):
        scorer.submit(place, text, EXAMPLE)
    return scorer.results(0)


def test_the_rules_judge_the_thoughts():
    config = RewardConfig(preset="no_content")
    thoughts = TRACE + prose(800)
    terms, untagged = scored(config, f"<think>{thoughts}</think><Answer>B</Answer>", "no tags")
    assert terms.structure == judge_thoughts(thoughts).score > 0.1
    assert terms.total == pytest.approx((1 + 2 * terms.structure) * terms.length_window)
    assert untagged.structure == 0.0


def test_no_judge_is_unscorable():
    (terms,) = scored(RewardConfig(preset="outcome_only", structure={"judge": "none"}), response())
    assert math.isnan(terms.structure)
    assert terms.total == 2.0


def test_the_worked_example_of_the_docs():
    thoughts = (
        "Encode: Anna put the coin in the drawer. Anna left the kitchen. Ben moved the coin to the shelf while Anna "
        "was in the garden.\nInterpret: Anna did not see Ben move the coin, so she still thinks that the coin is in "
        "the drawer. Ben knows that it is on the shelf.\nGoal: say where Anna will look first for the coin.\n"
        "Respond: Anna acts on what she believes. A: drawer, yes. B: shelf, no. C: basket, no. So the answer is A."
    )
    early = thoughts.replace("Encode: ", "Encode: Option B says shelf. ")

    def total(thoughts, preset="no_content", answer="<Answer>A</Answer>"):
        text = f"<think>\n{thoughts}\n</think>\n\n{answer}"
        return social_r1_reward(text, "A", judge_thoughts(thoughts).score, 0.5, preset=preset).total

    assert len(thoughts) == 416
    assert total(thoughts) == pytest.approx(1.7380, abs=5e-5)
    assert total(thoughts, answer="<Answer>B</Answer>") == pytest.approx(0.2317, abs=5e-5)
    assert total(thoughts, answer="<Answer>A</Answer> Yes.") == 0.0
    assert total(early) == pytest.approx(1.4894, abs=5e-5)
    assert total(thoughts, "full") == pytest.approx(3.4776, abs=5e-5)


# ------------------------------------------------------------------------------------------------------------ faults


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preset": "ful"}, "unknown reward preset 'ful'; use one of full, "),
        ({"step": -1}, "step -1 is negative"),
        ({"structure": 1.01}, "structure score 1.01 is outside"),
        ({"structure": -0.1}, "outside"),
        ({"structure": math.inf}, "outside"),
        ({"content": math.inf}, "content score inf is too large"),
        ({"content": 1e300}, "too large"),
    ],
)
def test_bad_numbers(arguments, message):
    with pytest.raises(ValueError, match=message):
        social_r1_reward(response(), "B", **arguments)


def test_bad_types():
    with pytest.raises(TypeError, match="a response is a string"):
        social_r1_reward(None, "B")
    with pytest.raises(TypeError, match="the gold answer is a string"):
        social_r1_reward(response(), None)
    with pytest.raises(ValidationError):
        RewardConfig(preset="fully")


@given(st.text(max_size=80), st.floats(0, 1), st.floats(-5, 5), st.integers(0, 1000), st.sampled_from(PRESETS))
def test_totals_are_bounded(thoughts, structure, content, step, preset):
    terms = social_r1_reward(f"<think>{thoughts}</think><Answer>B</Answer>", "B", structure, content, step, preset)
    most = 1 + 2 + 3 * 7**1.2
    assert 0.0 <= terms.total <= most
    assert terms.total > 0.0 or not thoughts.strip() or terms.format == 0.0
    assert all(0.0 <= value <= 1.0 for name, value in terms.raw().items() if name != "content")


def test_rewards_do_not_import_jax():
    code = "import sys, socialr1_jax.rewards; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
