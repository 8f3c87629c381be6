"""Writer of results.json, and of the tables in Markdown and HTML beside published figures."""

import html
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.config.evaluation import EvaluateConfig
from socialr1_jax.evaluation.metrics import Metric
from socialr1_jax.evaluation.runner import TaskResult
from socialr1_jax.evaluation.wording import shown_wording
from socialr1_jax.questions.intervals import around, share_interval
from socialr1_jax.runtime.files import write_json, write_whole
from socialr1_jax.runtime.terminal import counted

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fcfbf8}div{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;"
    "border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}"
    "strong{color:#a00}"
)
# Fractions from summaries of arXiv 2603.09249v1; docs/evaluation.md says how reliable and comparable they are.
_COLUMNS = ("Qwen3-4B", "Qwen3-8B", "SocialR1-4B", "SocialR1-8B")
_PUBLISHED: Mapping[str, tuple[float | None, float | None, float | None, float | None]] = {
    "tombench": (None, 0.6179, None, 0.6881),
    "tombench_hard": (0.3403, None, 0.4846, 0.6279),
    "socialiqa": (None, None, None, 0.7774),
    "simpletom": (None, None, None, 0.9675),
    "emobench": (None, None, None, 0.7010),
    "motivebench": (None, None, None, 0.8889),
    "hitom": (None, None, None, 0.7083),
    "tactfultom": (None, None, None, 0.5079),
}
_NOTE = (
    "Published figures are plain accuracies with the cards' prompt (our protocol social_r1) as summaries of arXiv "
    "2603.09249v1 give them; prompts, thinking, temperature and the questions counted are not known for all of them. "
    "FANToM's and SOTOPIA's figures of the paper were not found."
)
Table = tuple[Sequence[str], list[list[str]]]
N_NOTE = (
    "n: how many independent items the figure is over (questions, stories, conversations or scenarios: what belongs "
    "together counts once). The interval is over them."
)
_NO_FIGURE = "–"  # no reply


class _Title(str):
    """A heading: the page's if it comes first, else of a section."""


def write_results(
    config: EvaluateConfig,
    results: Sequence[TaskResult],
    identity: Mapping[str, Any],
    versions: Mapping[str, str],
    commit: str,
) -> Path:
    """Write results.json, results.md and results.html to `config.output`; return the path of results.json."""
    folder = Path(config.output)
    content = {
        "results": {result.task: {name: m._asdict() for name, m in result.metrics.items()} for result in results},
        "status": {result.task: result.status for result in results},
        "replies": {result.task: result.replies for result in results},
        "seconds": {result.task: round(result.seconds, 1) for result in results},
        "failed": {result.task: result.failure for result in results if result.failure},
        "reportable": not config.limit and all(result.complete for result in results),
        "details": {result.task: result.details for result in results if result.details},
        "notes": {result.task: result.notes for result in results},
        "files": {result.task: result.files for result in results},
        "wording": {result.task: result.wording for result in results if result.wording},
        "model": dict(identity),
        "versions": dict(versions),
        "commit": commit,
        "config": config.model_dump(mode="json"),
    }
    write_json(folder / "results.json", content)
    parts = _parts(config, results, identity)
    write_whole(folder / "results.md", _markdown(parts))
    write_whole(folder / "results.html", _html(parts))
    return folder / "results.json"


def headline_table(results: Sequence[TaskResult]) -> Table:
    """Return a table with a row per task and protocol: its first figure with the 95 % interval, and failed replies.

    Columns for baselines and wording are added if any task has them.
    """
    beside = any(result.baselines for result in results)
    worded = any(result.wording for result in results)
    rows = []
    for result in results:
        for protocol, status in result.status.items():
            name = next((name for name in result.metrics if name.startswith(f"{protocol}/")), None)
            if name is None:
                continue
            metric = result.metrics[name]
            faults = ", ".join(f"{kind} {share:.1%}" for kind, share in status.items() if share and kind != "ok")
            cells = _cells(result, name, metric, beside)
            if worded:
                cells.append(shown_wording(result.wording, protocol))
            rows.append([result.task, *cells, faults or "none"])
    return ("task", *_head(beside), *(["wording"] if worded else []), "replies not ok"), rows


