"""The lines of an export, which an import reads: one JSON object each, written like the HTTP bodies.

    {"type": "application", "token", "name", "chats_count", "created_at", "updated_at"}
    {"type": "chat", "token", "number", "messages_count", "created_at", "updated_at"}
    {"type": "message", "token", "chat", "number", "text", "created_at", "updated_at"}

A tombstone has a line, too, so that its number or token is never used again: `"removed": true` stands in
place of the name, the text or the count. The tombstone of a chat or a message may stand for many numbers
that hold nothing: `"first"` is then the first of them, and `"number"` the last. There is one way to write
each line, so an export of what was imported is the same, byte for byte. Reading accepts more: fields in any
order, any JSON escapes, times of any zone, no counts.

An application with a retention or a rate limit has `"retention": "90d"` or `"limit": "100/s"` behind its
count. A line without one says nothing about it: so earlier exports are read, and earlier programs read
the lines of all other applications.
"""

import json
import re
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from backend.domain.application_settings import format_rate, parse_rate, parse_retention
from backend.domain.errors import Invalid, NotFound
from backend.domain.model import (
    CONTENT_CHECKS,
    MAX_IMPORTED_NUMBER,
    MAX_TEXT,
    Parent,
    checked_name,
    checked_token,
)
from backend.domain.times import format_age
from backend.storage.postgres.exports import ExportedApplication, ExportedChat
from backend.storage.postgres.imports import ImportedApplication, ImportedChat
from backend.storage.postgres.messages import CONTENT, ExportedMessage, ImportedMessage

CHUNK_LINES = 5_000  # imported in one step
CHUNK_BYTES = 4 * 1024 * 1024
READ_BYTES = 256 * 1024
# A text takes at most twelve bytes a code point: two escapes `\uXXXX`. The rest is for the other fields.
MAX_LINE_BYTES = 12 * MAX_TEXT + 16 * 1024


class ApplicationLine(NamedTuple):
    """An application; `name` is None for a tombstone.

    `retention` is in seconds, `limit` in chats and messages a second; None says nothing about it.
    """

    token: str
    name: str | None
    created_at: datetime
    updated_at: datetime
    retention: int | None = None
    limit: int | None = None

    def of(self, token: str) -> "ApplicationLine":
        """The line for another token of the application."""
        return self._replace(token=token)

    def to_row(self) -> ImportedApplication:
        """The row that stores it."""
        return ImportedApplication(**self._asdict())

    @property
    def removed(self) -> bool:
        """Whether it is a tombstone."""
        return self.name is None


class ChatLine(NamedTuple):
    """A chat of the application `parent`.

    `first` is the first of the numbers that a tombstone stands for, if it stands for several.
    """

    parent: Parent
    number: int
    removed: bool
    created_at: datetime
    updated_at: datetime
    first: int | None = None

    def of(self, token: str) -> "ChatLine":
        """The line for another token of the application."""
        return self._replace(parent=self.parent._replace(token=token))

    def to_row(self, application_id: int) -> ImportedChat:
        """The row that stores it."""
        return ImportedChat(
            application_id=application_id,
            number=self.number,
            first=self.first,
            removed=self.removed,
            created_at=self.created_at,
            updated_at=self.updated_at,
        )

    @property
    def token(self) -> str:
        """The application's token."""
        return self.parent.token


class MessageLine(NamedTuple):
    """A message of the chat `parent`; `text` is None for a tombstone, and `first` is as a chat's."""

    parent: Parent
    number: int
    text: str | None
    created_at: datetime
    updated_at: datetime
    first: int | None = None

    def of(self, token: str) -> "MessageLine":
        """The line for another token of the application."""
        return self._replace(parent=self.parent._replace(token=token))

    def to_row(self, chat_id: int, folded: str) -> ImportedMessage:
        """The row that stores it."""
        values = self._asdict()
        del values["parent"]
        return ImportedMessage(chat_id=chat_id, folded=folded, **values)

    @property
    def token(self) -> str:
        """The application's token."""
        return self.parent.token

    @property
    def removed(self) -> bool:
        """Whether it is a tombstone."""
        return self.text is None


TransferLine = ApplicationLine | ChatLine | MessageLine


@dataclass(frozen=True, slots=True)
class LineChunk:
    """Lines as they were read, the number of the first, and how many bytes were read up to here."""

    first: int
    lines: list[bytes]
    read: int


# -- writing --------------------------------------------------------------------------------------

_encode = json.JSONEncoder(ensure_ascii=False).encode
# Valid inside JSON, but a terminal executes some of them, and a reader of lines may end a line at others.
_ESCAPED_CHARACTERS = re.compile("[\x7f-\x9f\u2028\u2029]")


