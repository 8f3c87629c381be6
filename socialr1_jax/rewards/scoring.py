"""Score the responses of a JSONL file offline."""

import json
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from socialr1_jax.config.rewards import JudgeKind, Preset, RewardConfig
from socialr1_jax.config.sections import Section
from socialr1_jax.data.examples import FIELDS, LETTERS, Example
from socialr1_jax.data.options import gold_letter
from socialr1_jax.data.tables import refuse_half_characters, unique_keys
from socialr1_jax.questions.accuracy import accuracy_figures, baseline_figures
from socialr1_jax.rewards.judge_probe import judge_fault
from socialr1_jax.rewards.parsing import Opened, whole_responses
from socialr1_jax.rewards.scorer import ContentScores, Scorer
from socialr1_jax.rewards.terms import content_reward
from socialr1_jax.rewards.verdict import JudgeRefused
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import counted, print_error, print_line, printable, remark, shown


class ScoreConfig(Section):
    """The file to score and the reward; the flags below set fields of `rewards`."""

    input: str = Field(min_length=1, description="JSONL with story, question, options, answer, response (and content)")
    output: str = Field(min_length=1, description="the same rows with reward, status and terms; null = unscorable")
    step: int = Field(0, ge=0, description="global step whose curriculum weights are used")
    preset: Literal["", Preset] = Field("", description="rewards.preset")
    opened: Opened = Field(
        "auto",
        description="whether the prompts ended in <think>, which the responses then lack; auto: yes if no response "
        "of the file has <think> and some have </think>",
    )
    judge: Literal["", JudgeKind] = Field("", description="rewards.structure.judge")
    judge_base_url: str = Field("", description="rewards.structure.base_url")
    judge_model: str = Field("", description="rewards.structure.model")
    content_model: str = Field(
        "", description="rewards.content.model; without it the number `content` of a row is used"
    )
    rewards: RewardConfig = RewardConfig()

    @classmethod
    def filled_in(cls, values: Any) -> Any:
        """Return the values with each flag copied to its setting of `rewards`."""
        rewards = values.get("rewards") or {}
        rewards = dict(rewards.model_dump() if isinstance(rewards, RewardConfig) else rewards)
        for flag, section, name in (
            ("preset", "", "preset"),
            ("judge", "structure", "judge"),
            ("judge_base_url", "structure", "base_url"),
            ("judge_model", "structure", "model"),
            ("content_model", "content", "model"),
        ):
            if value := values.get(flag):
                if section:
                    rewards[section] = {**rewards.get(section, {}), name: value}
                else:
                    rewards[name] = value
        return values | {"rewards": rewards}


_ADDED = {"reward", "status", "cause", "terms"}  # columns
_MOST_TYPES = 20  # on the console
# All other columns become `meta`, which user-defined reward functions get.
_COLUMNS = {*_ADDED, *FIELDS, "response", "content", "meta"} - {"messages"}


@dataclass(frozen=True)
class ScoreSummary:
    """Counts and means over a file. `mean_reward` is over the scorable responses, NaN if there is none."""

    responses: int
    unscorable: int
    causes: Mapping[str, int]
    mean_reward: float
    format_rate: float
    accuracy: float
    judge_failed: bool = False  # every response is unscorable, and by the judge
    opened: bool = False  # the prompts opened the thoughts, so `<think>` was put in front of the responses
    stories: Mapping[str, Any] = field(default_factory=dict)  # `story_figures`


