"""The events in the log: each entry has one field, which holds one packed event.

The field is `first at payload`: the first number and the time in microseconds, which the accept script adds
when it runs, and the payload, which is packed here before. Many messages of a chat, from one request or
several, become few entries of many messages each: that makes accepting and reading cheap. An entry is never
split.

Workers of the previous release read the log, too, while an upgrade rolls out. A new member of a payload is
therefore optional, and written only where it is needed. A payload that has one begins with its format, as in
`v2 […]`: an older program leaves such an entry in the log, and makes no dead letter of it. Each later release
reads a format, because a log or a dead letter may keep it for long.
"""

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Literal

from msgspec import Meta, Struct, convert
from msgspec.json import Decoder, Encoder

from backend.domain.errors import NewerLogFormat
from backend.domain.model import MAX_BATCH, MAX_NUMBER, TOKEN_PATTERN, EntryId, NewMessage

LOG_FORMAT = 4  # the newest that this program reads; the first one is written without its number
MAX_ENTRY_BYTES = 64 * 1024  # of messages as they are packed; a single one may be longer
MAX_ENTRY_TEXTS = 500
_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_MICROS = 253_402_300_800_000_000  # the year 10,000, in microseconds since 1970
_ENTRY_END = b"]]"
_encode = Encoder().encode  # the same as `_dumps`, in a fraction of the time
_dumps = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_is_token = lru_cache(maxsize=1024)(re.compile("[A-Za-z0-9_-]{1,64}").fullmatch)
_match_token = re.compile(rb'[0-9]+ [0-9]+ (?:v[0-9]+ )?\["[a-z]","([A-Za-z0-9_-]{1,64})"').match


class ChatsCreated(Struct, frozen=True, gc=False):
    """Chats `first` to `last` of an application were created, `micros` microseconds after 1970."""

    token: str
    first: int
    last: int
    micros: int

    @property
    def at(self) -> datetime:
        """When they were created."""
        return from_micros(self.micros)


class MessagesCreated(Struct, frozen=True, gc=False):
    """Messages `first`, `first + 1`, … of a chat were created; `micros` as in ChatsCreated."""

    token: str
    chat: int
    first: int
    messages: list[NewMessage]
    micros: int

    @property
    def last(self) -> int:
        """The number of the last one."""
        return self.first + len(self.messages) - 1

    def message(self, number: int) -> NewMessage:
        """The message with that number, as it was written."""
        return self.messages[number - self.first]

    @property
    def at(self) -> datetime:
        """When they were created."""
        return from_micros(self.micros)


class DeletionRequested(Struct, frozen=True, gc=False):
    """The deletion of an application (`chat` is None) or a chat was requested; the drain decides.

    With `cascade` its children are deleted with it; without, it is refused if there are any.
    """

    token: str
    chat: int | None
    micros: int
    cascade: bool = False

    @property
    def at(self) -> datetime:
        """When it was requested."""
        return from_micros(self.micros)


class ApplicationStored(Struct, frozen=True, gc=False):
    """An application was stored or changed, in SQL; this is its row. Times in microseconds since 1970.

    SQL had it before the log: the event fills a SQL that has forgotten it, and a later version is newer.
    `current_token` is None if it is `token`.
    """

    token: str
    name: str
    version: int
    created_micros: int
    updated_micros: int
    micros: int
    current_token: str | None = None

    @property
    def at(self) -> datetime:
        """When it was recorded."""
        return from_micros(self.micros)


class ApplicationMoved(Struct, frozen=True, gc=False):
    """An application leaves the shard of this log for another one: nothing of it comes behind this entry.

    `move` counts the application's moves, this one included.
    """

    token: str
    shard: int
    move: int
    micros: int

    @property
    def at(self) -> datetime:
        """When it was requested."""
        return from_micros(self.micros)


