"""Split a response into SIP stages for the page, and mark the problems that the rules found."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from socialr1_jax.rewards import STAGES, StageSpan, find_stages, judge_thoughts, parse_response
from socialr1_jax.rewards.mentions import announces_answer
from socialr1_jax.rewards.parsing import ANSWER_END, TAGS, THINK, THINK_END
from socialr1_jax.rewards.rules_judge import early_mentions, first_inference, long_sentences
from socialr1_jax.rewards.stages import Stage
from socialr1_jax.rewards.words import sentences

LONGEST_TEXT = 20_000  # characters of a response or a story on the page; the rest is only counted

Place = tuple[int, int]  # characters [start, end)
Block = tuple[str, list[tuple[str, list[int]]]]  # stage or "", [(text, numbers of the problems marked there), ...]


class MarkedText(NamedTuple):
    """A response as blocks, which join to its text without outer line breaks; `problems` are numbered from 1."""

    answer: str
    problems: list[str]
    blocks: list[Block]
    left_out: int  # characters beyond LONGEST_TEXT


def mark_response(text: str) -> MarkedText:
    """Return the stages and problems of a response. Problems without a place (a skipped stage) are only listed."""
    parsed = parse_response(text)
    # a truncated response has stages to show, but no valid thoughts
    thoughts = parsed.thoughts or ("" if THINK_END in text else text.partition(THINK)[2])
    start = text.find(thoughts, text.find(THINK) + len(THINK))
    spans = find_stages(thoughts)
    problems = [(problem, _tag_places(problem, text)) for problem in parsed.problems]
    if parsed.thoughts:
        for violation in dict.fromkeys(judge_thoughts(thoughts).violations):
            places = [(start + a, start + b) for a, b in _violation_places(violation, thoughts, spans)]
            problems.append((violation.replace("_", " ").replace(":", ": "), places))
    stages = [(span.stage, start + span.start, start + span.end) for span in spans]
    blocks = list(_blocks(text[:LONGEST_TEXT], stages, [places for _, places in problems]))
    left_out = max(0, len(text) - LONGEST_TEXT)
    return MarkedText(parsed.answer, [problem for problem, _ in problems], blocks, left_out)


def _tag_places(problem: str, text: str) -> list[Place]:
    if problem == f"text before {THINK}":
        return [(0, text.find(THINK))]
    if problem == f"text after {ANSWER_END}":
        return [(text.find(ANSWER_END) + len(ANSWER_END), len(text))]
    tag = next((tag for tag in TAGS if problem.startswith(f"{tag} appears")), "")
    if not tag:
        return []
    places = []
    at = text.find(tag)
    while (at := text.find(tag, at + 1)) >= 0:  # the first one is correct
        places.append((at, at + len(tag)))
    return places


def _violation_places(violation: str, thoughts: str, spans: list[StageSpan]) -> list[Place]:
    """Return the places of a violation of docs/rewards.md; empty for missing stages and unknown rules."""
    name, _, stage = violation.partition(":")
    match name:
        case "thin" | "unlinked" | "copied":
            return [_head(thoughts, next(span for span in spans if span.stage == stage))]
        case "repeated_stage":
            return _heads(thoughts, spans, lambda stage, before: stage in before)
        case "reversed":
            return _heads(thoughts, spans, _comes_late)
        case "option_before_inference":
            return [(at, at + 1) for at in early_mentions(thoughts, spans)]
        case "backward_justification":
            begin, end = first_inference(thoughts, spans)
            return [
                (a, b)
                for a, b in sentences(thoughts[:end])
                if announces_answer(thoughts[a:b], b - a if a < begin else 0, b - a)
            ]
        case "loop":
            earlier: set[str] = set()
            places = []
            for a, b, sentence in long_sentences(thoughts, spans):
                if sentence in earlier:
                    places.append((a, b))
                earlier.add(sentence)
            return places
    return []


def _heads(thoughts: str, spans: list[StageSpan], is_fault: Callable[[Stage, set[Stage]], bool]) -> list[Place]:
    """Return the heads of the stages that are faults, given the stages before them."""
    before: set[Stage] = set()
    places = []
    for span in spans:
        if is_fault(span.stage, before):
            places.append(_head(thoughts, span))
        before.add(span.stage)
    return places


def _comes_late(stage: Stage, before: set[Stage]) -> bool:
    return stage not in before and any(STAGES.index(other) > STAGES.index(stage) for other in before)


def _head(thoughts: str, span: StageSpan) -> Place:
    """Return the place of a stage's heading, or of its first sentence if it has none."""
    if span.body > span.start:
        heading = thoughts[span.start : span.body]
        return span.body - len(heading.lstrip()), span.start + len(heading.rstrip())
    first = next(iter(sentences(thoughts[span.start : span.end])), (0, span.end - span.start))
    return span.start + first[0], span.start + first[1]


def _blocks(text: str, stages: Sequence[tuple[str, int, int]], places: list[list[Place]]) -> Iterator[Block]:
    """Split the text at the ends of stages and marks; text outside the stages forms separate blocks."""
    edges: dict[int, list[int]] = {}  # position -> numbers of problems that begin (+) or end (-) there
    for number, there in enumerate(places, start=1):
        for start, end in there:
            if start < end:
                edges.setdefault(start, []).append(number)
                edges.setdefault(end, []).append(-number)
    cuts = sorted(edges)
    depth = [0] * (len(places) + 1)
    stretches, last = [], 0
    for stage, start, end in stages:
        stretches += [("", last, start), (stage, start, end)]
        last = end
    at = 0  # the next of `cuts`
    for stage, start, end in [*stretches, ("", last, len(text))]:
        pieces: list[tuple[str, list[int]]] = []
        while start < min(end, len(text)):
            while at < len(cuts) and cuts[at] <= start:
                for number in edges[cuts[at]]:
                    depth[abs(number)] += 1 if number > 0 else -1
                at += 1
            stop = min(end, len(text), cuts[at] if at < len(cuts) else end)
            pieces.append((text[start:stop], [number for number, deep in enumerate(depth) if deep]))
            start = stop
        if pieces:
            pieces[0] = pieces[0][0].lstrip("\n"), pieces[0][1]
            pieces[-1] = pieces[-1][0].rstrip("\n"), pieces[-1][1]
            pieces = [piece for piece in pieces if piece[0]]
        if any(piece[0].strip() for piece in pieces):
            yield stage, pieces
