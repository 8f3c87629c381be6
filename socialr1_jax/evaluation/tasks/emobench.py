"""EmoBench: emotional understanding (EU: an emotion and its cause) and application (EA: what to do or say).

Official rules as of Sahandfer/EmoBench @ 3b4f843: options in file order, and an EU item is right only if both letters
are. The whole reply, or its first closed block marked `json`, must be a JSON object with the letters as values; any
other reply is wrong. The figures `ours/reader/...` also accept an object within other text. The benchmark has no single
number; `ours/mean_en` is the mean of EU and EA in English (200 each, so also their micro average).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from socialr1_jax.config.evaluation import ProtocolName
from socialr1_jax.data.examples import LETTERS
from socialr1_jax.data.prompts import lettered
from socialr1_jax.evaluation.card import card_request, graded_by
from socialr1_jax.evaluation.metrics import (
    Grade,
    Graded,
    Metric,
    accuracies,
    accuracy,
    all_right,
    by_group,
    grouped,
    item_mean,
)
from socialr1_jax.evaluation.request import Messages, Request, Wording, chat
from socialr1_jax.evaluation.task import BenchmarkError, Data, Decoding, Hub, Task, ways
from socialr1_jax.evaluation.tasks import emobench_paper
from socialr1_jax.evaluation.tasks.reading import Reading, letter_of, text, texts

_WHOLE = 800
_LANGUAGES = ("en", "zh")
_OBJECT = re.compile(r'\{\s*"')
_DECODER = json.JSONDecoder()
_CHOICES = {  # part -> fields of a row
    "EU": (("emotion_choices", "emotion_label"), ("cause_choices", "cause_label")),
    "EA": (("choices", "label"),),
}
_KEYS = {"EU": ("answer_q1", "answer_q2"), "EA": ("answer",)}  # keys of the JSON in the reply
_EU_CHOICES = {"emo": "emotion", "cause": "cause"}  # field of the authors' text -> prefix of the row's field
_KINDS = {"Action": "行动", "Response": "回应"}  # of EA; Chinese rows also use the English names

_NEW_TOKENS, _COT_TOKENS = 512, 2048
_QUESTIONS = {
    ("emotion", "en"): "What does {subject} feel at the end of it all?",
    ("emotion", "zh"): "到了最后，{subject}心里是什么感受？",
    ("cause", "en"): "What makes {subject} feel so?",
    ("cause", "zh"): "是什么让{subject}有这样的感受？",
    ("EA", "en"): "Which {kind} would help {subject} most here?",
    ("EA", "zh"): "这时哪一种{kind}对{subject}最有帮助？",
}
_OWN = Wording(
    {
        "format": "{statement}\n```json\n{{\n{conditions}\n}}\n```",
        "system_en": "# Task\nYou are given a scenario, questions about it and lettered choices. Put yourself in the "
        "place of the person asked about and select the choice that fits best.\n\n# Output\n",
        "statement_en": "Give one answer to each question, without explanations. Reply with one JSON object of this "
        "form:",
        "statement_cot_en": "Reason step by step first: weigh what each choice would mean for the people asked about, "
        "given their feelings, what the scenario tells of their past, and what may come of it. Then give one answer to "
        "each question. Reply with one JSON object of this form:",
        "reasoning_en": '  "reasoning": "<your reasoning, step by step>"',
        "conditions_EU_en": '  "answer_q1": "<letter of the choice>",\n  "answer_q2": "<letter of the choice>"',
        "conditions_EA_en": '  "answer": "<letter of the choice>"',
        "user_EU_en": f"## Scenario\n{{scenario}}\n\n## Question 1\n{_QUESTIONS['emotion', 'en']}\n\n## Choices 1\n"
        f"{{emo_choices}}\n\n## Question 2\n{_QUESTIONS['cause', 'en']}\n\n## Choices 2\n{{cause_choices}}",
        "user_EA_en": f"## Scenario\n{{scenario}}\n\n## Question\n{_QUESTIONS['EA', 'en']}\n\n## Choices\n{{choices}}",
        "system_zh": "# 任务\n你会看到一个场景、相关的问题和带字母的选项。请站在所问人物的立场，选出最合适的选项。\n\n"
        "# 输出\n",
        "statement_zh": "每个问题只给出一个答案，不要解释。请只用下面形式的一个JSON对象回复：",
        "statement_cot_zh": "请先逐步推理：联系他们的感受、过去的经历和事情可能的结果，想想每个选项对他们意味着什么；"
        "然后每个问题给出一个答案。请只用下面形式的一个JSON对象回复：",
        "reasoning_zh": '  "reasoning": "<逐步推理>"',
        "conditions_EU_zh": '  "answer_q1": "<选项的字母>",\n  "answer_q2": "<选项的字母>"',
        "conditions_EA_zh": '  "answer": "<选项的字母>"',
        "user_EU_zh": f"## 场景\n{{scenario}}\n\n## 问题 1\n{_QUESTIONS['emotion', 'zh']}\n\n## 选项 1\n"
        f"{{emo_choices}}\n\n## 问题 2\n{_QUESTIONS['cause', 'zh']}\n\n## 选项 2\n{{cause_choices}}",
        "user_EA_zh": f"## 场景\n{{scenario}}\n\n## 问题\n{_QUESTIONS['EA', 'zh']}\n\n## 选项\n{{choices}}",
    }
)


def load(folder: Path) -> Data:
    """Return EU and EA rows, each with its `part`. Raises BenchmarkError."""
    items: list[dict[str, Any]] = []
    reading = Reading(folder if (folder / "EU.jsonl").is_file() else folder / "data")  # hub or repository layout
    for part in _CHOICES:
        for where, row in reading.rows(reading.find(f"{part}.jsonl"), "line"):
            _check(row, part, where)
            language, qid = row["language"], row["qid"]
            reading.once((part, language, qid), f"{where}: qid {qid} occurs twice in {language}")
            items.append({"part": part, **row})
    reading.count(len(items), _WHOLE, "questions")
    return reading.data(items)


def _check(row: Any, part: str, where: str) -> None:
    for name in ("qid", "language", "scenario", "subject"):
        text(row, name, where)
    if row["language"] not in _LANGUAGES:
        raise BenchmarkError(f"{where}: the language is {row['language']!r}, neither en nor zh")
    text(row, "coarse_category" if part == "EU" else "category", where)
    if part == "EA" and text(row, "question type", where) not in _KINDS:
        raise BenchmarkError(f"{where}: the question type is {row['question type']!r}, neither Action nor Response")
    for options, label in _CHOICES[part]:
        letter_of(text(row, label, where), texts(row, options, where), where)


def requests(data: Data, protocol: ProtocolName, seed: int) -> list[Request]:
    """Return English prompts first, alternating EU and EA so that a small `limit` covers both.

    Only the shuffled orders of `paper` depend on the seed.
    """

    def build(item: Mapping[str, Any]) -> Iterable[Request]:
        if protocol == "social_r1":
            return _social_r1(item)
        if protocol == "paper":
            return emobench_paper.requests(item, list(_questions(item)), _meta(item), seed)
        return [_official(item, data.wording or _OWN, protocol == "official_cot")]

    prompts: list[Request] = []
    for language in _LANGUAGES:
        rows = [item for item in data.items if item["language"] == language]
        parts = [[item for item in rows if item["part"] == part] for part in ("EU", "EA")]
        for pair in zip_longest(*parts):
            prompts += [request for item in pair if item is not None for request in build(item)]
    return prompts


def _questions(item: Mapping[str, Any]) -> Iterator[tuple[str, str, list[str], str]]:
    """Yield (name, question, options, gold letter) for the questions of a row."""
    names = ("emotion", "cause") if item["part"] == "EU" else ("EA",)
    for name, (options, label) in zip(names, _CHOICES[item["part"]], strict=True):
        question = _QUESTIONS[name, item["language"]].format(subject=item["subject"], kind=_kind(item))
        yield name, question, item[options], letter_of(item[label], item[options], name)


def _kind(item: Mapping[str, Any]) -> str:
    """Return what an EA question asks for, in its language; "" for EU."""
    kind = item.get("question type", "")
    return _KINDS.get(kind, "") if item["language"] == "zh" else kind.lower()


def _meta(item: Mapping[str, Any]) -> dict[str, str]:
    category = item["coarse_category" if item["part"] == "EU" else "category"]
    return {"part": item["part"], "language": item["language"], "category": category}


def _official(item: Mapping[str, Any], wording: Wording, cot: bool) -> Request:
    return Request(
        id=f"{item['part']}-{item['language']}-{item['qid']}",
        item=f"{item['part']}-{item['qid']}",
        messages=_messages(item, wording, cot),
        gold=",".join(gold for *_, gold in _questions(item)),
        meta=_meta(item),
        max_new_tokens=_COT_TOKENS if cot else _NEW_TOKENS,
    )


def _messages(item: Mapping[str, Any], wording: Wording, cot: bool) -> Messages:
    part, language = item["part"], item["language"]
    statement, conditions = wording.text(f"statement_{language}"), wording.text(f"conditions_{part}_{language}")
    if cot:
        statement = wording.text(f"statement_cot_{language}")
        conditions = f"{wording.text(f'reasoning_{language}')},\n{conditions}"
    shape = wording.text("format", statement=statement, conditions=conditions)
    if part == "EU":
        choices = {f"{name}_choices": lettered(item[f"{key}_choices"], "{}) {}") for name, key in _EU_CHOICES.items()}
    else:
        choices = {"choices": lettered(item["choices"], "{}) {}"), "q_type": item["question type"], "kind": _kind(item)}
    values = {"scenario": item["scenario"], "subject": item["subject"], **choices}
    return chat(wording.text(f"user_{part}_{language}", **values), wording.text(f"system_{language}") + shape)


def _social_r1(item: Mapping[str, Any]) -> list[Request]:
    return [
        card_request(
            id=f"{item['part']}-{item['language']}-{item['qid']}" + (f"-{name}" if item["part"] == "EU" else ""),
            item=f"{item['part']}-{item['qid']}",
            story=item["scenario"],
            question=question,
            options=options,
            gold=gold,
            meta=_meta(item) | {"question": name},
        )
        for name, question, options, gold in _questions(item)
    ]


def read(request: Request, protocol: ProtocolName, reply: str) -> Grade:
    """Grade the letters in the reply's JSON; the answer of EU is like "A,C", with "-" for a missing letter."""
    if protocol == "paper":
        return emobench_paper.grade(request, reply)
    answers = _whole_json(reply)
    return _json_grade(request, [answers.get(key) for key in _KEYS[request.meta["part"]]])