def score_file(config: ScoreConfig, content: ContentScores | None = None) -> ScoreSummary:
    """Score every row of `config.input` and write `config.output` atomically.

    A row is a JSON object with `question`, `answer` (the gold letter in either case or an option's text, as
    `gold_letter` reads it; any text if there are no options), `response`, and optionally `story`, `options` (list of
    texts), `content` (the reward model's scalar, instead of a score by the argument `content`), `type` and `twin_id`
    (texts, also inside `meta`). The output adds `reward` (null: unscorable), `status` (`scored` or `unscorable`),
    `cause` if unscorable, and `terms`; blank lines are dropped.

    Raises ValueError with file, line, reason and fix for an unusable row, OSError for a file that cannot be read or
    written, JudgeRefused if the judge does not grade a sample or rejects every request.
    """
    source, target = Path(config.input), Path(config.output)
    in_place = os.path.realpath(source) == os.path.realpath(target)
    if not in_place:
        refuse_foreign_file(target, _is_scored, "a file of scored responses")
    rows: list[dict[str, Any]] = []
    checked: list[tuple[Example, str, float | None]] = []
    structure = config.rewards.structure.patient()
    scorer = Scorer(config.rewards.model_copy(update={"structure": structure}), content)
    try:
        with source.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = _read_row(line)
                    if in_place and not _ADDED.isdisjoint(row) and not _was_scored(row):
                        raise ValueError(
                            "it has a column reward, status, cause or terms of its own; give another output"
                        )
                    example, response, scalar = _checked(row)
                    content_reward(scalar, config.rewards)  # check its range now, to report the line
                except ValueError as error:
                    raise ValueError(f"{source}: line {number}: {error}") from None
                rows.append(row)
                checked.append((example, response, scalar))
        if not rows:
            raise ValueError(f"{source}: the file holds no rows; give one JSON object a line")
        if config.rewards.uses.structure and (fault := judge_fault(structure)):
            raise JudgeRefused(f"rewards.structure: {fault}")
        texts = whole_responses([response for _, response, _ in checked], config.opened)
        for place, (text, (example, _, scalar)) in enumerate(zip(texts, checked, strict=True)):
            scorer.submit(place, text, example, scalar)
        scored = scorer.results(config.step)
    finally:
        scorer.close()
    for row, terms in zip(rows, scored, strict=True):
        unscorable = math.isnan(terms.total)
        row["reward"], row["status"] = _or_null(terms.total), "unscorable" if unscorable else "scored"
        row.pop("cause", None)
        if unscorable:
            row["cause"] = terms.cause
        row["terms"] = {name: _or_null(value) for name, value in terms.raw().items()}
    write_whole(target, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    rewards = [terms.total for terms in scored if not math.isnan(terms.total)]
    return ScoreSummary(
        responses=len(scored),
        unscorable=len(scored) - len(rewards),
        causes=Counter(terms.cause for terms in scored if terms.cause),
        mean_reward=sum(rewards) / len(rewards) if rewards else math.nan,
        format_rate=sum(terms.format for terms in scored) / len(scored),
        accuracy=sum(terms.outcome for terms in scored) / len(scored),
        judge_failed=not rewards and all(terms.cause.startswith("judge_") for terms in scored),
        opened=any(text != response for text, (_, response, _) in zip(texts, checked, strict=True)),
        stories=story_figures([example for example, _, _ in checked], [terms.outcome for terms in scored]),
    )


def run_scoring(config: ScoreConfig) -> int:
    """Score the file and print means and causes of missing rewards; return 1 if the judge never answered, else 0."""
    content = None
    if config.rewards.uses.content and config.rewards.content.model:
        import jax  # only where a model runs

        from socialr1_jax.rewards.content_model import load_content_model
        from socialr1_jax.runtime.mesh import make_mesh

        jax.set_mesh(mesh := make_mesh())
        content = load_content_model(config.rewards.content, mesh, "float32", "xla")
    summary = score_file(config, content)
    print_line(
        f"{config.output}: {counted(summary.responses, 'response')}, mean reward {summary.mean_reward:.4f}, "
        f"format rate {summary.format_rate:.4f}, accuracy {summary.accuracy:.4f}, unscorable {summary.unscorable}"
    )
    if summary.stories:
        print_line(f"{config.output}: {stories_line(summary.stories)}")
    if summary.opened:
        print_error(
            f"{config.input}: no response has <think>, so the prompts opened the thoughts and it was put in front of "
            "each; --opened no scores them as they stand"
        )
    if summary.unscorable:
        causes = ", ".join(f"{cause} {count}" for cause, count in sorted(summary.causes.items()))
        remark(f"{summary.unscorable} rewards are null: {causes}")
    if "content" in summary.causes and not config.rewards.content.model:
        remark(
            f"preset {config.rewards.preset} needs a content score: give --content-model DIR or a "
            "'content' number in the rows, or use --preset no_content"
        )
    return int(summary.judge_failed)  # fail if the judge never answered: there are no figures


def stories_line(figures: Mapping[str, Any]) -> str:
    """Return a line with pair accuracy, accuracy by type, chance and the best rule."""
    parts = []
    if "pair_accuracy" in figures:
        parts.append(f"pair accuracy {figures['pair_accuracy']:.4f}")
    if by_type := figures.get("accuracy_by_type"):
        types = [f"{printable(name, 40)} {value:.4f}" for name, value in by_type.items()]
        more = f" and {counted(len(types) - _MOST_TYPES, 'further type')}" if len(types) > _MOST_TYPES else ""
        parts.append(f"accuracy {', '.join(types[:_MOST_TYPES])}{more}")
    if "chance" in figures:
        parts.append(f"chance {figures['chance']:.4f}")
    if "best_rule" in figures:
        pairs = figures.get("best_rule_pair_accuracy")
        beside = "" if pairs is None else f" (of pairs {pairs:.4f})"
        parts.append(f"best rule {figures['best_rule']} {figures['best_rule_accuracy']:.4f}{beside}")
    return "; ".join(parts)


def story_figures(examples: Sequence[Example], right: Sequence[float]) -> dict[str, Any]:
    """Return pair accuracy and accuracy by type with chance and the best rule; {} without types and twins.

    Args:
        examples: the question of each response; equal questions are merged.
        right: the outcome of each response.
    """
    questions: dict[tuple[Any, ...], tuple[Example, list[float]]] = {}
    for full_example, outcome in zip(examples, right, strict=True):
        columns = full_example.meta
        meta = {name: columns[name] for name in ("type", "twin_id") if isinstance(columns.get(name), str)}
        example = replace(full_example, meta=meta)
        key = (example.story, example.question, example.options, example.answer, example.meta.get("twin_id"))
        questions.setdefault(key, (example, []))[1].append(outcome)
    unique = [example for example, _ in questions.values()]
    figures = accuracy_figures(unique, [sum(outcomes) / len(outcomes) for _, outcomes in questions.values()])
    return figures | baseline_figures(unique) if figures else {}


def _read_row(line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(
            line.decode("utf-8"), parse_constant=_constant, parse_float=_finite, object_pairs_hook=unique_keys
        )
        json.dumps(row)  # as it will be written
    except RecursionError:
        raise ValueError("its brackets are nested too deeply; write plain values") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 text (byte {error.start}); write the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg}, column {error.colno}); write one object a line") from None
    if not isinstance(row, dict):
        raise ValueError(f"a row is a JSON object, not {type(row).__name__}")
    return row


