"""`instachat bench ceilings`: run the benchmarks, and print or write the report."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from backend.domain.errors import CheckFailed, Invalid
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.signals import signals_as_keyboard_interrupt

MAX_OTHER_CPU_SHARE = 0.15  # of all processors; from there on we warn


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
    from instachat_cli.bench.harness.environment import QUICK_SCALE, Scale
    from instachat_cli.bench.harness.machine import other_cpu_share
    from instachat_cli.bench.harness.paired_run import Verdict
    from instachat_cli.bench.reports.performance import markdown, summary
    from instachat_cli.bench.suite import BENCHMARKS, NEEDS_ELASTICSEARCH, run

    settings = load()
    chosen = names or list(BENCHMARKS)
    for name in chosen:
        if name not in BENCHMARKS:
            raise Invalid(f"there is no benchmark {name!r}", f"these are: {', '.join(BENCHMARKS)}")
    if settings.elasticsearch_url is None and (
        left_out_names := NEEDS_ELASTICSEARCH.intersection(chosen)
    ):
        chosen = [name for name in chosen if name not in left_out_names]
        stderr.note(
            f"left out, as INSTACHAT_ELASTICSEARCH_URL is not set: {', '.join(sorted(left_out_names))}"
        )
    if (others := other_cpu_share()) > MAX_OTHER_CPU_SHARE:
        stderr.warning(f"other things use {others:.0%} of this machine: the ratios will be unfair")
    scale = QUICK_SCALE if quick else Scale()
    with signals_as_keyboard_interrupt():
        rows, facts = run(settings, chosen, scale, lambda row: stderr.write_line(summary(row)))
    facts["used by others"] = f"{others:.0%} of it, before the start"
    if left_out := [name for name in BENCHMARKS if name not in chosen]:
        facts["not run"] = ", ".join(left_out)
    text = markdown(rows, facts)
    if report and not (names or quick):
        report.write_text(text, encoding="utf-8")
        stderr.note(f"the report is in {report}")
    else:
        sys.stdout.write(text)
        if report:
            stderr.note(f"{report} stays as it is: only a whole run in full is worth a report")
    if missed := [row.title for row in rows if row.verdict is Verdict.MISSED]:
        raise CheckFailed(f"{len(missed)} of {len(rows)} missed: {'; '.join(missed)}")
