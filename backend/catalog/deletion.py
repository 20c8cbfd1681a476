"""Deleting an application or a chat: an event in the log, which the drain decides."""

from collections.abc import Callable
from dataclasses import dataclass

from backend.catalog.waiting import CHANGE_TIMEOUT_SECONDS, Waiting
from backend.domain.errors import HasChildren, Unavailable
from backend.domain.model import Parent
from backend.ingest.accept import Acceptor
from backend.ingest.requests import AcceptRequest
from backend.storage.postgres import parents


@dataclass(frozen=True, slots=True)
class ParentDeletion:
    """Deletes applications and chats. Thread-safe."""

    waiting: Waiting
    acceptor: Acceptor
    notify_cascade: Callable[[], None]

    def delete(self, parent: Parent, *, cascade: bool) -> None:
        """Accept a deletion and wait for its decision, five seconds at most.

        Raises HasChildren, having changed nothing, if the parent has children and `cascade` is false;
        Unavailable if the decision takes longer, or Redis lost the deletion.
        """
        accepted = self.acceptor.accept(
            AcceptRequest.deletion(parent.token, parent.chat, cascade=cascade)
        )
        if not self.waiting.wait_stored(accepted.shard, accepted.entry, CHANGE_TIMEOUT_SECONDS):
            what = f"the deletion of {parent} is accepted, and not decided yet"
            raise Unavailable(*self.waiting.explain(what))
        with self.waiting.database.connect() as connection:
            state = parents.get_parent_state(connection, accepted.shard, parent)
        if state.removed:
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
