"""Erase what the engines still hold of deleted texts."""

from instachat_cli.console.confirm import check_can_ask, confirm
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.options import DryRunFlag, Output, Yes
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.stderr import stderr
from instachat_cli.runtime.context import backend_context


def erase(yes: Yes = False, dry_run: DryRunFlag = False, output: Output = None) -> None:
    """Erase what the engines still hold of deleted texts.

    $ instachat erase --dry-run
    $ instachat erase

    Rewrites the files of PostgreSQL and Redis, which keep copies of deleted texts for a time; docs/erasure.md
    lists all places. Messages can be neither read nor stored while PostgreSQL rewrites them, which takes as
    long as copying them; they are accepted meanwhile. The kept log is deleted, too. The command can be run
    again at any time.
    """
    check_can_ask(yes=yes, dry_run=dry_run)
    with backend_context() as core:
        if not (yes or dry_run):
            confirm(
                "Rewrite all messages, during which they can't be read?", "nothing was rewritten"
            )
        with Printer(output).stream(_sentence, flush=True) as emit:
            try:
                for step in core.eraser.steps():
                    if not dry_run:
                        step.run()
                    emit({"engine": step.engine, "action": step.action, "done": not dry_run})
            except KeyboardInterrupt:
                raise Interrupted("interrupted; the same command does the rest") from None
        if core.index is not None:
            stderr.note(
                "the search index still has what it has not merged; run `instachat reindex` twice to empty it"
            )


def _sentence(body: Body) -> str:
    if body["done"]:
        return f"{body['engine']}: {body['action']}: done"
    return f"{body['engine']}: would {body['action']}"
