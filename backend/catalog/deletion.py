"""Deleting an application or a chat: an event in the log, which the drain decides."""

from collections.abc import Callable
from dataclasses import dataclass

from backend.catalog.waiting import CHANGE_TIMEOUT_SECONDS, Waiting
from backend.domain.errors import HasChildren, Unavailable, Unconfirmed
from backend.domain.model import Accepted, Parent
from backend.ingest.accept import Acceptor
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import parents
from backend.storage.postgres.parents import ParentState


@dataclass(frozen=True, slots=True)
class ParentDeletion:
    """Deletes applications and chats. Thread-safe."""

    waiting: Waiting
    acceptor: Acceptor
    notify_cascade: Callable[[], None]

    def delete(self, parent: Parent, *, cascade: bool) -> None:
        """Accept a deletion and wait for its decision, five seconds at most.

        Raises HasChildren, having changed nothing, if the parent has children and `cascade` is false;
        Unconfirmed if the decision takes longer, or can't be read; Unavailable if Redis lost the deletion.
        """
        accepted = self.acceptor.accept(
            AcceptRequest.deletion(parent.token, parent.chat, cascade=cascade)
        )
        if self._wait_decided(parent, accepted).removed:
            self.notify_cascade()
            return
        if cascade:
            raise Unavailable(
                f"Redis lost the deletion of {parent} before it was decided; nothing was deleted",
                "try again",
            )
        children = "chats" if parent.chat is None else "messages"
        raise HasChildren(
            f"{parent} still has {children}; nothing was deleted",
            f"delete its {children} first, or all at once with a cascade",
        )

    def _wait_decided(self, parent: Parent, accepted: Accepted) -> ParentState:
        """The state of the parent once its accepted deletion is decided; Unconfirmed without one."""
        waiting = self.waiting
        try:
            if waiting.wait_stored(parent.token, accepted, CHANGE_TIMEOUT_SECONDS):
                with waiting.database.connect() as connection:
                    return parents.get_parent_state(connection, accepted.shard, parent)
        except Unavailable as error:
            raise Unconfirmed(
                f"the deletion of {parent} is accepted, and its decision can't be read: {error.message}",
                error.hint,
            ) from error
        what = f"the deletion of {parent} is accepted, and not decided yet"
        raise Unconfirmed(*waiting.explain(what))
