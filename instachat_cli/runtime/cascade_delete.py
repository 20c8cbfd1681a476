"""Deletion of an application or a chat together with everything in it, interruptible at any time.

The parent is deleted first; from then on nothing in it is accessible. Its data are then deleted part by part.
After an interruption a worker continues, or the same command when it is run again.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from backend.domain.errors import NotFound
from backend.domain.model import Parent, checked_number, checked_token
from instachat_cli.console.confirm import Deletion
from instachat_cli.console.exit_codes import Interrupted
from instachat_cli.console.invocation import note_count
from instachat_cli.console.output import Body
from instachat_cli.console.progress import Progress

if TYPE_CHECKING:
    from backend.bootstrap import Backend

Target = TypeVar("Target")


def delete(
    core: "Backend",
    parent: Parent,
    deletion: Deletion,
    *,
    fetch: Callable[[], Target],
    describe: Callable[[Target], str],
    delete_parent: Callable[[], None],
    body: Body,
) -> None:
    """Delete the parent that `fetch` returns and its data; only the data if the parent is deleted already.

    `body` and the description are printed as for every deletion. Raises NotFound if neither is left.
    """
    target = _find(core, parent, fetch)

    def run() -> None:
        parent_deleted = target is None
        try:
            if target is not None:
                delete_parent()
            parent_deleted = True
            _delete_children(core, parent)
        except KeyboardInterrupt:
            decided, rest = (
                (f"{parent} is deleted", "its remaining data")
                if parent_deleted
                else (f"the deletion of {parent} may have been accepted", "it then")
            )
            raise Interrupted(
                f"interrupted; {decided}: a worker, or the same command, deletes {rest}"
            ) from None

    noun = "the application" if parent.chat is None else f"chat {parent.chat}"
    description = describe(target) if target is not None else f"the remaining data of {noun}"
    deletion.run(description, body, run)


def _find(core: "Backend", parent: Parent, fetch: Callable[[], Target]) -> Target | None:
    """The parent, or None if it is deleted already while some of its data are left. NotFound otherwise."""
    try:
        return fetch()
    except NotFound:
        checked_token(parent.token)
        if parent.chat is not None:
            checked_number(parent.chat)
        if core.cascade_deleter.count_remaining(parent) is None:
            raise
        return None


def _delete_children(core: "Backend", parent: Parent) -> None:
    done = 0
    with Progress("messages deleted", core.cascade_deleter.count_remaining(parent)) as progress:
        for deleted in core.cascade_deleter.delete(parent):
            done += deleted
            note_count("messages", done)
            progress.update(done, done)
