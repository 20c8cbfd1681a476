"""The report, as Markdown: `docs/performance.md`."""

from collections.abc import Mapping, Sequence

from instachat_cli.bench.harness.paired_run import Goal, Row, Verdict

HEAD = """\
# Performance

Made by `make bench`; changes by hand are lost.

A rate says more about a machine than about a program, so what counts is a ratio: both sides take turns in
one run on one machine, and each number is the median of the pairs, with the smallest and the largest behind
it. Each rival is written to be as quick as its method allows. What *must* hold fails the command; an *aim*
that is missed is reported with a profile.

How each stage grows with messages and with chats; [what it means, and the first limit](growth.md):

![Each stage by messages and by chats](growth.png)
"""
MARKS = {
    Verdict.MET: "met",
    Verdict.AIM_MISSED: "**aim missed**",
    Verdict.MISSED: "**missed**",
    Verdict.INFORMATION: "for information",
}


def markdown(rows: Sequence[Row], facts: Mapping[str, str]) -> str:
    """The whole report."""
    return "\n".join(
        [HEAD, *_table(rows), *_configurations(rows), *_machine(facts), *_misses(rows)]
    )


def summary(row: Row) -> str:
    """A row in one line, for whoever is watching."""
    goal = f" ({_goal(row.goal)})" if row.goal else ""
    return f"{row.title}: {_ratio(row)}{goal}: {row.verdict}"


def _table(rows: Sequence[Row]) -> list[str]:
    lines = [
        "| what | ours | ceiling or rival | ratio | must and aim | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, row in enumerate(rows, 1):
        ours, baseline = row.medians
        cells = (
            f"{row.what} ({number})",
            f"{_amount(ours)} {row.unit}",
            f"{row.baseline}: {_amount(baseline)} {row.unit}",
            _ratio(row),
            _goal(row.goal),
            MARKS[row.verdict],
        )
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _configurations(rows: Sequence[Row]) -> list[str]:
    lines = ["Each with the default schema, and durability `strict` where no other is named:", ""]
    lines += [
        f"{number}. {row.configuration}; {len(row.pairs)} pairs."
        for number, row in enumerate(rows, 1)
    ]
    return [*lines, ""]


def _machine(facts: Mapping[str, str]) -> list[str]:
    lines = ["## The machine", "", "| | |", "| --- | --- |"]
    return [*lines, *(f"| {name} | {value} |" for name, value in facts.items()), ""]


def _misses(rows: Sequence[Row]) -> list[str]:
    missed = [row for row in rows if row.profile]
    if not missed:
        return []
    lines = ["## Where the time goes, of what missed", "", "Profiling itself takes its share.", ""]
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


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _number(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 20 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"
