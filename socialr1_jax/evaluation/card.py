"""The `social_r1` protocol: prompt of the SocialR1 model cards, letter in <Answer>, plain accuracy."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.examples import LETTERS, Example
from socialr1_jax.data.prompts import INSTRUCTION, card_prompt
from socialr1_jax.evaluation.metrics import Grade
from socialr1_jax.evaluation.request import Request, chat
from socialr1_jax.rewards.answers import answer_letter
from socialr1_jax.rewards.parsing import final_answer
from socialr1_jax.rewards.terms import is_choice, outcome_reward

_PUBLISHED = re.compile(r"<Answer>\s*([A-Z])")  # before any </Answer>
_NEW_TOKENS = 2048  # the cards' limit, thoughts and answer together


def card_request(
    *, id: str, item: str, story: str, question: str, options: Sequence[str], gold: str, meta: Mapping[str, Any]
) -> Request:
    """Return a request with the prompt of the SocialR1 cards. `gold` is a letter if there are options."""
    messages = chat(card_prompt(story, question, options))
    return Request(id=id, item=item, messages=messages, gold=gold, meta=meta, max_new_tokens=_NEW_TOKENS)


def graded_by(read: Callable[[Request, ProtocolName, str], str | Grade]) -> Callable[..., Grade]:
    """Return the `Task.grade` of a benchmark: `card_grade` for `social_r1`, else based on `read`.

    `read` returns a grade, or an answer that is right if it equals the gold answer.
    """

    def grade(request: Request, protocol: ProtocolName, reply: str) -> Grade:
        result = card_grade(request, reply) if protocol == "social_r1" else read(request, protocol, reply)
        return Grade(result, float(result == request.gold)) if isinstance(result, str) else result

    return grade


def card_grade(request: Request, reply: str) -> Grade:
    """Grade a reply without its thoughts like the outcome reward: by the letter named in <Answer>.

    Requests with `meta["answer_mode"]` "reference" are graded by `published_grade`.
    """
    if request.meta.get("answer_mode") == "reference":
        return published_grade(request, reply)
    answer = final_answer(reply)
    parsed = answer_letter(answer) if is_choice(request.gold) else answer
    return Grade(parsed, outcome_reward(answer, request.gold))


def published_grade(request: Request, reply: str) -> Grade:
    """Grade a reply like the paper's code: by the capital letter at the start of the first <Answer>."""
    match = _PUBLISHED.search(reply)
    if match is None or reply.find("</Answer>", match.end()) < 0:
        return Grade("", 0.0)
    return Grade(match[1], float(match[1] == request.gold))


def card_example(request: Request) -> Example:
    """Recover the question from a request of `card_request`, with `item` as `meta["story_id"]`."""
    head, options = request.messages[-1]["content"].removesuffix(INSTRUCTION).rstrip("\n"), list[str]()
    if "\nA. " in head:
        head, _, rest = head.rpartition("\nA. ")
        for letter in LETTERS[1:]:
            option, separator, after = rest.partition(f"\n{letter}. ")
            if not separator:
                break
            options.append(option)
            rest = after
        options.append(rest)
    story, _, question = head.rpartition("\n\n")
    return Example(
        id=request.id,
        story=story,
        question=question,
        options=tuple(options),
        answer=request.gold,
        meta={"story_id": request.item} | {name: str(value) for name, value in request.meta.items()},
    )
