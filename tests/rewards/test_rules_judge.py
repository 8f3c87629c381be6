"""The rules judge: what it finds, what each fault costs, and that it cannot be talked round cheaply."""

import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from socialr1_jax.rewards import STAGES, find_stages, judge_thoughts
from socialr1_jax.rewards.mentions import option_mentions
from socialr1_jax.stories.stories import generate_stories

ENCODE = "Anna put the coin in the drawer. Anna left the kitchen. Ben moved the coin to the shelf."
INTERPRET = "Anna did not see Ben move the coin, so she still thinks that it is in the drawer."
GOAL = "say where Anna will look first for the coin."
RESPOND = "Anna acts on her own belief. A: drawer, yes. B: shelf, no. C: basket, no. So the answer is A."
PARTS = {"encode": ENCODE, "interpret": INTERPRET, "goal": GOAL, "respond": RESPOND}
NATURAL = (
    "Anna put the coin in the drawer and left the kitchen. Then Ben moved the coin to the shelf. "
    "Anna did not see this, so she still believes it is in the drawer. "
    "The question asks where Anna will look for the coin. "
    "She acts on her own belief, so the answer is the drawer, option A."
)


def trace(order=STAGES, separator="\n", **changed):
    parts = PARTS | changed
    names = {"encode": "Encode", "interpret": "Interpret", "goal": "Goal", "respond": "Respond"}
    return separator.join(f"{names[stage]}: {parts[stage]}" for stage in order)


def stages_of(thoughts):
    return tuple(span.stage for span in find_stages(thoughts))


# -------------------------------------------------------------------------------------------------------- the stages


