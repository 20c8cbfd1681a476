"""Compare Redis, SQL and the index key by key."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from backend.domain.errors import CheckFailed
from backend.domain.plurals import counted
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.invocation import audited_with, note_count
from instachat_cli.console.options import App, DryRunFlag, Output
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.progress import Progress
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.context import backend_context

if TYPE_CHECKING:
    from backend.ingest.tokens import Tokens
    from backend.reconcile.findings import ReconcileSummary
    from backend.reconcile.reconciler import Reconciliation

COLUMNS = ("kind", "token", "chat", "number", "detail")
Repair = Annotated[
    bool, typer.Option("--repair", help="Repair every difference that can be repaired.")
]


@audited_with("repair")
def reconcile(
    repair: Repair = False, dry_run: DryRunFlag = False, app: App = None, output: Output = None
) -> None:
    """Compare Redis, SQL and the index key by key, and report differences.

    $ instachat reconcile
    $ instachat reconcile --repair --dry-run
    $ instachat reconcile --repair

    Safe to run under full load. Exits with 4 if unrepaired differences remain and with 5 if a store, or a
    shard of Redis, is unreachable; the other shards are compared. Numbers that are pending, deleted or held
    as dead letters are not differences; their totals go to standard error.
    """
    with backend_context() as core:
        original = None if app is None else core.tokens.original(app)
        work = core.reconciler.begin(original, repair=repair, dry_run=dry_run)
        shards = len(core.database.installation.all_shards)
        total = work.count_keys() if sys.stderr.isatty() else None
        try:
            with Progress("keys", total) as progress:
                findings = _bodies(work, core.tokens, progress, planned=repair and dry_run)
                Printer(output).many(findings, COLUMNS, empty="no differences")
        except KeyboardInterrupt:
            raise Interrupted(f"interrupted; so far: {_summary_sentence(work.summary)}") from None
        finally:
            note_count("differences", work.summary.findings)
            note_count("repaired", work.summary.repaired)
        stderr.note(_summary_sentence(work.summary))
        _check(work.summary, shards, repair=repair, dry_run=dry_run)


def _bodies(
    work: "Reconciliation", tokens: "Tokens", progress: Progress, *, planned: bool
) -> Iterator[Body]:
    from backend.reconcile.findings import rule_of

    for finding in work.findings(lambda done: progress.update(done, done)):
        body = finding._asdict() | {"token": tokens.current_or_none(finding.token)}
        if finding.last is None:  # no gap of several numbers
            del body["first"], body["last"]
        if planned and finding.repairable:
            body["detail"] += f"; --repair would {rule_of(finding.kind).remedy}"
        yield body


def _check(summary: "ReconcileSummary", shards: int, *, repair: bool, dry_run: bool) -> None:
    """Raise CheckFailed, so that the command exits with 4, if unrepaired differences remain.

    If shards could not be compared, it exits with 5 in any case.
    """
    if summary.away:
        raise summary.away.error(shards, "their counters are not compared")
    if remaining := summary.findings - summary.repaired:
        differences = counted(remaining, "difference")
        if repair and not dry_run:
            raise CheckFailed(
                f"{differences} can't be repaired automatically",
                "docs/reconcile.md says what each kind means; a document without a row may be the only"
                " remaining copy of a message: keep it and look for a backup",
            )
        hint = "`instachat reconcile --repair` repairs every difference that can be repaired"
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
        counted(count, noun) for count, noun in compared if count is not None
    )
    sentence += f": {counted(summary.findings, 'difference')}"
    if summary.repaired:
        sentence += f", {summary.repaired:,} repaired"
    explained = [
        (summary.pending, "pending"),
        (summary.removed, "removed"),
        (summary.dead, "dead letters"),
        (summary.lost, "lost"),
    ]
    if reasons := ", ".join(f"{count:,} {word}" for count, word in explained if count):
        sentence += f"; explained: {reasons}"
    return sentence
