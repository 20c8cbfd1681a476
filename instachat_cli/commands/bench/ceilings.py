"""`instachat bench ceilings`: run the benchmarks, and print or write the report."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from backend.domain.errors import CheckFailed, Invalid
from instachat_cli.console.stderr import talk
from instachat_cli.runtime.signals import as_ctrl_c

BUSY = 0.15  # of all processors; from there on we warn


def ceilings(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Only these; otherwise all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="So little of each that the numbers mean nothing.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Write the report there, if all was run in full.")
    ] = None,
) -> None:
    """Measure ours against ceilings and rivals, and print the report as Markdown.

    $ instachat bench ceilings drain-copy accept

    Exits with 4 if a ratio is not what it must be.
    """
    from backend.settings import load
    from instachat_cli.bench.harness.environment import QUICK, Scale
    from instachat_cli.bench.harness.machine import busy
    from instachat_cli.bench.harness.paired_run import Verdict
    from instachat_cli.bench.reports.performance import markdown, summary
    from instachat_cli.bench.suite import BENCHMARKS, ON_AN_INDEX, run

    settings = load()
    chosen = names or list(BENCHMARKS)
    for name in chosen:
        if name not in BENCHMARKS:
            raise Invalid(f"there is no benchmark {name!r}", f"these are: {', '.join(BENCHMARKS)}")
    if settings.elasticsearch_url is None and (left := ON_AN_INDEX.intersection(chosen)):
        chosen = [name for name in chosen if name not in left]
        talk.note(f"left out, as INSTACHAT_ELASTICSEARCH_URL is not set: {', '.join(sorted(left))}")
    if (others := busy()) > BUSY:
        talk.warning(f"other things use {others:.0%} of this machine: the ratios will be unfair")
    scale = QUICK if quick else Scale()
    with as_ctrl_c():
        rows, facts = run(settings, chosen, scale, lambda row: talk.say(summary(row)))
    facts["used by others"] = f"{others:.0%} of it, before the start"
    if left_out := [name for name in BENCHMARKS if name not in chosen]:
        facts["not run"] = ", ".join(left_out)
    text = markdown(rows, facts)
    if report and not (names or quick):
        report.write_text(text, encoding="utf-8")
        talk.note(f"the report is in {report}")
    else:
        sys.stdout.write(text)
        if report:
            talk.note(f"{report} stays as it is: only a whole run in full is worth a report")
    if missed := [row.title for row in rows if row.verdict is Verdict.MISSED]:
        raise CheckFailed(f"{len(missed)} of {len(rows)} missed: {'; '.join(missed)}")
