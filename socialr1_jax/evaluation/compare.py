"""Two runs on the same questions: the paired difference with its interval, its p, and the questions that changed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.config.command_line import flat_settings
from socialr1_jax.config.evaluation import PROTOCOLS
from socialr1_jax.data.examples import Example
from socialr1_jax.data.twins import cluster_name, twin_name
from socialr1_jax.evaluation.audit_files import in_headline
from socialr1_jax.evaluation.card import card_example
from socialr1_jax.evaluation.metrics import mean_metric
from socialr1_jax.evaluation.request import Request
from socialr1_jax.questions.accuracy import baseline_figures
from socialr1_jax.questions.intervals import around, share_interval, sign_flip_p
from socialr1_jax.rewards.parsing import final_answer
from socialr1_jax.rewards.terms import is_choice
from socialr1_jax.runtime.files import read_json
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import counted, printable, shown

TEST = "sign flips of clusters, two-sided (McNemar's exact test where items are single and right or wrong)"
_SHOWN = 10  # questions that changed, on the console
_KEYS = {"a", "b", "test", "comparisons"}
_SETTINGS = (  # of evaluate.py: those that change prompts, replies or how they are read
    "answer_mode",
    "prompt",
    "system",
    "num_samples",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "thinking",
    "thinking_tokens",
    "max_new_tokens",
    "dtype",
    "options",
)
_OF_SOTOPIA = ("rules", "partner", "judge")
_SAMPLE = dict.fromkeys(("task", "protocol", "id", "item", "answer"), str) | {"meta": dict}


class Reply(NamedTuple):
    """A graded reply to an item. `value`: its grade from 0 to 1, NaN where it has none."""

    part: str  # items of different parts are compared apart
    key: str  # of the item within its part
    sample: int
    value: float
    answer: str
    gold: str
    cluster: str
    twin: str  # the name of its group of twins, "" for none
    question: str
    example: Example | None  # where its options can be read
    prompt: str = ""  # hash of it


@dataclass(frozen=True, kw_only=True)
class Item:
    """An item with the mean grade of its replies and their most frequent answer."""

    value: float
    answer: str
    gold: str
    cluster: str
    twin: str
    question: str
    example: Example | None
    prompt: str

    @property
    def right(self) -> bool:
        return self.value > 0.5


def compare(a: str, b: str) -> dict[str, Any]:
    """Compare two finished runs on the items that both have; B minus A.

    Args:
        a, b: each an output folder of evaluate.py, a run's folder (its last evaluation; `RUN@STEP` for another one),
            or one of their files: samples_<task>.jsonl, rollouts.jsonl, the output of score_responses.py.

    Returns:
        a, b: as given. test: what p is of. settings: {name: [of a, of b]} of those that differ between two outputs of
        evaluate.py and change replies or their reading: of the command, `wording.<task>`,
        `decoding.<task>.<protocol>.<name>`, `sotopia.rules`, `.partner` and `.judge`, and the `commit` of this package.
        comparisons: {part: figures}. A part is a task with its protocol, or a set of a run's evaluations. Its figures
        are `difference_figures` of the items under `accuracy` (under `mean_grade` for official rules, whose headline
        may be another figure), and under `pair_accuracy` for groups of twins; items and clusters in both; `only_a`,
        `only_b`: items that the other one lacks; `ungraded`: items without a grade in one of them; `other_prompts`:
        items that were asked in other words, where both have the prompts; chance, best_rule
        and best_rule_accuracy where the questions have options; `better`, `worse`: numbers of items with a higher and a
        lower mean grade; `wrong_to_right`, `right_to_wrong`: of items that pass one half; `changed`: those items, with
        answers and gold.

    Raises:
        ValueError: nothing that can be compared; the message names the file and what to give instead.
    """
    of_a, of_b = _parts(a), _parts(b)
    common = [name for name in of_a if name in of_b]
    if not common:
        raise ValueError(f"nothing in common: {a} has {_named(of_a)}, {b} has {_named(of_b)}; ask both the same")
    compared = {name: _compared(name, of_a, of_b, a, b) for name in common}
    return {"a": a, "b": b, "test": TEST, "settings": _other_settings(a, b), "comparisons": compared}


def difference_figures(values_a: Sequence[float], values_b: Sequence[float], clusters: Sequence[str]) -> dict[str, Any]:
    """Return a, b and their difference b - a with its 95 % interval, p, the cluster count, and a verdict in words.

    The interval is the t distribution's around the paired difference, with the standard error over clusters. It is
    missing (None) where the clusters differ all alike, and for one cluster. p is that of `sign_flip_p` over clusters. A
    difference is called one when the interval is on one side of 0 and p is below 0.05.
    """
    differences = [after - before for before, after in zip(values_a, values_b, strict=True)]
    mean, stderr, n = mean_metric(differences, clusters)
    low, high = around(mean, stderr, n)
    sums: dict[str, float] = {}
    for difference, cluster in zip(differences, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + difference
    p = sign_flip_p(list(sums.values()))
    known = stderr > 1e-12
    figures: dict[str, Any] = {}
    for name, values in (("a", values_a), ("b", values_b)):
        value, error, count = mean_metric(values, clusters)
        bounds = share_interval(value, error, count)
        figures |= {name: value, f"{name}_low": _or_none(bounds[0]), f"{name}_high": _or_none(bounds[1])}
    figures |= {
        "difference": mean,
        "low": max(-1.0, low) if known else None,
        "high": min(1.0, high) if known else None,
        "p": p,
        "clusters": n,
    }
    return figures | {"verdict": _verdict(figures, any(differences))}


def _verdict(figures: Mapping[str, Any], differs: bool) -> str:
    """Return the comparison as one sentence; with `differs` False every item has the same grade in both."""
    if not differs:
        return "no difference: every item has the same grade in both"
    points = f"{100 * figures['difference']:+.1f} points, "
    if figures["low"] is None:
        points += "no interval (the items differ all alike)" if figures["clusters"] > 1 else "no interval (one cluster)"
    else:
        points += f"95 % interval {_bounds(figures['low'], figures['high'])}"
    one_sided = figures["low"] is None or figures["low"] > 0 or figures["high"] < 0
    if not one_sided or figures["p"] >= 0.05:
        return f"{points}: not a difference yet"
    return f"{points}: the second is {'better' if figures['difference'] > 0 else 'worse'}"


def _bounds(low: float, high: float) -> str:
    """Return an interval in points; whole ones where it is wide."""
    low, high = 100 * low, 100 * high
    digits = 0 if high - low >= 10 and min(abs(low), abs(high)) >= 1 else 1
    return f"{low:+.{digits}f} to {high:+.{digits}f}"


def _compared(
    name: str, of_a: Mapping[str, Mapping[str, Item]], of_b: Mapping[str, Mapping[str, Item]], a: str, b: str
) -> dict[str, Any]:
    items_a, items_b = of_a[name], of_b[name]
    both = [key for key in items_a if key in items_b]
    if not both:
        raise ValueError(f"{name}: {a} and {b} have no question in common; ask both the same ones")
    if other := [key for key in both if items_a[key].gold != items_b[key].gold]:
        raise ValueError(
            f"{name}: the item {printable(other[0], 80)} has another gold answer in {b} than in {a}: these are other "
            "questions, or options in another order; evaluate both with the same file and seed"
        )
    graded = [key for key in both if not math.isnan(items_a[key].value + items_b[key].value)]
    if not graded:
        raise ValueError(f"{name}: no item has a grade in both; score the samples, or ask again what failed")
    pairs = [(items_a[key], items_b[key]) for key in graded]
    figure = "mean_grade" if name.rpartition(", ")[2] in {*PROTOCOLS} - {"social_r1"} else "accuracy"
    found: dict[str, Any] = {
        "items": len(graded),
        "only_a": len(items_a) - len(both),
        "only_b": len(items_b) - len(both),
        "ungraded": len(both) - len(graded),
        "other_prompts": sum(one.prompt != other.prompt for one, other in pairs if one.prompt and other.prompt),
        figure: difference_figures(
            [one.value for one, _ in pairs], [one.value for _, one in pairs], [one.cluster for one, _ in pairs]
        ),
    }
    if twins := _twins(pairs):
        found["pair_accuracy"] = difference_figures(
            [math.prod(one.value for one, _ in group) for group in twins.values()],
            [math.prod(one.value for _, one in group) for group in twins.values()],
            list(twins),
        )
    examples = [one.example for one, _ in pairs if one.example]
    if len(examples) == len(pairs):
        figures = baseline_figures(examples)
        names = ("chance", "best_rule", "best_rule_accuracy", "best_rule_pair_accuracy")
        found |= {key: figures[key] for key in names if key in figures}
    changed = [(key, *pair) for key, pair in zip(graded, pairs, strict=True) if pair[0].right != pair[1].right]
    found["wrong_to_right"] = sum(after.right for _, _, after in changed)
    found["right_to_wrong"] = len(changed) - found["wrong_to_right"]
    found["better"] = sum(after.value > before.value for before, after in pairs)
    found["worse"] = sum(after.value < before.value for before, after in pairs)
    found["changed"] = [
        {
            "id": key,
            "change": "wrong to right" if after.right else "right to wrong",
            "answer_a": before.answer,
            "answer_b": after.answer,
            "gold": before.gold,
            "value_a": before.value,
            "value_b": after.value,
            "question": before.question,
        }
        for key, before, after in changed
    ]
    return found


def _twins(pairs: Sequence[tuple[Item, Item]]) -> dict[str, list[tuple[Item, Item]]]:
    groups: dict[str, list[tuple[Item, Item]]] = {}
    for pair in pairs:
        if pair[0].twin:
            groups.setdefault(pair[0].twin, []).append(pair)
    return {name: group for name, group in groups.items() if len(group) > 1}


def _other_settings(a: str, b: str) -> dict[str, list[Any]]:
    files = [Path(source, "results.json") for source in (a, b)]
    if not all(file.is_file() for file in files):
        return {}
    contents = [read_json(file) for file in files]
    if not all(isinstance(content.get("config"), dict) for content in contents):
        return {}
    of_a, of_b = (content["config"] for content in contents)
    found = {name: [of_a.get(name), of_b.get(name)] for name in _SETTINGS}
    of_a, of_b = map(_used, contents)
    found |= {name: [of_a[name], of_b[name]] for name in of_a if name in of_b}  # of a task that only one has: nothing
    return {name: both for name, both in found.items() if both[0] != both[1]}


def _used(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what results.json says beside the settings of how replies came about, with dotted names."""
    details = content.get("details")
    found: dict[str, Any] = {"wording": content.get("wording"), "decoding": {}, "sotopia": {}}
    for task, about in details.items() if isinstance(details, dict) else ():
        if isinstance(about, dict):
            found["decoding"][task] = about.get("decoding", {})
            if task == "sotopia":
                found["sotopia"] = {name: about[name] for name in _OF_SOTOPIA if name in about}
    commit = content.get("commit")
    return flat_settings(found) | ({"commit": commit} if commit else {})


