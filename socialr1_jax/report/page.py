"""Write the run report: one self-contained HTML page for a run folder, or for a comparison of several.

The page is page.html rendered by jinja2, with style.css and the scripts inlined. Model output is untrusted: jinja2
escapes it, the embedded JSON contains no `<`, the scripts insert it as text only, and a content security policy allows
only the page's own script and forbids network access.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from socialr1_jax.config.commands import ReportConfig
from socialr1_jax.config.quickstart import QuickstartConfig
from socialr1_jax.config.run import RunConfig
from socialr1_jax.config.sections import flat_settings, scalar_text
from socialr1_jax.evaluation.compare import compare
from socialr1_jax.report import run_files
from socialr1_jax.report.metric_lines import meanings
from socialr1_jax.report.responses import responses_of
from socialr1_jax.report.run_files import Metrics, Row
from socialr1_jax.runtime.files import write_whole
from socialr1_jax.runtime.ownership import refuse_foreign_file
from socialr1_jax.runtime.terminal import gib, print_line

_MOST_SHORTCUTS = 3
_PAIRED = {"accuracy": "questions", "pair_accuracy": "groups of twins, all right"}
_ABSENT = "–"
_SCRIPTS = ("page.js", "charts.js", "lengths.js", "responses.js", "table.js")


def print_report(config: ReportConfig) -> None:
    """Write the report of one or more runs and print its path. Raises OSError."""
    print_line(str(write_report(*config.runs, output=config.output or None)))


def write_report(*run_dirs: str | Path, output: str | Path | None = None) -> Path:
    """Write the report of one or more runs atomically, and return its path.

    The page has charts over steps, response lengths, questions answered before and after training, a selection of
    responses, and the settings; it names missing and cut files. Without `output` it is `report.html` in the folder of
    the only run or, for several, in the working folder. Duplicate folders are ignored.

    Raises FileNotFoundError if a folder has none of the files of a run, and ForeignFile if `output` exists and is not a
    report.
    """
    directories = list({Path(run_dir).resolve(): Path(run_dir) for run_dir in run_dirs}.values())
    missing = [run_files.missing_files(directory) for directory in directories]  # before reading large files
    path = Path(output) if output else (directories[0] if len(directories) == 1 else Path()) / "report.html"
    refuse_foreign_file(path, _is_report, "a report")
    runs = [_read_run(*run) for run in zip(directories, _names(directories), missing, strict=True)]
    names = [(phase, name) for run in runs for phase, columns in run["data"]["metrics"].items() for name in columns]
    payload = _json_for_html({"runs": [run["data"] for run in runs], "meanings": meanings(names)})
    configs = [run["config"] for run in runs]
    values = {
        "runs": runs,
        "fact_names": list(dict.fromkeys(name for run in runs for name in run["facts"])),
        "differing": _differing(configs) if len(configs) > 1 else _changed(configs[0]),
        "script": "\n".join(map(_part, _SCRIPTS)),
        "payload": payload,
        # a hash of the content, so that the same run gives the same bytes
        "nonce": hashlib.sha256(payload.encode("utf-8", "replace")).hexdigest()[:24],
    }
    html = render_page(_part("page.html"), values)
    # "replace": a lone surrogate in a response cannot be encoded as UTF-8
    return write_whole(path, html.encode("utf-8", "replace"))


def render_page(template: str, values: Mapping[str, Any], **filters: Callable[..., str]) -> str:
    """Render a page in the style of the reports. Text is escaped; a missing value is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    return environment.from_string(template).render(values, style=_part("style.css"))


def _is_report(file: Path) -> bool:
    with file.open("rb") as opened:
        return b"Social-R1 run report</title>" in opened.read(100_000)


