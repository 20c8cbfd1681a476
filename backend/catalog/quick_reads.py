"""Reads for commands: of what is simply there, by the statements of a server's fast path.

Most of a command's time goes into importing libraries, and a third of that into SQLAlchemy, on which the rest
of the catalog is built. So a command asks here first. Like a server's fast path, this leaves to the catalog
what is not simply there, by a QuickError: a number that is pending, rejected, removed or unknown, a counter
that is not verified, a count that changes meanwhile, a schema that is not this program's.

A live count is the difference of two numbers that are read at two moments. It is that of one moment if the
rows are read before the numbers issued, and again after them, and have not changed.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

from backend.domain import serialization
from backend.domain.folding import fold_keyword, highlight_folded
from backend.domain.model import MAX_NUMBER, Parent, checked_number, checked_token, shard_of
from backend.domain.serialization import JsonObject
from backend.storage.postgres import grouped_reads, grouped_rows
from backend.storage.postgres.driver import Rows
from backend.storage.postgres.grouped_reads import MAX_SCANNED_TEXT, GroupedRead, ReadValues
from backend.storage.postgres.quick_connection import (
    QuickConnection,
    QuickError,
    QuickInstallation,
)
from backend.storage.redis.counters import CounterCalls, Issued


class ApplicationSettings(NamedTuple):
    """The age at which an application's messages are deleted, in seconds, and its rate limit; None: none."""

    retention: int | None
    per_second: int | None


class MessagePage(NamedTuple):
    """Messages of a chat, whether others follow, and the chat's live count."""

    items: list[JsonObject]
    continues: bool
    total: int


