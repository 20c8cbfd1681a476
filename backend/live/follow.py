"""Follows one chat in the calling thread, for a program that does nothing else."""

import logging
import time
from collections.abc import Iterator
from contextlib import closing, suppress

from backend.domain.errors import EngineDown, Unavailable
from backend.live.events import ChatKey, Event
from backend.live.reader import LOOK_INTERVAL_SECONDS, RETRY_SECONDS, LiveReader, Position
from backend.storage.redis.notifications import Change, Subscription

logger = logging.getLogger(__name__)


def follow(reader: LiveReader, redis_url: str, chat: ChatKey, after: int | None) -> Iterator[Event]:
    """What becomes of the numbers above `after`, as it comes; without one, of those after the newest message.

    Ends with `Ended` when the chat is deleted, or known to be lost. Waits for engines that are away. The
    caller has found the chat.
    """
    start = reader.start(chat)
    if after is None:
        after = start.newest if start else 0
    position = Position(start.chat_id if start else None, after)
    with closing(_Announcements(redis_url, chat)) as announcements:
        is_away = False
        changed: frozenset[int] = frozenset()
        while True:
            # Announced from now on: the read below sees what was committed before.
            announcements.connect()
            position = position._replace(changed=position.changed | changed)
            try:
                news = reader.read({chat: position})[chat]
            except Unavailable as error:
                if not is_away:
                    logger.warning("%s; trying again", error.message)
                is_away, changed = True, frozenset()
                time.sleep(RETRY_SECONDS)
                continue
            is_away = False
            if news.ended is not None:
                yield news.ended
                return
            yield from (change for change, _ in news.changes)
            yield from news.decided
            last = news.decided[-1].number if news.decided else position.after
            position = Position(news.chat_id, last, gap=news.gap)
            seconds = RETRY_SECONDS if news.undecided else LOOK_INTERVAL_SECONDS
            changed = frozenset() if news.more else announcements.wait(seconds)


class _Announcements:
    """The notifications of one chat, over a subscription that is made again whenever it is lost."""

    def __init__(self, redis_url: str, chat: ChatKey) -> None:
        self._redis_url = redis_url
        self._chat = chat
        self._subscription: Subscription | None = None

    def connect(self) -> None:
        """Subscribe, unless that is done or Redis is away."""
        if self._subscription is None:
            with suppress(EngineDown):
                self._subscription = Subscription(self._redis_url)

    def close(self) -> None:
        """Unsubscribe."""
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def wait(self, seconds: float) -> frozenset[int]:
        """Wait until the chat is announced, but not longer; returns the changed numbers that were named."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if self._subscription is None:
                time.sleep(min(left, RETRY_SECONDS))
                break
            try:
                changes = self._subscription.read(left)
            except EngineDown:
                self.close()
                continue
            mine = [change for change in changes if self._concerns(change)]
            if mine:
                return frozenset(change.number for change in mine if change.number is not None)
        return frozenset()

    def _concerns(self, change: Change) -> bool:
        token, number = self._chat
        return change.token == token and change.chat in (None, number)
