"""GETs on the fast path: a message, a chat, an application, pages of messages and of chats, and searches.

A request with any other query, or with headers that change more than `If-None-Match` does, takes the ordinary
route. So does one whose subject is not simply there: see `group_read`.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from backend.api.conditional import (
    application_etag,
    body_etag,
    encode_json,
    is_not_modified,
    message_etag,
)
from backend.api.parameters import NUMBER_PATTERN, PREFIX
from backend.api.server import fast_query
from backend.api.server.fast_request import (
    NOT_MODIFIED,
    Core,
    FastRequest,
    FastResponse,
    MakeRequest,
    ReceivedHeaders,
    Respond,
)
from backend.api.server.group_read import ShownCounts
from backend.domain import serialization
from backend.domain.folding import highlight_folded
from backend.domain.model import TOKEN_PATTERN, Parent
from backend.domain.serialization import JsonObject
from backend.storage.postgres import grouped_reads
from backend.storage.postgres.driver import Rows
from backend.storage.postgres.grouped_reads import MAX_SCANNED_TEXT, GroupedRead, ReadValues
from backend.storage.postgres.grouped_rows import (
    APPLICATION_VERSION_INDEX,
    FOLDED_BYTES_INDEX,
    MESSAGE_VERSION_INDEX,
    TEXT_INDEX,
    XMIN_INDEX,
    application_object,
    chat_object,
    chat_objects,
    live_count,
    message_objects,
    message_of_row,
    xmins_of_chats,
)
from backend.storage.redis.counters import Issued

EXCLUDED_HEADERS: Final = frozenset({b"origin", b"expect", b"content-length", b"transfer-encoding"})
_OK = 200
_NUMBER = f"({NUMBER_PATTERN})"
_match_path = re.compile(
    f"{PREFIX}/applications/({TOKEN_PATTERN})"
    rf"(/chats(?:/{_NUMBER}(/messages(?:/{_NUMBER})?)?)?)?(?:\?(.+))?".encode()
).fullmatch
# Highlighting more of the texts of a page takes longer than the event loop should be busy; a thread does it.
# In bytes of the folded texts, or two for each letter of the texts: a letter takes up to half a microsecond.
MAX_HIGHLIGHTED_BYTES: Final = 20_000
MAX_HIGHLIGHTS: Final = 1_000
_ASCII_SPEEDUP = 20
# A search counts as so many rows of its batch, because of what it scans: of the longest texts, the eight of a
# statement scan for up to a second.
MIN_SEARCH_ROWS: Final = 256


class FastRead(FastRequest):
    """A plain GET. It is a `Read` of its group."""

    method = "GET"
    may_fall_back_late = True
    _respond: Respond

    def __init__(
        self,
        headers: ReceivedHeaders,
        *,
        if_none_match: str | None,
        statement: GroupedRead,
        values: ReadValues,
        max_rows: int = 1,
    ) -> None:
        super().__init__(headers)
        self.if_none_match = if_none_match
        self.statement = statement
        self.values = values
        self.max_rows = max_rows

    def start(self, core: Core, respond: Respond) -> None:
        """See FastRequest."""
        self._respond = respond
        core.submit_read(self)

    def fall_back(self) -> None:
        """See Read."""
        self._respond(self, None)

    def fail(self, error: Exception) -> None:
        """See Read."""
        self._respond(self, error)

    def deliver(self, rows: Rows, issued: Issued) -> None:
        """See Read."""
        content, tag = self.content(rows, issued)
        body = encode_json(content)
        tag = tag or body_etag(body)
        header = b"etag: %s\r\n" % tag.encode()
        if is_not_modified(self.if_none_match, tag):
            self._respond(self, FastResponse(NOT_MODIFIED, header, b""))
        else:
            self._respond(self, FastResponse(_OK, header, body))

    def shown_counts(self, rows: Rows) -> ShownCounts | None:  # noqa: ARG002
        """See Read."""
        return None

    @abstractmethod
    def content(self, rows: Rows, issued: Issued) -> tuple[JsonObject, str | None]:
        """The object to encode; and its entity tag, unless that is made of the body."""


class _MessageRead(FastRead):
    route = PREFIX + "/applications/{token}/chats/{chat}/messages/{number}"

    def content(self, rows: Rows, issued: Issued) -> tuple[JsonObject, str | None]:  # noqa: ARG002
        """See FastRead."""
        return message_of_row(rows[0]), message_etag(rows[0][MESSAGE_VERSION_INDEX])


class _ChatRead(FastRead):
    route = PREFIX + "/applications/{token}/chats/{chat}"

    def shown_counts(self, rows: Rows) -> ShownCounts:
        """See Read."""
        return _count_of_chat(_chat(self.values), rows)

    def content(self, rows: Rows, issued: Issued) -> tuple[JsonObject, str | None]:
        """See FastRead."""
        return chat_object(rows[0], issued[_chat(self.values)]), None


class _ApplicationRead(FastRead):
    route = PREFIX + "/applications/{token}"

    def shown_counts(self, rows: Rows) -> ShownCounts:
        """See Read."""
        xmins = {Parent(self.values[0]): rows[0][XMIN_INDEX]}
        return ShownCounts(xmins, self.statement, self.values)

    def content(self, rows: Rows, issued: Issued) -> tuple[JsonObject, str | None]:
        """See FastRead."""
        found = application_object(rows[0], issued[Parent(self.values[0])])
        return found, application_etag(rows[0][APPLICATION_VERSION_INDEX], found["chats_count"])


class _MessagesRead(FastRead):
    route = PREFIX + "/applications/{token}/chats/{chat}/messages"

    def shown_counts(self, rows: Rows) -> ShownCounts:
        """See Read."""
        return _count_of_chat(_chat(self.values), rows)

    def content(self, rows: Rows, issued: Issued) -> tuple[JsonObject, str | None]:
        """See FastRead."""
        limit = self.max_rows - 1
        total = live_count(issued[_chat(self.values)], rows[0][1])
        return _page(message_objects(rows[:limit]), len(rows) > limit, total), None


class _SearchRead(FastRead):
    """A search. One that takes longer than others can wait for is left to a thread."""

    route = PREFIX + "/applications/{token}/chats/{chat}/messages"
    _items: list[JsonObject]

    def start(self, core: Core, respond: Respond) -> None:
        """See FastRequest."""
        self._respond = respond
        core.submit_search(self)

    def deliver(self, rows: Rows, issued: Issued) -> None:
        """See Read."""
        _, limit = self._keyword_and_limit()
        is_cut = len(rows) <= limit and rows[0][1]
        if is_cut or _is_dear(rows) or not self._highlight(rows[:limit]):
            self.fall_back()
        else:
            super().deliver(rows, issued)

    def _highlight(self, rows: Rows) -> bool:
        """Make the items of the page; False if the keyword is in them more often than is made here."""
        keyword, _ = self._keyword_and_limit()
        self._items = []
        left = MAX_HIGHLIGHTS
        for found in message_objects(rows):
            places = highlight_folded(found["text"], keyword)
            left -= len(places)
            if left < 0:
                return False
            self._items.append(serialization.match_object(found, places))
        return True

    def content(self, rows: Rows, issued: Issued) -> tuple[JsonObject, str | None]:  # noqa: ARG002
        """See FastRead."""
        _, limit = self._keyword_and_limit()
        return serialization.match_page(self._items, len(rows) > limit, incomplete=None), None

    def _keyword_and_limit(self) -> tuple[str, int]:
        values: tuple[Any, ...] = self.values
        _, _, keyword, _, rows = values
        return keyword, rows - 1


class _ChatsRead(FastRead):
    route = PREFIX + "/applications/{token}/chats"

    def shown_counts(self, rows: Rows) -> ShownCounts:
        """See Read."""
        xmins = xmins_of_chats(self.values[0], rows[: self.max_rows - 1])
        return ShownCounts(xmins, self.statement, self.values, self.max_rows)

    def content(self, rows: Rows, issued: Issued) -> tuple[JsonObject, str | None]:
        """See FastRead."""
        token, limit = self.values[0], self.max_rows - 1
        items = chat_objects(token, rows[:limit], issued)
        return _page(items, len(rows) > limit, live_count(issued[Parent(token)], rows[0][1])), None


def read_of_head(url: bytes, headers: ReceivedHeaders) -> MakeRequest | None:
    """How to make the read that a request asks for, if its head is plain."""
    if not (match := _match_path(url)):
        return None
    if_none_match = None
    for name, value in headers:
        if name == b"if-none-match" and if_none_match is None:
            if_none_match = value.decode("latin-1")
        elif name == b"if-none-match" or name in EXCLUDED_HEADERS:
            return None
    *parts, query = match.groups()
    if (read := _Path(*parts).read(query)) is None:
        return None
    return partial(
        read.type,
        if_none_match=if_none_match,
        statement=read.statement,
        values=read.values,
        max_rows=read.max_rows,
    )


class _Path(NamedTuple):
    """The parts of a path, None for those that it does not have."""

    token: bytes
    chats: bytes | None
    chat: bytes | None
    messages: bytes | None
    number: bytes | None

    def read(self, query: bytes | None) -> "_Read | None":
        """The read of this path and query; None if the query is not plain."""
        token = self.token.decode()
        if self.messages is not None and self.number is None:
            assert self.chat is not None
            return _read_messages(token, int(self.chat), query)
        if self.chats is not None and self.chat is None:
            return _read_chats(token, query)
        if query is not None:
            return None
        if self.chat is None:
            return _Read(_ApplicationRead, grouped_reads.APPLICATIONS, (token,))
        if self.number is None:
            return _Read(_ChatRead, grouped_reads.CHATS, (token, int(self.chat)))
        values = (token, int(self.chat), int(self.number))
        return _Read(_MessageRead, grouped_reads.MESSAGES, values)


class _Read(NamedTuple):
    """The class of a read, and its arguments beside the headers; see FastRead."""

    type: type[FastRead]
    statement: GroupedRead
    values: ReadValues
    max_rows: int = 1


def _read_messages(token: str, chat: int, query: bytes | None) -> _Read | None:
    if (page := fast_query.parse_messages(query)) is None:
        return None
    if page.folded_keyword is not None:
        search = (token, chat, page.folded_keyword, page.after, page.rows)
        return _Read(_SearchRead, grouped_reads.SEARCHES, search, max(page.rows, MIN_SEARCH_ROWS))
    statement = grouped_reads.NEWEST_PAGES if page.descending else grouped_reads.PAGES
    values = (token, chat, page.after, page.before, page.rows)
    return _Read(_MessagesRead, statement, values, page.rows)


def _read_chats(token: str, query: bytes | None) -> _Read | None:
    if (page := fast_query.parse_chats(query)) is None:
        return None
    values = (token, page.after, page.rows)
    return _Read(_ChatsRead, grouped_reads.CHAT_PAGES, values, page.rows)


def _chat(values: ReadValues) -> Parent:
    """The chat of a read's values."""
    token, *others = values
    number = others[0]
    assert isinstance(number, int)
    return Parent(token, number)


def _count_of_chat(chat: Parent, rows: Rows) -> ShownCounts:
    assert chat.chat is not None
    return ShownCounts({chat: rows[0][XMIN_INDEX]}, grouped_reads.CHATS, (chat.token, chat.chat))


def _is_dear(rows: Rows) -> bool:
    """Whether a page's texts take long to highlight, or one is too long to have been searched."""
    if rows[0][FOLDED_BYTES_INDEX] is None:
        return False
    total = 0
    for row in rows:
        text, folded_bytes = row[TEXT_INDEX], row[FOLDED_BYTES_INDEX]
        if folded_bytes > MAX_SCANNED_TEXT:
            return True
        if text.isascii():
            total += folded_bytes // _ASCII_SPEEDUP
        else:  # what is folded may be shorter, by the marks that it lacks
            total += max(folded_bytes, 2 * len(text))
    return bool(total > MAX_HIGHLIGHTED_BYTES)


def _page(items: Sequence[JsonObject], continues: bool, total: int) -> JsonObject:
    return serialization.numbered_page(items, items[-1]["number"] if continues else None, total)
