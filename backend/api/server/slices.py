"""Slices: many short calls on the event loop, with room between them for whatever else has arrived.

Writing the responses of a whole batch at once would hold up the event loop for milliseconds, and with it
every request that is being accepted: its parsing, its call of Redis and its answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

# A request to be accepted waits for about one slice at each of its handful of steps on the event loop. To
# interrupt the calls costs a system call, which is a fiftieth of a slice.
SLICE_SECONDS: Final = 0.0005


class Slices:
    """Runs calls in order, for about SLICE_SECONDS in each iteration of the event loop. Not thread-safe."""

    def __init__(self, on_finished: Callable[[], None]) -> None:
        """`on_finished` is called when the last of the calls that had to wait was made."""
        self._loop = asyncio.get_running_loop()
        self._on_finished = on_finished
        self._calls: deque[Callable[[], None]] = deque()
        self._next: asyncio.Handle | None = None

    @property
    def waiting_calls(self) -> int:
        """How many calls are not made yet."""
        return len(self._calls)

    def run(self, calls: Iterable[Callable[[], None]]) -> None:
        """Make these calls, which raise nothing: the first ones at once, unless others wait already."""
        self._calls.extend(calls)
        if self._next is None:
            self._run_slice()

    def close(self) -> None:
        """Drop the calls that are not made yet."""
        self._calls.clear()
        if self._next is not None:
            self._next.cancel()

    def _run_slice(self) -> None:
        had_to_wait = self._next is not None
        self._next = None
        until = time.perf_counter() + SLICE_SECONDS
        while self._calls:
            self._calls.popleft()()
            if time.perf_counter() >= until:
                break
        if self._calls:
            self._next = self._loop.call_soon(self._run_slice)
        elif had_to_wait:
            self._on_finished()