def _constant(name: str) -> None:
    if name != "NaN":  # NaN is how Python writes an unscorable number
        raise ValueError(f"{name} is not a number; write null for a score that could not be had")


def _finite(number: str) -> float:
    if math.isinf(value := float(number)):
        raise ValueError(f"{number[:20]} is too large for a number; write null for a score that could not be had")
    return value


def _checked(row: dict[str, Any]) -> tuple[Example, str, float | None]:
    """Return the row's question, its response and its content score. Raises ValueError for an invalid row."""
    for name in ("question", "answer", "response"):
        if name not in row:
            raise ValueError(f"no {name!r}; a row needs question, answer and response")
    for name in ("story", "question", "answer", "response"):
        if not isinstance(row.get(name, ""), str):
            raise ValueError(f"{name!r} is {shown(row[name])}, not a text")
    options = row.get("options") or []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise ValueError(f"'options' is {shown(options)}, not a list of texts")
    content = row.get("content")
    if isinstance(content, bool) or not isinstance(content, int | float | None):
        raise ValueError(f"'content' is {shown(content)}, not a number or null")
    refuse_half_characters([row["response"]])
    answer = row["answer"]
    # A valid letter is never read as the text of an option that is a letter.
    if options and answer.strip() and answer not in LETTERS[: len(options)]:
        answer = gold_letter(answer, tuple(options))
    row_id = row.get("id")
    meta = {name: value for name, value in row.items() if name not in _COLUMNS}
    example = Example(  # checks the question and the gold answer
        id=row_id if isinstance(row_id, str) else "",
        story=row.get("story", ""),
        question=row["question"],
        options=tuple(options),
        answer=answer,
        meta=row["meta"] | meta if isinstance(row.get("meta"), dict) else meta,
    )
    return example, row["response"], content


def _is_scored(file: Path) -> bool:
    with file.open("rb") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return bool(rows) and all(map(_was_scored, rows))


def _was_scored(row: dict[str, Any]) -> bool:
    return (
        row.get("status") in ("scored", "unscorable")
        and isinstance(row.get("reward", ""), float | int | None)
        and isinstance(row.get("terms"), dict)
        and row["terms"].keys() >= {"format", "outcome"}
    )


def _or_null(value: float) -> float | None:
    return None if math.isnan(value) else value
