"""Threads that applications share: none of them can take all.

An application has a limited number of calls in the threads. Its others wait here, in their order, and take no
thread from anyone. A call that its client has given up keeps its thread until it ends, so it keeps its place,
too.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from backend.api import problems
from backend.api.problems import ProblemException

T = TypeVar("T")


class ThreadShares:
    """The calls that one event loop makes in a pool of threads. Not thread-safe."""

    def __init__(self, threads: ThreadPoolExecutor, max_running: int, max_waiting: int) -> None:
        """One application has at most `max_running` calls in `threads`, and `max_waiting` that wait."""
        self._threads = threads
        self._max_running = max_running
        self._max_waiting = max_waiting
        self._loop = asyncio.get_running_loop()
        self._running: Counter[str] = Counter()
        self._waiting: dict[str, deque[_Call]] = {}

    def submit(self, owner: str, call: Callable[[], T]) -> Future[T]:
        """Make a call in a thread, once its owner, an application, has a place for it.

        The event loop can cancel the future until the call begins; then the call is not made. Raises
        ProblemException if too many calls of the owner wait, RuntimeError after `shutdown`.
        """
        future: Future[T] = Future()
        submitted = _Call(future, call)
        if self._running[owner] < self._max_running:
            self._start(owner, submitted)
            return future
        waiting = self._waiting.setdefault(owner, deque())
        if len(waiting) >= self._max_waiting:
            raise ProblemException(problems.TOO_MANY_CALLS)
        waiting.append(submitted)
        future.add_done_callback(lambda _: _forget_cancelled(waiting, submitted))
        return future

    def shutdown(self, *, wait: bool) -> None:
        """Make no more calls; `wait` for those that run."""
        self._threads.shutdown(wait=wait, cancel_futures=True)

    def _start(self, owner: str, call: "_Call") -> None:
        self._threads.submit(call.make).add_done_callback(
            lambda _: self._release_from_thread(owner)
        )
        self._running[owner] += 1

    def _release_from_thread(self, owner: str) -> None:
        with suppress(RuntimeError):  # the event loop has ended
            self._loop.call_soon_threadsafe(self._release, owner)

    def _release(self, owner: str) -> None:
        """A call has ended: its place goes to its owner's next one."""
        self._running[owner] -= 1
        if waiting := self._waiting.get(owner):
            with suppress(RuntimeError):  # no more calls are made
                self._start(owner, waiting.popleft())
        if not waiting:
            self._waiting.pop(owner, None)
        if not self._running[owner]:
            del self._running[owner]


class _Call:
    """A call, and the future that gets its result."""

    def __init__(self, future: Future[Any], call: Callable[[], object]) -> None:
        self.future = future
        self._call = call

    def make(self) -> None:
        """Runs in a thread."""
        if not self.future.set_running_or_notify_cancel():
            return
        try:
            result = self._call()
        except BaseException as error:  # noqa: BLE001  # whatever it is, it belongs to the caller
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


def _forget_cancelled(waiting: deque[_Call], call: _Call) -> None:
    """The future of a call is done. If it was cancelled, on the event loop, the call waits no more."""
    if call.future.cancelled():
        with suppress(ValueError):  # it waits for a thread already
            waiting.remove(call)
