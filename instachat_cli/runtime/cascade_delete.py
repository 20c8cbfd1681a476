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

Thing = TypeVar("Thing")


def found(core: "Backend", parent: Parent, look: Callable[[], Thing]) -> Thing | None:
    """What is to be deleted; None if it is deleted already and something is left of it. NotFound."""
    try:
        return look()
    except NotFound:
        checked_token(parent.token)
        if parent.chat is not None:
            checked_number(parent.chat)
        if core.clearer.left(parent) is None:
            raise
        return None


def delete(
    core: "Backend",
    parent: Parent,
    what: str,
    body: Body,
    act: Callable[[], None],
    *,
    printer: Printer,
    yes: bool,
    dry_run: bool,
) -> None:
    """Delete what is known to be there, or to be left, asked about as `consent` does."""

    def whole() -> None:
        decided = False
        try:
            act()
            decided = True
            _clear(core, parent)
        except KeyboardInterrupt:
            rest = "what is left of it" if decided else "it"
            raise Interrupted(
                f"interrupted; the deletion of {parent} "
                f"{'is done' if decided else 'may be accepted'}, and {rest} goes as soon as a worker"
                " runs, or when the same command is given again"
            ) from None

    confirm.delete(what, body, whole, printer=printer, yes=yes, dry_run=dry_run)


def _clear(core: "Backend", parent: Parent) -> None:
    done = 0
    with Progress("messages dropped", core.clearer.left(parent)) as progress:
        for dropped in core.clearer.clear(parent):
            done += dropped
            progress.update(done, done)
