"""Chats: reading and deleting them. They are created by accept."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from backend.catalog.applications import Applications
from backend.catalog.deletion import ParentDeletion
from backend.catalog.live_counts import LiveCounts
from backend.catalog.paging import first_page, read_pages
from backend.catalog.waiting import PendingNumber, Waiting
from backend.domain.model import (
    Chat,
    NumberedPage,
    Parent,
    checked_number,
    checked_token,
    no_application,
    no_chat,
)
from backend.storage.postgres import applications, chats
from backend.storage.postgres.chats import StoredChat, to_chat

PAGE_SIZE = 200


@dataclass(frozen=True, slots=True)
class Chats:
    """The chats of the applications. Thread-safe. Unknown and removed ones raise NotFound."""

    waiting: Waiting
    applications: Applications
    live_counts: LiveCounts
    deletion: ParentDeletion

    def get(self, token: str, number: int) -> Chat | PendingNumber:
        """A chat with its live count of messages."""
        row = self.find_row(token, number)
        if row is None:
            return PendingNumber(number)
        return to_chat(row, self.live_counts.of_chat(Parent(token, number), row))

    def list(self, token: str, *, after: int = 0, limit: int | None = None) -> Iterator[Chat]:
        """An application's stored chats by number, read a page at a time."""
        self.applications.get(token)
        yield from self._iter(token, after=after, limit=limit)

    def _iter(self, token: str, *, after: int, limit: int | None) -> Iterator[Chat]:
        """As `list`, of an application that is known to exist."""

        def read(after: int, size: int) -> Sequence[StoredChat]:
            with self.waiting.database.connect() as connection:
                return chats.list_chats(connection, token, after, size)

        pages = read_pages(
            read, lambda row: row.number, after=after, limit=limit, page_size=PAGE_SIZE
        )
        for page in pages:
            rows = {Parent(token, row.number): row for row in page}
            counts = self.live_counts.of_chats(rows)
            for parent, row in rows.items():
                yield to_chat(row, counts[parent])

    def page(self, token: str, *, after: int = 0, limit: int) -> NumberedPage[Chat]:
        """The first `limit` chats of `list`, and the application's live count; `next` is `after` of the next
        page.
        """
        total = self.applications.get(token).chats_count
        found = list(self._iter(token, after=after, limit=limit + 1))
        return first_page(found, limit, total)

    def delete(self, token: str, number: int, *, cascade: bool = False) -> None:
        """Delete a chat without messages; HasChildren, changing nothing, if it has any.

        With `cascade` its messages are deleted with it, as an application's chats are.
        """
        self._wait_for_stored_row(token, number)
        self.deletion.delete(Parent(token, number), cascade=cascade)

    def find_row(self, token: str, number: int) -> StoredChat | None:
        """A chat's row; None if it is accepted, and still not stored after the time-out of reads."""
        checked_token(token)
        checked_number(number)

        def find() -> StoredChat | None:
            with self.waiting.database.connect() as connection:
                row = chats.get_chat(connection, token, number)
                if row is None and applications.get_application(connection, token) is None:
                    raise no_application()
            if row is not None and row.state != "stored":
                raise no_chat(number)
            return row

        return self.waiting.wait_for_row(
            find, Parent(token), number, self.waiting.read_timeout, no_chat(number)
        )

    def _wait_for_stored_row(self, token: str, number: int) -> StoredChat:
        """As `find_row`, with the time-out of changes; NotStoredYet after it."""
        deadline = time.monotonic() + self.waiting.change_timeout
        while True:
            self.waiting.drain_without_worker(token)
            row = self.find_row(token, number)
            if row is not None:
                return row
            if time.monotonic() >= deadline or self.waiting.are_workers_paused():
                raise self.waiting.not_stored_yet(f"chat {number}")
