"""results.json, and the same as tables in Markdown and HTML beside published figures."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from socialr1_jax.evaluation.published import COLUMNS, NOTE, PUBLISHED
from socialr1_jax.evaluation.runner import TaskResult
from socialr1_jax.evaluation.task import Metric
from socialr1_jax.evaluation_config import EvaluateConfig
from socialr1_jax.files import write_json, write_whole
from socialr1_jax.intervals import around

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222;"
    "background:#fcfbf8}div{overflow-x:auto}table{border-collapse:collapse;margin:1rem 0}th,td{padding:.3rem .8rem;"
    "border-bottom:1px solid #ddd;text-align:right;white-space:nowrap}th:first-child,td:first-child{text-align:left}"
    "strong{color:#a00}"
)
Table = tuple[Sequence[str], list[list[str]]]


def write_results(
    config: EvaluateConfig, results: Sequence[TaskResult], identity: Mapping[str, Any], versions: Mapping[str, str],
    commit: str,
) -> Path:  # fmt: skip
    """Writes results.json, results.md and results.html into `config.output`; returns the first."""
    folder = Path(config.output)
    content = {
        "results": {one.task: {name: metric._asdict() for name, metric in one.metrics.items()} for one in results},
        "status": {one.task: one.status for one in results},
        "replies": {one.task: one.replies for one in results},
        "seconds": {one.task: round(one.seconds, 1) for one in results},
        "failed": {one.task: one.failure for one in results if one.failure},
        "reportable": not config.limit and all(one.complete for one in results),
        "details": {one.task: one.details for one in results if one.details},
        "notes": {one.task: one.notes for one in results},
        "files": {one.task: one.files for one in results},
        "model": dict(identity),
        "versions": dict(versions),
        "commit": commit,
        "config": config.model_dump(mode="json"),
    }
    write_json(folder / "results.json", content)
    parts = _parts(config, results)
    write_whole(folder / "results.md", _markdown(parts))
    write_whole(folder / "results.html", _html(parts))
    return folder / "results.json"


def headline_table(results: Sequence[TaskResult]) -> Table:
    """A row a task and protocol: its first figure with the 95 % interval, and how the replies ended."""
    rows = []
    for one in results:
        for protocol, status in one.status.items():
            name = next((name for name in one.metrics if name.startswith(f"{protocol}/")), None)
            if name is None:
                continue
            metric = one.metrics[name]
            faults = ", ".join(f"{kind} {share:.1%}" for kind, share in status.items() if share and kind != "ok")
            rows.append([one.task, name, f"{metric.value:.4f}", _interval(metric),
                         str(metric.n), faults or "none"])  # fmt: skip
    return ("task", "figure", "value", "95 % interval", "n", "replies not ok"), rows


def _parts(config: EvaluateConfig, results: Sequence[TaskResult]) -> list[str | Table]:
    parts: list[str | Table] = [f"Evaluation of {config.model}"]
    if config.limit:
        parts.append(f"NOT REPORTABLE: only the first {config.limit} prompts of each task and protocol were asked.")
    parts.append(headline_table(results))
    rows = []
    for one in results:
        ours = next((m for name, m in one.metrics.items() if name.startswith("social_r1/")), None)
        if one.task in PUBLISHED:
            published = ["" if value is None else f"{value:.4f}" for value in PUBLISHED[one.task]]
            rows.append([one.task, "" if ours is None else f"{ours.value:.4f}", *published])
    if rows:
        parts += ["Beside published figures", (("task", "this model, social_r1", *COLUMNS), rows), NOTE]
    for one in results:
        every = [[name, f"{m.value:.4f}", _interval(m), str(m.n)] for name, m in one.metrics.items()]
        parts += [one.task, (("figure", "value", "95 % interval", "n"), every), *one.notes]
    return parts


def _interval(metric: Metric) -> str:
    low, high = around(*metric)
    return f"{low:.4f} to {high:.4f}" if low < high else ""  # none of one unit, nor of values that are all the same


def _is_title(parts: Sequence[str | Table], i: int) -> bool:
    return isinstance(parts[i], str) and i + 1 < len(parts) and (i == 0 or not isinstance(parts[i + 1], str))


def _markdown(parts: Sequence[str | Table]) -> str:
    lines = []
    for i, part in enumerate(parts):
        if isinstance(part, str):
            lines += [f"{'#' if i == 0 else '##'} {part}" if _is_title(parts, i) else part, ""]
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
            tag = ("h1" if i == 0 else "h2") if _is_title(parts, i) else "p"
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