def _part(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _names(directories: list[Path]) -> list[str]:
    """Return the folders' names, with their parent folders if two names are equal."""
    places = [directory.resolve() for directory in directories]
    if len({place.name for place in places}) == len(places):
        return [place.name for place in places]
    above = Path(os.path.commonpath(places)).parent
    return [str(place.relative_to(above)) for place in places]


def _read_run(directory: Path, name: str, missing: list[str]) -> Row:
    """Return the page's values of a run; "data" is the input of its scripts."""
    notes = [f"{file} is missing" for file in missing]
    config = run_files.read_config(directory, notes)
    summary = run_files.read_summary(directory, notes)
    metrics = run_files.read_metrics(directory, notes)
    responses = responses_of(directory, notes)
    for phase, what in (("grpo", "GRPO step"), ("eval", "evaluation")):
        if not metrics.get(phase) and "metrics.jsonl" not in missing:
            notes.append(f"metrics.jsonl holds no {what}")
    limit = _section(config, "sampling").get("max_new_tokens")
    return {
        "name": name,
        "notes": notes,
        "config": config,
        "config_text": run_files.read_text(directory / "config.yaml"),
        "summary": summary,
        "accuracy": run_files.before_after(summary, metrics),
        "accuracies": run_files.accuracies(summary, metrics),
        "paired": _paired_differences(directory, responses["evaluations"], notes),
        "best_rule": run_files.best_rule(directory),
        "rule": run_files.last_evaluation(metrics).get("best_rule_accuracy"),
        "chance": run_files.last_evaluation(metrics).get("chance", responses["chance"]),
        "facts": _facts(config, summary, metrics) | _shortcuts(directory),
        "data": {"name": name, "metrics": _columns(metrics), "limit": run_files.number(limit), **responses},
    }


def _facts(config: Mapping[str, Any], summary: Mapping[str, float], metrics: Metrics) -> dict[str, str]:
    """Return the facts shown in the page header; unknown ones are left out."""
    sampling, grpo, rewards = (_section(config, name) for name in ("sampling", "grpo", "rewards"))
    facts: dict[str, str] = {}
    if "parameters" in summary:
        facts["Parameters"] = f"{summary['parameters'] / 1e6:.2f} M"
    elif path := _section(config, "model").get("path"):
        facts["Model"] = str(path)
    if "seed" in config:
        facts["Seed"] = str(config["seed"])
    if metrics.get("sft"):
        facts["SFT steps"] = str(len(metrics["sft"]))
    facts["GRPO steps"] = str(len(metrics.get("grpo", {}))) + (f" of {config['steps']}" if "steps" in config else "")
    if "prompts_per_step" in grpo and "group_size" in sampling:
        facts["Responses a step"] = f"{grpo['prompts_per_step']} prompts × {sampling['group_size']}"
    if (rate := _section(config, "optimizer").get("learning_rate")) is not None:
        facts["Learning rate"] = str(rate)
    if "preset" in rewards:
        judge = _section(rewards, "structure").get("judge")
        facts["Reward"] = str(rewards["preset"]) + (f", judge {judge}" if judge else "")
    if "reward_sft" in summary and "reward_grpo" in summary:
        facts["Held-out reward"] = f"{summary['reward_sft']:.2f} → {summary['reward_grpo']:.2f}"
    if "content_pair_accuracy" in summary and "content_pairs" in summary:
        share, pairs = summary["content_pair_accuracy"], summary["content_pairs"]
        facts["Content model, held-out pairs"] = f"{100 * share:.1f} % of {pairs:.0f}"
    if "format_rate_grpo" in summary:
        facts["Format rate after"] = f"{100 * summary['format_rate_grpo']:.1f} %"
    if (seconds := summary.get("wall_seconds")) is not None:
        facts["Wall time"] = f"{seconds / 3600:.1f} h" if seconds >= 7200 else f"{seconds / 60:.1f} min"
    if "peak_rss_bytes" in summary:
        facts["Peak memory"] = f"{gib(summary['peak_rss_bytes'])} GiB"
    return facts


def _shortcuts(directory: Path) -> dict[str, str]:
    rules = run_files.shortcuts(directory)
    more = f"; and {len(rules) - _MOST_SHORTCUTS} more" if len(rules) > _MOST_SHORTCUTS else ""
    return {"Shortcuts in data.train": "; ".join(rules[:_MOST_SHORTCUTS]) + more} if rules else {}


def _paired_differences(directory: Path, evaluations: Sequence[int], notes: list[str]) -> list[Row]:
    """Return the rows of the page's paired comparison: set, figure, the figures of `difference_figures`, changes.

    It is empty for a run with fewer than two evaluations in rollouts.jsonl. If the two cannot be compared, the reason
    is added to `notes`.
    """
    if len(evaluations) < 2:
        return []
    first, last = evaluations[0], evaluations[-1]
    try:
        comparison = compare(f"{directory}@{first}", f"{directory}@{last}")
    except ValueError as error:
        notes.append(f"the evaluations at step {first} and step {last} are not compared: {error}")
        return []
    return [
        {"set": name, "figure": text, "first": first, "last": last, **part[key]}
        | {"to_right": part["wrong_to_right"], "to_wrong": part["right_to_wrong"], "items": part["items"]}
        for name, part in comparison["comparisons"].items()
        for key, text in _PAIRED.items()
        if key in part
    ]


def _changed(config: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return (dotted name, [value, default]) of the settings that differ from their defaults."""
    config_class = QuickstartConfig if "tiny_model" in config else RunConfig
    defaults = config_class.model_construct().model_dump(mode="json")
    return [(name, values) for name, values in _differing([config, defaults]) if values[0] != _ABSENT]


def _differing(configs: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return (dotted name, its value in each configuration) of the settings that differ between configurations."""
    flats = [flat_settings(config) for config in configs]
    rows = []
    for name in dict.fromkeys(name for flat in flats for name in flat):
        values = [_setting_text(flat[name]) if name in flat else _ABSENT for flat in flats]
        if len(set(values)) > 1:
            rows.append((name, values))
    return rows


def _setting_text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(scalar_text, value)) + "]"
    return "{}" if value == {} else scalar_text(value) or '""'


def _section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = config.get(name)
    return section if isinstance(section, Mapping) else {}


def _columns(metrics: Metrics) -> Row:
    """Return the data of the page's charts: {phase: {"step": [...], key: [number or null, ...]}}, to six digits."""
    columns: Row = {}
    for phase, rows in metrics.items():
        steps = sorted(rows)
        columns[phase] = {"step": steps}
        for key in sorted({key for row in rows.values() for key in row}):
            columns[phase][key] = [float(f"{rows[step][key]:.6g}") if key in rows[step] else None for step in steps]
    return columns


def _json_for_html(value: Any) -> str:
    """Return JSON that cannot end its script element, with `<`, `>` and `&` escaped."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
