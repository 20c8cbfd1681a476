"""The hub: serves all followers of one process's event loop.

A notification wakes a chat, and one statement reads what is new in all chats that are woken, however many
followers they have. A follower that is further behind than the shared window reads pages by number, each once
for all followers that are at the same place. Nothing waits for a client: a follower takes what is there when
its client has read what it took before, and one that has missed edits or deletions is let go.

If notifications are lost, nothing else is: all chats are looked at when a subscription begins, and every few
seconds.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from backend.domain.errors import InstaChatError
from backend.live.events import ChatKey, Decided, Encode, Started
from backend.live.feed import Feed, join_chunk
from backend.live.listener import Listener
from backend.live.reader import (
    LOOK_INTERVAL_SECONDS,
    MAX_CHATS,
    RETRY_SECONDS,
    Gap,
    LiveReader,
    News,
    Position,
)
from backend.storage.postgres.following import FollowStart
from backend.storage.redis.notifications import Change

LOOK_SLICES = 20  # of the chats that were not woken, in each LOOK_INTERVAL_SECONDS
KEEPALIVE_SECONDS = 15.0
PAGE_THREADS = 2

logger = logging.getLogger(__name__)


class _Page(NamedTuple):
    """Encoded events after a position, the number of the last one, and the gap after it, if one was found."""

    chunk: bytes
    last: int
    gap: Gap | None


class Hub:
    """The chats that are followed, and their followers. Belongs to one event loop; not thread-safe."""

    def __init__(
        self, reader: LiveReader, redis_url: str, encode: Encode, keepalive: bytes
    ) -> None:
        """`encode` makes the bytes of an event, `keepalive` are those sent where nothing happens.

        Connects, and starts its threads, with the first follower.
        """
        self._reader = reader
        self.encode = encode
        self.keepalive = keepalive
        self.open_followers = 0
        self._open_of: Counter[str] = Counter()  # by the application's token
        self._loop = asyncio.get_running_loop()
        self._feeds: dict[ChatKey, Feed] = {}
        self._woken: set[ChatKey] = set()
        self._looking: asyncio.Task[None] | None = None
        self._looking_at_intervals: asyncio.Task[None] | None = None
        self._look_thread = ThreadPoolExecutor(1, "look")
        self._page_threads = ThreadPoolExecutor(PAGE_THREADS, "page")
        self._pages: dict[tuple[Feed, Position, int], _Reading] = {}
        """The pages that are being read."""
        self._listener = Listener(redis_url, self._on_changes, self._on_connected)
        self.is_closed = False
        self.is_listening = False
        """Whether notifications have ever been received."""

    # -- followers ---------------------------------------------------------------------------------

    def is_followed(self, chat: ChatKey) -> bool:
        """Whether a chat is followed here, and so known to exist."""
        feed = self._feeds.get(chat)
        return feed is not None and feed.end is None

    def follow(self, chat: ChatKey, start: FollowStart | None, after: int | None) -> "Follower":
        """Follow a chat after a number; without one, after the newest stored message.

        `start` is where the chat is, as it was just read; None if it has no row yet, or `is_followed`. The
        caller closes the follower.
        """
        if not self.is_followed(chat):
            self._feeds[chat] = Feed(
                chat, start.chat_id if start else None, start.newest if start else 0
            )
            # What was stored since `start` was read may have been announced to nobody here.
            self.wake([chat])
        feed = self._feeds[chat]
        follower = Follower(self, feed, feed.head if after is None else after)
        if after is None:
            follower.first = self.encode(Started(feed.head))
        feed.followers.add(follower)
        self.open_followers += 1
        self._open_of[feed.key[0]] += 1
        self._start()
        return follower

    def count_followers(self, token: str) -> int:
        """How many followers an application's chats have."""
        return self._open_of[token]

    def remove(self, follower: "Follower") -> None:
        """Forget a follower, and its chat if it was the last one."""
        feed = follower.feed
        if follower in feed.followers:
            feed.followers.discard(follower)
            self.open_followers -= 1
            token = feed.key[0]
            self._open_of[token] -= 1
            if not self._open_of[token]:
                del self._open_of[token]
            if not feed.followers and self._feeds.get(feed.key) is feed:
                del self._feeds[feed.key]

    def end_applications(self, tokens: Collection[str]) -> None:
        """End the followers of all chats of these applications."""
        for feed in [feed for key, feed in self._feeds.items() if key[0] in tokens]:
            for follower in list(feed.followers):
                follower.close()

    def close(self) -> None:
        """End all followers, and look no more. Idempotent."""
        self.is_closed = True
        self._listener.stop()
        for task in (self._looking, self._looking_at_intervals):
            if task is not None:
                task.cancel()
        for feed in list(self._feeds.values()):
            for follower in list(feed.followers):
                follower.close()
        for threads in (self._look_thread, self._page_threads):
            threads.shutdown(wait=False, cancel_futures=True)

    async def read_page(self, feed: Feed, position: Position, since: float) -> "_Page | None":
        """What follows a position of followers, encoded once for all that are there; None if that fails.

        Many clients connect again at the same moment, and are at the same position. The read begins after
        `since`, by the monotonic clock: what has changed before a follower began is not told as it was.
        """
        # Not shared with followers that have passed over an edit or deletion since the read began: they need
        # what is read after it.
        key = (feed, position, feed.last_change)
        reading = self._pages.get(key)
        if reading is None or reading.begun_at < since:
            reading = self._pages[key] = _Reading()
            reading.task = self._loop.create_task(
                self._read_page(feed.key, position, feed.head, reading)
            )
            reading.task.add_done_callback(lambda _: self._forget_reading(key, reading))
        return await asyncio.shield(reading.task)  # other followers go on when one leaves

    def _forget_reading(self, key: tuple[Feed, Position, int], reading: "_Reading") -> None:
        if self._pages.get(key) is reading:
            del self._pages[key]

    async def _read_page(
        self, chat: ChatKey, position: Position, head: int, reading: "_Reading"
    ) -> "_Page | None":
        """A page ends at the head: of a number after it, the feed takes an edit for the creation."""

        def read() -> dict[ChatKey, News]:
            reading.begun_at = time.monotonic()
            return self._reader.read({chat: position})

        try:
            found = await self._loop.run_in_executor(self._page_threads, read)
        except InstaChatError as error:
            logger.info("the page of a follower can't be read: %s", error.message)
            return None
        news = found[chat]
        encoded = ((event.number, self.encode(event)) for event in _until(head, position, news))
        return _Page(*join_chunk(encoded, position.after), news.gap)

    # -- looking -----------------------------------------------------------------------------------

    def wake(self, chats: Iterable[ChatKey]) -> None:
        """Look at these chats as soon as possible, as far as they are followed here."""
        self._woken.update(chat for chat in chats if chat in self._feeds)
        if self._woken and not self.is_closed and (self._looking is None or self._looking.done()):
            self._looking = self._loop.create_task(self._look())

    async def _look(self) -> None:
        """Look at the chats that are woken, until there is none."""
        while self._woken:
            keys = [self._woken.pop() for _ in range(min(len(self._woken), MAX_CHATS))]
            feeds = [feed for key in keys if (feed := self._feeds.get(key))]
            if not feeds:
                continue
            positions: dict[ChatKey, Position] = {}
            for feed in feeds:
                changed = frozenset(feed.changed)
                positions[feed.key] = Position(feed.chat_id, feed.head, changed, feed.gap)
                feed.changed.clear()
            began = time.monotonic()
            try:
                news = await self._loop.run_in_executor(
                    self._look_thread, self._reader.read, positions
                )
            except InstaChatError as error:
                logger.info("followed chats can't be read: %s", error.message)
                news = {}
            except Exception:
                logger.exception("followed chats can't be read")
                news = {}
            if not news:
                for feed in feeds:
                    feed.changed |= positions[feed.key].changed
                self._woken.update(positions)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            for feed in feeds:
                found = news[feed.key]
                if feed.end is None and feed.apply(found, self.encode, began):
                    for follower in feed.followers:
                        follower.wake()
                if feed.end is not None:
                    if self._feeds.get(feed.key) is feed:
                        del self._feeds[feed.key]
                elif found.more:
                    self._woken.add(feed.key)
                elif found.undecided and not feed.retry_scheduled:
                    feed.retry_scheduled = True
                    self._loop.call_later(RETRY_SECONDS, self._retry, feed)

    def _retry(self, feed: Feed) -> None:
        feed.retry_scheduled = False
        self.wake([feed.key])

    async def _look_at_intervals(self) -> None:
        """Look at all chats once in each interval, a few at a time: those that are woken do not wait long."""
        while True:
            keys = list(self._feeds)
            size = -(-len(keys) // LOOK_SLICES)
            for place in range(LOOK_SLICES):
                await asyncio.sleep(LOOK_INTERVAL_SECONDS / LOOK_SLICES)
                now = time.monotonic()
                due = keys[place * size : (place + 1) * size]
                for key in due:
                    if feed := self._feeds.get(key):
                        feed.forget(now)
                self.wake(due)

    # -- notifications, in the listener's thread -----------------------------------------------------

    def _on_changes(self, changes: Sequence[Change]) -> None:
        self._loop.call_soon_threadsafe(self._take_changes, changes)

    def _on_connected(self) -> None:
        self._loop.call_soon_threadsafe(self._look_at_all)

    def _look_at_all(self) -> None:
        """Edits and deletions may have been announced to nobody: what was read may be out of date."""
        self.is_listening = True
        for feed in self._feeds.values():
            feed.clear_window()
        self.wake(list(self._feeds))

    def _take_changes(self, changes: Sequence[Change]) -> None:
        woken: list[ChatKey] = []
        for token, chat, number in changes:
            if chat is None:
                woken += [key for key in self._feeds if key[0] == token]
            elif feed := self._feeds.get((token, chat)):
                woken.append(feed.key)
                if number is not None:
                    feed.changed.add(number)
        self.wake(woken)

    def _start(self) -> None:
        if self._looking_at_intervals is None and not self.is_closed:
            self._looking_at_intervals = self._loop.create_task(self._look_at_intervals())
            self._listener.start()


class _Reading:
    """A page that is being read for all followers that wait for it."""

    task: "asyncio.Task[_Page | None]"
    begun_at = float("inf")
    """When the read began, by the monotonic clock; until then, any follower can share it."""


def _until(head: int, position: Position, news: News) -> Iterator[Decided]:
    """The events after a position, up to the one that reaches the head."""
    number = position.after
    for event in news.decided:
        if number >= head:
            return
        number = event.number
        yield event


class Follower:
    """One client's place in a chat. Iterate over `chunks` once, and call `close` at the end."""

    def __init__(self, hub: Hub, feed: Feed, cursor: int) -> None:
        self.feed = feed
        self.first = b""
        self._hub = hub
        self._cursor = cursor
        self._last_change = feed.last_change
        self._since = (
            time.monotonic()
        )  # what was read before is not told: it may have changed since
        self._closed = hub.is_closed
        self._gap: Gap | None = None  # the one after the cursor, if the last page ended at it
        self._waiter: asyncio.Future[None] | None = None

    def wake(self) -> None:
        """There is something to take."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """End `chunks`, and forget the follower. Idempotent."""
        self._closed = True
        self._hub.remove(self)
        self.wake()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Encoded events as they come; a keepalive where none has come for a while.

        Ends after `close`, when the chat is deleted or known to be lost, and where the client has read so
        slowly that edits or deletions for it are not kept any more.
        """
        sent_at = time.monotonic()
        if self.first:
            yield self.first
        while not self._closed:
            wait_seconds = KEEPALIVE_SECONDS
            if self._cursor >= self.feed.last_read_before(self._since):
                chunk = self._take()
            elif self.feed.end is None:
                chunk, wait_seconds = await self._read_page(), RETRY_SECONDS
            else:
                chunk = b""
            if self._last_change < self.feed.forgotten_change:
                logger.info("a follower was let go: it has read too slowly")
                return
            chunk += self._take_changes()
            if chunk:
                yield chunk
                sent_at = time.monotonic()
            elif self.feed.end is not None:
                yield self.feed.end
                return
            elif (idle := time.monotonic() - sent_at) >= KEEPALIVE_SECONDS:
                yield self._hub.keepalive
                sent_at = time.monotonic()
            else:
                await self._wait(min(wait_seconds, KEEPALIVE_SECONDS - idle))

    def _take(self) -> bytes:
        """The next events of the window."""
        chunk, self._cursor = self.feed.events_after(self._cursor)
        return chunk

    def _take_changes(self) -> bytes:
        """Edits and deletions of what was taken. Those of other numbers are in events that follow."""
        chunk = self.feed.changes_after(self._last_change, self._cursor, self._since)
        self._last_change = self.feed.last_change
        return chunk

    async def _read_page(self) -> bytes:
        """The next events, read from SQL for this follower; none while they are undecided."""
        position = Position(self.feed.chat_id, self._cursor, gap=self._gap)
        page = await self._hub.read_page(self.feed, position, self._since)
        if page is None:
            return b""
        self._cursor, self._gap = page.last, page.gap
        return page.chunk

    async def _wait(self, seconds: float) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(seconds):
                await self._waiter
        except TimeoutError:
            pass
        finally:
            self._waiter = None
