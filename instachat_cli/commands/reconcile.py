"""`instachat reconcile`: do the stores agree? What differs is named, and mended if asked."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import CheckFailed
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.options import DryRun, Output
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.progress import Progress
from instachat_cli.console.stderr import talk
from instachat_cli.runtime.context import backend

if TYPE_CHECKING:
    from backend.reconcile.findings import Summary
    from backend.reconcile.reconciler import Reconciliation

COLUMNS = ("kind", "token", "chat", "number", "detail")
App = Annotated[
    str | None,
    typer.Option("--app", metavar="TOKEN", help="Only this application; otherwise all."),
]
Repair = Annotated[bool, typer.Option("--repair", help="Mend what can be mended.")]


def reconcile(
    repair: Repair = False, dry_run: DryRun = False, app: App = None, output: Output = None
) -> None:
    """Compare Redis, SQL and the index key by key, and name what differs.

    $ instachat reconcile
    $ instachat reconcile --repair --dry-run
    $ instachat reconcile --repair

    It may run under full load. Exits with 4 if anything differs and is not mended, with 5 if a store is
    away. Numbers that are on their way, deleted or kept as dead letters are no differences: they are summed
    up on standard error.
    """
    with backend() as core:
        work = core.reconciler.begin(app, mend=repair, dry_run=dry_run)
        total = work.size() if sys.stderr.isatty() else None
        try:
            with Progress("keys", total) as progress:
                findings = _bodies(work, progress, planned=repair and dry_run)
                Printer(output).many(findings, COLUMNS, none="no difference was found")
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; until then: {_said(work.summary)}") from None
    talk.note(_said(work.summary))
    _check(work.summary, repair=repair, dry_run=dry_run)


def _bodies(work: "Reconciliation", progress: Progress, *, planned: bool) -> Iterator[Body]:
    from backend.reconcile.findings import REPAIRS

    for finding in work.findings(lambda done: progress.update(done, done)):
        body = finding._asdict()
        if planned and finding.repairable:
            body["detail"] += f"; --repair would {REPAIRS[finding.kind]}"
        yield body


def _check(summary: "Summary", *, repair: bool, dry_run: bool) -> None:
    """Raise CheckFailed, so that the command exits with 4, if anything is left that differs."""
    if left := summary.findings - summary.mended:
        differences = f"{left:,} difference{'' if left == 1 else 's'}"
        if repair and not dry_run:
            raise CheckFailed(
                f"{differences} can't be mended by this program",
                "a document without a row may be all that is left of a message: keep it, look for a backup",
            )
        hint = "`instachat reconcile --repair` mends what can be mended"
        raise CheckFailed(f"{differences} between the stores", None if repair else hint)


def _said(summary: "Summary") -> str:
    """Such as “compared 1 application, 2 chats, 3 messages: 1 difference; explained: 2 removed”."""
    compared = [
        (summary.applications, "application"),
        (summary.chats, "chat"),
        (summary.messages, "message"),
        (summary.documents, "document"),
    ]
    said = "compared " + ", ".join(
        f"{count:,} {noun}{'' if count == 1 else 's'}"
        for count, noun in compared
        if count is not None
    )
    said += f": {summary.findings:,} difference{'' if summary.findings == 1 else 's'}"
    if summary.mended:
        said += f", {summary.mended:,} mended"
    explained = [
        (summary.pending, "on their way"),
        (summary.removed, "removed"),
        (summary.dead, "dead letters"),
        (summary.lost, "known to be lost"),
    ]
    if why := ", ".join(f"{count:,} {word}" for count, word in explained if count):
        said += f"; explained: {why}"
    return said
