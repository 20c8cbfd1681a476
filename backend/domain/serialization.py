"""Serializes applications, chats and messages into JSON objects with the contract's field names.

The command line prints them and HTTP sends them, so both show the same. Versions and database ids are not
part of an object. Each `…_object` takes times that are RFC 3339 already, as grouped reads have them.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from backend.domain.model import (
    Application,
    ApplicationMatch,
    Chat,
    Match,
    Message,
    NewMessage,
    NumberedPage,
)

JsonObject = dict[str, Any]


def application(entity: Application) -> JsonObject:
    """An application, with its live count of chats."""
    times = rfc3339(entity.created_at), rfc3339(entity.updated_at)
    return application_object(entity.token, entity.name, entity.chats_count, *times)


def application_object(
    token: str, name: str, chats_count: int, created_at: str, updated_at: str
) -> JsonObject:
    """The object of an application with these values."""
    return {
        "token": token,
        "name": name,
        "chats_count": chats_count,
        "created_at": created_at,
        "updated_at": updated_at,
    }


def chat(entity: Chat) -> JsonObject:
    """A chat, with its live count of messages."""
    times = rfc3339(entity.created_at), rfc3339(entity.updated_at)
    return chat_object(entity.number, entity.messages_count, *times)


def chat_object(number: int, messages_count: int, created_at: str, updated_at: str) -> JsonObject:
    """The object of a chat with these values."""
    return {
        "number": number,
        "messages_count": messages_count,
        "created_at": created_at,
        "updated_at": updated_at,
    }


def message(entity: Message) -> JsonObject:
    """A message."""
    times = rfc3339(entity.created_at), rfc3339(entity.updated_at)
    return message_object(entity.number, *times, entity.text)


def message_object(number: int, created_at: str, updated_at: str, text: str) -> JsonObject:
    """The object of a message with these values; what a client wrote is last, in the order of `Message`."""
    return {"number": number, "text": text, "created_at": created_at, "updated_at": updated_at}


def message_page(page: NumberedPage[Message]) -> JsonObject:
    """A page of a chat's messages."""
    return numbered_page(map(message, page.items), page.next, page.total)


def chat_page(page: NumberedPage[Chat]) -> JsonObject:
    """A page of an application's chats."""
    return numbered_page(map(chat, page.items), page.next, page.total)


def numbered_page(items: Iterable[JsonObject], next_: int | None, total: int) -> JsonObject:
    """A page of chats or messages, whose bodies are `items`; see `NumberedPage`."""
    return {"items": list(items), "next": next_, "total": total}


def new_message(written: NewMessage) -> JsonObject:
    """What a client wrote in a message that is not stored."""
    return {"text": written}


def match(entity: Match) -> JsonObject:
    """A message that a search found, with the matching ranges: `[start, end]` in code points of its text."""
    return match_object(message(entity.message), entity.highlight)


def match_object(found: JsonObject, highlight: Iterable[tuple[int, int]]) -> JsonObject:
    """The object of a message that a search found, of the message's object."""
    return found | {"highlight": [[start, end] for start, end in highlight]}


def application_match(entity: ApplicationMatch) -> JsonObject:
    """As `match`, with the chat's number first."""
    found = match_object(message(entity.message), entity.highlight)
    return {"chat": entity.chat} | found


def match_page(items: Sequence[JsonObject], continues: bool, incomplete: str | None) -> JsonObject:
    """A page of matches, whose bodies are `items`: whether others follow, and why some may be missing."""
    return search_page(items, items[-1]["number"] if continues else None, incomplete)


def search_page(
    items: Sequence[JsonObject], next_: int | str | None, incomplete: str | None
) -> JsonObject:
    """A page of a search, whose bodies are `items`; `next_` continues it."""
    body: JsonObject = {"items": items, "next": next_, "complete": incomplete is None}
    return body if incomplete is None else body | {"why": incomplete}


def pending(number: int) -> JsonObject:
    """A message or chat that is accepted and not stored yet."""
    return {"number": number, "status": "accepted"}


def number(issued: int) -> JsonObject:
    """The response to one creation."""
    return {"number": issued}


def numbers(first: int, last: int) -> JsonObject:
    """The response to several creations in one request."""
    return {"first": first, "last": last}


def rfc3339(at: datetime) -> str:
    """A time as RFC 3339, in UTC, with microseconds."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
