"""The README's figure of several runs: a PNG with the accuracy before and after GRPO, and curves over its steps."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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

    Panels: held-out accuracy before and after GRPO with 95 % intervals; total reward and accuracy over training steps,
    thin as measured and thick smoothed. Raises FileNotFoundError for a run without metrics.jsonl, ValueError for one
    without GRPO steps.
    """
    import matplotlib  # half a second to import, and the page does not need it
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


def _smooth(values: Sequence[float], weight: float) -> list[float]:
    """Exponential moving average without the bias to its start (Kingma and Ba 2015, section 3)."""
    smoothed, mean = [], 0.0
    for count, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        smoothed.append(mean / (1 - weight**count))
    return smoothed
