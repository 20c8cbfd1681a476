"""`instachat bench compare`: compare two measurements."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import CheckFailed, Invalid
from instachat_cli.commands.bench.run import share

if TYPE_CHECKING:
    from loadtest.report.result import Result


MAX_NAMED = 5  # regressions in the error message; the table lists all of them


def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="Results before the change.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="Results after the change.")],
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Largest change for the worse that is not a regression.",
            parser=share,
        ),
    ] = 0.1,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Also compare interrupted runs, and runs with different loads."
        ),
    ] = False,
) -> None:
    """Compare runs, and print the changes as Markdown.

    $ instachat bench compare before.json after.json --tolerance 5%

    Each file has the JSON of one run or, one per line, of several runs. Three runs a side are enough to
    tell a change from noise. Exits with 4 if a metric is certainly worse than the tolerance allows, if more
    runs lack it, if more requests fail, or if an audit after the change found a fault.
    """
    from loadtest.report.compare import changes, differing_options, failures, markdown, missing

    old, new = _results(before), _results(after)
    if not force and (differences := differing_options(old, new)):
        raise Invalid(
            f"these runs differ in {'; '.join(differences)}",
            "use `--force` to compare them nevertheless",
        )
    for line in markdown(old, new, tolerance):
        sys.stdout.write(line + "\n")
    worse = [
        f"no {gone.metric.name} of {gone.metric.of_what} any more"
        for gone in missing(old, new)
        if gone.regressed
    ]
    worse += [
        f"{change.metric.name} of {change.metric.of_what}"
        for change in changes(old, new)
        if change.regressed(tolerance)
    ]
    worse += [f"failures of {failed.route}" for failed in failures(old, new) if failed.regressed]
    faults = sum(sum(result.audit.faults.values()) for result in new)
    if faults:
        worse.insert(0, f"{faults:,} faults found by the audit")
    if worse:
        more = f"; and {len(worse) - MAX_NAMED:,} more" if len(worse) > MAX_NAMED else ""
        raise CheckFailed(f"worse than before: {'; '.join(worse[:MAX_NAMED])}{more}")


def _results(path: Path) -> "list[Result]":
    from loadtest.report.result import loads

    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        results = [loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise Invalid(f"can't read {path}: {error.strerror}") from None
    except ValueError as error:
        raise Invalid(f"{path}: {error}", "create one with `instachat bench run -o json`") from None
    if not results:
        raise Invalid(f"{path} contains no result")
    return results
