"""ToMBench: theory of mind in eight tasks and six groups of abilities, every question in English and in Chinese.

Official rules as of zhchen18/ToMBench @ 4f491f0: every question is asked five times with shuffled options, the direct
prompt (our words, their content) asks for [[A]], the five letters are mapped back to the file's letters, and the most
frequent one counts. Figures are accuracies of tasks (8 files), ability groups (6) and abilities (32 names in the files,
though 31 are reported), separately by language; a question with two abilities counts in both. There is no overall
number; `ours/accuracy_en` is ours. The released scripts draw all shuffles from one random stream; here each question
has its own, so its orders do not depend on the other questions. `social_r1` asks once, in file order.
"""

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.evaluation_sets import EVALUATION_SETS
from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.options import gold_letter, parse_options
from socialr1_jax.data.prompts import lettered
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.metrics import Grade, Graded, Metric, accuracy, grouped, majority
from socialr1_jax.evaluation.request import Request, Wording, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Task, ways
from socialr1_jax.evaluation.tasks.reading import Reading, field, text
from socialr1_jax.runtime.terminal import shown

TASKS = (
    "Unexpected Outcome Test",
    "Scalar Implicature Test",
    "Persuasion Story Task",
    "False Belief Task",
    "Ambiguous Story Task",
    "Hinting Task Test",
    "Strange Story Task",
    "Faux-pas Recognition Test",
)
GROUPS = ("emotion", "desire", "intention", "knowledge", "belief", "non-literal communication")
TRIES = 5

_WHOLE = 2860
_TASK_FILES = [f"{task}.jsonl" for task in TASKS]
_FILES = (*_TASK_FILES, *sorted(set(EVALUATION_SETS["ToMBench"].values()) - set(_TASK_FILES)))
_LANGUAGES = ("en", "zh")
_COLUMNS = {"en": ("STORY", "QUESTION", "OPTION-"), "zh": ("故事", "问题", "选项")}
_ABILITY, _ANSWER = "能力\nABILITY", "答案\nANSWER"
_MOST_OPTIONS = 4
_NEXT_ABILITY = re.compile(rf"(?<!\s)\s+(?=(?:{'|'.join(GROUPS)}):)")
_NEW_TOKENS = 4096

_TASK = {
    "en": "Read the story and the question below, then pick the option that fits best, going by the story and everyday "
    "sense. {how} Where the story does not settle it, pick a letter at random rather than none.",
    "zh": "阅读下面的故事和问题，凭故事和常识挑出最合适的一项。{how}故事里找不到依据时，也要随机挑一个字母，不要空着。",
}
_DIRECT = {
    "en": "Your whole reply is its letter between double square brackets, such as [[A]].",
    "zh": "整条回复只写这一项的字母，外加两层方括号，例如 [[A]]。",
}
_COT = {
    "en": "Compare the options step by step first, and close with the letter of your choice between double square "
    "brackets, such as [[A]].",
    "zh": "先一步一步地比较各项，结尾再写所选的字母，外加两层方括号，例如 [[A]]。",
}
_HEADINGS = {"en": ("[Story]", "[Question]", "[Candidate Answers]"), "zh": ("[故事]", "[问题]", "[答案选项]")}
_OWN = Wording(
    {f"system_{language}": task.format(how=_DIRECT[language]) for language, task in _TASK.items()}
    | {f"system_cot_{language}": task.format(how=_COT[language]) for language, task in _TASK.items()}
    | {
        f"user_{count}_{language}": f"{story}\n{{story}}\n\n{question}\n{{question}}\n\n{candidates}\n"
        + lettered([f"{{choice_{letter}}}" for letter in "abcd"[:count]])
        for language, (story, question, candidates) in _HEADINGS.items()
        for count in range(2, _MOST_OPTIONS + 1)
    }
)


def load(folder: Path) -> Data:
    """Load the rows of all 20 files, each with its `task` (file name) and line `number`. Raises BenchmarkError."""
    reading = Reading(folder)
    items: list[dict[str, Any]] = []
    for name in _FILES:
        for number, (where, row) in enumerate(reading.rows(reading.find(name, under="data")), 1):
            abilities = _abilities(text(row, _ABILITY, where), where)
            item = {"task": name.removesuffix(".jsonl"), "number": number, "abilities": abilities}
            questions = {language: _question(row, language, where) for language in _LANGUAGES}
            written = {language: _written(row, language, q["options"]) for language, q in questions.items()}
            items.append(item | questions | {"written": written, "answer": row[_ANSWER]})
    reading.count(len(items), _WHOLE, "questions")
    return reading.data(items)


def _question(row: Mapping[str, Any], language: str, where: str) -> dict[str, Any]:
    story, question, option = _COLUMNS[language]
    cells = [field(row, option + letter, object, where) for letter in LETTERS[:_MOST_OPTIONS]]
    answer = text(row, _ANSWER, where)
    try:
        options = parse_options(cells)
        if len(options) < 2 or not all(options):
            raise ValueError(f"the options {option}A to {option}D are {list(options)}")
        gold = gold_letter(answer, options)
    except ValueError as error:
        raise BenchmarkError(f"{where}: {error}") from None
    return {"story": text(row, story, where), "question": text(row, question, where), "options": options, "gold": gold}


def _written(row: Mapping[str, Any], language: str, options: Sequence[str]) -> list[str]:
    """Return the options as in the authors' scripts: each without its own label, wherever it occurs."""
    *_, option = _COLUMNS[language]
    return [str(row[option + letter]).replace(f"{letter}. ", "") for letter, _ in zip(LETTERS, options, strict=False)]


