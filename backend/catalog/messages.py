"""Messages: reading, searching, editing and deleting them. They are created by accept."""

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice

from backend.catalog.chats import Chats
from backend.catalog.paging import first_page, read_pages
from backend.catalog.versions import MAX_EDIT_ATTEMPTS, check_version, too_many_conflicts
from backend.catalog.waiting import PendingNumber, Waiting
from backend.domain.errors import Gone, NoIndex, Unavailable
from backend.domain.folding import fold_keyword
from backend.domain.model import (
    Accepted,
    ApplicationMatch,
    Message,
    MessageChanges,
    MessagePosition,
    MessageRange,
    NumberedPage,
    Parent,
    checked_changes,
    checked_number,
    checked_token,
    no_application,
    no_message,
)
from backend.search.application_search import (
    MAX_READ_TIMES,
    ApplicationSearcher,
    MatchPage,
    find_application_matches,
)
from backend.search.budget import SearchBudget
from backend.search.searcher import Matches, Searcher, find_matches
from backend.storage.postgres import applications, messages, outbox
from backend.storage.postgres.messages import StoredMessage
from backend.storage.postgres.statements import PAGE
from backend.storage.redis.notifications import Change

WHOLE_CHAT = MessageRange()
SEARCHABLE_POLL_SECONDS = 0.05  # each is a request to Elasticsearch, which refreshes once a second


