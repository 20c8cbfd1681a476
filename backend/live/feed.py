"""What the followers of one chat share: the events of its newest numbers, encoded once."""

import time
from bisect import bisect_right
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from backend.live.events import ChatKey, Encode
from backend.live.reader import Gap, News

if TYPE_CHECKING:
    from backend.live.hub import Follower

CHUNK_BYTES = 64 * 1024
MAX_WINDOW_EVENTS = 512
MAX_WINDOW_BYTES = 256 * 1024
MAX_CHANGES = 1_000
MAX_CHANGES_BYTES = 1024 * 1024
KEPT_SECONDS = 30.0
"""How long events are kept for followers that have not taken them: as long as a client may not read."""


def join_chunk(events: Iterable[tuple[int, bytes]], cursor: int) -> tuple[bytes, int]:
    """As many encoded events, each with its number, as fit into CHUNK_BYTES, but one at least.

    Returns them and the number of the last one; `cursor`, if there is none.
    """
    parts: list[bytes] = []
    size = 0
    for number, data in events:
        size += len(data)
        if parts and size > CHUNK_BYTES:
            break
        parts.append(data)
        cursor = number
    return b"".join(parts), cursor


class _WindowEvent(NamedTuple):
    number: int
    data: bytes
    at: float
    read_at: float


class _Change(NamedTuple):
    sequence: int
    number: int
    data: bytes
    at: float
    read_at: float


class Feed:
    """One chat that is followed in this process. Belongs to the event loop.

    `head` is the last number whose event is known. The window holds the events of all numbers above `base`.
    """

    def __init__(self, key: ChatKey, chat_id: int | None, head: int) -> None:
        self.key = key
        self.chat_id = chat_id
        self.head = head
        self.base = head
        self.changed: set[int] = set()
        """Numbers that were announced as edited or deleted, and not read since."""
        self.gap: Gap | None = None
        """The gap after `head`, if the last look found one."""
        self.retry_scheduled = False
        self.last_change = 0
        """The sequence of the newest edit or deletion."""
        self.forgotten_change = 0
        """The sequence of the newest one that is not kept any more."""
        self.end: bytes | None = None
        """The last event, once the chat is deleted or known to be lost."""
        self.followers: set[Follower] = set()
        self._window: list[_WindowEvent] = []
        self._window_bytes = 0
        self._changes: deque[_Change] = deque()
        self._changes_bytes = 0

    def apply(self, news: News, encode: Encode, read_at: float) -> bool:
        """Take over what was read; returns whether that is anything for the followers.

        `read_at` is when the read began, by the monotonic clock.
        """
        self.chat_id = news.chat_id
        self.gap = news.gap
        if news.ended is not None:
            self.end = encode(news.ended)
            return True
        now = time.monotonic()
        previous_change = self.last_change
        for change, present in news.changes:
            if present.number <= self.head:  # the events of others are not read yet
                self._replace(present.number, encode(present))
                self._add_change(present.number, encode(change), now, read_at)
        for event in news.decided:
            if event.number > self.head:
                self.head = event.number
                data = encode(event)
                self._window.append(_WindowEvent(event.number, data, now, read_at))
                self._window_bytes += len(data)
        self.forget(now, previous_change)
        return bool(news.changes or news.decided)

    def last_read_before(self, since: float) -> int:
        """The last number whose event was read before a time, or is not in the window."""
        numbers = (event.number for event in reversed(self._window) if event.read_at < since)
        return next(numbers, self.base)

    def events_after(self, cursor: int) -> tuple[bytes, int]:
        """The next chunk of events after a number, which is at least `base`; see `join_chunk`."""
        return join_chunk((event[:2] for event in self._window[self._place(cursor) :]), cursor)

    def clear_window(self) -> None:
        """Forget the events of all numbers: followers that have not taken them read SQL."""
        self.base = self.head
        self._window.clear()
        self._window_bytes = 0

    def changes_after(self, sequence: int, cursor: int, since: float) -> bytes:
        """The edits and deletions after a sequence, of numbers up to `cursor`, read since a time."""
        if sequence == self.last_change:
            return b""
        return b"".join(
            change.data
            for change in self._changes
            if change.sequence > sequence and change.number <= cursor and change.read_at >= since
        )

    def forget(self, now: float, last_change: int | None = None) -> None:
        """Drop what is old, or too much: a follower that lacks it reads SQL, or is let go.

        Changes after the sequence `last_change` stay: no follower can have taken them yet.
        """
        last_change = self.last_change if last_change is None else last_change
        drop = 0
        while drop < len(self._window) and (
            len(self._window) - drop > MAX_WINDOW_EVENTS
            or self._window_bytes > MAX_WINDOW_BYTES
            or self._window[drop].at < now - KEPT_SECONDS
        ):
            self._window_bytes -= len(self._window[drop].data)
            self.base = self._window[drop].number
            drop += 1
        del self._window[:drop]
        while (
            self._changes
            and self._changes[0].sequence <= last_change
            and (
                len(self._changes) > MAX_CHANGES
                or self._changes_bytes > MAX_CHANGES_BYTES
                or self._changes[0].at < now - KEPT_SECONDS
            )
        ):
            forgotten = self._changes.popleft()
            self._changes_bytes -= len(forgotten.data)
            self.forgotten_change = forgotten.sequence

    def _place(self, cursor: int) -> int:
        return bisect_right(self._window, cursor, key=lambda event: event.number)

    def _replace(self, number: int, data: bytes) -> None:
        """Change a number's event, so that followers that have not taken it learn its present state."""
        place = self._place(number - 1)
        if place < len(self._window) and self._window[place].number == number:
            self._window_bytes += len(data) - len(self._window[place].data)
            self._window[place] = self._window[place]._replace(data=data)

    def _add_change(self, number: int, data: bytes, now: float, read_at: float) -> None:
        self.last_change += 1
        self._changes.append(_Change(self.last_change, number, data, now, read_at))
        self._changes_bytes += len(data)