# ------------------------------------------------------------------------------------------------------- reading a run


def _parts(source: str) -> dict[str, dict[str, Item]]:
    """Return the items of each part of a run, by key."""
    replies: dict[str, dict[str, dict[int, Reply]]] = {}
    for reply in _replies(source):
        replies.setdefault(reply.part, {}).setdefault(reply.key, {})[reply.sample] = reply
    if not replies:
        raise ValueError(f"{source}: there are no graded replies in it; give a finished run")
    return {
        part: {key: _item(list(of_key.values())) for key, of_key in items.items()} for part, items in replies.items()
    }


def _item(replies: Sequence[Reply]) -> Item:
    return Item(
        value=math.fsum(one.value for one in replies) / len(replies),
        answer=Counter(one.answer for one in replies).most_common(1)[0][0],
        gold=replies[0].gold,
        cluster=replies[0].cluster,
        twin=replies[0].twin,
        question=replies[0].question,
        example=replies[0].example,
        prompt=replies[0].prompt,
    )


def _replies(source: str) -> Iterator[Reply]:
    path, step = Path(source), None
    if not path.exists() and (parts := source.rpartition("@"))[1] and parts[2].isdecimal():
        path, step = Path(parts[0]), int(parts[2])
    if not path.exists():
        raise ValueError(f"{source}: there is no such file or folder; give a run's folder or an output of evaluate.py")
    if path.is_file():
        files = [path]
    elif files := sorted(set(path.glob("samples_*.jsonl")) - {path / "samples_sotopia.jsonl"}):
        pass
    elif (path / "rollouts.jsonl").is_file():
        files = [path / "rollouts.jsonl"]
    else:
        raise ValueError(
            f"{source} holds no samples_<task>.jsonl and no rollouts.jsonl; give an output folder of evaluate.py "
            "(with log_samples) or the folder of a run"
        )
    for file in files:
        yield from _of_file(file, step)