@dataclass(frozen=True, slots=True)
class Messages:
    """The messages of the chats. Thread-safe.

    Unknown and removed ones raise NotFound; a number whose creation was rejected raises Gone.
    """

    waiting: Waiting
    chats: Chats
    searcher: Searcher
    application_searcher: ApplicationSearcher
    publish: Callable[[], int]
    notify_publisher: Callable[[], None]

    def get(self, token: str, chat: int, number: int) -> Message | PendingNumber:
        """A message; PendingNumber if it is accepted, and still not stored after a second."""
        stored = self._find_row(token, chat, number, self.waiting.read_timeout)
        return PendingNumber(number) if stored is None else stored.message

    def list(
        self,
        token: str,
        chat: int,
        within: MessageRange = WHOLE_CHAT,
        *,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Message]:
        """A chat's stored messages of a range by number, ascending or descending, read a page at a time."""
        row = self.chats.find_row(token, chat)
        if row is None:
            return
        chat_id = row.id

        def read(position: int, size: int) -> Sequence[Message]:
            rest = (
                replace(within, before=position)
                if newest_first
                else replace(within, after=position)
            )
            return self._read(chat_id, rest, size, newest_first=newest_first)

        pages = read_pages(
            read,
            lambda message: message.number,
            after=within.before if newest_first else within.after,
            limit=limit,
            page_size=PAGE,
        )
        for page in pages:
            yield from page

    def newest(
        self, token: str, chat: int, within: MessageRange = WHOLE_CHAT, *, count: int
    ) -> Iterator[Message]:
        """The newest `count` messages of a range, ascending, in memory that does not grow with their number.

        If there are more than a page of them, they are read twice: first to find where they begin.
        """
        newest = self.list(token, chat, within, limit=count, newest_first=True)
        page = list(islice(newest, PAGE))
        if len(page) < PAGE:
            yield from reversed(page)
            return
        first, last = page[-1].number, page[0].number
        for message in newest:
            first = message.number
        found = replace(within, after=first - 1, before=last + 1)
        yield from self.list(token, chat, found)

    def page(
        self,
        token: str,
        chat: int,
        within: MessageRange = WHOLE_CHAT,
        *,
        limit: int,
        newest_first: bool = False,
    ) -> NumberedPage[Message]:
        """The first `limit` messages of `list`. Its `next` is `after` of the next page's range, or `before`
        if it is `newest_first`.

        Two statements and one call of Redis, wherever the page is. Empty while the chat is accepted and not
        stored.
        """
        row = self.chats.find_row(token, chat)
        found: Sequence[Message] = ()
        if row is not None:
            found = self._read(row.id, within, limit + 1, newest_first=newest_first)
        return first_page(found, limit, self.chats.live_counts.of_chat(Parent(token, chat), row))

    def page_around(
        self, token: str, chat: int, number: int, *, limit: int, newest_first: bool = False
    ) -> NumberedPage[Message]:
        """Up to `limit` messages: as many before the number as after it, and its own if there is one.

        `next` is that of `page`.
        """
        row = self.chats.find_row(token, chat)
        total = self.chats.live_counts.of_chat(Parent(token, chat), row)
        if row is None:
            return NumberedPage((), None, total)
        side = (limit - 1) // 2
        below = self._read(row.id, MessageRange(before=number), side + 1, newest_first=True)
        above = self._read(row.id, MessageRange(after=number - 1), side + 2)
        shown_above = side + 1 if above and above[0].number == number else side
        items = [*reversed(below[:side]), *above[:shown_above]]
        more = len(above) > shown_above
        if newest_first:
            items.reverse()
            more = len(below) > side
        last = items[-1].number if items else number
        return NumberedPage(items, last if more else None, total)

    def page_of_numbers(
        self, token: str, chat: int, numbers: Collection[int], *, newest_first: bool = False
    ) -> NumberedPage[Message]:
        """Those of these numbers that have a stored message, as one page."""
        row = self.chats.find_row(token, chat)
        total = self.chats.live_counts.of_chat(Parent(token, chat), row)
        found: Sequence[Message] = ()
        if row is not None:
            with self.waiting.database.connect() as connection:
                found = messages.messages_with_numbers(connection, row.id, set(numbers))
        return NumberedPage(found[::-1] if newest_first else found, None, total)

    def search(
        self,
        token: str,
        chat: int,
        keyword: str,
        *,
        after: int = 0,
        limit: int | None = None,
        budget: SearchBudget | None = None,
    ) -> Matches:
        """A chat's stored messages that contain the keyword, by number, with the places."""
        fold_keyword(keyword)
        row = self.chats.find_row(token, chat)
        if row is None:
            return Matches()
        return find_matches(self.searcher, row.id, keyword, after=after, limit=limit, budget=budget)

    def search_application(
        self,
        token: str,
        keyword: str,
        *,
        before: MessagePosition | None = None,
        limit: int,
        budget: SearchBudget | None = None,
        max_read_times: int | None = MAX_READ_TIMES,
    ) -> MatchPage:
        """A page of the application's stored messages that contain the keyword, newest first.

        It may have less than `limit` messages, or none, although others are before its `next`. With
        `max_read_times` None, it is complete, however long that takes.
        """
        fold_keyword(keyword)
        checked_token(token)
        with self.waiting.database.connect() as connection:
            if applications.get_application(connection, token) is None:
                raise no_application()
        return find_application_matches(
            self.application_searcher,
            token,
            keyword,
            before=before,
            limit=limit,
            budget=budget,
            max_read_times=max_read_times,
        )

    def search_whole_application(
        self, token: str, keyword: str, *, limit: int | None = None
    ) -> Iterator[ApplicationMatch]:
        """All of an application's stored messages that contain the keyword, newest first, page by page."""
        before: MessagePosition | None = None
        while limit is None or limit > 0:
            size = PAGE if limit is None else min(limit, PAGE)
            page = self.search_application(
                token, keyword, before=before, limit=size, max_read_times=None
            )
            yield from page.matches
            before = page.next
            if before is None:
                return
            limit = None if limit is None else limit - len(page.matches)

    def edit(
        self,
        token: str,
        chat: int,
        number: int,
        changes: MessageChanges,
        *,
        versions: Collection[int] | None = None,
    ) -> Message:
        """Change fields of a message; with `versions` only if it has one of them (StaleVersion).

        Waits up to five seconds for what is accepted and not stored; then NotStoredYet.
        """
        changes = checked_changes(changes)
        for _ in range(MAX_EDIT_ATTEMPTS):
            stored = self._wait_for_stored_row(token, chat, number)
            check_version(versions, stored.message.version, f"message {number}")
            with self.waiting.database.begin() as tx:
                edited = messages.edit_message(tx, stored.chat_id, stored.message, changes)
                if edited is not None:
                    outbox.add_if_publishing(tx, [(stored.chat_id, number, edited.version)])
            if edited is not None:
                self.waiting.log.notify_changes([Change(token, chat, number)])
                self.notify_publisher()
                return edited
        raise too_many_conflicts(f"message {number}")

    def delete(
        self, token: str, chat: int, number: int, *, versions: Collection[int] | None = None
    ) -> None:
        """Delete a message: its text is erased, its number stays taken, the chat's count falls by one."""
        for _ in range(MAX_EDIT_ATTEMPTS):
            stored = self._wait_for_stored_row(token, chat, number)
            current = stored.message.version
            check_version(versions, current, f"message {number}")
            with self.waiting.database.begin() as tx:
                removed = messages.remove_message(tx, stored.chat_id, number, current)
                if removed is not None:
                    outbox.add_if_publishing(tx, [(stored.chat_id, number, removed)])
            if removed is not None:
                self.waiting.log.notify_changes([Change(token, chat, number)])
                self.notify_publisher()
                return
        raise too_many_conflicts(f"message {number}")

    def wait_searchable(self, token: str, chat: int, first: int, last: int, seconds: float) -> bool:
        """Wait until a search finds all that is stored of a chat under these numbers.

        That is so at once, unless the chat is large, and its tail is too long or Elasticsearch is away. False
        if it takes longer. Where no worker is running, this process publishes. Raises NoIndex.
        """
        row = self.chats.find_row(token, chat)
        deadline = time.monotonic() + seconds
        while True:
            if self.waiting.are_workers_missing():
                with suppress(Unavailable):
                    self.publish()
            try:
                if row is not None and self.searcher.covers(row.id, first, last):
                    return True
            except NoIndex:
                raise  # waiting does not help
            except Unavailable:
                pass
            if time.monotonic() >= deadline or self.waiting.are_workers_paused():
                return False
            time.sleep(SEARCHABLE_POLL_SECONDS)

    def check_stored(self, token: str, chat: int | None, accepted: Accepted) -> None:
        """Raise Gone if any of these numbers, all decided by now, was rejected."""
        if chat is None:
            return
        with self.waiting.database.connect() as connection:
            dead = messages.dead_numbers(connection, token, chat, accepted.first, accepted.last)
        if dead:
            raise _rejected(chat, dead[0])

    def _read(
        self, chat_id: int, within: MessageRange, limit: int, *, newest_first: bool = False
    ) -> Sequence[Message]:
        with self.waiting.database.connect() as connection:
            return messages.list_messages(
                connection, chat_id, within, limit, newest_first=newest_first
            )

    def _find_row(self, token: str, chat: int, number: int, seconds: float) -> StoredMessage | None:
        """A message's row; None if it is accepted, and not stored after so many seconds."""
        checked_token(token)
        checked_number(chat)
        checked_number(number)

        def find() -> StoredMessage | None:
            with self.waiting.database.connect() as connection:
                found = messages.get_message(connection, token, chat, number)
            if found is None or found.state == "stored":
                return found
            raise _rejected(chat, number) if found.state == "dead" else no_message(chat, number)

        return self.waiting.wait_for_row(
            find, Parent(token, chat), number, seconds, no_message(chat, number)
        )

    def _wait_for_stored_row(self, token: str, chat: int, number: int) -> StoredMessage:
        self.waiting.drain_without_worker(token)
        found = self._find_row(token, chat, number, self.waiting.change_timeout)
        if found is None:
            raise self.waiting.not_stored_yet(f"message {number}")
        return found


def _rejected(chat: int, number: int) -> Gone:
    return Gone(
        f"message {number} of chat {chat} was rejected when it was to be stored",
        "`instachat dead list` says why",
    )
