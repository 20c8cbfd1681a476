"""The objects that clients see, made of the rows of grouped reads.

A server's fast path and the commands that read show the same ones. The columns are those of the statements in
`grouped_reads`; times are PostgreSQL's texts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from backend.domain import serialization
from backend.domain.model import CONTENT, Parent
from backend.domain.serialization import JsonObject
from backend.storage.postgres.driver import Rows
from backend.storage.postgres.grouped_reads import all_to_rfc3339, to_rfc3339

XMIN_INDEX: Final = 2  # in a row that shows a live count
_CHAT_INDEX: Final = 5  # in a row of a page of chats
_MESSAGE_INDEX: Final = 3  # where a message begins in a row of a page of messages, also of a search
TEXT_INDEX: Final = 6 + CONTENT.index("text")  # likewise
FOLDED_BYTES_INDEX: Final = 2  # in a row of a search
MESSAGE_VERSION_INDEX: Final = 4  # in a row of MESSAGES
APPLICATION_VERSION_INDEX: Final = 7  # in a row of APPLICATIONS
ORIGINAL_INDEX: Final = 8  # of an application's original token, in a row of APPLICATION_PAGES


def application_object(row: Sequence[Any], issued: int | None) -> JsonObject:
    """The object of a row of APPLICATIONS or APPLICATION_PAGES."""
    _, removed, _, token, name, created_at, updated_at, *_ = row
    times = to_rfc3339(created_at), to_rfc3339(updated_at)
    return serialization.application_object(token, name, live_count(issued, removed), *times)


def chat_object(row: Sequence[Any], issued: int | None) -> JsonObject:
    """The object of a row of CHATS."""
    _, removed, _, number, created_at, updated_at = row
    times = to_rfc3339(created_at), to_rfc3339(updated_at)
    return serialization.chat_object(number, live_count(issued, removed), *times)


def xmins_of_chats(token: str, rows: Rows) -> dict[Parent, str]:
    """The transaction that wrote the row of each chat of a page of chats, and of the application."""
    xmins = {Parent(token): rows[0][XMIN_INDEX]}
    if rows[0][_CHAT_INDEX] is not None:
        xmins |= {Parent(token, number): xmin for _, _, _, _, xmin, number, *_ in rows}
    return xmins


def chat_objects(token: str, rows: Rows, issued: Mapping[Parent, int | None]) -> list[JsonObject]:
    """The objects of the chats of a page; none of an empty page's row."""
    if rows[0][_CHAT_INDEX] is None:
        return []
    # By columns, as in `message_objects`.
    removed, _, numbers, created, updated = list(zip(*rows, strict=True))[_CHAT_INDEX - 2 :]
    counts = [
        live_count(issued[Parent(token, number)], of_chat)
        for number, of_chat in zip(numbers, removed, strict=True)
    ]
    times = all_to_rfc3339(created), all_to_rfc3339(updated)
    return list(map(serialization.chat_object, numbers, counts, *times))


def message_of_row(row: Sequence[Any]) -> JsonObject:
    """The object of a row of MESSAGES."""
    _, number, created_at, updated_at, _, *content = row
    times = to_rfc3339(created_at), to_rfc3339(updated_at)
    return serialization.message_object(number, *times, *content)


def message_objects(rows: Rows) -> list[JsonObject]:
    """The objects of the messages of a page, also of a search; none of an empty page's row."""
    if rows[0][_MESSAGE_INDEX] is None:
        return []
    # By columns: to unpack each row, whatever it has of a client, takes half as long again.
    numbers, created, edited, *content = list(zip(*rows, strict=True))[_MESSAGE_INDEX:]
    created_at = all_to_rfc3339(created)
    updated_at = created_at
    if any(edited):
        updated_at = [
            at if edited_at is None else to_rfc3339(edited_at)
            for at, edited_at in zip(created_at, edited, strict=True)
        ]
    return list(map(serialization.message_object, numbers, created_at, updated_at, *content))


def live_count(issued: int | None, removed: int) -> int:
    """How many of the numbers issued hold something; `issued` is None for no counter that was read."""
    assert issued is not None
    return issued - removed
