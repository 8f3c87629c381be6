"""The run report: one self-contained HTML page for a run folder, and the README's figure of several runs.

The page is report_template.html filled by jinja2. Text of the model is untrusted: jinja2 escapes all of it, the
embedded JSON holds no `<`, and a content security policy lets only the page's own script run and forbids the network.
"""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from socialr1_jax.files import write_whole
from socialr1_jax.rewards import find_stages, judge_thoughts, parse_response
from socialr1_jax.training import run_files
from socialr1_jax.training.run_files import Metrics, Rollouts, Row

RUN_FILES = ("config.yaml", "metrics.jsonl", "rollouts.jsonl", "summary.json")
# each reward term with the value at which its bar is full; content has no bound, a reward model's 2.5 gives 6.1
TERMS = {"format": 1, "outcome": 1, "structure": 1, "content": 6, "length_window": 1, "repetition": 1}
RESPONSES_SHOWN = 12
COLOURS = ("#1f5fbf", "#b3541e", "#2f7d5b", "#7a4fb0", "#a3325f", "#6b6a65")  # one a run in the figure
FIGURE_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#8a8880",
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 9.5,
    "grid.color": "#e6e4de",
    "legend.frameon": False,
}


def write_report(run_dir: str | Path) -> Path:
    """Writes `run_dir/report.html`, whole or not at all, and returns its path.

    One file that opens without network or server: charts over steps, the same questions answered before and after
    training, a dozen responses with their SIP stages, the configuration. What is missing or cut is named on the page.
    Raises FileNotFoundError when the folder holds none of the files of a run.
    """
    directory = Path(run_dir)
    missing = [name for name in RUN_FILES if not (directory / name).is_file()]
    if len(missing) == len(RUN_FILES):
        raise FileNotFoundError(
            f"{directory}: no report written, it holds none of {', '.join(RUN_FILES)}; give the output_dir of a run"
        )
    notes = [f"{name} is missing" for name in missing]
    config = run_files.read_config(directory, notes)
    summary = run_files.read_summary(directory, notes)
    metrics = run_files.read_metrics(directory, notes)
    rollouts = run_files.read_rollouts(directory, notes)
    for phase, what in (("grpo", "GRPO step"), ("eval", "evaluation")):
        if not metrics.get(phase) and "metrics.jsonl" not in missing:
            notes.append(f"metrics.jsonl holds no {what}")
    payload = _json_for_html(_columns(metrics))
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = Path(__file__).with_name("report_template.html").read_text(encoding="utf-8")
    html = environment.from_string(template).render(
        name=directory.resolve().name,
        notes=notes,
        config={"": config, **{name: section for name, section in config.items() if isinstance(section, dict)}},
        steps_done={phase: len(rows) for phase, rows in metrics.items()},
        accuracy=run_files.before_after(summary, metrics),
        chance=_chance(rollouts),
        comparison=_comparison(rollouts),
        moments=_moments(rollouts.training),
        summary=summary,
        config_text=run_files.read_text(directory / "config.yaml"),
        payload=payload,
        # from the content, so that the same run gives the same bytes
        nonce=hashlib.sha256(payload.encode()).hexdigest()[:24],
    )
    # "replace": a lone surrogate in a response has no UTF-8 form and must not cost the report
    return write_whole(directory / "report.html", html.encode("utf-8", "replace"))


def plot_runs(run_dirs: Sequence[str | Path], path_png: str | Path) -> Path:
    """Draws several runs, a colour each, into a PNG and returns its path.

    Panels: held-out accuracy before and after GRPO with 95 % intervals; total reward and accuracy over training steps,
    thin as measured and thick smoothed. Raises FileNotFoundError for a run without metrics.jsonl, ValueError for one
    without GRPO steps.
    """
    import matplotlib  # half a second to import, and write_report does not need it
    from matplotlib.figure import Figure

    with matplotlib.rc_context(FIGURE_STYLE):
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        change, *curves = figure.subplots(1, 3, width_ratios=(0.8, 1, 1))
        for index, directory in enumerate(map(Path, run_dirs)):
            notes: list[str] = []
            if not (directory / "metrics.jsonl").is_file():
                raise FileNotFoundError(f"{directory / 'metrics.jsonl'}: not found; give the output_dir of a run")
            metrics = run_files.read_metrics(directory, notes)
            steps = metrics.get("grpo")
            if not steps:
                raise ValueError(f"{directory / 'metrics.jsonl'}: no GRPO step to plot; let the run finish one first")
            seed = run_files.read_config(directory, notes).get("seed")
            label, colour = directory.name if seed is None else f"seed {seed}", COLOURS[index % len(COLOURS)]
            points = run_files.before_after(run_files.read_summary(directory, notes), metrics)
            aside = 0.04 * (index - (len(run_dirs) - 1) / 2)  # intervals of several runs must not hide one another
            change.errorbar(
                [at + aside for at in range(len(points))],
                [point["value"] for point in points],
                yerr=[[p["value"] - p["low"] for p in points], [p["high"] - p["value"] for p in points]],
                **{"color": colour, "marker": "o", "markersize": 5, "capsize": 2.5, "linewidth": 1.6},
            )
            for axes, key in zip(curves, ("reward/total", "accuracy"), strict=True):
                xs = [step for step in sorted(steps) if key in steps[step]]
                ys = [steps[step][key] for step in xs]
                axes.plot(xs, ys, color=colour, alpha=0.25, linewidth=0.9)
                axes.plot(xs, _smooth(ys, 0.8), color=colour, linewidth=1.8, label=label)
        change.set(title="Held-out accuracy", xticks=[0, 1], xticklabels=["before GRPO", "after GRPO"])
        change.set_xlim(-0.3, 1.3)
        curves[0].set(title="Total reward in training", xlabel="GRPO step")
        curves[1].set(title="Accuracy in training", xlabel="GRPO step")
        for axes in (change, curves[1]):
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        curves[0].legend(loc="lower right")
        image = io.BytesIO()
        figure.savefig(image, dpi=160, format="png")
    return write_whole(Path(path_png), image.getvalue())


