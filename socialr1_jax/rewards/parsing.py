"""Split a response into thoughts and answer, and list the problems of its format.

The expected format is `<think>` thoughts `</think>` anything `<Answer>` answer `</Answer>`.
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
    """Result of `parse_response`.

    `thoughts` and `answer` are stripped, and "" unless exactly one pair of tags is unambiguous. `problems` describes
    the faults of the format in words; `well_formed` is true if there are none.
    """

    thoughts: str
    answer: str
    problems: tuple[str, ...]

    @property
    def well_formed(self) -> bool:
        return not self.problems


def parse_response(text: str, mode: FormatMode = "strict") -> ParsedResponse:
    """Split a response (special end tokens removed) into thoughts and answer.

    `strict`: ignoring outer white space, a well-formed response starts with `<think>`, ends with `</Answer>` and holds
    each of the four tags exactly once (case-sensitive) and in order; thoughts and answer are not empty. From a
    malformed response only unambiguous parts are used, so writing several never helps: the thoughts are the text of
    the only think pair if it contains no answer tag, the answer is the text of the only answer pair if no think tag is
    inside or after it. Other parts are "".

    `reference`: the published pattern `<think>.*</think>.*<Answer>.*</Answer>` on the whole response. Tags may repeat
    and parts may be empty; thoughts and answer are those of the first pair anywhere, as published.

    Never fails on a string. Raises TypeError for any other type.
    """
    if not isinstance(text, str):
        raise TypeError(f"a response is a string, not {type(text).__name__}; decode the token ids first")
    text = text.strip()
    return _parse_strict(text) if mode == "strict" else _parse_reference(text)


def without_thoughts(text: str) -> str | None:
    """Return the text after the thoughts: the whole text if there are none, None if they do not end."""
    _, _, after = text.rpartition(THINK_END)  # the whole text if there is no end tag
    return None if THINK in after else after.strip()


def final_answer(text: str) -> str:
    """Return the answer of the only `<Answer>` pair after the thoughts of a response.

    Returns "" if there is none or more than one, or if the thoughts do not end. Training and evaluation read this
    answer, so tags inside the thoughts have no effect.
    """
    after = without_thoughts(text)
    return "" if after is None else parse_response(after).answer


def given_answer(text: str, mode: FormatMode = "strict") -> str:
    """Return the answer that the outcome reward reads: `final_answer`, or the first pair in mode `reference`."""
    return final_answer(text) if mode == "strict" else parse_response(text, mode).answer


def whole_responses(texts: Sequence[str], opened: Opened = "auto") -> list[str]:
    """Return responses with the `<think>` that their chat template put into the prompt (`opened` "yes").

    "auto" assumes that it did if no text begins with `<think>` and some have only `</think>`. Texts that begin with
    `<think>` stay unchanged.
    """
    begins = [text.lstrip().startswith(THINK) for text in texts]
    if opened == "auto":
        opened = "yes" if not any(begins) and any(THINK_END in t and THINK not in t for t in texts) else "no"
    missing = [opened == "yes" and not begun for begun in begins]
    return [f"{THINK}\n{text.lstrip()}" if lacks else text for text, lacks in zip(texts, missing, strict=True)]


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
    # Plain searches, because the regular expression takes cubic time on "</think>" * k + "<Answer>" * k. The leftmost
    # inner tags leave the most room for the rest, so this finds them exactly when the pattern matches.
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
    inside, closed, _ = text.partition(opening)[2].partition(closing)
    return inside.strip() if closed else ""