class QuickReads:
    """Reads of one installation, over one connection, which the first read opens. Not thread-safe.

    Tokens are those by which clients name applications. Every read raises QuickError for what it leaves to
    the catalog, NotFound for a token or a number that can't be one, and EngineDown if an engine is away.
    """

    def __init__(self, database_url: str, log: CounterCalls) -> None:
        self._url = database_url
        self._log = log

    def close(self) -> None:
        """Close the connection."""
        if "_connection" in self.__dict__:
            self._connection.close()

    def shard(self, token: str) -> int:
        """The shard of an application that has not moved; the counters of others are not verified there."""
        return shard_of(self._original(token), self._installation.shards)

    def application(self, token: str) -> JsonObject:
        """An application with its live count of chats."""
        token = self._original(token)
        rows, issued = self._counted(
            grouped_reads.APPLICATIONS, (token,), lambda _: self._in_shard([Parent(token)])
        )
        return grouped_rows.application_object(rows[0], issued[Parent(token)])

    def applications(self, *, after: str | None, limit: int) -> list[JsonObject]:
        """The first `limit` applications after another one, in the order of lists, with their live counts."""

        def parents(rows: Rows) -> dict[int, list[Parent]]:
            by_shard: dict[int, list[Parent]] = {}
            for *_, original, placed in rows:
                hashed = shard_of(original, self._installation.initial_shards)
                shard = hashed if placed is None else placed
                by_shard.setdefault(shard, []).append(Parent(original))
            return by_shard

        values = ("" if after is None else self._original(after), limit)
        rows, issued = self._counted(grouped_reads.APPLICATION_PAGES, values, parents)
        return [
            grouped_rows.application_object(row, issued[Parent(row[grouped_rows.ORIGINAL_INDEX])])
            for row in rows
        ]

    def application_settings(self, token: str) -> ApplicationSettings:
        """What an operator has set for an application."""
        values = (self._original(token),)
        ((_, *found),) = self._connection.read(grouped_reads.APPLICATION_SETTINGS, values)
        return ApplicationSettings(*found)

    def chat(self, token: str, number: int) -> JsonObject:
        """A chat with its live count of messages."""
        chat = Parent(self._original(token), checked_number(number))
        rows, issued = self._counted(
            grouped_reads.CHATS, (chat.token, number), lambda _: self._in_shard([chat])
        )
        return grouped_rows.chat_object(rows[0], issued[chat])

    def chats(self, token: str, *, after: int, limit: int) -> list[JsonObject]:
        """An application's first `limit` chats after a number, with their live counts."""
        token = self._original(token)
        rows, issued = self._counted(
            grouped_reads.CHAT_PAGES,
            (token, after, limit),
            lambda rows: self._in_shard(list(grouped_rows.xmins_of_chats(token, rows))),
        )
        return grouped_rows.chat_objects(token, rows, issued)

    def message(self, token: str, chat: int, number: int) -> JsonObject:
        """A message."""
        values = (self._original(token), checked_number(chat), checked_number(number))
        return grouped_rows.message_of_row(self._connection.read(grouped_reads.MESSAGES, values)[0])

    def messages(
        self, token: str, chat: int, *, after: int, before: int, limit: int
    ) -> list[JsonObject]:
        """A chat's first `limit` messages between two numbers, by number."""
        values = (self._original(token), checked_number(chat), after, before, limit)
        return grouped_rows.message_objects(self._connection.read(grouped_reads.PAGES, values))

    def newest_messages(
        self, token: str, chat: int, *, after: int, before: int, limit: int
    ) -> list[JsonObject]:
        """A chat's last `limit` messages between two numbers, the newest first."""
        values = (self._original(token), checked_number(chat), after, before, limit)
        return grouped_rows.message_objects(
            self._connection.read(grouped_reads.NEWEST_PAGES, values)
        )

    def newest_page(self, token: str, chat: int, *, limit: int) -> MessagePage:
        """A chat's last `limit` messages, the newest first, with its live count."""
        parent = Parent(self._original(token), checked_number(chat))
        values = (parent.token, chat, 0, MAX_NUMBER + 1, limit + 1)
        rows, issued = self._counted(
            grouped_reads.NEWEST_PAGES, values, lambda _: self._in_shard([parent])
        )
        total = grouped_rows.live_count(issued[parent], rows[0][1])
        items = grouped_rows.message_objects(rows[:limit])
        return MessagePage(items, len(rows) > limit, total)

    def search(
        self, token: str, chat: int, keyword: str, *, after: int, limit: int
    ) -> list[JsonObject]:
        """A chat's first `limit` messages after a number that contain the keyword, with the places.

        PostgreSQL searches; a long chat is left to the catalog. Raises Invalid for what can't be a keyword.
        """
        folded = fold_keyword(keyword)
        values = (self._original(token), checked_number(chat), folded, after, limit)
        rows = self._connection.read(grouped_reads.SEARCHES, values)
        _, chat_goes_on, *_ = rows[0]
        lengths = [row[grouped_rows.FOLDED_BYTES_INDEX] or 0 for row in rows]
        messages = grouped_rows.message_objects(rows)  # a chat without a match has a row, but none
        if (chat_goes_on and len(messages) < limit) or max(lengths) > MAX_SCANNED_TEXT:
            raise QuickError
        return [
            serialization.match_object(found, highlight_folded(found["text"], folded))
            for found in messages
        ]

    def _counted(
        self,
        statement: GroupedRead,
        values: ReadValues,
        parents: Callable[[Rows], Mapping[int, Sequence[Parent]]],
    ) -> tuple[Rows, Issued]:
        """The rows of a read, and the numbers issued under the parents, by shard, whose counts these show."""
        rows = self._connection.read(statement, values)
        issued = self._log.read_issued_each(parents(rows))
        if None in issued.values() or self._connection.read(statement, values) != rows:
            raise QuickError
        return rows, issued

    def _in_shard(self, parents: Sequence[Parent]) -> dict[int, Sequence[Parent]]:
        """Parents of one application, in the shard where it is if it has not moved."""
        return {shard_of(parents[0].token, self._installation.shards): parents}

    def _original(self, token: str) -> str:
        checked_token(token)
        if self._installation.rotations:
            return self._connection.original_token(token)
        return token

    @cached_property
    def _connection(self) -> QuickConnection:
        return QuickConnection(self._url)

    @cached_property
    def _installation(self) -> QuickInstallation:
        return self._connection.installation()
