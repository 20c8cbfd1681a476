"""Bodies: applications, chats and messages as everybody outside sees them, with the contract's field names.

The command line prints them and HTTP sends them, so what one shows is what the other shows. Versions and
database ids are not part of a body.
"""

from datetime import UTC, datetime
from typing import Any

from backend.domain.model import Application, Chat, Match, Message

JsonObject = dict[str, Any]


def application(entity: Application) -> JsonObject:
    """An application, with its live count of chats."""
    return {
        "token": entity.token,
        "name": entity.name,
        "chats_count": entity.chats_count,
        "created_at": rfc3339(entity.created_at),
        "updated_at": rfc3339(entity.updated_at),
    }


def chat(entity: Chat) -> JsonObject:
    """A chat, with its live count of messages."""
    return {
        "number": entity.number,
        "messages_count": entity.messages_count,
        "created_at": rfc3339(entity.created_at),
        "updated_at": rfc3339(entity.updated_at),
    }


def message(entity: Message) -> JsonObject:
    """A message."""
    return {
        "number": entity.number,
        "text": entity.text,
        "created_at": rfc3339(entity.created_at),
        "updated_at": rfc3339(entity.updated_at),
    }


def match(entity: Match) -> JsonObject:
    """A message that a search found, with the places: `[start, end]` in code points of its text."""
    return message(entity.message) | {
        "highlight": [[start, end] for start, end in entity.highlight]
    }


def pending(number: int) -> JsonObject:
    """What is accepted and not stored yet."""
    return {"number": number, "status": "accepted"}


def number(issued: int) -> JsonObject:
    """The answer to one creation."""
    return {"number": issued}


def numbers(first: int, last: int) -> JsonObject:
    """The answer to many creations at once."""
    return {"first": first, "last": last}


def rfc3339(at: datetime) -> str:
    """A time as everybody outside sees it: RFC 3339, in UTC, to the microsecond."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
