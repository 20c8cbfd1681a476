"""Draws the history of loads: a column for each load, a panel for each value, with its change points."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.report.history import Series
from loadtest.report.metrics import HISTORY
from loadtest.report.plots import BLUE, DPI, GREEN, RED, STYLE, TEXT_COLOR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_INCHES = (7.0, 1.9)
DOT_SIZE = 14


def draw(series: Sequence[Series], path: Path) -> None:
    """Write the plot; the suffix of the file, .png or .svg, is its format. Raises OSError."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    loads = list(dict.fromkeys(one.load for one in series))
    width, height = PANEL_INCHES
    with mpl.rc_context(STYLE):
        figure = Figure(
            figsize=(width * len(loads), height * len(HISTORY) + 0.6), layout="constrained"
        )
        panels = figure.subplots(len(HISTORY), len(loads), squeeze=False)
        for one in series:
            place = HISTORY.index(one.metric)
            _panel(panels[place][loads.index(one.load)], one)
        for column, load in enumerate(loads):
            panels[0][column].set_title(f"{load}\n{HISTORY[0].title}", fontweight="bold")
            panels[-1][column].set_xlabel("runs, oldest first; lines: means between change points")
        figure.savefig(path, dpi=DPI, facecolor="white")


def _panel(axes: "Axes", series: Series) -> None:
    axes.set_title(series.metric.title)
    axes.grid(axis="y")
    if not series.values:
        axes.text(0.5, 0.5, "not measured", ha="center", transform=axes.transAxes)
        return
    places = range(1, len(series.values) + 1)
    axes.scatter(places, series.values, s=DOT_SIZE, color=BLUE)
    axes.step(places, series.levels, where="mid", color=TEXT_COLOR, linewidth=1.2)
    axes.set_ylim(bottom=0, top=1.25 * max(series.values))
    for place, point in zip(series.points, series.change_points, strict=True):
        color = RED if point.is_worse else GREEN
        axes.axvline(place + 0.5, color=color, linewidth=1.2, linestyle="--")
        commit = point.result.facts.get("InstaChat", "unknown").removeprefix("commit ")
        axes.annotate(
            f"{point.change:+.0%} {commit[:12]}",
            (place + 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            color=color,
            fontsize=8,
        )