@pytest.mark.parametrize(
    "headings",
    [
        ("Encode:", "Interpret:", "Goal:", "Respond:"),
        ("encode:", "INTERPRET:", "Goals:", "Response:"),
        ("Encoding cues:", "Interpreting the cues:", "Clarifying goals:", "Generating a response:"),
        ("Encode cues", "Interpret cues", "Clarify goals", "Generate response"),
        ("**Encode**", "**Interpret**", "**Goal**", "**Respond**"),
        ("**Encode:**", "**Interpretation:**", "**Goal clarification:**", "**Response generation:**"),
        ("1. Encode:", "2. Interpret:", "3. Goals:", "4. Respond:"),
        ("1) **Cue encoding**:", "2) **Cue interpretation**:", "3) **Goals**:", "4) **Response**:"),
        ("## Step 1: Encode\n", "## Step 2: Interpret\n", "## Step 3: Clarify the goal\n", "## Step 4: Respond\n"),
        ("- Encode (cues):", "- Interpret (cues):", "- Goal (mine):", "- Respond (now):"),
        ("Stage 1 - Encode -", "Stage 2 - Interpret -", "Stage 3 - Goals -", "Stage 4 - Response -"),
        ("Observations:", "Inference:", "Clarification of goals:", "Final response:"),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\n\n"])
def test_headings(headings, newline):
    thoughts = newline.join(f"{heading} {part}" for heading, part in zip(headings, PARTS.values(), strict=True))
    if headings[0] in ("Encode cues",):  # bare words are headings on a line of their own only
        thoughts = thoughts.replace("cues ", "cues\n").replace("goals ", "goals\n").replace("response ", "response\n")
    spans = find_stages(thoughts)
    assert tuple(span.stage for span in spans) == STAGES
    for span, part in zip(spans, PARTS.values(), strict=True):
        assert thoughts[span.body : span.end].strip() == part
    assert judge_thoughts(thoughts).score == 1.0


def test_headings_in_one_line():
    assert judge_thoughts(trace(separator=" ")).score == 1.0
    assert stages_of(trace(separator=" ")) == STAGES


@pytest.mark.parametrize(
    "text",
    ["Goalkeeper: Ben. Responsible: Anna.", "The goal: win. My response: none.", "Encoder: x\nInterpreter: y", "Goal"],
)
def test_no_headings(text):
    assert all(span.body == span.start for span in find_stages(text))


def test_natural_words():
    thoughts = NATURAL
    assert stages_of(thoughts) == STAGES
    assert [thoughts[span.start : span.start + 8].strip() for span in find_stages(thoughts)] == [
        "Anna put",
        "Anna did",
        "The ques",
        "She acts",
    ]
    assert judge_thoughts(thoughts).score == 1.0


def test_sentences_without_a_cue_stay_with_their_stage():
    assert stages_of("It is warm. Anna put the coin there. It is red. She thinks it is there. A fine day.") == (
        "encode",
        "interpret",
    )


def test_reference_traces_are_perfect():
    for example in generate_stories(200, seed=3):
        judgement = judge_thoughts(example.thoughts)
        assert judgement.score >= 0.9, (judgement.violations, example.thoughts)
        assert tuple(span.stage for span in judgement.stages) == STAGES


# ---------------------------------------------------------------------------------------------------------- the costs


def test_perfect():
    judgement = judge_thoughts(trace())
    assert (judgement.score, judgement.violations) == (1.0, ())
    assert judgement.stages == tuple(find_stages(trace()))


@pytest.mark.parametrize("thoughts", ["", " \n", "...", "Bananas are yellow and tasty.", "Encode:\nInterpret:\nGoal:"])
def test_nothing_scores_nothing(thoughts):
    assert judge_thoughts(thoughts).score == 0.0


@pytest.mark.parametrize("stage", STAGES)
def test_one_stage_skipped(stage):
    thoughts = trace(tuple(s for s in STAGES if s != stage), respond="Anna will try the drawer first of all.")
    judgement = judge_thoughts(thoughts)
    assert judgement.violations == (f"skipped:{stage}",)
    assert judgement.score == pytest.approx((3 / 4) ** 2)


def test_more_skipped_is_worse():
    scores = [judge_thoughts(trace(STAGES[:n])).score for n in range(5)]
    assert scores == pytest.approx([0, 1 / 16, 4 / 16, 9 / 16, 1])


@pytest.mark.parametrize("stage", STAGES)
def test_a_bare_heading_earns_nothing(stage):
    for body in ("", "yes", "yes yes yes yes"):
        judgement = judge_thoughts(trace(**{stage: body}))
        assert f"thin:{stage}" in judgement.violations
        assert judgement.score == pytest.approx((3 / 4) ** 2)


def test_a_thin_stage_is_graded():
    scores = [
        judge_thoughts(trace(encode=body)).score
        for body in ("", "Anna left here.", "Anna left the kitchen.", "Anna left the kitchen, Ben moved the coin.")
    ]
    assert scores == sorted(set(scores))
    assert scores[-1] == 1.0


def test_by_hand_thin():
    # goal: 3 different words of 4, 1 content word of 1 -> substance 0.5 * 3/4 + 0.5 = 0.875
    judgement = judge_thoughts(trace(goal="say where Anna"))
    assert judgement.violations == ("thin:goal",)
    assert judgement.score == pytest.approx((3.875 / 4) ** 2)


@pytest.mark.parametrize(
    ("order", "inversions"),
    [
        (("interpret", "encode", "goal", "respond"), 1),
        (("encode", "goal", "interpret", "respond"), 1),
        (("goal", "encode", "interpret", "respond"), 2),
        (("respond", "goal", "interpret", "encode"), 6),
    ],
)
def test_reversed(order, inversions):
    judgement = judge_thoughts(trace(order, respond="Anna will try the drawer first of all."))
    assert judgement.violations == ("reversed",)
    assert judgement.score == pytest.approx(1 - 0.15 * inversions)


@pytest.mark.parametrize(
    ("stage", "text", "mentions"),
    [
        ("encode", "Option B says shelf. " + ENCODE, 1),
        ("encode", "A: drawer or B: shelf. " + ENCODE, 2),
        ("interpret", INTERPRET + " That is (C).", 1),
        ("interpret", INTERPRET + " So the answer is A.", 1),
        ("encode", "A, B and C are named. " + ENCODE, 3),
        ("encode", "A: x. B: x. C: x. D: x. E: x. F: x. G: x. H: x. " + ENCODE, 6),  # more cost no more
    ],
)
def test_option_before_inference(stage, text, mentions):
    judgement = judge_thoughts(trace(**{stage: text}))
    assert judgement.violations == ("option_before_inference",)
    assert judgement.score == pytest.approx(0.6 * 0.9 ** (mentions - 1))


def test_options_after_inference_are_free():
    assert judge_thoughts(trace(goal="tell whether option A or B holds for Anna.")).score == 1.0


@pytest.mark.parametrize("stage", ["encode", "interpret"])
def test_options_without_inference_are_early(stage):
    order = tuple(s for s in STAGES if s != "interpret")
    assert "option_before_inference" in judge_thoughts(trace(order)).violations


@pytest.mark.parametrize(
    "start",
    [
        "The answer is the drawer because Anna left.",
        "The correct answer must be the drawer.",
        "I would choose the drawer.",
        "Let me justify the choice.",
    ],
)
def test_backward_justification(start):
    judgement = judge_thoughts(f"{start}\n{trace()}")
    assert judgement.violations == ("backward_justification",)
    assert judgement.score == pytest.approx(0.5)


def test_answer_reasoned_inside_interpret_is_backward():
    judgement = judge_thoughts(trace(interpret="The answer is the drawer because Anna did not see Ben move the coin."))
    assert judgement.violations == ("backward_justification",)
    forward = trace(interpret="Anna did not see Ben move the coin, so the answer is the drawer.")
    assert judge_thoughts(forward).violations == ()


@pytest.mark.parametrize("start", ["The answer is not clear yet.", "The answer is in the story.", ""])
def test_no_backward_justification(start):
    assert judge_thoughts(f"{start}\n{trace()}").score == 1.0


def test_the_answer_first_is_failed():
    judgement = judge_thoughts("The answer is A because Anna did not see it. " + NATURAL)
    assert {"reversed", "option_before_inference", "backward_justification"} <= set(judgement.violations)
    assert judgement.score < 0.3


def test_loops_cost_more_the_longer_they_are():
    scores = [judge_thoughts(trace(interpret=INTERPRET + " Ben moved it to the shelf." * n)).score for n in range(30)]
    assert scores[:2] == [1.0, 1.0]
    assert scores[2:] != sorted(scores[2:])
    assert all(a >= b for a, b in pairwise(scores))
    assert scores[-1] < 0.2
    # sentences of three words or more: 3 + 1 + 1 + 5 of the trace and 5 said, 4 of them again
    judgement = judge_thoughts(trace(interpret=INTERPRET + " Ben moved it to the shelf." * 5))
    assert judgement.violations == ("loop",)
    assert judgement.score == pytest.approx(1 - 2 * (4 / 15 - 0.1))


def test_repeated_headings():
    judgement = judge_thoughts(trace() + "\nEncode: Carla stood near the window all along.")
    assert judgement.violations == ("repeated_stage",)
    assert judgement.score == pytest.approx(0.85)
    assert judge_thoughts("\n".join([trace()] * 5)).score < 0.1


def test_copied_stages():
    judgement = judge_thoughts(
        "\n".join(f"{heading}: {ENCODE}" for heading in ("Encode", "Interpret", "Goal", "Respond"))
    )
    assert judgement.violations[:3] == ("copied:interpret", "copied:goal", "copied:respond")
    assert judgement.score <= 1 / 16


def test_unlinked_stages():
    judgement = judge_thoughts(trace(goal="buy seven purple umbrellas tomorrow."))
    assert judgement.violations == ("unlinked:goal",)
    assert judgement.score == pytest.approx(0.7)


@pytest.mark.parametrize(
    "thoughts",
    [
        "Encode: I read the story and note the important cues carefully.\n"
        "Interpret: I think about what the cues mean for the characters.\n"
        "Goal: I need to find the goal of the question.\nRespond: I choose the best answer to it.",
        "Encode: cues cues story saw heard told put moved.\n"
        "Interpret: thinks believes knows feels wants intends because.\n"
        "Goal: question goal determine aim task.\nRespond: so the answer option choice is correct.",
        "story saw heard put moved cue. thinks believes knows feels wants. question goal aim. so answer option choice.",
        "Encode: lorem ipsum dolor sit amet elit.\nInterpret: sed eiusmod tempor incididunt labore magna.\n"
        "Goal: quis nostrud exercitation ullamco.\nRespond: duis aute irure velit.",
        "encode interpret goal respond " * 30,
        "Encode: Interpret: Goal: Respond: " * 10,
    ],
)
def test_filler_and_stuffing_fail(thoughts):
    assert judge_thoughts(thoughts).score < 0.4


def test_scores_are_graded():
    variants = [trace(STAGES[:n]) for n in range(5)]
    variants += [trace(encode=ENCODE[:n]) for n in (10, 20, 30, 60)] + [
        trace(encode="B: x. " * n + ENCODE) for n in (1, 2, 3)
    ]
    assert len({round(judge_thoughts(v).score, 6) for v in variants}) >= 10


# --------------------------------------------------------------------------------------------------- option mentions


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("option B", 1),
        ("Options A, C", 2),
        ("the answer is B", 1),
        ("Answer: **C**", 1),
        ("(C) fits", 1),
        ("A: drawer", 1),
        ("B) shelf", 1),
        ("\nB. shelf", 1),
        ("neither A nor D", 2),
        ("B is wrong. A is right.", 2),
        ("A looks right. B seems odd.", 2),
        ("so I pick C.", 1),
        ("it is B because", 1),
        ("A boy and a girl. I know. So I left, and I will see.", 0),
        ("Room B is dark, and Person A: hello", 0),
        ("Mr J. Smith met K-9 in the U.S. with vitamin C", 0),
        ("Anna: hello. ABC: no. Xerxes (Max) said so.", 0),
        ("a: drawer, option b", 0),
        ("", 0),
    ],
)
def test_option_mentions(text, count):
    assert len(option_mentions(text)) == count


