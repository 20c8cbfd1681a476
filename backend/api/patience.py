"""Time limits for what is waited for very often: looked at once a second, instead of a timer for each."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")
LOOK_SECONDS = 1.0


class Patience:
    """Waits for so many seconds, give or take one. For one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._waiting: dict[asyncio.Task[object], float] = {}
        self._overdue: set[asyncio.Task[object]] = set()
        self._looking = False
        self._loop: asyncio.AbstractEventLoop | None = None

    async def wait(self, awaited: Awaitable[T]) -> T:
        """What comes of it; TimeoutError if it takes longer."""
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        if not self._looking:
            self._looking = True
            loop.call_later(LOOK_SECONDS, self._look)
        self._waiting[task] = time.monotonic()
        try:
            return await awaited
        except asyncio.CancelledError:
            if task not in self._overdue:
                raise
            task.uncancel()
            raise TimeoutError from None
        finally:
            del self._waiting[task]
            self._overdue.discard(task)

    def _look(self) -> None:
        now = time.monotonic()
        for task, since in self._waiting.items():
            if now - since > self._seconds:
                self._overdue.add(task)
                task.cancel()
        self._looking = bool(self._waiting)
        if self._looking:
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)
