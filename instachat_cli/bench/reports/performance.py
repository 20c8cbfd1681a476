"""The report of `bench ceilings`, as Markdown: `docs/performance.md`."""

import re
from collections.abc import Mapping, Sequence

from instachat_cli.bench.harness.paired_run import Goal, Row, Verdict
from instachat_cli.bench.reports.markdown import amount, machine_section

HEAD = """\
# Performance

`make bench` generates this file and overwrites changes made by hand; `make preload` writes one section of it.

A rate says more about a machine than about a program, so the result is a ratio. Both sides take turns in one
run on one machine. Each ratio is the median of the pairs; the lowest and the highest follow in brackets.
Each baseline is written to be as fast as its method allows. A ratio that misses what it *must* reach fails
the command. One that misses only its *aim* is reported with a profile.

[How cost grows with data](growth.md), by messages and by chats:

![Each stage by messages and by chats](growth.png)
"""
MARKS = {
    Verdict.MET: "met",
    Verdict.AIM_MISSED: "**aim missed**",
    Verdict.MISSED: "**missed**",
    Verdict.INFORMATION: "for information",
}


_OTHERS = re.compile(r"<!-- (\S+): begin -->\n.*?<!-- \1: end -->\n", re.DOTALL)


def markdown(rows: Sequence[Row], facts: Mapping[str, str], previous: str = "") -> str:
    """The report; sections of the previous one that other programs have written are kept."""
    others = [found[0] for found in _OTHERS.finditer(previous)]
    parts = [HEAD, *_table(rows), *_configurations(rows), *others]
    return "\n".join([*parts, *machine_section(facts), *_misses(rows)])


BODY_COLUMNS = ("what", "ratio", "goal", "verdict")


def body(row: Row) -> dict[str, object]:
    """A row as plain data; `low` and `high` are the ratios of single pairs."""
    ours, baseline = row.medians
    return {
        "what": row.title,
        "ours": ours,
        "baseline": baseline,
        "unit": row.unit,
        "ratio": round(row.ratio, 4),
        "low": round(row.ratios[0], 4),
        "high": round(row.ratios[-1], 4),
        "goal": _goal(row.goal),
        "verdict": str(row.verdict),
    }


def summary(row: Row) -> str:
    """A row in one line, for progress output."""
    goal = f" ({_goal(row.goal)})" if row.goal else ""
    return f"{row.title}: {_ratio(row)}{goal}: {row.verdict}"


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| what | ours | ceiling or baseline | ratio | must and aim | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, row in enumerate(rows, 1):
        ours, baseline = row.medians
        cells = (
            f"{row.what} ({number})",
            f"{amount(ours)} {row.unit}",
            f"{row.baseline}: {amount(baseline)} {row.unit}",
            _ratio(row),
            _goal(row.goal),
            MARKS[row.verdict],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _configurations(rows: Sequence[Row]) -> list[str]:
    lines = [
        "Configurations; the schema is the default one, and durability is `strict` unless stated otherwise:",
        "",
    ]
    lines += [
        f"{number}. {row.configuration}; {len(row.pairs)} pairs."
        for number, row in enumerate(rows, 1)
    ]
    return [*lines, ""]


def _misses(rows: Sequence[Row]) -> list[str]:
    missed = [row for row in rows if row.profile]
    if not missed:
        return []
    lines = [
        "## Profiles of missed goals",
        "",
        "The profiler itself takes a share of the time.",
        "",
    ]
    for row in missed:
        lines += [f"### {row.title}", "", "```", row.profile, "```", ""]
    return lines


def _ratio(row: Row) -> str:
    low, high = row.ratios[0], row.ratios[-1]
    return f"{_number(row.ratio)} ({_number(low)} – {_number(high)})"


def _goal(goal: Goal | None) -> str:
    if goal is None:
        return ""
    bound = "at most" if goal.at_most else "at least"
    aim = "" if goal.aim is None else f", aim {goal.aim:g}"
    return f"{bound} {goal.must:g}{aim}"


def _number(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"
