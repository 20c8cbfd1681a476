"""`instachat bench compare`: compare two measurements, or measure two commits in turns."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import CheckFailed, Invalid
from backend.domain.plurals import counted
from instachat_cli.bench.reports.printed import ReportOutput, print_report
from instachat_cli.commands.bench.options import count, positive_option, seconds, share
from instachat_cli.commands.bench.report_folder import create_folder
from instachat_cli.commands.bench.turns import FILES, measure_in_turns, plan_turns
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.invocation import not_audited
from instachat_cli.console.stderr import stderr
from loadtest.run.choices import Scenario

if TYPE_CHECKING:
    from loadtest.report.result import Result

MAX_NAMED = 5  # regressions in the error message; the table lists all of them


@not_audited
def compare(
    old_file: Annotated[
        Path | None, typer.Argument(metavar="A.json", help="Results before the change.")
    ] = None,
    new_file: Annotated[
        Path | None, typer.Argument(metavar="B.json", help="Results after the change.")
    ] = None,
    before: Annotated[
        str | None,
        typer.Option(
            metavar="REF",
            help="Instead of files: run this commit, of the Git repository in the working folder,"
            " and --after in turns.",
        ),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option(metavar="REF", help="With --before; default: this program as it is."),
    ] = None,
    scenario: Annotated[
        Scenario, typer.Option(metavar="NAME", help="With --before: what the users do.")
    ] = Scenario.MIXED,
    users: Annotated[
        int | None,
        positive_option("With --before: closed model, this many users."),
    ] = None,
    rate: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            min=0.1,
            help="With --before: open model, this many arrivals a second; default without --users: 100.",
        ),
    ] = None,
    duration: Annotated[
        float,
        typer.Option(metavar="TIME", help="With --before: length of each load.", parser=seconds),
    ] = 8.0,
    rounds: Annotated[
        int,
        positive_option("With --before: how many loads each side gets."),
    ] = 24,
    preload: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="With --before: import this many messages on both sides first, such as 100k.",
            parser=count,
        ),
    ] = 0,
    results: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="With --before: write before.jsonl and after.jsonl to this folder; default: no files.",
        ),
    ] = None,
    flames: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the flame graphs of both sides to an HTML page, if their runs have profiles.",
        ),
    ] = None,
    tolerance: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            help="Largest change for the worse that is not a regression.",
            parser=share,
        ),
    ] = 0.05,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also compare interrupted runs, and runs with different loads; replace results.",
        ),
    ] = False,
    output: ReportOutput = None,
) -> None:
    """Compare runs, and print the changes.

    $ instachat bench compare before.json after.json --tolerance 5%
    $ instachat bench compare before.json after.json -o markdown
    $ instachat bench compare --before v1.0 --after main --results build/compared

    Each file has the JSON of one run or, one per line, of several runs. With --before, two private
    installations run both commits with the installed packages, and are loaded in turns. Six runs a side, or
    better 24 in turns, tell a change from noise. Exits with 4 if a metric is worse by more than the
    tolerance and chance does not explain it, if more runs lack it, if more requests fail, or if an audit
    after the change found a fault.
    """
    from loadtest.report.compare import (
        REGRESSION,
        ComparedRow,
        differing_options,
        markdown,
        rows,
    )
    from loadtest.report.profiles import where_the_time_went

    if (old_file is None) != (new_file is None) or (old_file is None) == (before is None):
        raise Invalid("give two files of results, or --before REF")
    if after is not None and before is None:
        raise Invalid("--after needs --before REF")
    turns = None
    if old_file and new_file:
        old, new = _results(old_file), _results(new_file)
    else:
        if results:
            create_folder(results, FILES, "results", "them", force=force)
        planned = plan_turns(scenario, users, rate, duration)
        turns = measure_in_turns(before, after, planned, rounds, results, preload=preload)
        old, new = turns.before, turns.after
    if not force and (differences := differing_options(old, new)):
        raise Invalid(
            f"these runs differ in {'; '.join(differences)}",
            "use `--force` to compare them nevertheless",
        )
    compared = list(rows(old, new, tolerance))
    columns = [field.name for field in fields(ComparedRow)]
    lines = chain(markdown(old, new, tolerance), where_the_time_went(old, new))
    if flames:
        _write_flames(flames, old, new)
    print_report(output, map(asdict, compared), columns, lines)
    worse = [row.complaint for row in compared if row.verdict == REGRESSION]
    faults = sum(sum(result.audit.faults.values()) for result in new)
    if faults:
        worse.insert(0, f"{faults:,} faults found by the audit")
    if worse:
        more = f"; and {len(worse) - MAX_NAMED:,} more" if len(worse) > MAX_NAMED else ""
        raise CheckFailed(f"worse than before: {'; '.join(worse[:MAX_NAMED])}{more}")
    if turns and turns.interrupted:
        raise Interrupted(f"interrupted: the table has {counted(len(old), 'round')}")


def _write_flames(path: Path, old: Sequence["Result"], new: Sequence["Result"]) -> None:
    from loadtest.report.flame import comparison_page
    from loadtest.report.profiles import profiles_by_part

    before, after = profiles_by_part(old), profiles_by_part(new)
    if not (before and after):
        raise Invalid(
            "--flames needs profiles on both sides",
            "measure with `instachat bench run --profile-server`",
        )
    try:
        path.write_text(comparison_page(before, after), encoding="utf-8")
    except OSError as error:
        raise Invalid(f"can't write {path}: {error.strerror}") from None
    stderr.note(f"the flame graphs are in {path}")


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