def format_application(row: ExportedApplication) -> str:
    """The line of an application, with its end."""
    if row.name is None:
        content = _REMOVED
    else:
        content = f'"name": {_quoted(row.name)}, "chats_count": {row.chats_count}'
        if row.retention is not None:
            content += f', "retention": "{format_age(row.retention)}"'
        if row.limit is not None:
            content += f', "limit": "{format_rate(row.limit)}"'
    times = _times(row.created_at, row.updated_at)
    return f'{{"type": "application", "token": "{row.token}", {content}{times}\n'


def format_chat(row: ExportedChat) -> str:
    """The line of a chat, with its end."""
    removed = row.messages_count is None  # a tombstone has no count: see ExportedChat
    content = _tombstone(row.first) if removed else f'"messages_count": {row.messages_count}'
    head = f'{{"type": "chat", "token": "{row.token}", "number": {row.number}, '
    return f"{head}{content}{_times(row.created_at, row.updated_at)}\n"


def format_message(token: str, chat: int, row: ExportedMessage) -> str:
    """The line of a message of a chat, with its end."""
    # Once: reading each by its name takes longer.
    _, number, first, *content, created_at, updated_at = row
    written = [
        head + _quoted(value)
        for head, value in zip(_CONTENT_HEADS, content, strict=True)
        if value is not None
    ]
    return (
        f'{{"type": "message", "token": "{token}", "chat": {chat}, "number": {number}, '
        f"{', '.join(written) or _tombstone(first)}{_times(created_at, updated_at)}\n"
    )


_REMOVED = '"removed": true'
_CONTENT_HEADS = [f'"{name}": ' for name in ExportedMessage._fields if name in CONTENT]


def _tombstone(first: int | None) -> str:
    return _REMOVED if first is None else f'{_REMOVED}, "first": {first}'


def _times(created_at: str, updated_at: str) -> str:
    return f', "created_at": "{created_at}", "updated_at": "{updated_at}"}}'


def _quoted(text: str) -> str:
    return _ESCAPED_CHARACTERS.sub(lambda found: f"\\u{ord(found.group()):04x}", _encode(text))


# -- reading --------------------------------------------------------------------------------------


def read_chunks(read: Callable[[int], bytes]) -> Iterator[LineChunk]:
    """Lines in chunks; `read(n)` returns up to so many bytes, and none at the end.

    Memory is bounded, whatever a line's length: of a line that is too long, a part is returned that is too
    long, too.
    """
    total = 0

    def count_bytes(size: int) -> bytes:
        nonlocal total
        data = read(size)
        total += len(data)
        return data

    first, lines, size = 1, list[bytes](), 0
    for line in _split_lines(count_bytes):
        lines.append(line)
        size += len(line)
        if len(lines) == CHUNK_LINES or size >= CHUNK_BYTES:
            yield LineChunk(first, lines, total)
            first, lines, size = first + len(lines), [], 0
    if lines:
        yield LineChunk(first, lines, total)