def _columns(metrics: Metrics) -> Row:
    """What the page's charts are drawn from: {phase: {"step": [...], key: [number or null, ...]}}, to six digits."""
    columns: Row = {}
    for phase, rows in metrics.items():
        steps = sorted(rows)
        columns[phase] = {"step": steps}
        for key in sorted({key for row in rows.values() for key in row}):
            columns[phase][key] = [float(f"{rows[step][key]:.6g}") if key in rows[step] else None for step in steps]
    return columns


def _chance(rollouts: Rollouts) -> float | None:
    """The accuracy of guessing among the options of the held-out questions; None when they have no options."""
    counts = [len(_options(row)) for row in (rollouts.after or rollouts.before).values() if _options(row)]
    return sum(1 / count for count in counts) / len(counts) if counts else None


def _comparison(rollouts: Rollouts) -> Row:
    """Counts over all held-out questions, and a few to show: the first three, then the largest gains and losses."""
    pairs: dict[str, list[tuple[Row, Row]]] = {}
    for key, row in rollouts.before.items():
        if key in rollouts.after:
            pairs.setdefault(key[0], []).append((row, rollouts.after[key]))
    right = {
        question: [sum(map(run_files.is_right, side)) for side in zip(*rows, strict=True)]
        for question, rows in pairs.items()
    }
    gain = {question: (after - before) / len(pairs[question]) for question, (before, after) in right.items()}
    ranked = sorted(gain, key=lambda question: -gain[question])
    picks = dict.fromkeys(list(gain)[:3], "in file order")
    picks |= dict.fromkeys((question for question in ranked[:2] if gain[question] > 0), "among the largest gains")
    picks |= dict.fromkeys((question for question in ranked[-2:] if gain[question] < 0), "among the largest losses")
    shown = []
    for question, why in picks.items():
        rows = pairs[question]
        sides = [
            {"label": label, "right": count, "of": len(rows), "response": _response(row)}
            for label, row, count in zip(("Before GRPO", "After GRPO"), rows[0], right[question], strict=True)
        ]
        shown.append({"why": why, **_question(rows[0][1]), "sides": sides})
    better, worse = sum(change > 0 for change in gain.values()), sum(change < 0 for change in gain.values())
    return {"all": len(gain), "better": better, "worse": worse, "questions": shown}


def _moments(training: Mapping[int, list[Row]]) -> list[Row]:
    """A dozen responses of up to four steps spread over the run: the best, the worst, others in the order written."""
    steps = sorted(training)
    chosen = sorted({steps[round(i * (len(steps) - 1) / 3)] for i in range(4)}) if steps else []
    moments = []
    for step in chosen:
        rows, picks = training[step], dict[int, Row]()
        for why, row in (
            ("best of the step", max(rows, key=run_files.reward_of)),
            ("worst of the step", min(rows, key=run_files.reward_of)),
            *(("picked blindly", row) for row in rows[:3]),
        ):
            if id(row) not in picks and len(picks) < RESPONSES_SHOWN // len(chosen):
                picks[id(row)] = {"why": why, **_question(row), "response": _response(row)}
        moments.append({"step": step, "responses": list(picks.values())})
    return moments


def _options(row: Row) -> list[Any]:
    options = row.get("options")
    return options if isinstance(options, list) else []


def _question(row: Row) -> Row:
    return {
        "id": str(row.get("id", "")),
        "story": str(row.get("story", "")),
        "question": str(row.get("question", "")),
        "options": [(chr(ord("A") + i), str(option)) for i, option in enumerate(_options(row))],
        "gold": str(row.get("answer", "")),
    }


def _response(row: Row) -> Row:
    """One response ready to show; "pieces" are (stage, text) with stage "" outside the stages."""
    text = str(row.get("response", ""))
    parsed = parse_response(text)
    pieces, problems, end = [], list(parsed.problems), 0
    # a response cut at the length limit has stages to show too, though no thoughts that count
    thoughts = parsed.thoughts or ("" if "</think>" in text else text.partition("<think>")[2])
    start = text.find(thoughts, text.find("<think>") + len("<think>"))
    for span in find_stages(thoughts):
        pieces.append(("", text[end : start + span.start]))
        end = start + span.end
        pieces.append((span.stage, text[start + span.start : end]))
    if parsed.thoughts:
        problems += judge_thoughts(parsed.thoughts).violations
    pieces.append(("", text[end:]))
    terms = row["terms"] if isinstance(row.get("terms"), dict) else {}
    values = [(name, run_files.number(terms[name]), full) for name, full in TERMS.items() if name in terms]
    return {
        "pieces": [(stage, piece.strip("\n")) for stage, piece in pieces if piece.strip()],
        "problems": problems,
        "cut": row.get("finish_reason") == "length",
        "given": parsed.answer or "none",
        "right": run_files.is_right(row),
        "reward": run_files.number(row.get("reward")),
        "advantage": run_files.number(row.get("advantage")),
        "terms": [(name, value, 100 * min(1.0, max(0.0, (value or 0.0) / full))) for name, value, full in values],
    }


def _json_for_html(value: Any) -> str:
    """JSON that cannot end its script element: `<`, `>` and `&` only as escapes."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average without the bias to its start (Kingma and Ba 2015, section 3)."""
    smoothed, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        smoothed.append(mean / (1 - weight**count))
    return smoothed
