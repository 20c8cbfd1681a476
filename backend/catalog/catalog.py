"""The catalogue: reading what is stored, with live counts, and changing it.

Reading what was accepted but is not stored yet is no mistake: such a read answers `PendingNumber`. A change
is SQL first, by optimistic versions; a deletion of a chat or an application is an event in the log,
decided by the drain behind everything that was accepted before it.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from backend.domain.errors import (
    Gone,
    HasChildren,
    InstaChatError,
    NotFound,
    NotStoredYet,
    StaleVersion,
    Unavailable,
)
from backend.domain.folding import fold, fold_keyword
from backend.domain.model import (
    Accepted,
    Application,
    Chat,
    EntryId,
    Match,
    Message,
    Parent,
    checked_name,
    checked_number,
    checked_text,
    checked_token,
    new_token,
    no_application,
    no_chat,
    no_message,
)
from backend.ingest.accept import Acceptor
from backend.ingest.counters import Counters
from backend.ingest.drain import Drainer
from backend.ingest.requests import AcceptRequest, identify_request, key_reused_error
from backend.search.searcher import NoIndex, Searcher, iter_matches
from backend.storage.postgres import (
    applications,
    chats,
    messages,
    outbox,
    parents,
    shards,
    statements,
)
from backend.storage.postgres.applications import application_position, insert_application_once
from backend.storage.postgres.chats import StoredChat
from backend.storage.postgres.database import Connection, Database
from backend.storage.postgres.messages import StoredMessage
from backend.storage.redis.log import Log

StoredRow = TypeVar("StoredRow", StoredChat, StoredMessage)
MAX_EDIT_ATTEMPTS = 5  # tries of an edit without a version of its own
READ_TIMEOUT_SECONDS = 1.0  # how long a read waits for what is accepted
CHANGE_TIMEOUT_SECONDS = 5.0
POLL_SECONDS = 0.01
SEARCHABLE_POLL_SECONDS = 0.05  # each is a request to Elasticsearch, which refreshes once a second
LIST_PAGE_SIZE = 200


@dataclass(frozen=True, slots=True)
class PendingNumber:
    """Accepted, and not stored yet: the number is given and will be found."""

    number: int


class Catalog:
    """Applications, chats and messages. Thread-safe.

    Unknown and removed things raise NotFound; a number whose creation was rejected raises Gone;
    engines that are away raise EngineDown.

    Where no worker is running, changes and `wait_stored` drain from this process, and `wait_searchable`
    publishes from it.
    """

    def __init__(
        self,
        log: Log,
        database: Database,
        counters: Counters,
        acceptor: Acceptor,
        drainer: Drainer,
        searcher: Searcher,
        *,
        publish: Callable[[], int] = lambda: 0,
        notify_publisher: Callable[[], None] = lambda: None,
        notify_cascade: Callable[[], None] = lambda: None,
    ) -> None:
        self._log = log
        self._database = database
        self._counters = counters
        self._acceptor = acceptor
        self._drainer = drainer
        self._searcher = searcher
        self._publish = publish
        self._notify_publisher = notify_publisher
        self._notify_cascade = notify_cascade
        self._read_timeout = READ_TIMEOUT_SECONDS
        self._change_timeout = CHANGE_TIMEOUT_SECONDS

    def without_waiting(self) -> "Catalog":
        """The same for who waits by other means: reads answer PendingNumber, changes NotStoredYet, at once.

        Only deletions of chats and applications still wait for their decision.
        """
        other = copy.copy(self)
        other._read_timeout = other._change_timeout = 0.0
        return other

    # -- applications ------------------------------------------------------------------------------

    def create_application(self, name: str, *, key: str | None = None) -> Application:
        """Store a new application under a fresh random token.

        Its counter comes first: with Redis away nothing is stored, and a counter without an
        application is nobody's, since its token was never told. The same idempotency `key` with the
        same name gives the same answer for 24 hours, with another one KeyReused.
        """
        checked_name(name)
        token = new_token()
        if key is not None:
            token = self._token_for_key(key, name, token)
        self._counters.create_counter(token)
        with self._database.begin() as tx:
            return applications.to_application(insert_application_once(tx, token, name), 0)

    def application(self, token: str) -> Application:
        """An application with its live count of chats."""
        checked_token(token)
        with self._database.connect() as connection:
            row = applications.get_application(connection, token)
        if row is None:
            raise no_application()
        issued = self._counters.read_issued([Parent(token)])[0]
        return applications.to_application(row, issued - row.chats_removed)

    def applications(
        self, *, after_token: str | None = None, limit: int | None = None
    ) -> Iterator[Application]:
        """All applications in the order of their creation, read a page at a time.

        `after_token` is the token of the one before the first; NotFound if there never was such a one.
        """
        after = 0
        if after_token is not None:
            with self._database.connect() as connection:
                position = application_position(connection, after_token)
            if position is None:
                raise no_application()
            after = position
        while limit is None or limit > 0:
            size = LIST_PAGE_SIZE if limit is None else min(limit, LIST_PAGE_SIZE)
            with self._database.connect() as connection:
                page = applications.list_applications(connection, after, size)
            for row in page:
                issued = self._counters.read_issued([Parent(row.token)])[0]
                yield applications.to_application(row, issued - row.chats_removed)
            if len(page) < size:
                return
            after = page[-1].id
            limit = None if limit is None else limit - len(page)

    def rename_application(
        self, token: str, name: str, *, version: int | None = None
    ) -> Application:
        """Rename an application; with a `version` only if it still has it (StaleVersion)."""
        checked_name(name)
        for _ in range(MAX_EDIT_ATTEMPTS):
            current = self.application(token)
            _check_version(version, current.version, "the application")
            with self._database.begin() as tx:
                row = applications.rename_application(tx, token, name, current.version)
            if row is not None:
                return applications.to_application(row, current.chats_count)
        raise _too_many_conflicts("the application")

    def delete_application(
        self, token: str, *, cascade: bool = False, version: int | None = None
    ) -> None:
        """Delete an application without chats; HasChildren, changing nothing, if it has any.

        With `cascade` its chats go with it: none can be reached when this returns, and their rows are
        dropped afterwards (see `clearing`). With a `version` only if it still has it when it is asked
        for (StaleVersion).
        """
        _check_version(version, self.application(token).version, "the application")
        self._delete(token, None, cascade)

    # -- chats -------------------------------------------------------------------------------------

    def chat(self, token: str, number: int) -> Chat | PendingNumber:
        """A chat with its live count of messages."""
        row = self._chat_row(token, number)
        if row is None:
            return PendingNumber(number)
        issued = self._counters.read_issued([Parent(token, number)])[0]
        return chats.to_chat(row, issued - row.messages_removed)

    def chats(self, token: str, *, after: int = 0, limit: int | None = None) -> Iterator[Chat]:
        """An application's stored chats by number, read a page at a time."""
        self.application(token)
        while limit is None or limit > 0:
            size = LIST_PAGE_SIZE if limit is None else min(limit, LIST_PAGE_SIZE)
            with self._database.connect() as connection:
                page = chats.list_chats(connection, token, after, size)
            if page:
                issued = self._counters.read_issued([Parent(token, row.number) for row in page])
                for row, count in zip(page, issued, strict=True):
                    yield chats.to_chat(row, count - row.messages_removed)
            if len(page) < size:
                return
            after = page[-1].number
            limit = None if limit is None else limit - len(page)

    def delete_chat(self, token: str, number: int, *, cascade: bool = False) -> None:
        """Delete a chat without messages; HasChildren, changing nothing, if it has any.

        With `cascade` its messages go with it, as an application's chats do.
        """
        self._stored_chat(token, number)
        self._delete(token, number, cascade)

    # -- messages ----------------------------------------------------------------------------------

    def message(self, token: str, chat: int, number: int) -> Message | PendingNumber:
        """A message. PendingNumber if it is accepted and still not stored after a second."""
        stored = self._message_row(token, chat, number, self._read_timeout)
        return PendingNumber(number) if stored is None else stored.message

    def messages(
        self, token: str, chat: int, *, after: int = 0, limit: int | None = None
    ) -> Iterator[Message]:
        """A chat's stored messages by number, read a page at a time."""
        row = self._chat_row(token, chat)
        while row is not None and (limit is None or limit > 0):
            size = statements.PAGE if limit is None else min(limit, statements.PAGE)
            with self._database.connect() as connection:
                page = messages.list_messages(connection, row.id, after, size)
            yield from page
            if len(page) < size:
                return
            after = page[-1].number
            limit = None if limit is None else limit - len(page)

    def search(
        self, token: str, chat: int, keyword: str, *, after: int = 0, limit: int | None = None
    ) -> Iterator[Match]:
        """A chat's stored messages that contain the keyword, by number, with the places."""
        fold_keyword(keyword)
        row = self._chat_row(token, chat)
        if row is not None:
            yield from iter_matches(self._searcher, row.id, keyword, after=after, limit=limit)

    def edit_message(
        self, token: str, chat: int, number: int, text: str, *, version: int | None = None
    ) -> Message:
        """Give a message another text; with a `version` only if it still has it (StaleVersion).

        Waits up to five seconds for what is accepted and not stored; then Unavailable.
        """
        checked_text(text)
        folded = fold(text)
        for _ in range(MAX_EDIT_ATTEMPTS):
            stored = self._stored_message(token, chat, number)
            _check_version(version, stored.message.version, f"message {number}")
            with self._database.begin() as tx:
                edited = messages.edit_message(
                    tx, stored.chat_id, number, stored.message.version, text, folded
                )
                if edited is not None:
                    self._add_to_outbox(tx, stored.chat_id, number, edited.version)
            if edited is not None:
                self._notify_publisher()
                return edited
        raise _too_many_conflicts(f"message {number}")

    def delete_message(
        self, token: str, chat: int, number: int, *, version: int | None = None
    ) -> None:
        """Delete a message: its number stays taken, its text goes, the chat's count falls by one."""
        for _ in range(MAX_EDIT_ATTEMPTS):
            stored = self._stored_message(token, chat, number)
            _check_version(version, stored.message.version, f"message {number}")
            with self._database.begin() as tx:
                removed = messages.remove_message(
                    tx, stored.chat_id, number, stored.message.version
                )
                if removed is not None:
                    self._add_to_outbox(tx, stored.chat_id, number, removed)
            if removed is not None:
                self._notify_publisher()
                return
        raise _too_many_conflicts(f"message {number}")

    # -- waiting -----------------------------------------------------------------------------------

    def wait_stored(self, shard: int, entry: EntryId, seconds: float) -> bool:
        """Wait until everything up to that log entry is decided in SQL; False if it takes longer.

        Where no worker is running, this process drains; while the job queue is paused, none does, and
        nothing is waited for.
        """
        deadline = time.monotonic() + seconds
        while True:
            with self._database.connect() as connection:
                _, cursor = shards.shard_state(connection, shard)
            if cursor >= entry:
                return True
            if time.monotonic() >= deadline or self._log.paused():
                return False
            if self._log.count_workers() or not self._drainer.drain(shard):
                time.sleep(POLL_SECONDS)

    def wait_searchable(self, token: str, chat: int, first: int, last: int, seconds: float) -> bool:
        """Wait until a search finds all that is stored of a chat under these numbers.

        False if that takes longer, Elasticsearch's being away included. Where no worker is running, this
        process publishes.
        """
        row = self._chat_row(token, chat)
        deadline = time.monotonic() + seconds
        while True:
            try:
                if row is not None and self._searcher.covers(row.id, first, last):
                    return True
                if not (self._log.count_workers() or self._log.paused()):
                    self._publish()
            except NoIndex:
                raise  # that does not pass by itself
            except Unavailable:
                pass
            if time.monotonic() >= deadline or self._log.paused():
                return False
            time.sleep(SEARCHABLE_POLL_SECONDS)

    def check_stored(self, token: str, chat: int | None, accepted: Accepted) -> None:
        """Raise Gone if any of these numbers, decided by now, was rejected."""
        if chat is None:
            return
        with self._database.connect() as connection:
            dead = messages.dead_numbers(connection, token, chat, accepted.first, accepted.last)
        if dead:
            raise Gone(
                f"message {dead[0]} of chat {chat} was rejected when it was to be stored",
                "`instachat dead list` says why",
            )

    # -- inside ------------------------------------------------------------------------------------

    def _token_for_key(self, key: str, name: str, token: str) -> str:
        """The token that belongs to an idempotency key: this one, or that of an earlier try.

        It is kept before anything else is done, so a try that went wrong is taken up by the next.
        """
        stored_key, body_hash = identify_request("applications", key, name)
        found = self._log.reserve_idempotency_key(0, stored_key, f"{body_hash} {token}")
        earlier_hash, _, earlier = found.partition(" ")
        if earlier_hash != body_hash:
            raise key_reused_error()
        return earlier

    def _chat_row(self, token: str, number: int) -> StoredChat | None:
        """A live chat's row; None if it is accepted and not stored after a second. NotFound."""
        checked_token(token)
        checked_number(number)

        def find() -> StoredChat | None:
            with self._database.connect() as connection:
                row = chats.get_chat(connection, token, number)
                if row is None and applications.get_application(connection, token) is None:
                    raise no_application()
            if row is not None and row.state != "stored":
                raise no_chat(number)
            return row

        return self._wait_for_row(find, Parent(token), number, self._read_timeout, no_chat(number))

    def _stored_chat(self, token: str, number: int) -> StoredChat:
        """As `_chat_row`, but a change waits longer, and then gives up with Unavailable."""
        deadline = time.monotonic() + self._change_timeout
        while True:
            self._drain_if_alone(token)
            row = self._chat_row(token, number)
            if row is not None:
                return row
            if time.monotonic() >= deadline or self._log.paused():
                raise self._not_stored_yet(f"chat {number}")

    def _message_row(
        self, token: str, chat: int, number: int, seconds: float
    ) -> StoredMessage | None:
        """A live message's row; None if it is accepted and not stored after so many seconds."""
        checked_token(token)
        checked_number(chat)
        checked_number(number)
        return self._wait_for_row(
            lambda: self._find_message(token, chat, number),
            Parent(token, chat),
            number,
            seconds,
            no_message(chat, number),
        )

    def _wait_for_row(
        self,
        find: Callable[[], StoredRow | None],
        parent: Parent,
        number: int,
        seconds: float,
        missing: NotFound,
    ) -> StoredRow | None:
        """What `find` finds, waited for while the number is on its way; None if that takes longer."""
        deadline = time.monotonic() + seconds
        while True:
            row = find()
            if row is None and not self._is_pending(parent, number):
                row = find()  # it may have been stored between the two looks
                if row is None:
                    raise missing
            if row is not None or time.monotonic() >= deadline or self._log.paused():
                return row
            time.sleep(POLL_SECONDS)

    def _find_message(self, token: str, chat: int, number: int) -> StoredMessage | None:
        with self._database.connect() as connection:
            found = messages.get_message(connection, token, chat, number)
        if found is None or found.state == "stored":
            return found
        if found.state == "dead":
            raise Gone(
                f"message {number} of chat {chat} was rejected when it was to be stored",
                "`instachat dead list` says why",
            )
        raise no_message(chat, number)

    def _stored_message(self, token: str, chat: int, number: int) -> StoredMessage:
        self._drain_if_alone(token)
        found = self._message_row(token, chat, number, self._change_timeout)
        if found is None:
            raise self._not_stored_yet(f"message {number}")
        return found

    def _is_pending(self, parent: Parent, number: int) -> bool:
        """Whether a number without a row is still on its way.

        It is until the cursor has passed the log's end, as read after `issued`. NotFound if the
        parent itself is not there.
        """
        issued, end = self._counters.read_issued_with_end([parent])
        if number > issued[0]:
            return False
        with self._database.connect() as connection:
            _, cursor = shards.shard_state(connection, self._counters.shard(parent.token))
        return cursor < end

    def _drain_if_alone(self, token: str) -> None:
        """Before a change: where no worker is running, what was accepted is stored from here."""
        if not (self._log.count_workers() or self._log.paused()):
            self._drainer.drain(self._counters.shard(token))

    def _not_stored_yet(self, what: str) -> NotStoredYet:
        return NotStoredYet(*self._explain_waiting(f"{what} is accepted, and not stored yet"))

    def _explain_waiting(self, what: str) -> tuple[str, str]:
        """What waits for a worker, with what keeps it from working if that is known; and a hint."""
        if self._log.paused():
            return (
                f"{what}, since the job queue is paused",
                "`instachat queue resume` lets it go on",
            )
        return what, "see `instachat status`: is a worker running?"

    def _delete(self, token: str, chat: int | None, cascade: bool) -> None:
        accepted = self._acceptor.accept(AcceptRequest.deletion(token, chat, cascade=cascade))
        what = "the application" if chat is None else f"chat {chat}"
        if not self.wait_stored(accepted.shard, accepted.entry, CHANGE_TIMEOUT_SECONDS):
            raise Unavailable(
                *self._explain_waiting(f"the deletion of {what} is accepted, and not decided yet")
            )
        with self._database.connect() as connection:
            parent_state = parents.get_parent_state(connection, accepted.shard, Parent(token, chat))
        if parent_state.removed:
            self._notify_cascade()
            return
        if cascade:
            raise Unavailable(
                f"Redis lost the deletion of {what} before it was decided; nothing was deleted",
                "try again",
            )
        children = "chats" if chat is None else "messages"
        raise HasChildren(
            f"{what} still has {children}; nothing was deleted",
            f"delete its {children} first, or all at once with a cascade",
        )

    def _add_to_outbox(self, tx: Connection, chat_id: int, number: int, version: int) -> None:
        if outbox.is_publishing(tx):
            outbox.add_to_outbox(tx, [(chat_id, number, version)])


def _check_version(wanted: int | None, found: int, what: str) -> None:
    if wanted is not None and wanted != found:
        raise StaleVersion(
            f"{what} was changed meanwhile; nothing was done", "read it again, then repeat"
        )


def _too_many_conflicts(what: str) -> InstaChatError:
    return StaleVersion(f"{what} is changed by others again and again", "try again")
