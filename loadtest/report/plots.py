"""Plots of a run over time, drawn by Matplotlib, which is imported only when a plot is drawn.

Each plot becomes a PNG on white and an SVG for an HTML page. Text and axes of the SVG take the page's text
colour, and the colours of the lines are readable on light and on dark pages.
"""

import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loadtest.report.result import LoadModel, Moment, Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TEXT_COLOR = "#44484e"  # replaced by the page's text colour in an SVG
BLUE, ORANGE, RED, GREEN, VIOLET = "#2f80ed", "#d97706", "#e5484d", "#1a9c50", "#9b5de5"
SIZE_INCHES = (9.0, 3.0)
DPI = 144
STYLE: Any = {  # Matplotlib's type lists every setting by name
    "axes.edgecolor": TEXT_COLOR,
    "axes.labelcolor": TEXT_COLOR,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "font.size": 10,
    "grid.alpha": 0.2,
    "grid.color": TEXT_COLOR,
    "legend.frameon": False,
    "legend.labelcolor": TEXT_COLOR,
    "svg.fonttype": "none",  # text remains text, for searching and for screen readers
    "svg.hashsalt": "instachat",  # equal plots give equal files
    "text.color": TEXT_COLOR,
    "xtick.color": TEXT_COLOR,
    "ytick.color": TEXT_COLOR,
}


@dataclass(frozen=True)
class Line:
    """One value over time."""

    name: str
    of: Callable[[Moment], float | None]
    color: str
    dashed: bool = False


@dataclass(frozen=True)
class Plot:
    """Lines that are drawn together; `name` is used in file names, `title` and `axis` in the plot."""

    name: str
    title: str
    axis: str
    lines: tuple[Line, ...]
    logarithmic: bool = False
    threshold: str | None = (
        None  # the name of the limit that is drawn as a line, in the unit of the axis
    )
    scale: float = 1.0  # what the limit is multiplied by for that


def _failed_percent(moment: Moment) -> float | None:
    """Of the requests of a second, as far as they are known: those that were answered in it, or failed."""
    known = max(moment.rate, moment.failures)
    return 100 * moment.failures / known if known else None


USERS_PLOT = Plot(
    "users",
    "Users",
    "at the same time",
    (Line("users", lambda moment: moment.level, VIOLET),),
)
PLANNED_LINE = Line("due", lambda moment: moment.level, TEXT_COLOR, dashed=True)
PLOTS = (
    Plot(
        "rate",
        "Requests answered",
        "a second",
        (
            Line("answered", lambda moment: moment.rate, BLUE),
            Line("failed", lambda moment: moment.failures, RED),
        ),
    ),
    Plot(
        "latency",
        "Latency",
        "milliseconds",
        (
            Line("p99", lambda moment: moment.p99_ms, RED),
            Line("p95", lambda moment: moment.p95_ms, ORANGE),
            Line("p50", lambda moment: moment.p50_ms, BLUE),
        ),
        logarithmic=True,
        threshold="p99",
    ),
    Plot(
        "errors",
        "Requests that failed",
        "per cent",
        (Line("failed", _failed_percent, RED),),
        threshold="errors",
        scale=100,
    ),
    Plot(
        "lags",
        "Time after the answer",
        "milliseconds",
        (
            Line("searchable", lambda moment: moment.searchable_ms, VIOLET),
            Line("stored", lambda moment: moment.stored_ms, GREEN),
            Line("delivered", lambda moment: moment.delivered_ms, BLUE),
        ),
        logarithmic=True,
    ),
    Plot(
        "processors",
        "Processors used",
        "processors",
        (
            Line("servers", lambda moment: moment.cpu_servers, ORANGE),
            Line("generator", lambda moment: moment.cpu_generator, BLUE),
        ),
    ),
)


HISTOGRAM = Plot("histogram", "How long all requests took", "requests", ())


