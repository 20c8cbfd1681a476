"""`instachat reconcile`: do the stores agree? What differs is named, and repaired if asked."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import CheckFailed
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.options import DryRunFlag, Output
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.progress import Progress
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.reconcile.findings import ReconcileSummary
    from backend.reconcile.reconciler import Reconciliation

COLUMNS = ("kind", "token", "chat", "number", "detail")
App = Annotated[
    str | None,
    typer.Option("--app", metavar="TOKEN", help="Only this application; otherwise all."),
]
Repair = Annotated[bool, typer.Option("--repair", help="Repair what can be repaired.")]


def reconcile(
    repair: Repair = False, dry_run: DryRunFlag = False, app: App = None, output: Output = None
) -> None:
    """Compare Redis, SQL and the index key by key, and name what differs.

    $ instachat reconcile
    $ instachat reconcile --repair --dry-run
    $ instachat reconcile --repair

    It may run under full load. Exits with 4 if anything differs and is not repaired, with 5 if a store is
    away. Numbers that are on their way, deleted or kept as dead letters are no differences: they are summed
    up on standard error.
    """
    with backend_context() as core:
        work = core.reconciler.begin(app, repair=repair, dry_run=dry_run)
        total = work.count_keys() if sys.stderr.isatty() else None
        try:
            with Progress("keys", total) as progress:
                findings = _bodies(work, progress, planned=repair and dry_run)
                Printer(output).many(findings, COLUMNS, empty="no difference was found")
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; until then: {_summary_sentence(work.summary)}"
            ) from None
    stderr.note(_summary_sentence(work.summary))
    _check(work.summary, repair=repair, dry_run=dry_run)


def _bodies(work: "Reconciliation", progress: Progress, *, planned: bool) -> Iterator[Body]:
    from backend.reconcile.findings import REPAIRS

    for finding in work.findings(lambda done: progress.update(done, done)):
        body = finding._asdict()
        if planned and finding.repairable:
            body["detail"] += f"; --repair would {REPAIRS[finding.kind]}"
        yield body


def _check(summary: "ReconcileSummary", *, repair: bool, dry_run: bool) -> None:
    """Raise CheckFailed, so that the command exits with 4, if anything is left that differs."""
    if remaining := summary.findings - summary.repaired:
        differences = f"{remaining:,} difference{'' if remaining == 1 else 's'}"
        if repair and not dry_run:
            raise CheckFailed(
                f"{differences} can't be repaired by this program",
                "a document without a row may be all that is left of a message: keep it, look for a backup",
            )
        hint = "`instachat reconcile --repair` repairs what can be repaired"
        raise CheckFailed(f"{differences} between the stores", None if repair else hint)


def _summary_sentence(summary: "ReconcileSummary") -> str:
    """Such as “compared 1 application, 2 chats, 3 messages: 1 difference; explained: 2 removed”."""
    compared = [
        (summary.applications, "application"),
        (summary.chats, "chat"),
        (summary.messages, "message"),
        (summary.documents, "document"),
    ]
    sentence = "compared " + ", ".join(
        f"{count:,} {noun}{'' if count == 1 else 's'}"
        for count, noun in compared
        if count is not None
    )
    sentence += f": {summary.findings:,} difference{'' if summary.findings == 1 else 's'}"
    if summary.repaired:
        sentence += f", {summary.repaired:,} repaired"
    explained = [
        (summary.pending, "on their way"),
        (summary.removed, "removed"),
        (summary.dead, "dead letters"),
        (summary.lost, "known to be lost"),
    ]
    if reasons := ", ".join(f"{count:,} {word}" for count, word in explained if count):
        sentence += f"; explained: {reasons}"
    return sentence
