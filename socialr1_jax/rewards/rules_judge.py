"""Judge structure without a server, by documented, deterministic rules on the thoughts alone.

Score: `(sum of the four stages' substance / 4) ** 2` times a factor for each fault; docs/rewards.md lists them. Because
of the square, a skipped stage costs 0.44 and a second one 0.31 more, which gives the bands of the specification: all
four 1.0, one skipped 0.56 (weak), two skipped 0.25 (failed). Factors, unlike deductions down to 0, still rank the
responses of a bad group, so there is a learning signal.

The rules see neither story nor question: they do not score correctness and cannot detect invented facts.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from socialr1_jax.rewards.mentions import announces_answer, option_mentions
from socialr1_jax.rewards.stages import STAGES, Stage, StageSpan, find_stages
from socialr1_jax.rewards.words import content_words, sentences, words_of

# Distinct words and distinct content words for the full substance of a stage. Reference traces of the generated stories
# have about twice as many. Filler under a heading has words but no content and gets half.
_NEEDS: dict[Stage, tuple[int, int]] = {"encode": (6, 3), "interpret": (6, 2), "goal": (4, 1), "respond": (4, 1)}
_FEWEST_WORDS = 3  # a stage with fewer has no substance
_COPY = 0.9  # intersection over union of the words with those of an earlier stage, from which a stage is a copy

_UNLINKED = 0.7
_INVERSION = 0.15  # per pair of stages (of 6) in the wrong order
_FIRST_MENTION, _MORE_MENTIONS, _MOST_MENTIONS = 0.6, 0.9, 6
_BACKWARD = 0.5
_FREE_LOOPS, _LOOP_RATE, _LOOP_LEAST = 0.1, 2.0, 0.1
_REPEATED, _MOST_REPEATED, _FREE_RETURNS = 0.85, 6, 4


@dataclass(frozen=True)
class Judgement:
    """Score in [0, 1], the violations that lowered it (named as in docs/rewards.md) and the stages found."""

    score: float
    violations: tuple[str, ...]
    stages: tuple[StageSpan, ...]


def judge_thoughts(thoughts: str) -> Judgement:
    """Score the structure of thoughts; "" scores 0. Takes linear time and never fails on a string."""
    spans = find_stages(thoughts)
    words: dict[Stage, set[str]] = {}
    for span in spans:
        words.setdefault(span.stage, set()).update(words_of(thoughts[span.body : span.end]))
    content = {stage: content_words(of_stage) for stage, of_stage in words.items()}
    faults: list[tuple[str, float]] = []  # (violation, factor)
    substance: dict[Stage, float] = {}
    for stage in STAGES:
        if stage not in words:
            faults.append((f"skipped:{stage}", 1.0))  # factor 1: the missing substance is the penalty
            continue
        if any(_same(words[stage], words[earlier]) for earlier in substance):
            substance[stage] = 0.0
            faults.append((f"copied:{stage}", 1.0))
            continue
        substance[stage] = _substance(stage, words[stage], content[stage])
        if substance[stage] < 1.0:
            faults.append((f"thin:{stage}", 1.0))
    base = (sum(substance.values()) / len(STAGES)) ** 2

    faults += _order_faults(spans, substance)
    faults += _link_faults(spans, content)
    faults += _option_faults(thoughts, spans)
    faults += _loop_faults(thoughts, spans)
    score = base
    for _, factor in faults:
        score *= factor
    return Judgement(score, tuple(name for name, _ in faults), tuple(spans))


def _substance(stage: Stage, words: set[str], content: set[str]) -> float:
    """Return a stage's substance in [0, 1]: half for distinct words, half for distinct content words."""
    if len(words) < _FEWEST_WORDS:
        return 0.0
    need_words, need_content = _NEEDS[stage]
    return 0.5 * min(1.0, len(words) / need_words) + 0.5 * min(1.0, len(content) / need_content)


def _same(words: set[str], earlier: set[str]) -> bool:
    return bool(words) and len(words & earlier) >= _COPY * len(words | earlier)


def _order_faults(spans: list[StageSpan], substance: dict[Stage, float]) -> list[tuple[str, float]]:
    """Return a fault for pairs of stages in the wrong order of first appearance, ignoring stages without substance."""
    order = [STAGES.index(stage) for stage in dict.fromkeys(s.stage for s in spans) if substance[stage] > 0]
    inversions = sum(order[i] > later for i in range(len(order)) for later in order[i + 1 :])
    return [("reversed", 1.0 - _INVERSION * inversions)] if inversions else []


def _link_faults(spans: list[StageSpan], content: dict[Stage, set[str]]) -> list[tuple[str, float]]:
    """Return a fault for each stage that shares no content word with an earlier stage."""
    faults = []
    before: set[str] = set()
    for stage in dict.fromkeys(span.stage for span in spans):
        if content[stage] and before and content[stage].isdisjoint(before):
            faults.append((f"unlinked:{stage}", _UNLINKED))
        before |= content[stage]
    return faults


def _option_faults(thoughts: str, spans: list[StageSpan]) -> list[tuple[str, float]]:
    """Return faults for options named or the answer announced before the inference."""
    faults = []
    if early := early_mentions(thoughts, spans):
        more = min(len(early), _MOST_MENTIONS) - 1
        faults.append(("option_before_inference", _FIRST_MENTION * _MORE_MENTIONS**more))
    if announces_answer(thoughts, *first_inference(thoughts, spans)):
        faults.append(("backward_justification", _BACKWARD))
    return faults


def _loop_faults(thoughts: str, spans: list[StageSpan]) -> list[tuple[str, float]]:
    """Return faults for repeated sentences of three words or more, and for stages that recur."""
    faults = []
    folded = [text for _, _, text in long_sentences(thoughts, spans)]
    share = 1.0 - len(set(folded)) / len(folded) if folded else 0.0
    if share > _FREE_LOOPS:
        faults.append(("loop", max(_LOOP_LEAST, 1.0 - _LOOP_RATE * (share - _FREE_LOOPS))))
    headed = any(span.body > span.start for span in spans)
    returns = len(spans) - len({span.stage for span in spans}) - (0 if headed else _FREE_RETURNS)
    if returns > 0:
        faults.append(("repeated_stage", _REPEATED ** min(returns, _MOST_REPEATED)))
    return faults


def first_inference(thoughts: str, spans: list[StageSpan]) -> tuple[int, int]:
    """Return (start, end) of the first `interpret` span; without one, both are the length of the thoughts."""
    places = ((span.start, span.end) for span in spans if span.stage == "interpret")
    return next(places, (len(thoughts), len(thoughts)))


def early_mentions(thoughts: str, spans: list[StageSpan]) -> list[int]:
    """Return the positions of options named before the first inference ends, or in any `encode` or `interpret` span."""
    early = [(0, first_inference(thoughts, spans)[1])]
    early += [(span.start, span.end) for span in spans if span.stage in ("encode", "interpret")]
    return [at for at in option_mentions(thoughts) if any(start <= at < end for start, end in early)]


def long_sentences(thoughts: str, spans: list[StageSpan]) -> Iterator[tuple[int, int, str]]:
    """Yield (start, end, case-folded text) of the stages' sentences of three words or more."""
    for span in spans:
        for start, end in sentences(thoughts[span.body : span.end]):
            text = thoughts[span.body + start : span.body + end].strip().casefold()
            if text.count(" ") >= 2:
                yield span.body + start, span.body + end, text
