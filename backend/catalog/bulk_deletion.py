"""Deletion of many messages: those of a range of a chat, or all that are older than an age.

Operators request it, and policies of retention do. One bounded transaction follows the other. Each decides
which messages are left by reading them, so the same deletion can be interrupted and requested again, and two
of them may run at the same time: every message is deleted, and counted, once.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from backend.catalog.messages import Messages
from backend.domain.model import MessageRange, Parent
from backend.storage.postgres import chats, messages, outbox
from backend.storage.redis.notifications import Change

MAX_MESSAGES = 500  # of one transaction
CHATS_PAGE = 500


@dataclass(frozen=True, slots=True)
class BulkDeletion:
    """Deletes stored messages. Thread-safe. Raises EngineDown when an engine is away."""

    catalog: Messages

    def count(self, chat: Parent, within: MessageRange) -> int:
        """How many messages of a chat would be deleted. Raises NotFound for an unknown chat."""
        chat_id = self._chat_id(chat)
        if chat_id is None:
            return 0
        with self.catalog.waiting.database.connect() as connection:
            return messages.count_messages(connection, chat_id, within)

    def delete(self, chat: Parent, within: MessageRange) -> Iterator[int]:
        """Delete a chat's messages of a range; yields how many each transaction deleted.

        What was accepted before is stored first, where no worker is running. Raises NotFound for an unknown
        chat.
        """
        self.catalog.waiting.drain_without_worker(chat.token)
        chat_id = self._chat_id(chat)
        if chat_id is not None:
            yield from self.delete_stored(chat_id, chat, within)

    def delete_stored(self, chat_id: int, chat: Parent, within: MessageRange) -> Iterator[int]:
        """As `delete`, of what is stored in the chat with that id."""
        while numbers := self._next_numbers(chat_id, within):
            within = replace(within, after=numbers[-1])  # tombstones are not read again
            with self.catalog.waiting.database.begin() as tx:
                removed = messages.remove_messages(tx, chat_id, numbers)
                outbox.add_if_publishing(tx, [(chat_id, *each) for each in removed])
            self.catalog.waiting.log.notify_changes(
                [Change(chat.token, chat.chat, number) for number, _ in removed]
            )
            self.catalog.notify_publisher()
            yield len(removed)

    def count_older(self, until: datetime, token: str | None = None) -> int:
        """How many messages, of all or of one application, were created before that time."""
        within = MessageRange(until=until)
        return sum(self.count(chat, within) for chat in self.chats_created_before(until, token))

    def chats_created_before(self, until: datetime, token: str | None = None) -> Iterator[Parent]:
        """The chats, of all or of one application, that can have messages from before that time."""
        after = 0
        while True:
            with self.catalog.waiting.database.connect() as connection:
                page = chats.chats_created_before(connection, until, token, after, CHATS_PAGE)
            yield from (chat for _, chat in page)
            if len(page) < CHATS_PAGE:
                return
            after, _ = page[-1]

    def _chat_id(self, chat: Parent) -> int | None:
        """The id of a chat; None while it is accepted and not stored."""
        assert chat.chat is not None
        row = self.catalog.chats.find_row(chat.token, chat.chat)
        return None if row is None else row.id

    def _next_numbers(self, chat_id: int, within: MessageRange) -> list[int]:
        with self.catalog.waiting.database.connect() as connection:
            return messages.list_numbers(connection, chat_id, within, MAX_MESSAGES)
