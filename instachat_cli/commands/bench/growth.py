"""`instachat bench growth`: how cost grows with data, as a table and as a plot."""

import re
from pathlib import Path
from typing import Annotated

import typer

from backend.domain.errors import Failed, Invalid
from instachat_cli.bench.reports.printed import Force, ReportOutput, check_new, print_report
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.extras import require_bench
from instachat_cli.runtime.signals import signals_as_keyboard_interrupt


@not_audited
def growth(
    messages: Annotated[
        str, typer.Option(metavar="N,N…", help="Total numbers of messages, ascending.")
    ] = "10000,100000,1000000",
    chats: Annotated[
        str, typer.Option(metavar="N,N…", help="Numbers of chats, ascending.")
    ] = "100,10000,100000",
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.md", help="Write the report to this file, and the plot beside it."
        ),
    ] = None,
    force: Force = False,
    output: ReportOutput = None,
) -> None:
    """Measure how the cost of accept, drain, publish, search, sync-counters and reconcile grows with data.

    $ instachat bench growth --messages 1000,10000 --chats 100,1000
    $ instachat bench growth -o markdown

    Runs on private engines, or on the engines of the settings, which are restored afterwards. Redis must
    be empty. Publishing and searching the index need INSTACHAT_ELASTICSEARCH_URL.
    """
    require_bench("instachat bench growth")
    from backend.settings import load
    from instachat_cli.bench.cases.growth import Sizes, measure
    from instachat_cli.bench.harness.machine import describe_other_use, other_cpu_share
    from instachat_cli.bench.reports.growth import BODY_COLUMNS, body, draw, markdown, summary

    check_new(report, force=force)
    sizes = Sizes(_sizes(messages), _sizes(chats))
    settings = load()
    if settings.elasticsearch_url is None:
        stderr.note("publishing is skipped because INSTACHAT_ELASTICSEARCH_URL is not set")
    others = other_cpu_share()
    with signals_as_keyboard_interrupt():
        points, facts = measure(settings, sizes, lambda point: stderr.write_line(summary(point)))
    facts |= describe_other_use(others)
    if report is None:
        text = markdown(points, facts, None)
        print_report(output, map(body, points), BODY_COLUMNS, text.splitlines())
        return
    plot = report.with_suffix(".png")
    try:
        draw(points, plot)
        report.write_text(markdown(points, facts, plot.name), encoding="utf-8")
    except OSError as error:
        raise Failed(f"can't write {report}: {error.strerror}") from None
    stderr.note(f"wrote the report to {report} and the plot to {plot}")


def _sizes(given: str) -> list[int]:
    """The sizes in a text such as `10000,100000`. Raises Invalid unless they ascend from 100 or more."""
    if re.fullmatch(r"[0-9]{1,9}(,[0-9]{1,9})*", given):
        sizes = [int(size) for size in given.split(",")]
        if sizes == sorted(set(sizes)) and sizes[0] >= 100:
            return sizes
    raise Invalid(
        f"{given[:40]!r} is not a list of ascending sizes of at least 100, such as 1000,10000"
    )
