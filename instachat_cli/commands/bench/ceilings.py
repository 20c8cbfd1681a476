"""`instachat bench ceilings`: run the benchmarks, and print or write their report."""

from pathlib import Path
from typing import Annotated

import typer

from backend.domain.errors import CheckFailed, Invalid
from instachat_cli.bench.reports.printed import Force, ReportOutput, check_new, print_report
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.extras import require_bench
from instachat_cli.runtime.signals import signals_as_keyboard_interrupt

MAX_OTHER_CPU_SHARE = 0.15  # of all processors; a higher share is warned about


@not_audited
def ceilings(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="NAME…", help="Benchmarks to run; default: all.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Run each at a size too small for meaningful numbers.")
    ] = False,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write the report as Markdown to this file if all benchmarks ran in full."
        ),
    ] = None,
    force: Force = False,
    output: ReportOutput = None,
) -> None:
    """Measure InstaChat against ceilings and baselines, and print the ratios.

    $ instachat bench ceilings drain-copy accept
    $ instachat bench ceilings -o markdown

    Exits with 4 if a ratio misses its required value.
    """
    require_bench("instachat bench ceilings")
    from backend.settings import load
    from instachat_cli.bench.harness.environment import QUICK_SCALE, Scale
    from instachat_cli.bench.harness.machine import describe_other_use, other_cpu_share
    from instachat_cli.bench.harness.paired_run import Verdict
    from instachat_cli.bench.reports.performance import BODY_COLUMNS, body, markdown, summary
    from instachat_cli.bench.suite import BENCHMARKS, NEEDS_ELASTICSEARCH, run_benchmarks

    check_new(report, force=force)
    settings = load()
    chosen = names or list(BENCHMARKS)
    for name in chosen:
        if name not in BENCHMARKS:
            raise Invalid(f"there is no benchmark {name!r}", f"benchmarks: {', '.join(BENCHMARKS)}")
    if settings.elasticsearch_url is None and (
        left_out_names := NEEDS_ELASTICSEARCH.intersection(chosen)
    ):
        chosen = [name for name in chosen if name not in left_out_names]
        stderr.note(
            f"skipped because INSTACHAT_ELASTICSEARCH_URL is not set: {', '.join(sorted(left_out_names))}"
        )
    if (others := other_cpu_share()) > MAX_OTHER_CPU_SHARE:
        stderr.warning(
            f"other programs use {others:.0%} of this machine: the ratios will be unreliable"
        )
    scale = QUICK_SCALE if quick else Scale()
    with signals_as_keyboard_interrupt():
        rows, facts = run_benchmarks(
            settings, chosen, scale, lambda row: stderr.write_line(summary(row))
        )
    facts |= describe_other_use(others)
    if left_out := [name for name in BENCHMARKS if name not in chosen]:
        facts["not run"] = ", ".join(left_out)
    text = markdown(rows, facts)
    if report and not (names or quick):
        previous = report.read_text(encoding="utf-8") if report.exists() else ""
        report.write_text(markdown(rows, facts, previous), encoding="utf-8")
        stderr.note(f"wrote the report to {report}")
    else:
        print_report(output, map(body, rows), BODY_COLUMNS, text.splitlines())
        if report:
            stderr.note(f"{report} is unchanged: only a full run of all benchmarks writes it")
    if missed := [row.title for row in rows if row.verdict is Verdict.MISSED]:
        raise CheckFailed(f"{len(missed)} of {len(rows)} missed: {'; '.join(missed)}")
