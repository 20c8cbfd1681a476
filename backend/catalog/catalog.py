"""The catalog: reading what is stored, with live counts, and changing it.

Reading what was accepted but is not stored yet is no error: such a read returns `PendingNumber`. A change
goes to SQL first, by optimistic versions; a deletion of a chat or an application is an event in the log,
which the drain decides after everything that was accepted before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from backend.catalog.applications import Applications
from backend.catalog.chats import Chats
from backend.catalog.deletion import ParentDeletion
from backend.catalog.live_counts import LiveCounts
from backend.catalog.messages import Messages
from backend.catalog.waiting import Waiting
from backend.ingest.accept import Acceptor
from backend.ingest.application_log import ApplicationLog
from backend.search.application_search import ApplicationSearcher
from backend.search.searcher import Searcher


@dataclass(frozen=True, slots=True)
class Catalog:
    """The applications, their chats and the chats' messages. Thread-safe.

    Every use raises EngineDown when an engine is away that it needs.
    """

    waiting: Waiting
    applications: Applications
    chats: Chats
    messages: Messages

    def without_waiting(self) -> "Catalog":
        """The same catalog for callers that wait by other means.

        Reads return PendingNumber, and changes raise NotStoredYet, immediately. Only deletions of chats and
        applications still wait for their decision.
        """
        waiting = replace(self.waiting, read_timeout=0.0, change_timeout=0.0)
        chats = replace(self.chats, waiting=waiting)
        messages = replace(self.messages, waiting=waiting, chats=chats)
        return Catalog(waiting, self.applications, chats, messages)


def make_catalog(
    waiting: Waiting,
    acceptor: Acceptor,
    application_log: ApplicationLog,
    searcher: Searcher,
    application_searcher: ApplicationSearcher,
    *,
    publish: Callable[[], int],
    notify_publisher: Callable[[], None],
    notify_cascade: Callable[[], None],
) -> Catalog:
    """The catalog of a backend.

    `publish` publishes what changed and returns how many messages; the other two wake the publisher and the
    cascade.
    """
    deletion = ParentDeletion(waiting, acceptor, notify_cascade)
    live_counts = LiveCounts(waiting.counters, waiting.database)
    applications = Applications(
        waiting.log, waiting.database, waiting.counters, live_counts, deletion, application_log
    )
    chats = Chats(waiting, applications, live_counts, deletion)
    messages = Messages(waiting, chats, searcher, application_searcher, publish, notify_publisher)
    return Catalog(waiting, applications, chats, messages)