def _split_lines(read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Lines without their line feeds; the last line may lack one. Nothing else ends a line."""
    # truncated: the line's beginning was yielded, its rest is discarded.
    rest, truncated = b"", False
    while data := read(READ_BYTES):
        *ended, rest = (rest + data).split(b"\n")
        if ended and truncated:
            del ended[0]
            truncated = False
        yield from ended
        if len(rest) > MAX_LINE_BYTES and not truncated:
            yield rest
            truncated = True
        if truncated:
            rest = b""
    if rest:
        yield rest


def parse(line: bytes) -> TransferLine:
    """Parse a line. Raises Invalid, whose message says what is wrong and never repeats a text."""
    body = _object(line)
    kind = body.get("type")
    removed = body.get("removed", False)
    if type(removed) is not bool:
        raise Invalid('"removed" is neither true nor false')
    fields = _FIELDS.get((kind, removed)) if isinstance(kind, str) else None
    if fields is None:
        raise Invalid('its "type" is none of application, chat, message')
    needed, known = fields
    if not needed <= body.keys() <= known:
        raise _wrong_fields(needed - body.keys(), body.keys() - known)

    token = _token(body["token"])
    created_at = _time(body["created_at"], "created_at")
    updated_at = (
        created_at
        if body["updated_at"] == body["created_at"]
        else _time(body["updated_at"], "updated_at")
    )
    if kind == "message":
        content = dict.fromkeys(CONTENT_CHECKS) if removed else _content(body)
        parent = Parent(token, _number(body["chat"], "chat"))
        return MessageLine(
            parent,
            _number(body["number"], "number"),
            **content,
            created_at=created_at,
            updated_at=updated_at,
            first=_first(body),
        )
    if kind == "chat":
        number = _number(body["number"], "number")
        return ChatLine(Parent(token), number, removed, created_at, updated_at, _first(body))
    name = None if removed else checked_name(_string(body["name"], "name"))
    return ApplicationLine(
        token,
        name,
        created_at,
        updated_at,
        _setting(body, "retention", parse_retention),
        _setting(body, "limit", parse_rate),
    )


def parse_subject(line: bytes) -> Parent | None:
    """The application or the chat that a line describes, even if the rest of the line is invalid."""
    try:
        body = _object(line)
        token = _token(body.get("token"))
        match body.get("type"):
            case "application":
                return Parent(token)
            case "chat":
                return Parent(token, _number(body.get("number"), "number"))
    except Invalid:
        pass
    return None


def _fields(*needed: str, optional: Set[str] = frozenset()) -> tuple[Set[str], Set[str]]:
    """The fields that a line must have, and those that it may have."""
    always = {"type", "token", *needed, "created_at", "updated_at"}
    return always, always | {"removed"} | optional


_FIELDS = {
    ("application", False): _fields("name", optional={"chats_count", "retention", "limit"}),
    ("application", True): _fields(),
    ("chat", False): _fields("number", optional={"messages_count"}),
    ("chat", True): _fields("number", optional={"first"}),
    # A field that was added later is optional: older exports lack it.
    ("message", False): _fields("chat", "number", "text", optional=CONTENT_CHECKS.keys()),
    ("message", True): _fields("chat", "number", optional={"first"}),
}


def _object(line: bytes) -> dict[str, Any]:
    if len(line) > MAX_LINE_BYTES:
        raise Invalid(f"the line is longer than {MAX_LINE_BYTES:,} bytes, which no valid one is")
    try:
        body = _decode(line.decode())
    except UnicodeDecodeError as error:
        raise Invalid(f"not valid UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        problem = (
            "the line is empty" if not line.strip() else f"{error.msg.lower()} at {error.pos + 1}"
        )
        raise Invalid(f"not JSON: {problem}") from None
    except (ValueError, RecursionError):
        raise Invalid("not JSON that can be read: too deep, or a number too long") from None
    if not isinstance(body, dict):
        raise Invalid("not a JSON object")
    return body


def _no_constant(name: str) -> float:
    raise ValueError(name)


# NaN and Infinity are no JSON, but Python reads them unless told otherwise.
_decode = json.JSONDecoder(parse_constant=_no_constant).decode


def _wrong_fields(missing: Set[str], unknown: Set[str]) -> Invalid:
    def listed(names: Set[str]) -> str:
        return ", ".join(_quoted(n if len(n) <= 40 else n[:40] + "…") for n in sorted(names)[:5])

    if missing:
        return Invalid(f"{listed(missing)} missing")
    return Invalid(f"{listed(unknown)} unknown in a line of this type")


def _token(value: object) -> str:
    try:
        return checked_token(_string(value, "token"))
    except NotFound:
        raise Invalid('"token" is none: it has 22 to 64 letters, digits, - and _') from None


def _content(body: dict[str, Any]) -> dict[str, Any]:
    """What a client wrote of a message, checked. A field that its line lacks is null."""
    return {
        name: check(None if (value := body.get(name)) is None else _string(value, name))
        for name, check in CONTENT_CHECKS.items()
    }


def _string(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise Invalid(f'"{name}" is not a string')
    return value


def _number(value: object, name: str) -> int:
    if type(value) is not int or value < 1:
        raise Invalid(f'"{name}" is not a whole number from 1 on')
    if value > MAX_IMPORTED_NUMBER:
        raise Invalid(f'"{name}" is above {MAX_IMPORTED_NUMBER:,}, the highest that is imported')
    return value


def _setting(
    body: dict[str, Any], name: str, parse_setting: Callable[[str], int | None]
) -> int | None:
    """A setting of an application; None if the line does not have it."""
    return parse_setting(_string(body[name], name)) if name in body else None


def _first(body: dict[str, Any]) -> int | None:
    """The first of the numbers that a tombstone stands for; None if it stands for one."""
    if "first" not in body:
        return None
    first = _number(body["first"], "first")
    if first >= _number(body["number"], "number"):
        raise Invalid('"first" is not below "number"')
    return first


_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_MIN_TIME = datetime(1970, 1, 1, tzinfo=UTC)


def _time(value: object, name: str) -> datetime:
    """A time, in UTC; nothing is rounded."""
    text = _string(value, name)
    if not _TIME.fullmatch(text):
        raise Invalid(
            f'"{name}" is not a time of RFC 3339 with its zone, as 2026-01-31T23:59:59.123456Z'
        )
    try:
        at = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(f'"{name}" is a time that does not exist') from None
    if at < _MIN_TIME:
        # A version is the microseconds since then, and the search index takes no negative one.
        raise Invalid(f'"{name}" is before 1970')
    return at