def _of_file(file: Path, step: int | None) -> Iterator[Reply]:
    """Yield the replies of a file; of rollouts those of one evaluation, by default the last."""
    evaluations: dict[int, list[Reply]] = {}
    trained, scored = False, Counter[str]()
    for number, row in _rows(file):
        try:
            if "task" in row and "protocol" in row:
                if reply := _of_sample(row):
                    yield reply
            elif "phase" not in row:
                reply = _of_response(row)
                yield reply._replace(sample=scored[reply.key])
                scored[reply.key] += 1
            elif row["phase"] != "eval":
                trained = True
            else:
                if step is None and row["step"] not in evaluations:
                    evaluations.clear()  # an earlier one
                if step in (None, row["step"]):
                    evaluations.setdefault(row["step"], []).append(_of_response(row))
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{file} line {number}: neither a sample of evaluate.py nor a scored response "
                f"({printable(repr(error), 200)})"
            ) from None
    if not evaluations and (trained or step is not None):
        which = "no evaluation" if step is None else f"no evaluation at step {step}"
        raise ValueError(f"{file} has {which}: see evaluation.every, or compare two outputs of evaluate.py")
    for replies in evaluations.values():
        yield from replies


def _rows(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                if not line.endswith(b"\n"):  # cut by a kill
                    return
                row = None
            if not isinstance(row, dict):
                raise ValueError(f"{file} line {number}: not a JSON object; give a file of evaluate.py or of a run")
            yield number, row


def _of_sample(row: Mapping[str, Any]) -> Reply | None:
    """Return a row of samples_<task>.jsonl as a reply; None for one that the task's headline leaves out."""
    for name, kind in _SAMPLE.items():
        if not isinstance(row[name], kind):
            raise TypeError(f"{name} is not of type {kind.__name__}")
    if not in_headline(row["task"], row["meta"]):
        return None
    example = None
    gold = row["gold"]
    if not isinstance(gold, str):  # names of a list
        gold = json.dumps(gold, ensure_ascii=False)
    if row["protocol"] == "social_r1" and is_choice(gold):
        request = Request(id=row["id"], item=row["item"], messages=row["messages"], gold=gold, meta=row["meta"])
        with contextlib.suppress(ValueError):  # a prompt in another form
            example = card_example(request)
    return Reply(
        part=f"{row['task']}, {row['protocol']}",
        key=row["id"],
        sample=int(row["sample"]),
        value=_number(row["value"]),
        answer=row["answer"],
        gold=gold,
        cluster=row["item"],
        twin=str(row["meta"].get("twin_id", "")),
        question=example.question if example else "",
        example=example,
        prompt=hashlib.sha256(json.dumps(row.get("messages")).encode()).hexdigest() if row.get("messages") else "",
    )


def _of_response(row: Mapping[str, Any]) -> Reply:
    """Return a row of rollouts.jsonl, or of score_responses.py, as a reply."""
    meta = {**(row.get("meta") or {}), **{name: row[name] for name in ("type", "twin_id") if name in row}}
    example = Example(
        id=str(row.get("id", "")),
        story=row.get("story", ""),
        question=row["question"],
        options=tuple(row.get("options") or ()),
        answer=row["answer"],
        meta={name: value for name, value in meta.items() if isinstance(value, str)},
    )
    return Reply(
        part=str(row.get("set", "responses")),
        key=example.id or "\n".join((example.story, example.question, *example.options)),
        sample=int(row.get("sample", 0)),
        value=_number(row["terms"]["outcome"]),
        answer=final_answer(row["response"]),
        gold=example.answer,
        cluster=cluster_name(example),
        twin=twin_name(example),
        question=example.question,
        example=example,
    )


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _named(parts: Mapping[str, Any]) -> str:
    return printable("; ".join(parts), 300)


# ------------------------------------------------------------------------------------------------------------- writing


def refuse_foreign_comparison(file: Path) -> None:
    """Raise ForeignFile if there is a file that does not hold what `compare` returns."""
    refuse_foreign_file(file, lambda file: read_json(file).keys() >= _KEYS, "a comparison")


def text(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as lines of text: for each part a table, what changed, and one sentence."""
    lines = [f"first   {printable(comparison['a'], 200)}", f"second  {printable(comparison['b'], 200)}"]
    if other := comparison["settings"]:
        changes = (f"{name} {shown(before, 40)} -> {shown(after, 40)}" for name, (before, after) in other.items())
        lines.append(f"asked with other settings, so the difference may be theirs: {', '.join(changes)}")
    for name, found in comparison["comparisons"].items():
        lines += ["", *_part_lines(name, found)]
    return "\n".join([*lines, "", f"p: {comparison['test']}"])


def _part_lines(name: str, found: Mapping[str, Any]) -> list[str]:
    figures = {key: found[key] for key in ("accuracy", "mean_grade", "pair_accuracy") if key in found}
    first = next(iter(figures.values()))
    lines = [
        f"{printable(name, 100)}: {counted(found['items'], 'question')} in {counted(first['clusters'], 'cluster')} "
        "(twins and questions of one story are one)"
    ]
    lines.append(f"  {'':<14}  {'first':>7}  {'second':>7}  {'difference':>10}  {'95 % interval':>16}  {'p':>7}")
    for key, one in figures.items():
        bounds = "none" if one["low"] is None else _bounds(one["low"], one["high"])
        lines.append(
            f"  {key.replace('_', ' '):<14}  {one['a']:>7.1%}  {one['b']:>7.1%}  {100 * one['difference']:>+10.1f}  "
            f"{bounds:>16}  {format(one['p'], '.4f') if one['p'] >= 1e-4 else '<0.0001':>7}"
        )
    if "chance" in found:
        rule = f", best rule without minds {found['best_rule_accuracy']:.1%} ({found['best_rule']})"
        lines.append(f"  chance {found['chance']:.1%}{rule if 'best_rule' in found else ''}")
    for key, what in (("only_a", "in the first alone"), ("only_b", "in the second alone"), ("ungraded", "not graded")):
        if found[key]:
            lines.append(f"  left out: {counted(found[key], 'question')} {what}")
    if found["other_prompts"]:
        lines.append(f"  asked in other words: {counted(found['other_prompts'], 'question')}")
    changed = found["changed"]
    lines.append(
        f"  changed: {len(changed)} of {counted(found['items'], 'question')}; {found['wrong_to_right']} from "
        "wrong to right, "
        f"{found['right_to_wrong']} from right to wrong"
    )
    if found["better"] + found["worse"] != len(changed):
        lines[-1] += f" (right: in more than half of its replies); {found['better']} better, {found['worse']} worse"
    for one in changed[:_SHOWN]:
        if one["answer_a"] == one["answer_b"]:  # the most frequent answer stayed; how often it came did not
            change = f"right in {one['value_a']:.0%} -> {one['value_b']:.0%} of the replies"
        else:
            change = f"{one['change']}, {_shown(one['answer_a'])} -> {_shown(one['answer_b'])}"
        change += f", gold {_shown(one['gold'])}"
        lines.append(f"    {printable(one['id'], 60)}: {change}: {printable(one['question'], 100)}")
    if len(changed) > _SHOWN:
        lines.append(f"    ... and {len(changed) - _SHOWN} more (--output has all)")
    return [*lines, f"  {next(iter(figures)).replace('_', ' ')}: {first['verdict']}"]


def _shown(answer: str) -> str:
    return printable(answer, 30) or "no answer"
