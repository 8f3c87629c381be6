"""The README's figure of several runs: accuracy before and after GRPO beside the best rule's, and curves over steps."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from socialr1_jax.files import write_whole
from socialr1_jax.training.report import run_files

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


def plot_runs(run_dirs: Sequence[str | Path], path_png: str | Path) -> Path:
    """Draws several runs, a colour each, into a PNG and returns its path.

    Panels: held-out accuracy before and after GRPO with 95 % intervals, chance dotted and the best rule dashed; pair
    accuracy likewise, where a run has it; total reward and accuracy over training steps, thin as measured and thick
    smoothed. Raises FileNotFoundError for a run without metrics.jsonl, ValueError for one without GRPO steps.
    """
    import matplotlib  # half a second to import, and the page does not need it
    from matplotlib.figure import Figure

    runs = [_read(Path(directory)) for directory in run_dirs]
    figures = ["accuracy", "pair_accuracy"] if any("pair_accuracy" in run.points for run in runs) else ["accuracy"]
    with matplotlib.rc_context(FIGURE_STYLE):
        width = 11 if len(figures) == 1 else 13.5
        figure = Figure(figsize=(width, 3.6), layout="constrained")
        panels = figure.subplots(1, len(figures) + 2, width_ratios=(*[0.8] * len(figures), 1, 1))
        changes, curves = panels[: len(figures)], panels[len(figures) :]
        for index, run in enumerate(runs):
            colour = COLOURS[index % len(COLOURS)]
            aside = 0.04 * (index - (len(runs) - 1) / 2)  # intervals of several runs must not hide one another
            for axes, name in zip(changes, figures, strict=True):
                points = run.points.get(name, [])
                axes.errorbar(
                    [at + aside for at in range(len(points))],
                    [point["value"] for point in points],
                    yerr=[[p["value"] - p["low"] for p in points], [p["high"] - p["value"] for p in points]],
                    **{"color": colour, "marker": "o", "markersize": 5, "capsize": 2.5, "linewidth": 1.6},
                )
                if (rule := run.last.get(f"best_rule_{name}")) is not None:
                    axes.axhline(rule, color=colour, linestyle="--", linewidth=1.1, label="best rule")
            for axes, key in zip(curves, ("reward/total", "accuracy"), strict=True):
                xs = [step for step in sorted(run.steps) if key in run.steps[step]]
                ys = [run.steps[step][key] for step in xs]
                axes.plot(xs, ys, color=colour, alpha=0.25, linewidth=0.9)
                axes.plot(xs, _smooth(ys, 0.8), color=colour, linewidth=1.8, label=run.label)
        for chance in sorted({run.last["chance"] for run in runs if "chance" in run.last}):
            changes[0].axhline(chance, color="#64625b", linestyle=":", linewidth=1.4, label="chance")
        for axes, title in zip(changes, ("Held-out accuracy", "Held-out pair accuracy"), strict=False):
            axes.set(title=title, xticks=[0, 1], xticklabels=["before GRPO", "after GRPO"])
            axes.set_xlim(-0.3, 1.3)
            handles, labels = axes.get_legend_handles_labels()
            if named := dict(zip(labels, handles, strict=True)):  # one line of each kind
                axes.legend(named.values(), named.keys(), loc="best")
        curves[0].set(title="Total reward in training", xlabel="GRPO step")
        curves[1].set(title="Accuracy in training", xlabel="GRPO step")
        for axes in (*changes, curves[1]):
            axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
        curves[0].legend(loc="lower right")
        image = io.BytesIO()
        figure.savefig(image, dpi=160, format="png")
    return write_whole(Path(path_png), image.getvalue())


class _Run(NamedTuple):
    """What the figure draws of a run; `points` holds accuracy and pair_accuracy as far as they are known."""

    label: str
    steps: Mapping[int, Mapping[str, float]]
    points: dict[str, list[run_files.Row]]
    last: Mapping[str, float]  # evaluation


def _read(directory: Path) -> _Run:
    """Raises what `plot_runs` raises."""
    notes: list[str] = []
    if not (directory / "metrics.jsonl").is_file():
        raise FileNotFoundError(f"{directory / 'metrics.jsonl'}: not found; give the output_dir of a run")
    metrics = run_files.read_metrics(directory, notes)
    if not (steps := metrics.get("grpo")):
        raise ValueError(f"{directory / 'metrics.jsonl'}: no GRPO step to plot; let the run finish one first")
    seed = run_files.read_config(directory, notes).get("seed")
    summary = run_files.read_summary(directory, notes)
    points = {name: run_files.before_after(summary, metrics, name) for name in ("accuracy", "pair_accuracy")}
    return _Run(
        label=directory.name if seed is None else f"seed {seed}",
        steps=steps,
        points={name: found for name, found in points.items() if found},
        last=run_files.last_evaluation(metrics),
    )


def _smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average without the bias to its start (Kingma and Ba 2015, section 3)."""
    smoothed, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        smoothed.append(mean / (1 - weight**count))
    return smoothed