# --------------------------------------------------------------------------------------------------------- any string

FRAGMENTS = st.lists(
    st.sampled_from(
        [
            "Encode:",
            "Interpret:",
            "**Goal**",
            "Respond:",
            "\n",
            " ",
            ". ",
            "A",
            "B:",
            "(",
            ")",
            "the answer is",
            "thinks",
            "because",
            "put",
            "Anna",
            "coin",
            "İ",
            "ß",
            "\ud800",
            "\x00",
            "1.",
            "#",
            "question",
            "心",
        ]
    ),
    max_size=40,
).map(" ".join)


@given(st.one_of(st.text(), FRAGMENTS))
def test_any_string(thoughts):
    judgement = judge_thoughts(thoughts)
    assert 0.0 <= judgement.score <= 1.0
    assert judgement == judge_thoughts(thoughts)
    assert (judgement.score == 1.0) == (not judgement.violations)
    assert len(set(judgement.violations)) == len(judgement.violations)
    ends = 0
    for span in judgement.stages:
        assert ends <= span.start <= span.body <= span.end <= len(thoughts)
        ends = span.end


@pytest.mark.parametrize(
    "piece",
    [
        "A",
        "A ",
        "A, ",
        "Encode",
        "Encode ",
        "Encode:\n",
        "\t",
        "**",
        "- ",
        "answer is ",
        "1",
        "the answer is not ",
        "(",
        "\n",
    ],
)
def test_linear_time(piece):
    started = time.perf_counter()
    judge_thoughts(piece * (100_000 // len(piece)))
    assert time.perf_counter() - started < 5.0  # about 0.1 s; a quadratic rule would need minutes
