"""Find the four stages of Social Information Processing in a text of thoughts.

Headings decide first (`Encode:`, `**Interpreting cues**`, `3. Goals`). A text with fewer than two different headings is
classified sentence by sentence by its words. English only.
"""

import re
from dataclasses import dataclass
from typing import Literal

from socialr1_jax.rewards.words import (
    CONCLUSION,
    CONNECTIVE,
    EVENTS,
    GOAL,
    GOAL_NEED,
    MENTAL,
    NEGATION,
    PERCEPTION,
    REPORT,
    sentences,
    words_of,
)

Stage = Literal["encode", "interpret", "goal", "respond"]
STAGES: tuple[Stage, ...] = ("encode", "interpret", "goal", "respond")

# Takes linear time on any text: quantifiers are bounded, and a heading starts a line or follows a sentence.
_OF_CUES = r"(?:[ \t](?:of[ \t])?(?:the[ \t])?(?:social[ \t])?cues?)?"
_HEADING = re.compile(
    r"""(?:^|(?<=[.!?]\ ))[ \t]{0,8}
    (?:\#{1,6}[ \t]{1,4}|[-*•>][ \t]{1,4})?(?:\*\*|__)?
    (?:(?:stage|step|phase|part)[ \t]{1,2})?(?:\d{1,2}[ \t]?[.):–—-]?[ \t]{0,4})?(?:\*\*|__)?
    (?:
        (?P<encode>(?:social[ \t])?cue[ \t]encoding|encod(?:e|es|ing)OF_CUES|cues|observations?)
      | (?P<interpret>(?:social[ \t])?cue[ \t]interpretation|interpret(?:s|ing|ation)?OF_CUES|inference)
      | (?P<goal>goals?(?:[ \t]clarification)?|clarif(?:y|ying|ication)(?:[ \t]of)?(?:[ \t]the)?[ \t]goals?)
      | (?P<respond>respond(?:ing)?|(?:final[ \t])?responses?(?:[ \t](?:generation|selection|decision|construction))?
          |(?:generat(?:e|ing|ion)|select(?:ing)?|choos(?:e|ing)|form(?:ing)?)
           (?:[ \t]of)?(?:[ \t](?:an?|the))?[ \t]responses?)
    )
    [ \t]{0,4}(?:\([^()\n]{0,40}\)[ \t]{0,4})?
    (?:(?:\*\*|__)(?:[ \t]{0,4}:)?|:[ \t]{0,4}(?:\*\*|__)?|[–—-](?=[ \t])|\r?$)
    """.replace("OF_CUES", _OF_CUES),
    re.MULTILINE | re.IGNORECASE | re.VERBOSE,
)


@dataclass(frozen=True)
class StageSpan:
    """A span of thoughts, characters `[start, end)`; the stage's text begins at `body`, after the heading."""

    stage: Stage
    start: int
    end: int
    body: int


def find_stages(thoughts: str) -> list[StageSpan]:
    """Return the spans of the stages in text order, without overlap.

    With at least two different headings, a stage extends from its heading to the next. Otherwise `stage_of_sentence`
    classifies each sentence, sentences without a cue continue the stage before them, and adjacent sentences of a stage
    form one span. Text before the first heading or cue belongs to no stage. A stage may have several spans.
    """
    headings = list(_HEADING.finditer(thoughts))
    if len({heading.lastgroup for heading in headings}) >= 2:
        ends = [heading.start() for heading in headings[1:]] + [len(thoughts)]
        return [
            StageSpan(heading.lastgroup, heading.start(), end, heading.end())  # type: ignore[arg-type]
            for heading, end in zip(headings, ends, strict=True)
        ]
    spans: list[StageSpan] = []
    inferred = False
    for start, end in sentences(thoughts):
        stage = stage_of_sentence(frozenset(words_of(thoughts[start:end])), inferred)
        inferred = inferred or stage == "interpret"
        if spans and stage in (None, spans[-1].stage):
            last = spans.pop()
            spans.append(StageSpan(last.stage, last.start, end, last.body))
        elif stage is not None:
            spans.append(StageSpan(stage, start, end, start))
    return spans


def stage_of_sentence(words: frozenset[str], inferred: bool) -> Stage | None:
    """Return the stage of a sentence by its words, None without a cue. The first rule that applies decides.

    respond: a word of conclusion with "so", "therefore" or the like · goal: a word for the question or aim, or "need"
    with "find", "decide" and the like · respond: a word of conclusion · interpret: a mental state, a reason or a denied
    perception ("did not see") · encode: a report ("the story states"), or an event before the first inference. After an
    inference, an event such as "Ben moved it" is part of the argument.
    """
    concludes = not words.isdisjoint(CONCLUSION)
    if concludes and not words.isdisjoint(CONNECTIVE):
        return "respond"
    if not words.isdisjoint(GOAL) or ("need" in words and not words.isdisjoint(GOAL_NEED)):
        return "goal"
    if concludes:
        return "respond"
    if not words.isdisjoint(MENTAL) or not (words.isdisjoint(NEGATION) or words.isdisjoint(PERCEPTION)):
        return "interpret"
    if not words.isdisjoint(REPORT) or not (inferred or words.isdisjoint(EVENTS)):
        return "encode"
    return None
