"""The domain model: applications, chats, messages, their numbers and their limits."""

import re
import secrets
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

from msgspec import Struct

from backend.domain.errors import Invalid, NotFound

MAX_TEXT = 10_000  # code points
MAX_NAME = 255  # code points
MAX_BATCH = 1_000  # creations in one request
MAX_NUMBER = 2**53 - 1  # Lua's numbers are doubles; JavaScript's are too
MAX_ISSUED = 10**14 - 1  # a counter above this issues no further number: see scripts/accept.lua
MAX_IMPORTED_NUMBER = 10**13  # so that ten times as many are left to issue
MessageKey = tuple[int, int]
"""A message's chat id (a database id, which users never see) and its number."""

T = TypeVar("T")
TOKEN_PATTERN = "[A-Za-z0-9_-]{22,64}"
_TOKEN = re.compile(TOKEN_PATTERN + r"\Z")
SHOWN_TOKEN_CHARACTERS = 8  # of at least 22 in an abbreviated one; 84 random bits are left
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Application:
    """A tenant. `chats_count` is the live count; the ETag is made of `version`."""

    token: str
    name: str
    chats_count: int
    created_at: datetime
    updated_at: datetime
    version: int


@dataclass(frozen=True, slots=True)
class Chat:
    """A chat of an application. `messages_count` is the live count.

    `updated_at` is the time of the last change of the chat itself, not of its messages or their count. Only
    its deletion changes a chat, so until then `updated_at` equals `created_at`, unless an import set it.
    """

    number: int
    messages_count: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class Message:
    """A stored message of a chat; the ETag is made of `version`."""

    number: int
    text: str
    created_at: datetime
    updated_at: datetime
    version: int


CONTENT = tuple(
    field.name
    for field in fields(Message)
    if field.name not in {"number", "created_at", "updated_at", "version"}
)
"""The fields that hold what a user wrote: a tombstone's are empty, a transfer copies and compares each."""

NewMessage: TypeAlias = str
"""What a client writes in a new message: its text.

Routes, requests, the acceptor, the log and the drain pass it on without looking inside: the log has it as
JSON, and decodes it by this type. CONTRIBUTING.md says how to add a field to it.
"""

MessageChanges: TypeAlias = Mapping[str, Any]
"""The fields that an edit changes, by the names of `CONTENT_CHECKS`. A field that it lacks stays as it is."""


@dataclass(frozen=True, slots=True)
class Match:
    """A message found by a search, and the ranges that match: `[start, end)` in code points of its text."""

    message: Message
    highlight: list[tuple[int, int]]


class MessagePosition(NamedTuple):
    """A place among the messages of an application: by creation time, then chat and number, newest first.

    A chat 0 is before every message of that time.
    """

    created_at: datetime
    chat: int
    number: int


@dataclass(frozen=True, slots=True)
class ApplicationMatch:
    """As Match, found in all chats of an application: in the chat of this number."""

    chat: int
    message: Message
    highlight: list[tuple[int, int]]

    @property
    def position(self) -> MessagePosition:
        """Its place among the messages of its application."""
        return MessagePosition(self.message.created_at, self.chat, self.message.number)


@dataclass(frozen=True, slots=True)
class MessageRange:
    """Which of a chat's messages a list reads: those with a number above `after` and below `before`.

    If there are times, which have a time zone: only those created at `since` or later, and before `until`.
    Raises Invalid if `after` is above `before`, or `since` later than `until`.
    """

    after: int = 0
    before: int = MAX_NUMBER + 1
    since: datetime | None = None
    until: datetime | None = None

    def __post_init__(self) -> None:
        """Check the bounds."""
        if self.after > self.before:
            raise Invalid(f"no number is after {self.after} and before {self.before}")
        if self.since and self.until and self.since > self.until:
            raise Invalid(
                "no time is at `since` or later and before `until`: `since` is the later one"
            )

    @property
    def has_times(self) -> bool:
        """Whether the range is bounded by times."""
        return self.since is not None or self.until is not None


@dataclass(frozen=True, slots=True)
class NumberedPage(Generic[T]):
    """A page of a list of chats or messages.

    `next` continues the list: it is the last number of the page, None if nothing follows. `total` is the
    live count of the whole list's parent, whatever the page shows of it.
    """

    items: Sequence[T]
    next: int | None
    total: int


class EntryId(Struct, frozen=True, order=True, gc=False):
    """The position of an entry in its shard's log; ordered by epoch, then by sequence."""

    epoch: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.sequence}"

    @classmethod
    def parse(cls, text: str) -> "EntryId":
        """Parse the form that `str` returns; ValueError for any other text."""
        epoch, sequence = text.split("-")
        return cls(int(epoch), int(sequence))


