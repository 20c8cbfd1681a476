"""Bodies: applications, chats and messages as everybody outside sees them, with the contract's field names.

The command line prints them and HTTP sends them, so what one shows is what the other shows. Versions and
database ids are not part of a body.
"""

from datetime import UTC, datetime
from typing import Any

from backend.domain.model import Application, Chat, Match, Message

Body = dict[str, Any]


def application(thing: Application) -> Body:
    """An application, with its live count of chats."""
    return {
        "token": thing.token,
        "name": thing.name,
        "chats_count": thing.chats_count,
        "created_at": rfc3339(thing.created_at),
        "updated_at": rfc3339(thing.updated_at),
    }


def chat(thing: Chat) -> Body:
    """A chat, with its live count of messages."""
    return {
        "number": thing.number,
        "messages_count": thing.messages_count,
        "created_at": rfc3339(thing.created_at),
        "updated_at": rfc3339(thing.updated_at),
    }


def message(thing: Message) -> Body:
    """A message."""
    return {
        "number": thing.number,
        "text": thing.text,
        "created_at": rfc3339(thing.created_at),
        "updated_at": rfc3339(thing.updated_at),
    }


def match(thing: Match) -> Body:
    """A message that a search found, with the places: `[start, end]` in code points of its text."""
    return message(thing.message) | {"highlight": [[start, end] for start, end in thing.highlight]}


def pending(number: int) -> Body:
    """What is accepted and not stored yet."""
    return {"number": number, "status": "accepted"}


def number(given: int) -> Body:
    """The answer to one creation."""
    return {"number": given}


def numbers(first: int, last: int) -> Body:
    """The answer to many creations at once."""
    return {"first": first, "last": last}


def rfc3339(at: datetime) -> str:
    """A time as everybody outside sees it: RFC 3339, in UTC, to the microsecond."""
    return at.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
