"""Slices: many short calls on the event loop, with room between them for whatever else has arrived.

Fetching and writing the results of a whole batch at once would hold up the event loop for milliseconds, and
with it every request that is being accepted: its parsing, its call of Redis and its answer.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

# To interrupt the calls costs a system call, which is a hundredth of a slice.
SLICE_SECONDS: Final = 0.001
# While a request is being accepted: it waits for a slice at each of its handful of steps on the event loop.
SHORT_SLICE_SECONDS: Final = 0.0003


class Slices:
    """Runs calls in order, for about SLICE_SECONDS in each iteration of the event loop. Not thread-safe."""

    def __init__(self, on_finished: Callable[[], None], is_accepting: Callable[[], bool]) -> None:
        """`on_finished` is called when the last of the calls that had to wait was made.

        As long as it `is_accepting`, slices are short, and let what has arrived since the last one go first.
        """
        self._loop = asyncio.get_running_loop()
        self._on_finished = on_finished
        self._is_accepting = is_accepting
        self._calls: deque[Callable[[], None]] = deque()
        self._next: asyncio.Handle | None = None
        self._is_running = False

    @property
    def waiting_calls(self) -> int:
        """How many calls are not made yet."""
        return len(self._calls)

    def run(self, calls: Iterable[Callable[[], None]]) -> None:
        """Make these calls, which raise nothing: the first ones at once, unless others wait already."""
        self._calls.extend(calls)
        self._start()

    def run_first(self, call: Callable[[], None]) -> None:
        """As `run`, but before the calls that wait."""
        self._calls.appendleft(call)
        self._start()

    def close(self) -> None:
        """Drop the calls that are not made yet."""
        self._calls.clear()
        if self._next is not None:
            self._next.cancel()

    def _start(self) -> None:
        if self._next is None and not self._is_running:
            self._run_slice()

    def _run_slice(self) -> None:
        had_to_wait = self._next is not None
        self._next = None
        is_short = self._is_accepting()
        until = time.perf_counter() + (SHORT_SLICE_SECONDS if is_short else SLICE_SECONDS)
        self._is_running = True
        try:
            while self._calls:
                self._calls.popleft()()
                if time.perf_counter() >= until:
                    break
        finally:
            self._is_running = False
            if self._calls:
                # What is scheduled here comes before what connections receive until then. One more iteration
                # puts the slice behind that.
                self._next = self._loop.call_soon(self._schedule if is_short else self._run_slice)
            elif had_to_wait:
                self._on_finished()

    def _schedule(self) -> None:
        self._next = self._loop.call_soon(self._run_slice)
