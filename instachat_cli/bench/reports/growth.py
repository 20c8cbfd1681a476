"""The report of `bench growth`, as Markdown, and its plot: `docs/growth.md`, `docs/growth.png`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from instachat_cli.bench.cases.growth import Axis, GrowthStage, Point
from instachat_cli.bench.reports.markdown import amount, machine_section

FLAT_EXPONENT = 0.25  # up to this one, cost is about the same at every size
PROPORTIONAL_EXPONENT = 0.75  # from this one on, cost is in proportion to the size
DPI = 120
LEGEND_HEIGHT = 44  # points, between a panel's title and its plot: two lines of a legend
COLORS = ("#2f80ed", "#1a9c50", "#d97706", "#9b5de5", "#e5484d", "#0e8a8a", "#7a5c3e")
HEAD = """\
# How cost grows with data

`make growth` generates this file and overwrites changes made by hand.

Each stage is measured separately, in one process, beside the engines. A rate is measured from the previous
size to this one; a time is that of one call at this size. By messages, requests of 1,000 messages go to a
hundred chats, a tenth of them to the first, which is the chat that is searched. By chats, each size adds
10,000 messages, in requests of one, spread over all chats. A hundred chats change before each `sync-
counters`. Each size ends with a `reconcile` that must not find a difference.

Everything is measured once: differences of less than a factor of two may be noise. The first size of
`publish` includes the start of Elasticsearch's work on a new index with a cold JVM.
"""
REASONS = {
    GrowthStage.ACCEPT: "Each request is a call of one script, and Redis runs one at a time.",
    GrowthStage.STORE: "A shard's log is stored by one drain at a time.",
    GrowthStage.PUBLISH: "Elasticsearch splits each text into grams, so that any part of it can be found."
    " Meanwhile, stored messages wait in the outbox: they can be read and found at once.",
}
MEANING = {
    GrowthStage.SEARCH: "reads the documents of one chat, so its time depends on the chat's size and"
    " hardly on the size of the index",
    GrowthStage.SCAN: "reads the chat's folded texts until a page is full: a frequent keyword is found"
    " quickly, a rare one takes time in proportion to the chat",
    GrowthStage.SYNC: "writes the counters that have changed and reads no others",
    GrowthStage.RECONCILE: "reads every key of every store once, so its time is in proportion to the data",
}


def markdown(points: Sequence[Point], facts: Mapping[str, str], plot: str | None) -> str:
    """The report; `plot` is the address of the image."""
    lines = [HEAD]
    if plot:
        lines += [f"![Each stage by messages and by chats, logarithmic]({plot})", ""]
    for axis in Axis:
        lines += _table([point for point in points if point.axis is axis], axis)
    lines += _meaning(points)
    return "\n".join([*lines, *machine_section(facts)])


BODY_COLUMNS = ("size", "axis", "stage", "value", "unit")


def body(point: Point) -> dict[str, object]:
    """A point as plain data."""
    return {
        "size": point.size,
        "axis": str(point.axis),
        "stage": str(point.stage),
        "value": float(f"{point.value:.4g}"),
        "unit": point.stage.unit,
    }


def summary(point: Point) -> str:
    """A point in one line, for progress output."""
    return f"{point.size:,} {point.axis}: {point.stage} {amount(point.value)} {point.stage.unit}"


def draw(points: Sequence[Point], path: Path) -> None:
    """Write the plot as PNG: rates above, times below; messages on the left, chats on the right."""
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    from loadtest.report.plots import STYLE

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 7), layout="constrained")
        for column, axis in enumerate(Axis):
            for row, rates in enumerate((True, False)):
                axes = figure.add_subplot(2, 2, 1 + column + 2 * row)
                for stage, color in zip(GrowthStage, COLORS, strict=True):
                    line = _line(points, axis, stage)
                    if stage.is_rate is rates and line:
                        axes.plot(*zip(*line, strict=True), color=color, label=stage, marker="o")
                title = (
                    f"Rate by {axis} (more is better)"
                    if rates
                    else f"Time by {axis} (less is better)"
                )
                axes.set_title(title, fontweight="bold", pad=LEGEND_HEIGHT)
                axes.set_xscale("log")
                axes.set_yscale("log")
                axes.set_xlabel(axis)
                axes.set_ylabel("messages a second" if rates else "milliseconds")
                axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.yaxis.set_minor_formatter(NullFormatter())
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
                axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
                axes.grid(axis="y")
                axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2)
        figure.suptitle(
            "Each value is measured once, so there are no error bars: less than a factor of two may be noise",
            fontsize="medium",
        )
        figure.savefig(path, dpi=DPI, format="png", facecolor="white")


def _line(points: Sequence[Point], axis: Axis, stage: GrowthStage) -> list[tuple[int, float]]:
    return [(p.size, p.value) for p in points if p.axis is axis and p.stage is stage]


def _table(points: Sequence[Point], axis: Axis) -> list[str]:
    sizes = sorted({point.size for point in points})
    heads = [f"{size:,} {axis}" for size in sizes]
    lines = [
        f"## By {axis}",
        "",
        f"| stage | | {' | '.join(heads)} | ten times as many |",
        f"| --- | --- |{' ---: |' * len(sizes)} --- |",
    ]
    for stage in GrowthStage:
        if line := _line(points, axis, stage):
            cells = " | ".join(amount(value) for _, value in line)
            lines.append(f"| {stage} | {stage.unit} | {cells} | {_growth(line)} |")
    return [*lines, ""]


def _growth(line: Sequence[tuple[int, float]]) -> str:
    """The factor of ten times the size, from the first size to the last."""
    exponent = _exponent(line)
    if exponent is None:
        return ""
    word = ""
    if abs(exponent) <= FLAT_EXPONENT:
        word = "about the same: "
    elif exponent >= PROPORTIONAL_EXPONENT:
        word = "in proportion: "
    return f"{word}× {10**exponent:.2g}"


def _exponent(line: Sequence[tuple[int, float]]) -> float | None:
    (few, first), (many, last) = line[0], line[-1]
    return math.log(last / first) / math.log(many / few) if many > few else None


def _meaning(points: Sequence[Point]) -> list[str]:
    lines = ["## What it means", ""]
    for stage, words in MEANING.items():
        line = _line(points, Axis.MESSAGES, stage)
        if line:
            size, value = line[-1]
            lines.append(f"- **{stage}** {words}: {amount(value)} ms at {size:,} messages.")
    lines += ["", "## The first limit", ""]
    for axis, how in (
        (Axis.MESSAGES, "requests of 1,000 messages"),
        (Axis.CHATS, "single messages"),
    ):
        rates = {s: line[-1] for s in GrowthStage if s.is_rate and (line := _line(points, axis, s))}
        first = min(rates, key=lambda stage: rates[stage][1])
        size, rate = rates[first]
        others = ", ".join(f"{s} {amount(r)}" for s, (_, r) in rates.items() if s is not first)
        lines += [
            (
                f"With {how}, at {size:,} {axis}: **{first}**, {amount(rate)} messages a second"
                f" ({others}). {REASONS[first]}"
            ),
            "",
        ]
    return [
        *lines,
        (
            "[performance.md](performance.md) compares each of these stages with the ceiling of its engine."
        ),
        "",
    ]