def _abilities(named: str, where: str) -> list[str]:
    """Split abilities, such as "Belief: Location false beliefs Belief: Second-order beliefs", in lower case."""
    abilities = _NEXT_ABILITY.split(named.strip().lower())
    for ability in abilities:
        if ability.partition(":")[0] not in GROUPS:
            raise BenchmarkError(f"{where}: the ability {shown(named)} is in none of the groups {', '.join(GROUPS)}")
    return abilities


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Return English, then Chinese prompts; official: the five tries of a question in a row."""
    return [
        request
        for language in _LANGUAGES
        for item in data.items
        for request in _requests(item, language, protocol, seed, data.wording)
    ]


def _requests(
    item: Mapping[str, Any], language: str, protocol: ProtocolName, seed: int, wording: Wording | None
) -> Iterator[Request]:
    question, name = item[language], f"{item['task']}-{item['number']}"
    meta = {"language": language, "task": item["task"], "abilities": item["abilities"]}
    if protocol == "social_r1":
        yield card_request(id=f"{name}-{language}", item=name, meta=meta | {"try": 1}, **question)
        return
    # The released scripts count options in the Chinese columns: one question has four English and two Chinese options,
    # and is asked with two in both languages.
    options: Sequence[str] = question["options"][: len(item["zh"]["options"])]
    letters = LETTERS[: len(options)]
    texts, user = wording or _OWN, f"user_{len(options)}_{language}"
    if user not in texts.texts:
        raise BenchmarkError(f"{name} ({language}): {len(options)} options; the authors' prompts have two or four")
    # Of two equal options the first letter counts for both, as in the released scripts.
    originals = [letters[options.index(option)] for option in options]
    # They compare it with the file's literal answer, which never matches if that is "A. " or the second of two equal
    # options. `kinder` compares with the option's letter.
    letter = dict(zip(letters, originals, strict=True)).get(question["gold"], "")
    kinder_gold = {} if letter == item["answer"] else {"letter": letter}
    system = texts.text(f"system_cot_{language}" if protocol == "official_cot" else f"system_{language}")
    rng = random.Random(f"tombench {seed} {language} {name}")
    written = item["written"][language] if wording else options
    for number in range(1, TRIES + 1):
        order = rng.sample(range(len(options)), len(options))
        choices = {f"choice_{letter.lower()}": written[place] for letter, place in zip(letters, order, strict=True)}
        mapped = {letter: originals[place] for letter, place in zip(letters, order, strict=True)}
        words = texts.text(user, story=question["story"], question=question["question"], **choices)
        yield Request(
            id=f"{name}-{language}-try{number}",
            item=name,
            messages=chat(words, system),
            gold=item["answer"],
            meta=meta | {"try": number, "shown": mapped} | kinder_gold,
            max_new_tokens=_NEW_TOKENS,
        )


def read(request: Request, protocol: ProtocolName, reply: str) -> str:
    """Return the file's letter of the displayed one; "" if that letter was not displayed."""
    shown: Mapping[str, str] = request.meta["shown"]
    return shown.get(_letter(reply), "")


def kinder(request: Request, protocol: ProtocolName, reply: str) -> Grade:
    """Grade the same answer by the letter of the option that the file's answer refers to."""
    answer = read(request, protocol, reply)
    return Grade(answer, float(answer == request.meta.get("letter", request.gold)))


def _letter(reply: str) -> str:
    """Return the first of A to D, in this order, found in [[ ]], else in [ ]; else the last such capital; else A."""
    letters = LETTERS[:_MOST_OPTIONS]
    for shape in ("[[{}]]", "[{}]"):
        for letter in letters:
            if shape.format(letter) in reply:
                return letter
    return next((sign for sign in reversed(reply) if sign in letters), "A")


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return the accuracy of the votes over all questions, tasks, groups and abilities, by language."""
    headline = "accuracy" if protocol == "social_r1" else "ours/accuracy"
    by_name: dict[str, Metric] = {}
    for language in _LANGUAGES:
        rows = [row for row in graded if row.request.meta["language"] == language]
        rows.sort(key=lambda row: row.request.meta["try"])
        voted = [majority(tries) for tries in grouped(rows, lambda row: row.request.item).values()]
        if not voted and language != "en":
            continue
        by_name[f"{headline}_{language}"] = accuracy(voted)
        sets: dict[str, dict[str, list[Graded]]] = {"tasks": {}, "groups": {}, "abilities": {}}
        for row in voted:
            abilities = set(row.request.meta["abilities"])
            groups = {ability.partition(":")[0] for ability in abilities}
            for kind, names in (("tasks", [row.request.meta["task"]]), ("groups", groups), ("abilities", abilities)):
                for name in names:
                    sets[kind].setdefault(name, []).append(row)
        for kind, known in (("tasks", TASKS), ("groups", GROUPS), ("abilities", sorted(sets["abilities"]))):
            for name in known:
                if name in sets[kind]:
                    by_name[f"{kind}_{language}/{name}"] = accuracy(sets[kind][name])
    return by_name


TASK = Task(
    name="tombench",
    title="ToMBench",
    source="zhchen18/ToMBench @ 4f491f0 (its folder data)",
    licence="MIT",
    published=(_WHOLE, "questions"),
    protocols=ways("official", "official_cot"),
    kind="task",
    headline={"language": "en"},
    load=load,
    requests=requests,
    grade=graded_by(read),
    metrics=metrics,
    kinder=kinder,
)
