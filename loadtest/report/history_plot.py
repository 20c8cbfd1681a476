"""Draws the history of loads: a column for each load, a panel for each value, with its change points."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from loadtest.report.history import Series
from loadtest.report.metrics import HISTORY
from loadtest.report.plots import BLUE, DPI, GREEN, RED, STYLE, TEXT_COLOR
from loadtest.report.result import Result

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
    _name_commits(axes, series)
    for place, point in zip(series.points, series.change_points, strict=True):
        color = RED if point.is_worse else GREEN
        axes.axvline(place + 0.5, color=color, linewidth=1.2, linestyle="--")
        axes.annotate(
            f"{point.change:+.0%} {_commit(point.result)[:12]}",
            (place + 0.5, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -9),
            textcoords="offset points",
            color=color,
            fontsize=8,
        )


def _name_commits(axes: "Axes", series: Series) -> None:
    """Divide the axis by commits if they have several runs each."""
    commits = [_commit(result) for result in series.results]
    firsts = [at for at, name in enumerate(commits) if not at or name != commits[at - 1]]
    if len(firsts) in (1, len(commits)):
        return
    for at in firsts[1:]:
        axes.axvline(at + 0.5, color=TEXT_COLOR, linewidth=0.3)
    middles = [(begin + end + 1) / 2 for begin, end in pairwise([*firsts, len(commits)])]
    axes.set_xticks(middles, [commits[at][:7] for at in firsts], fontsize=7)


def _commit(result: Result) -> str:
    return result.facts.get("InstaChat", "unknown").removeprefix("commit ")
