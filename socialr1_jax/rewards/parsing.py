"""A response cut into thoughts and answer, and what is wrong with its shape.

The expected shape is ``<think>`` thoughts ``</think>`` anything ``<Answer>`` answer ``</Answer>``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FormatMode = Literal["strict", "reference"]
Opened = Literal["auto", "yes", "no"]

TAGS = ("<think>", "</think>", "<Answer>", "</Answer>")
THINK, THINK_END, ANSWER, ANSWER_END = TAGS


@dataclass(frozen=True)
class ParsedResponse:
    """Result of ``parse_response``.

    ``thoughts`` and ``answer`` are stripped of outer white space, and "" where there is no doubt-free pair of tags.
    ``problems`` says in plain words what is wrong; ``well_formed`` is true exactly when it is empty.
    """

    thoughts: str
    answer: str
    problems: tuple[str, ...]

    @property
    def well_formed(self) -> bool:
        return not self.problems


def parse_response(text: str, mode: FormatMode = "strict") -> ParsedResponse:
    """Cut a response (special end tokens removed) into thoughts and answer.

    ``strict``: outer white space aside, the response starts with ``<think>``, ends with ``</Answer>``, holds each of
    the four tags exactly once (case-sensitive) and in order, and neither thoughts nor answer is empty. Where it is
    malformed, a part is still given if it is beyond doubt, so that nothing is gained by writing several: the thoughts
    are the text of the only think pair with no answer tag inside, the answer is the text of the only answer pair with
    no think tag inside or after it. Everything else is "".

    ``reference``: the published pattern ``<think>.*</think>.*<Answer>.*</Answer>`` on the whole response. Tags may
    repeat and parts may be empty; thoughts and answer are those of the first pair, wherever it stands, as published.

    Raises TypeError for anything but a string; never fails on a string.
    """
    if not isinstance(text, str):
        raise TypeError(f"a response is a string, not {type(text).__name__}; decode the token ids first")
    text = text.strip()
    return _parse_strict(text) if mode == "strict" else _parse_reference(text)


def without_thoughts(text: str) -> str | None:
    """Return what follows the thoughts, the whole text where there are none, None where they do not end."""
    _, _, after = text.rpartition(THINK_END)  # the whole text comes last when there is no end
    return None if THINK in after else after.strip()


def final_answer(text: str) -> str:
    """Return the answer that a response ends with: the only `<Answer>` behind its thoughts.

    "" where there is none or more than one, and where the thoughts do not end. Training and evaluation read this one,
    so tags that the thoughts mention decide nothing.
    """
    after = without_thoughts(text)
    return "" if after is None else parse_response(after).answer


def given_answer(text: str, mode: FormatMode = "strict") -> str:
    """Return the answer that the outcome reward reads: `final_answer`, or the first pair in mode `reference`."""
    return final_answer(text) if mode == "strict" else parse_response(text, mode).answer


def whole_responses(texts: Sequence[str], opened: Opened = "auto") -> list[str]:
    """Return responses with the `<think>` that their chat template had put into the prompt ("yes").

    "auto" takes it that the template did so where no text begins with `<think>` and some have nothing but `</think>`.
    Texts that begin with `<think>` stay as they are.
    """
    begins = [text.lstrip().startswith(THINK) for text in texts]
    if opened == "auto":
        opened = "yes" if not any(begins) and any(THINK_END in t and THINK not in t for t in texts) else "no"
    missing = [opened == "yes" and not begun for begun in begins]
    return [f"{THINK}\n{text.lstrip()}" if one else text for text, one in zip(texts, missing, strict=True)]


def _parse_strict(text: str) -> ParsedResponse:
    counts = [text.count(tag) for tag in TAGS]
    problems = [
        f"no {tag}" if count == 0 else f"{tag} appears {count} times"
        for tag, count in zip(TAGS, counts, strict=True)
        if count != 1
    ]
    starts = [text.find(tag) if count == 1 else -1 for tag, count in zip(TAGS, counts, strict=True)]
    single = [start for start in starts if start >= 0]
    if single != sorted(single):
        problems.append("tags out of order")
    elif single:
        if counts[0] == 1 and starts[0] > 0:
            problems.append(f"text before {THINK}")
        if counts[3] == 1 and starts[3] + len(ANSWER_END) < len(text):
            problems.append(f"text after {ANSWER_END}")

    think, think_end, answer, answer_end = starts
    thoughts_text = answer_text = ""
    if 0 <= think < think_end:
        inside = text[think + len(THINK) : think_end]
        if ANSWER not in inside and ANSWER_END not in inside:
            thoughts_text = inside.strip()
            if not thoughts_text:
                problems.append("empty thoughts")
    if 0 <= answer < answer_end and THINK not in text[answer:] and THINK_END not in text[answer:]:
        answer_text = text[answer + len(ANSWER) : answer_end].strip()
        if not answer_text:
            problems.append("empty answer")
    return ParsedResponse(thoughts_text, answer_text, tuple(problems))


def _parse_reference(text: str) -> ParsedResponse:
    # Plain searches: the regular expression needs cubic time on "</think>" * k + "<Answer>" * k. Leftmost inner tags
    # leave the most room for the rest, so they are there exactly when the pattern matches.
    think_end = text.find(THINK_END, len(THINK))
    answer = text.find(ANSWER, think_end + len(THINK_END)) if think_end >= 0 else -1
    matches = (
        text.startswith(THINK)
        and text.endswith(ANSWER_END)
        and think_end >= 0
        and 0 <= answer <= len(text) - len(ANSWER) - len(ANSWER_END)
    )
    problems = () if matches else ("does not match <think>.*</think>.*<Answer>.*</Answer>",)
    return ParsedResponse(_first_pair(text, THINK, THINK_END), _first_pair(text, ANSWER, ANSWER_END), problems)


def _first_pair(text: str, opening: str, closing: str) -> str:
    start = text.find(opening)
    if start < 0:
        return ""
    end = text.find(closing, start + len(opening))
    return text[start + len(opening) : end].strip() if end >= 0 else ""
