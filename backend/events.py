"""What the log holds: one event an entry, packed into one field.

The field is `first at payload`: the first number and the time in microseconds, which the accept script
knows only when it runs, and the payload, packed here before. A request of many messages becomes few
entries of many texts each, which is what makes accepting and reading cheap; an entry stays whole.
"""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from backend.model import MAX_BATCH, MAX_NUMBER

MAX_ENTRY_BYTES = 64 * 1024  # of text; one text alone may be longer: 10,000 code points, 40 kB
MAX_ENTRY_TEXTS = 500
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = 253_402_300_800_000_000  # the year 10,000, in microseconds since 1970
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_raw_decode = json.JSONDecoder().raw_decode
_is_token = lru_cache(maxsize=1024)(re.compile("[A-Za-z0-9_-]{1,64}").fullmatch)


class ChatsCreated(NamedTuple):
    """Chats `first` to `last` of an application; `micros` is when, since 1970."""

    token: str
    first: int
    last: int
    micros: int

    @property
    def at(self) -> datetime:
        """When they were created."""
        return moment(self.micros)


class MessagesCreated(NamedTuple):
    """Messages `first`, `first + 1`, … of a chat, one for each text; `micros` is when, since 1970."""

    token: str
    chat: int
    first: int
    texts: list[str]
    micros: int

    @property
    def at(self) -> datetime:
        """When they were created."""
        return moment(self.micros)


class DeletionAsked(NamedTuple):
    """An application (`chat` is None) or a chat shall be deleted; the drain decides.

    With `cascade` also where something belongs to it still.
    """

    token: str
    chat: int | None
    micros: int
    cascade: bool = False

    @property
    def at(self) -> datetime:
        """When it was asked for."""
        return moment(self.micros)


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


def pack_deletion(
    token: str, chat: int | None, *, cascade: bool = False
) -> list[tuple[int, bytes]]:
    """The payload of a deletion; it takes no number."""
    return [(0, _dumps(["d", token, chat, *(["cascade"] if cascade else [])]).encode())]


def unpack(field: bytes) -> Event:
    """The event of an entry's field; ValueError if it is not one (the drain makes it a dead letter).

    Tokens, numbers and times are such that SQL can hold them; a text may be one that it can't.
    """
    try:
        first_, at, payload = field.decode("utf-8", "surrogatepass").split(" ", 2)
        first, micros = int(first_), int(at)
        event, end = _raw_decode(payload)
        kind, token, *rest = event
        if end == len(payload) and _is_token(token) and 0 <= micros < _END:
            if kind == "m":
                chat, texts = rest
                if (
                    type(chat) is int
                    and 1 <= chat <= MAX_NUMBER
                    and type(texts) is list
                    and texts
                    and 1 <= first <= MAX_NUMBER + 1 - len(texts)
                ):
                    "".join(texts)  # TypeError if there is one that is no text
                    return MessagesCreated(token, chat, first, texts, micros)
            elif kind == "c":
                (count,) = rest
                if _are_numbers(count) and count <= MAX_BATCH and _are_numbers(first, count):
                    return ChatsCreated(token, first, first + count - 1, micros)
            elif kind == "d":
                chat, *how = rest
                if (chat is None or _are_numbers(chat)) and how in ([], ["cascade"]):
                    return DeletionAsked(token, chat, micros, cascade=bool(how))
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"not an event: {type(error).__name__}") from None
    raise ValueError("not an event of a known kind")


def moment(micros: int) -> datetime:
    """The time so many microseconds after the beginning of 1970."""
    return _EPOCH + timedelta(microseconds=micros)


def _are_numbers(first: object, count: int = 1) -> bool:
    """Whether these can be numbers of chats or messages: not so `true`, which equals 1 in Python."""
    return type(first) is int and 1 <= first <= MAX_NUMBER + 1 - count


def _pack_texts(token: str, chat: int, texts: Sequence[str]) -> bytes:
    return _dumps(["m", token, chat, list(texts)]).encode()
