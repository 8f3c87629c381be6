"""EmoBench as in its paper: majority of five replies per question, under four orders of the options.

Rules as of Sahandfer/EmoBench @ ffa5e58 (March 2024), the version behind the paper's tables. The cause is asked after
the emotion, and its question names the emotion that the model chose (the last option if none can be parsed). The reply
is a letter. The majority ignores replies without an answer unless all are. Figures are means over the file's order and
three shuffled ones, drawn by the seed here (the authors' are in files with older questions). Prompts are in our own
words. The authors' decoding for open models also bans repeated bigrams, which is left out here.
"""

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from socialr1_jax.data.examples import LETTERS
from socialr1_jax.evaluation.metrics import Grade, Graded, grouped
from socialr1_jax.evaluation.request import Messages, Request, chat
from socialr1_jax.evaluation.task import Decoding

DECODING = Decoding(temperature=0.6, top_p=0.9)
ORDERS, TRIES = 4, 5
NO_ANSWER = "-"

_NEW_TOKENS = 75
_COUNTED = {"EU": 6, "EA": 4}  # letters searched for, whatever the number of options
_SYSTEM = {
    "en": (
        "You are given a scenario, a question about it and lettered choices. Put yourself in the place of the person "
        "asked about. Reply with the letter of the one choice that fits best, without explanations."
    ),
    "zh": "下面有场景、问题和带字母的选项。请站在所问人物的立场，只回复最合适的那个选项的字母，不要解释。",
}
_HEADINGS = {
    "en": ("Scenario", "Question", "Choices", "Answer (the letter alone):"),
    "zh": ("场景", "问题", "选项", "答案（只写字母）："),
}
_CAUSE = {"en": "What makes {subject} feel {emotion}?", "zh": "是什么让{subject}感到{emotion}？"}
_AND = {"en": " and ", "zh": "和"}
# A letter in the first matching form counts; else an option's text; else a letter alone on the line, or at its start
# before one of the marks.
_FORMS = ("({})", "[{}]", ": {}", "option {}", "option ({})", "choice {}", "choice ({})", "选项 {}", "选项 ({})")
_MARKS = "<[():"

AskedQuestion = tuple[str, str, list[str], str]  # name, words, options, gold letter


def requests(
    item: Mapping[str, Any], asked: Sequence[AskedQuestion], meta: Mapping[str, Any], seed: int
) -> Iterator[Request]:
    """Yield the prompts of a row, five tries in each of four orders; for EU these ask for the emotion."""
    rng = random.Random(f"emobench {seed} {item['part']} {item['qid']}")
    for order in range(1, ORDERS + 1):
        shown, golds = [], []
        for _, _, options, gold in asked:
            places = list(range(len(options))) if order == 1 else rng.sample(range(len(options)), len(options))
            shown.append([options[place] for place in places])
            golds.append(LETTERS[places.index(LETTERS.index(gold))])
        about = {**meta, "order": order, "options": shown}
        if len(asked) > 1:
            about |= {"scenario": item["scenario"], "subject": item["subject"]}
        for number in range(1, TRIES + 1):
            yield Request(
                id=f"{item['part']}-{item['language']}-{item['qid']}-order{order}-try{number}",
                item=f"{item['part']}-{item['qid']}",
                messages=_messages(item["language"], item["scenario"], asked[0][1], shown[0]),
                gold=",".join(golds),
                meta=about | {"try": number},
                max_new_tokens=_NEW_TOKENS,
                follow_up=len(asked) > 1,
            )


def follow_up(request: Request, reply: str) -> Request:
    """Return the prompt that asks for the cause, with the emotion named in the reply."""
    meta = dict(request.meta)
    emotions, causes = meta["options"]
    letter = _letter(reply, emotions, meta)
    emotion = emotions[LETTERS.index(letter)] if letter in LETTERS[: len(emotions)] and letter else emotions[-1]
    question = _CAUSE[meta["language"]].format(subject=meta.pop("subject"), emotion=emotion)
    messages = _messages(meta["language"], meta.pop("scenario"), question, causes)
    return replace(request, messages=messages, meta=meta | {"emotion": letter or NO_ANSWER}, follow_up=False)


def _messages(language: str, scenario: str, question: str, options: Sequence[str]) -> Messages:
    of_scenario, of_question, of_choices, end = _HEADINGS[language]
    lettered = "\n".join(f"({letter.lower()}) {text.strip()}" for letter, text in zip(LETTERS, options, strict=False))
    parts = (f"{of_scenario}:\n{scenario}", f"{of_question}:\n{question}", f"{of_choices}:\n{lettered}", end)
    return chat("\n\n".join(parts), _SYSTEM[language])


def grade(request: Request, reply: str) -> Grade:
    """Grade the letter in the reply, for EU with that of the emotion: "A,C", with "-" for a missing one."""
    letter = _letter(reply, request.meta["options"][-1], request.meta) or NO_ANSWER
    answers = [*([request.meta["emotion"]] if "emotion" in request.meta else []), letter]
    answer = ",".join(answers) if set(answers) != {NO_ANSWER} else ""
    return Grade(answer, float(answer == request.gold))


def _letter(reply: str, options: Sequence[str], meta: Mapping[str, Any]) -> str:
    """Return the letter named in the last line that has an answer; "" if no line has one."""
    letters = LETTERS[: _COUNTED[meta["part"]]].lower()
    named = [option.replace(" & ", _AND[meta["language"]]).lower() for option in options]
    text = reply.strip().lower().replace("（", "(").replace("）", ")").replace(".", "")
    for line in reversed(text.split("\n")):
        if formed := [letter for form in _FORMS for letter in letters if form.format(letter) in line]:
            return formed[0].upper()
        if named_letters := [letter for letter, option in zip(LETTERS, named, strict=False) if option in line]:
            return named_letters[0]
        if line[:1] and line[:1] in letters and (len(line) == 1 or line[1] in _MARKS):
            return line[0].upper()
    return ""


def voted(graded: Sequence[Graded]) -> Iterator[Graded]:
    """Yield each question under each order with the majority of its replies; the first one wins a tie."""
    units = ("language", "order")
    for rows in grouped(graded, lambda row: (row.request.item, *map(row.request.meta.get, units))).values():
        request = rows[0].request
        places = request.gold.count(",") + 1
        answers = [row.grade.answer.split(",") if row.grade.answer else [NO_ANSWER] * places for row in rows]
        answer = ",".join(map(_majority, zip(*answers, strict=True)))
        yield Graded(request, Grade(answer, float(answer == request.gold)))


def _majority(answers: Sequence[str]) -> str:
    first, *others = (answer for answer, _ in Counter(answers).most_common(2))
    return others[0] if first == NO_ANSWER and others else first