class ApplicationArrived(Struct, frozen=True, gc=False):
    """An application has come to the shard of this log: everything of it is behind this entry.

    What it had been in before is in the log of the shard `origin`, up to the entry `epoch`-`sequence` at the
    latest. `move` counts the application's moves, the last one included.
    """

    token: str
    origin: int
    epoch: int
    sequence: int
    move: int
    micros: int

    @property
    def at(self) -> datetime:
        """When it was recorded."""
        return from_micros(self.micros)

    @property
    def through(self) -> EntryId:
        """The entry of the other shard's log."""
        return EntryId(self.epoch, self.sequence)


Event = (
    ChatsCreated
    | MessagesCreated
    | DeletionRequested
    | ApplicationStored
    | ApplicationMoved
    | ApplicationArrived
)

_Number = Annotated[int, Meta(ge=1, le=MAX_NUMBER)]


class _Chats(Struct, array_like=True, tag="c", forbid_unknown_fields=True, gc=False):
    token: str
    count: Annotated[int, Meta(ge=1, le=MAX_BATCH)]


class _Messages(Struct, array_like=True, tag="m", forbid_unknown_fields=True, gc=False):
    token: str
    chat: _Number
    messages: Annotated[list[NewMessage], Meta(min_length=1)]


class _Deletion(Struct, array_like=True, tag="d", forbid_unknown_fields=True, gc=False):
    token: str
    chat: _Number | None
    how: Literal["cascade"] | None = None


_Micros = Annotated[int, Meta(ge=0, lt=_MAX_MICROS)]


class _Application(Struct, array_like=True, tag="a", forbid_unknown_fields=True, gc=False):
    token: str
    name: str
    version: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    created_micros: _Micros
    updated_micros: _Micros
    current_token: Annotated[str, Meta(pattern=f"^{TOKEN_PATTERN}$")] | None = None


_Shard = Annotated[int, Meta(ge=0, le=32_767)]
_Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class _Move(Struct, array_like=True, tag="o", forbid_unknown_fields=True, gc=False):
    token: str
    shard: _Shard
    move: _Count


class _Arrival(Struct, array_like=True, tag="i", forbid_unknown_fields=True, gc=False):
    token: str
    origin: _Shard
    epoch: _Count
    sequence: _Count
    move: _Count


_Payload = _Chats | _Messages | _Deletion | _Application | _Move | _Arrival
_decode: Callable[[bytes], _Payload] = Decoder(_Payload).decode


def pack_chats(token: str, count: int) -> list[tuple[int, bytes]]:
    """The payloads of `count` new chats, each with the number of numbers that it needs."""
    return [(count, _dumps(["c", token, count]).encode())]


def pack_message(token: str, chat: int, new_message: NewMessage) -> bytes:
    """The payload of one new message, as `pack_messages` packs it."""
    return _entry_start(token, chat) + _encode(new_message) + _ENTRY_END


def pack_messages(
    token: str, chat: int, new_messages: Sequence[NewMessage]
) -> list[tuple[int, bytes]]:
    """The payloads of new messages, in order, each with the number of numbers that it needs."""
    if len(new_messages) == 1:  # most requests; one text is never split
        return [(1, pack_message(token, chat, new_messages[0]))]
    packed: list[tuple[int, bytes]] = []
    messages: list[bytes] = []
    size = 0
    for message in map(_encode, new_messages):
        if messages and (size + len(message) > MAX_ENTRY_BYTES or len(messages) == MAX_ENTRY_TEXTS):
            packed.append((len(messages), _pack_entry(token, chat, b",".join(messages))))
            messages, size = [], 0
        messages.append(message)
        size += len(message)
    packed.append((len(messages), _pack_entry(token, chat, b",".join(messages))))
    return packed


def pack_deletion(
    token: str, chat: int | None, *, cascade: bool = False
) -> list[tuple[int, bytes]]:
    """The payload of a deletion, which needs no number."""
    return [(0, _dumps(["d", token, chat, *(["cascade"] if cascade else [])]).encode())]


def pack_application(
    token: str,
    name: str,
    version: int,
    created: datetime,
    updated: datetime,
    current_token: str | None = None,
) -> bytes:
    """The payload of an application's row, which needs no number.

    It is of the second format; of the fourth one if its token was replaced.
    """
    row = ["a", token, name, version, to_micros(created), to_micros(updated)]
    if current_token is None:
        return b"v2 " + _dumps(row).encode()
    return b"v4 " + _dumps([*row, current_token]).encode()


