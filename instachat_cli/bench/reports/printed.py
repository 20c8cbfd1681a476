"""A report on standard output: a table on a terminal, JSON elsewhere, Markdown if asked for."""

import sys
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from backend.domain.errors import Invalid
from instachat_cli.console.options import Format
from instachat_cli.console.output import Body, Printer


class ReportFormat(StrEnum):
    """Format of a printed report."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    MARKDOWN = "markdown"


ReportOutput = Annotated[
    ReportFormat | None,
    typer.Option(
        "-o",
        "--output",
        help="Output format. Default: a table on a terminal; otherwise JSON lines.",
    ),
]


Force = Annotated[bool, typer.Option("--force", help="Replace the file of --report if it exists.")]


def check_new(report: Path | None, *, force: bool) -> None:
    """Raise Invalid if the report would replace a file that the user has not named as replaceable."""
    if report is not None and report.exists() and not force:
        raise Invalid(
            f"{report} exists already", "name another file, or use `--force` to replace it"
        )


def print_report(
    output: ReportFormat | None,
    rows: Iterable[Body],
    columns: Sequence[str],
    markdown: Iterable[str],
) -> None:
    """Print the rows, or the whole report as lines of Markdown. A table shows `columns` of the rows."""
    if output is ReportFormat.MARKDOWN:
        for line in markdown:
            sys.stdout.write(line + "\n")
        return
    Printer(None if output is None else Format(output)).many(rows, columns)