def kinder(request: Request, protocol: ProtocolName, reply: str) -> Grade:
    """Grade the letters in JSON anywhere in the reply, ignoring white space around them."""
    keys = _KEYS[request.meta["part"]]
    answers = _whole_json(reply)
    if not any(key in answers for key in keys):
        answers = _json_with(reply, keys)
    values = [answers.get(key) for key in keys]
    return _json_grade(request, [value.strip() if isinstance(value, str) else value for value in values])


def _json_grade(request: Request, values: Sequence[Any]) -> Grade:
    letters = [value if isinstance(value, str) and len(value) == 1 and value in LETTERS else "" for value in values]
    answer = ",".join(letter or "-" for letter in letters) if any(letters) else ""
    return Grade(answer, float(answer == request.gold))


def _whole_json(reply: str) -> Mapping[str, Any]:
    """Parse the reply, or its first block between "```json" and "```", as an object; {} if it is not one."""
    _, fence, block = reply.partition("```json")
    if fence:
        reply, closed, _ = block.partition("```")
        if not closed:
            return {}
    try:
        value = json.loads(reply)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def _json_with(reply: str, keys: Sequence[str]) -> Mapping[str, Any]:
    """Return the first JSON object in the reply that has one of the keys; {} if there is none."""
    for start in _OBJECT.finditer(reply):
        try:
            value, _ = _DECODER.raw_decode(reply, start.start())
        except (ValueError, RecursionError):
            continue
        if any(key in value for key in keys):
            return value
    return {}


