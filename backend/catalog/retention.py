"""Retention: workers delete the messages of an application that are older than the age of its policy."""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from backend.catalog.bulk_deletion import CHATS_PAGE, BulkDeletion
from backend.domain.application_settings import checked_retention
from backend.domain.model import MessageRange, checked_token, no_application
from backend.storage.postgres import chats, retention
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.retention import RetentionPass

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """The policies of the applications. Thread-safe. Raises EngineDown when an engine is away."""

    database: Database
    bulk: BulkDeletion

    def get(self, token: str) -> int | None:
        """The age at which an application's messages are deleted, in seconds; None without a policy."""
        with self.database.connect() as connection:
            return retention.find_retention(connection, checked_token(token))

    def set(self, token: str, seconds: int | None) -> None:
        """Set or, with None, remove an application's policy. Raises NotFound, and Invalid for no such age.

        It applies to what is stored as well: workers begin at once.
        """
        checked_token(token)
        if seconds is None:
            with self.database.begin() as tx:
                retention.unset_retention(tx, token)
            return
        checked_retention(seconds)
        with self.database.begin() as tx:
            if not retention.set_retention(tx, token, seconds):
                raise no_application()

    def apply(
        self, seconds: float = float("inf"), may_continue: Callable[[], bool] = lambda: True
    ) -> int:
        """Apply the policies that are due, for about so long; returns how many messages were deleted.

        Skips what other processes work on. Ends early if `may_continue` returns False between two
        transactions, each of which deletes a bounded number of messages.
        """
        deadline = time.monotonic() + seconds
        total = 0
        while may_continue():
            # A crash may undo how far the pass is said to be, and no deletion: those are other transactions.
            with self.database.begin(durable=False) as tx:
                due = retention.lock_due_pass(tx)
                if due is None:
                    break
                total += self._continue(
                    tx, due, lambda: time.monotonic() < deadline and may_continue()
                )
            if time.monotonic() >= deadline:
                break
        if total:
            logger.info("retention: %d messages deleted", total)
        return total

    def _continue(
        self, tx: Connection, due: RetentionPass, may_continue: Callable[[], bool]
    ) -> int:
        """Do a page of a pass's chats, or as many as time allows; returns how many messages were deleted."""
        within = MessageRange(until=due.until)
        page = chats.chats_created_before(tx, due.until, due.token, due.chat_id, CHATS_PAGE)
        total = 0
        for chat_id, chat in page:
            for deleted in self.bulk.delete_stored(chat_id, chat, within):
                total += deleted
                if not may_continue():
                    return total
            retention.advance_pass(tx, due.application_id, chat_id)
            if not may_continue():
                return total
        if len(page) < CHATS_PAGE:
            retention.finish_pass(tx, due.application_id)
        return total