class Accepted(Struct, frozen=True, gc=False):
    """The numbers issued to one request, and its last log entry: once SQL has passed it, all are decided."""

    first: int
    last: int
    shard: int
    entry: EntryId


class Parent(NamedTuple):
    """An application, whose children are chats; or one of its chats, whose children are messages."""

    token: str
    chat: int | None = None

    def __str__(self) -> str:
        return "the application" if self.chat is None else f"chat {self.chat}"


def new_token() -> str:
    """A new application token: 192 random bits, URL-safe, not starting with `-` like an option."""
    while (token := secrets.token_urlsafe(24)).startswith("-"):
        pass
    return token


@lru_cache(maxsize=4096)
def shard_of(token: str, shards: range) -> int:
    """Which of `shards` a token's hash names: where an application is unless it has been moved."""
    return shards[zlib.crc32(token.encode("utf-8", "surrogatepass")) % len(shards)]


def group_by_shard(
    parents: Iterable[Parent], shard_of: Mapping[str, int]
) -> dict[int, list[Parent]]:
    """Parents by the shards that their tokens are in, each group in the order given."""
    found: dict[int, list[Parent]] = {}
    for parent in parents:
        found.setdefault(shard_of[parent.token], []).append(parent)
    return found


def checked_token(token: str) -> str:
    """Return the token if it is well-formed; NotFound otherwise, as for any unknown token."""
    if not _TOKEN.match(token):
        raise no_application()
    return token


def abbreviate_token(token: str) -> str:
    """The beginning of a token: enough to find the application, and of no use to anyone else."""
    return f"{token[:SHOWN_TOKEN_CHARACTERS]}…"


def checked_number(number: int) -> int:
    """Return the number if a chat or a message can have it; NotFound otherwise."""
    if not 1 <= number <= MAX_NUMBER:
        raise NotFound("no such number: numbers start at 1")
    return number


def checked_text(text: str) -> str:
    """Return the text if it is valid: 1 to 10,000 code points, no NUL, no lone surrogate.

    Raises Invalid, whose message does not quote the text.
    """
    return _checked(text, MAX_TEXT, "the text of a message")


CONTENT_CHECKS: Mapping[str, Callable[[Any], Any]] = {"text": checked_text}
"""The fields that a client writes of a message; each check returns the value or raises Invalid.

Edits and imported lines pass them. The check of a field that can be null accepts None.
"""

checked_message = checked_text
"""The new message unchanged, if it is valid. A message is its text; the loop over a batch saves a call."""


def checked_changes(changes: MessageChanges) -> MessageChanges:
    """Return what an edit changes if each value is valid. Raises Invalid, or KeyError for another name."""
    return {name: CONTENT_CHECKS[name](value) for name, value in changes.items()}


def checked_name(name: str) -> str:
    """Return the name if it is valid: 1 to 255 code points, no NUL, no lone surrogate. Raises Invalid."""
    return _checked(name, MAX_NAME, "the name of an application")


def checked_count(count: int) -> int:
    """Return the number of creations if it is at least 1; Invalid otherwise."""
    if count < 1:
        raise Invalid(f"can't create {count}: the count has to be at least 1")
    return count


def no_application() -> NotFound:
    """The error for every unknown, removed or malformed token."""
    return NotFound("no application has this token", "list them with `instachat apps list`")


def no_chat(chat: int) -> NotFound:
    """The error for an unknown or removed chat."""
    return NotFound(
        f"the application has no chat {chat}", "list them with `instachat chats list TOKEN`"
    )


def no_message(chat: int, number: int) -> NotFound:
    """The error for an unknown or removed message."""
    return NotFound(
        f"chat {chat} has no message {number}",
        f"list them with `instachat messages list TOKEN {chat}`",
    )


def _checked(value: str, limit: int, what: str) -> str:
    if not value:
        raise Invalid(f"{what} is empty: it needs 1 to {limit:,} characters")
    if len(value) > limit:
        raise Invalid(f"{what} has {len(value):,} characters: at most {limit:,} are allowed")
    # ASCII is checked without the search, which takes some nanoseconds for each character.
    if (not value.isascii() or "\x00" in value) and (bad := _UNSTORABLE.search(value)):
        kind = "a NUL" if bad.group() == "\x00" else "a lone surrogate (not valid Unicode)"
        raise Invalid(f"{what} has {kind} at position {bad.start() + 1}, which can't be stored")
    return value