def metrics(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    """Return figures for EU (both letters), EA and their categories by language; `ours/mean_en` first.

    `paper`: figures of majority answers, averaged over the orders; `order_<number>/...` are those of one order.
    """
    if protocol != "paper":
        return _figures(graded, protocol)
    votes = list(emobench_paper.voted(graded))
    by_name = _figures(votes, protocol)
    for order, rows in by_group(votes, "order").items():
        by_name |= {f"order_{order}/{name}": m for name, m in _figures(rows, protocol).items() if "/" not in name}
    return by_name


def _figures(graded: Sequence[Graded], protocol: ProtocolName) -> dict[str, Metric]:
    by_name: dict[str, Metric] = {}
    for language in _LANGUAGES:
        rows = [row for row in graded if row.request.meta["language"] == language]
        if not rows and language != "en":
            continue
        eu_rows, ea_rows = ([row for row in rows if row.request.meta["part"] == part] for part in ("EU", "EA"))
        if protocol == "social_r1":
            by_name[f"ours/accuracy_{language}"] = accuracy(rows)
        eu, ea = _both_right(eu_rows), accuracy(ea_rows)
        by_name[f"ours/mean_{language}"] = Metric(
            (eu.value + ea.value) / 2, (eu.stderr**2 + ea.stderr**2) ** 0.5 / 2, eu.n + ea.n
        )
        by_name |= {f"EU_{language}": eu, f"EA_{language}": ea}
        for name in ("emotion", "cause"):
            by_name[f"EU_{language}/{name}"] = _one_question(eu_rows, name)
        for category, group in by_group(eu_rows, "category").items():
            by_name[f"EU_{language}/{category}"] = _both_right(group)
        by_name |= accuracies(ea_rows, "category", f"EA_{language}/")
    return by_name


def _both_right(graded: Sequence[Graded]) -> Metric:
    """Return the share of (item, order) pairs that are right; in `social_r1` both requests of an item must be."""
    return all_right(grouped(graded, lambda row: (row.request.item, row.request.meta.get("order"))).values())


def _one_question(eu: Sequence[Graded], name: str) -> Metric:
    if any("question" in row.request.meta for row in eu):
        return accuracy([row for row in eu if row.request.meta["question"] == name])
    place = ("emotion", "cause").index(name)
    answers = [(row.grade.answer.split(","), row.request.gold.split(",")) for row in eu]
    return item_mean(eu, [float(answer != [""] and answer[place] == gold[place]) for answer, gold in answers])


TASK = Task(
    name="emobench",
    title="EmoBench",
    hub=Hub("SahandSab/EmoBench", ("EU.jsonl", "EA.jsonl")),
    source="Sahandfer/EmoBench @ 3b4f843 (data/EU.jsonl, data/EA.jsonl)",
    licence="MIT",
    published=(_WHOLE, "questions"),
    protocols=ways("official", "official_cot", "paper", drawn=Decoding(temperature=0.6))
    | {"paper": emobench_paper.DECODING},
    kind="question",
    headline={"language": "en"},
    load=load,
    requests=requests,
    follow_up=lambda request, protocol, reply: emobench_paper.follow_up(request, reply),
    grade=graded_by(read),
    metrics=metrics,
    kinder=kinder,
)
