"""Spread the applications over another number of shards."""

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import Invalid
from backend.domain.plurals import counted
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.invocation import note_count
from instachat_cli.console.options import DryRunFlag, Output, parse_integer
from instachat_cli.console.output import Printer
from instachat_cli.console.progress import Progress
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.maintenance.reshard import Resharder

Count = Annotated[
    int | None,
    typer.Argument(
        metavar="N",
        help="The number of shards, 1 to 1,024.",
        parser=parse_integer,
        show_default=False,
    ),
]
OwnShard = Annotated[
    str | None,
    typer.Option("--app", metavar="TOKEN", help="Move this application to a shard of its own."),
]
Back = Annotated[
    bool, typer.Option("--back", help="With --app: move it back to a shard with others.")
]


def reshard(
    count: Count = None,
    app: OwnShard = None,
    back: Back = False,
    dry_run: DryRunFlag = False,
    output: Output = None,
) -> None:
    """Spread the applications over another number of shards, or move one to a shard of its own.

    $ instachat reshard 128 --dry-run
    $ instachat reshard 128
    $ instachat reshard --app TOKEN
    $ instachat reshard --app TOKEN --back

    Everything else keeps running. Applications move one at a time; each is closed for a moment, and requests
    for it wait. An interrupted reshard continues with the same command. An application that has a shard of
    its own keeps it until --back. Programs of earlier releases are refused from then on.
    """
    if (count is None) == (app is None) or (back and app is None):
        raise Invalid(
            "name a number of shards, or an application", "see `instachat reshard --help`"
        )
    printer = Printer(output)
    with backend_context() as core:
        if app is not None:
            original = core.tokens.original(app)
            _move_one(core.resharder, printer, original, back=back, dry_run=dry_run)
            return
        assert count is not None
        if dry_run:
            plan = core.resharder.plan(count)
            printer.outcome(
                {"shards": plan.shards, "applications": plan.applications, "to_move": plan.to_move},
                f"would move {plan.to_move:,} of {counted(plan.applications, 'application')}, from"
                f" {counted(plan.shards, 'shard')} to {count:,}; nothing was done",
            )
        else:
            _reshard(core.resharder, printer, count)


def _reshard(resharder: "Resharder", printer: Printer, count: int) -> None:
    done = 0

    def update(passed: int, _: int) -> None:
        nonlocal done
        done = passed
        note_count("applications", done)
        bar.update(passed, passed)

    total = resharder.plan(count).applications if sys.stderr.isatty() else None
    try:
        with Progress("applications", total) as bar:
            result = resharder.reshard(count, update)
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; {counted(done, 'application')} done. `instachat reshard {count}` continues"
        ) from None
    forgotten = (
        f"; removed what {counted(result.forgotten, 'application')} had left behind long ago"
        if result.forgotten
        else ""
    )
    printer.outcome(
        result._asdict(),
        f"moved {counted(result.moved, 'application')}; number of shards: {result.shards:,}{forgotten}",
    )


def _move_one(
    resharder: "Resharder", printer: Printer, token: str, *, back: bool, dry_run: bool
) -> None:
    where = "a shard with others" if back else "a shard of its own"
    if dry_run:
        printer.outcome(
            {"moved": False}, f"would move the application to {where}; nothing was done"
        )
        return
    try:
        moved = resharder.rejoin(token) if back else resharder.separate(token)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; the same command continues") from None
    printer.outcome(
        {"moved": moved}, f"the application is in {where} {'now' if moved else 'already'}"
    )