def token_of(field: bytes) -> str | None:
    """The token of the application that an entry's field is about, without unpacking it.

    None if the field is not an event. Raises NewerLogFormat as `unpack` does.
    """
    if match := _match_token(field):
        return match[1].decode()
    try:
        return unpack(field).token
    except ValueError:
        return None


def pack_move(token: str, shard: int, move: int) -> list[tuple[int, bytes]]:
    """The payload of an application's move to a shard, which needs no number. It is of the third format."""
    return [(0, b"v3 " + _dumps(["o", token, shard, move]).encode())]


def pack_arrival(token: str, origin: int, through: EntryId, move: int) -> bytes:
    """The payload of an application's arrival, which needs no number. It is of the third format."""
    return b"v3 " + _dumps(["i", token, origin, through.epoch, through.sequence, move]).encode()


def unpack(field: bytes) -> Event:
    """The event in an entry's field; ValueError if there is none (the drain moves it to a dead letter).

    Raises NewerLogFormat if only a newer program can read it. SQL can store its tokens, numbers and times,
    but possibly not its texts.
    """
    try:
        first_, at, packed = field.split(b" ", 2)
        first, micros = int(first_), int(at)
        if packed[:1] == b"v":
            packed = _without_format(packed)
        try:
            payload = _decode(packed)
        except ValueError:
            payload = _decode_with_surrogates(packed)
    except (ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"not an event: {type(error).__name__}") from None
    if _is_token(payload.token) and 0 <= micros < _MAX_MICROS:
        if isinstance(payload, _Messages):
            if 1 <= first <= MAX_NUMBER + 1 - len(payload.messages):
                return MessagesCreated(payload.token, payload.chat, first, payload.messages, micros)
        elif isinstance(payload, _Chats):
            if 1 <= first <= MAX_NUMBER + 1 - payload.count:
                return ChatsCreated(payload.token, first, first + payload.count - 1, micros)
        elif isinstance(payload, _Deletion):
            cascade = payload.how is not None
            return DeletionRequested(payload.token, payload.chat, micros, cascade)
        elif isinstance(payload, _Move):
            return ApplicationMoved(payload.token, payload.shard, payload.move, micros)
        elif isinstance(payload, _Arrival):
            return ApplicationArrived(
                payload.token,
                payload.origin,
                payload.epoch,
                payload.sequence,
                payload.move,
                micros,
            )
        else:
            return ApplicationStored(
                payload.token,
                payload.name,
                payload.version,
                payload.created_micros,
                payload.updated_micros,
                micros,
                payload.current_token,
            )
    raise ValueError("not an event: out of range")


def _without_format(packed: bytes) -> bytes:
    """The payload behind its format. Raises NewerLogFormat."""
    version, _, payload = packed[1:].partition(b" ")
    if (found := int(version)) > LOG_FORMAT:
        raise NewerLogFormat(
            f"the log has an event in format {found}, this program reads up to {LOG_FORMAT}",
            "run a newer instachat",
        )
    return payload


def _decode_with_surrogates(packed: bytes) -> _Payload:
    """Decode a payload with lone surrogates: such a text is invalid, the others of the entry are not."""
    found: _Payload = convert(json.loads(packed.decode("utf-8", "surrogatepass")), _Payload)
    return found


def to_micros(at: datetime) -> int:
    """Microseconds since 1970, exactly."""
    delta = at - _UNIX_EPOCH
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def from_micros(micros: int) -> datetime:
    """The time so many microseconds after 1970."""
    return _UNIX_EPOCH + timedelta(microseconds=micros)


def _pack_entry(token: str, chat: int, messages: bytes) -> bytes:
    return _entry_start(token, chat) + messages + _ENTRY_END


@lru_cache(maxsize=4096)
def _entry_start(token: str, chat: int) -> bytes:
    # With the rest, the same as `_dumps` of the list, in a fraction of the time; a token needs no escapes.
    return b'["m","%b",%d,[' % (token.encode(), chat)
