"""Deleting an application or a chat with all that belongs to it, so that it can be broken off at any time.

The deletion is decided first: from then on nothing of it can be reached. What is left of it is dropped part
after part; whoever comes next goes on, be it a worker or the same command again.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from backend.domain.errors import NotFound
from backend.domain.model import Parent, checked_number, checked_token
from instachat_cli.console import confirm
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.output import Body, Printer
from instachat_cli.console.progress import Progress

if TYPE_CHECKING:
    from backend.bootstrap import Backend

Target = TypeVar("Target")


def find_target(core: "Backend", parent: Parent, fetch: Callable[[], Target]) -> Target | None:
    """What is to be deleted; None if it is deleted already and something is left of it. NotFound."""
    try:
        return fetch()
    except NotFound:
        checked_token(parent.token)
        if parent.chat is not None:
            checked_number(parent.chat)
        if core.cascade_deleter.count_remaining(parent) is None:
            raise
        return None


def delete(
    core: "Backend",
    parent: Parent,
    description: str,
    body: Body,
    delete_parent: Callable[[], None],
    *,
    printer: Printer,
    yes: bool,
    dry_run: bool,
) -> None:
    """Delete what is known to be there, or to be left, asked about as `consent` does."""

    def run() -> None:
        decided = False
        try:
            delete_parent()
            decided = True
            _delete_children(core, parent)
        except KeyboardInterrupt:
            rest = "what is left of it" if decided else "it"
            raise Interrupted(
                f"interrupted; the deletion of {parent} "
                f"{'is done' if decided else 'may be accepted'}, and {rest} goes as soon as a worker"
                " runs, or when the same command is given again"
            ) from None

    confirm.delete(description, body, run, printer=printer, yes=yes, dry_run=dry_run)


def _delete_children(core: "Backend", parent: Parent) -> None:
    done = 0
    with Progress("messages dropped", core.cascade_deleter.count_remaining(parent)) as progress:
        for dropped in core.cascade_deleter.delete(parent):
            done += dropped
            progress.update(done, done)
