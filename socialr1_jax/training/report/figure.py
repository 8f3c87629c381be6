"""Colours and style of figures in PNG files."""

from typing import Any

COLOURS = ("#1f5fbf", "#b3541e", "#2f7d5b", "#7a4fb0", "#a3325f", "#6b6a65")
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