def figure_table(result: TaskResult) -> Table:
    beside = bool(result.baselines)
    return _head(beside), [_cells(result, name, metric, beside) for name, metric in result.metrics.items()]


def _head(beside: bool) -> tuple[str, ...]:
    return ("figure", "value", "95 % interval", "n", *(("chance", "best rule without minds") if beside else ()))


def _cells(result: TaskResult, name: str, metric: Metric, beside: bool) -> list[str]:
    cells = [name, _value(metric), _interval(metric, result.shares), str(metric.n)]
    if beside and (baseline := result.baselines.get(name)):
        return [*cells, f"{baseline.chance:.4f}", f"{baseline.accuracy:.4f} ({baseline.rule})" if baseline.rule else ""]
    return [*cells, "", ""] if beside else cells


def checkpoint_text(identity: Mapping[str, Any]) -> str:
    """Return a sentence naming the step of the evaluated checkpoint; "" if the model is not a run."""
    step = identity.get("step", "")
    return f"The checkpoint after step {step} of {identity['model']}." if step != "" else ""


def _parts(config: EvaluateConfig, results: Sequence[TaskResult], identity: Mapping[str, Any]) -> list[str | Table]:
    parts: list[str | Table] = [_Title(f"Evaluation of {config.model}")]
    if where := checkpoint_text(identity):
        parts.append(where)
    if config.limit:
        parts.append(
            f"NOT REPORTABLE: of each task and protocol only the first {counted(config.limit, 'prompt')} asked."
        )
    parts += [headline_table(results), N_NOTE]
    rows, left_out = [], []
    for result in results:
        if result.task not in _PUBLISHED:
            continue
        ours = next((m for name, m in result.metrics.items() if name.startswith("social_r1/")), None)
        if reason := _not_comparable(config, result, ours):
            left_out.append(f"{result.task} ({reason})")
        elif ours:
            published = ["" if value is None else f"{value:.4f}" for value in _PUBLISHED[result.task]]
            rows.append([result.task, _value(ours), *published])
    if rows:
        parts += [_Title("Beside published figures"), (("task", "this model, social_r1", *_COLUMNS), rows), _NOTE]
    if left_out:
        parts.append(f"Not comparable with published figures: {', '.join(left_out)}.")
    for result in results:
        parts += [_Title(result.task), figure_table(result), *result.notes]
    return parts


def _not_comparable(config: EvaluateConfig, result: TaskResult, ours: Metric | None) -> str:
    """Return why a task's figure is not comparable with published ones; "" if it is."""
    if ours is None or not ours.n:
        return "no figure of social_r1"
    if config.limit:
        return f"the first {counted(config.limit, 'prompt')} alone"
    if not result.whole:
        return "a part of its questions"
    return "" if result.complete else "replies failed"


def _value(metric: Metric) -> str:
    return _NO_FIGURE if math.isnan(metric.value) or not metric.n else f"{metric.value:.4f}"


def _interval(metric: Metric, share: bool) -> str:
    low, high = share_interval(*metric) if share else around(*metric)
    return f"{low:.4f} to {high:.4f}" if low < high else ""  # one unit has no interval


def _markdown(parts: Sequence[str | Table]) -> str:
    lines = []
    for i, part in enumerate(parts):
        if isinstance(part, str):
            lines += [f"{'##' if i else '#'} {part}" if isinstance(part, _Title) else part, ""]
            continue
        head, rows = part
        cells = [[cell.replace("|", "\\|") for cell in row] for row in (head, *rows)]
        lines += [f"| {' | '.join(cells[0])} |", "|" + "---|" * len(head)]
        lines += [f"| {' | '.join(row)} |" for row in cells[1:]] + [""]
    return "\n".join(lines)


def _html(parts: Sequence[str | Table]) -> str:
    body = []
    for i, part in enumerate(parts):
        if isinstance(part, str):
            tag = ("h2" if i else "h1") if isinstance(part, _Title) else "p"
            text = html.escape(part)
            body.append(f"<{tag}>{f'<strong>{text}</strong>' if part.startswith('NOT') else text}</{tag}>")
            continue
        head, rows = part
        cells = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
        lines = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
        body.append(f"<div><table><tr>{cells}</tr>{lines}</table></div>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(str(parts[0]))}</title><style>{_STYLE}</style>{''.join(body)}</html>\n"
    )
