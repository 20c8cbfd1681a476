"""`instachat bench compare`: two measurements, and what differs between them."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import CheckFailed, Invalid
from instachat_cli.commands.bench.run import share

if TYPE_CHECKING:
    from loadtest.report.result import Result


MAX_NAMED = 5  # of what is worse; the table has all of it


def compare(
    before: Annotated[Path, typer.Argument(metavar="A.json", help="Results of before.")],
    after: Annotated[Path, typer.Argument(metavar="B.json", help="Results of after.")],
    tolerance: Annotated[
        float,
        typer.Option(metavar="SHARE", help="How much worse is no regression.", parser=share),
    ] = 0.1,
    force: Annotated[
        bool, typer.Option("--force", help="Compare interrupted runs and different loads, too.")
    ] = False,
) -> None:
    """Compare runs, and print as Markdown what differs by more than noise.

    $ instachat bench compare before.json after.json --tolerance 5%

    Each file has the JSON of one run or, one a line, of several: three a side tell noise from change.
    Exits with 4 if something is certainly worse than the tolerance allows or there is nothing of it any more,
    more requests fail, or the audit of `after` found a fault.
    """
    from loadtest.report.compare import changes, differing_options, failures, markdown, missing

    old, new = _results(before), _results(after)
    if not force and (differences := differing_options(old, new)):
        raise Invalid(
            f"these runs are not alike in {'; '.join(differences)}",
            "`--force` compares them all the same",
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
        raise Invalid(f"{path} can't be read: {error.strerror}") from None
    except ValueError as error:
        raise Invalid(f"{path}: {error}", "`instachat bench run -o json` writes one") from None
    if not results:
        raise Invalid(f"{path} has no result in it")
    return results