def figures(result: Result) -> Iterator[tuple[Plot, "Figure"]]:
    """Each plot for which the result has values."""
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        users_plots = [USERS_PLOT] if result.model is LoadModel.CLOSED else []
        for plot in [*users_plots, *PLOTS]:
            lines = [line for line in _lines(plot, result) if _has_values(line, result.timeline)]
            if lines:
                yield plot, _figure(plot, lines, result)
        if result.latencies:
            yield HISTOGRAM, _histogram(result)


def write_png(figure: "Figure", path: Path) -> None:
    """Write a plot as a PNG on white."""
    figure.savefig(path, dpi=DPI, format="png", facecolor="white")


def to_svg(figure: "Figure", name: str) -> str:
    """The plot as an SVG element. Its ids begin with `name`, so that a page can contain several plots."""
    import matplotlib as mpl

    written = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(written, format="svg", transparent=True)
    text = written.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace(TEXT_COLOR, "currentColor")


def _lines(plot: Plot, result: Result) -> tuple[Line, ...]:
    """The lines of a plot; in the open model the rate also has a line for the planned rate."""
    due = plot.name == "rate" and result.model is LoadModel.OPEN
    return (PLANNED_LINE, *plot.lines) if due else plot.lines


def _has_values(line: Line, timeline: Sequence[Moment]) -> bool:
    return any(line.of(moment) is not None for moment in timeline)


def _figure(plot: Plot, lines: Sequence[Line], result: Result) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    for line in lines:
        points = [
            (moment.at_s, value)
            for moment in result.timeline
            if (value := line.of(moment)) is not None
        ]
        axes.plot(
            [at for at, _ in points],
            [value for _, value in points],
            color=line.color,
            label=line.name,
            linestyle="--" if line.dashed else "-",
            linewidth=1.6,
            marker="." if len(points) == 1 else None,
        )
    for threshold in result.thresholds:
        if threshold.name == plot.threshold:
            limit = threshold.limit * plot.scale
            name = f"{threshold.name}: at most {limit:g}"
            axes.axhline(limit, color=TEXT_COLOR, label=name, linestyle=":", linewidth=1.6)
    _frame(axes, plot, result)
    return figure


def _histogram(result: Result) -> "Figure":
    """How many requests took how long, with the percentiles and the limit of p99 as lines."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    buckets = result.latencies
    axes.bar(
        [bucket.from_ms for bucket in buckets],
        [bucket.count for bucket in buckets],
        width=[bucket.to_ms - bucket.from_ms for bucket in buckets],
        align="edge",
        alpha=0.55,
        color=BLUE,
    )
    total = result.total
    percentiles = (("p50", total.p50_ms, BLUE), ("p90", total.p90_ms, GREEN))
    higher = (("p99", total.p99_ms, RED), ("p99.9", total.p999_ms, VIOLET))
    for name, value, color in (*percentiles, *higher):
        if value is not None:
            axes.axvline(value, color=color, label=f"{name} {value:,.1f} ms", linewidth=1.6)
    for threshold in result.thresholds:
        if threshold.name == "p99":
            name = f"p99: at most {threshold.limit:g} ms"
            axes.axvline(threshold.limit, color=TEXT_COLOR, label=name, linestyle=":")
    axes.set_title(HISTOGRAM.title, fontweight="bold")
    axes.set_ylabel(HISTOGRAM.axis)
    axes.set_xlabel("milliseconds")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(axis="y")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def _frame(axes: "Axes", plot: Plot, result: Result) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_title(plot.title, fontweight="bold")
    axes.set_ylabel(plot.axis)
    axes.set_xlabel("seconds; shaded: not measured")
    if plot.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.grid(axis="y")
    end = max(result.duration_s, *(moment.at_s for moment in result.timeline))
    axes.set_xlim(0, end)
    for begin, until in ((0.0, result.window.from_s), (result.window.to_s, end)):
        if until > begin:
            axes.axvspan(begin, until, color=TEXT_COLOR, alpha=0.08, linewidth=0)
    for fault in result.faults:
        axes.axvspan(fault.from_s, fault.to_s, color=RED, alpha=0.2, linewidth=1)
        axes.annotate(
            fault.fault,
            (fault.from_s, 1),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            rotation=90,
            va="top",
            fontsize=8,
        )
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(axes.lines))
