"""What the log holds: one event an entry, packed into one field.

The field is `first at payload`: the first number and the time in microseconds, which the accept script
knows only when it runs, and the payload, packed here before. A request of many messages becomes few
entries of many texts each, which is what makes accepting and reading cheap; an entry stays whole.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from backend.model import MAX_BATCH, MAX_NUMBER

MAX_ENTRY_BYTES = 64 * 1024  # of text; one text alone may be longer: 10,000 code points, 40 kB
MAX_ENTRY_TEXTS = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True)
class ChatsCreated:
    """Chats `first` to `first + count - 1` of an application."""

    token: str
    first: int
    count: int
    at: datetime


@dataclass(frozen=True, slots=True)
class MessagesCreated:
    """Messages `first`, `first + 1`, … of a chat, one for each text."""

    token: str
    chat: int
    first: int
    texts: list[str]
    at: datetime


@dataclass(frozen=True, slots=True)
class DeletionAsked:
    """An application (`chat` is None) or a chat shall be deleted; the drain decides."""

    token: str
    chat: int | None
    at: datetime


Event = ChatsCreated | MessagesCreated | DeletionAsked


def pack_chats(token: str, count: int) -> list[tuple[int, bytes]]:
    """The payloads of `count` new chats, each with the count of numbers that it takes."""
    return [(count, _dumps(["c", token, count]).encode())]


def pack_messages(token: str, chat: int, texts: Sequence[str]) -> list[tuple[int, bytes]]:
    """The payloads of new messages, each with the count of numbers that it takes, in order."""
    packed: list[tuple[int, bytes]] = []
    start = size = 0
    for end, text in enumerate(texts):
        length = len(text.encode())
        if end > start and (size + length > MAX_ENTRY_BYTES or end - start == MAX_ENTRY_TEXTS):
            packed.append((end - start, _pack_texts(token, chat, texts[start:end])))
            start, size = end, 0
        size += length
    packed.append((len(texts) - start, _pack_texts(token, chat, texts[start:])))
    return packed


def pack_deletion(token: str, chat: int | None) -> list[tuple[int, bytes]]:
    """The payload of a deletion; it takes no number."""
    return [(0, _dumps(["d", token, chat]).encode())]


def unpack(field: bytes) -> Event:
    """The event of an entry's field; ValueError if it is not one (the drain makes it a dead letter)."""
    try:
        first, at, payload = field.split(b" ", 2)
        kind, token, *rest = json.loads(payload)
        when = _EPOCH + timedelta(microseconds=int(at))
        number = int(first)
        if not isinstance(token, str) or not 1 <= number <= MAX_NUMBER:
            raise ValueError("no token, or no number")
        match kind, rest:
            case "m", [int(chat), [*texts]] if (
                texts and 1 <= chat <= MAX_NUMBER and all(type(t) is str for t in texts)
            ):
                return MessagesCreated(token, chat, number, texts, when)
            case "c", [int(count)] if 1 <= count <= MAX_BATCH:
                return ChatsCreated(token, number, count, when)
            case "d", [None | int() as chat] if 1 <= (chat or 1) <= MAX_NUMBER:
                return DeletionAsked(token, chat, when)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not an event: {type(error).__name__}") from None
    raise ValueError("not an event of a known kind")


def _pack_texts(token: str, chat: int, texts: Sequence[str]) -> bytes:
    return _dumps(["m", token, chat, list(texts)]).encode()
