"""Shares of a pool of threads: no application takes all of them."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from backend.api import problems
from backend.api.problems import ProblemException
from backend.api.thread_shares import ThreadShares
from tests.support.waiting import PATIENCE_SECONDS

HOG, OTHER = "hog", "other"
MAX_RUNNING, MAX_WAITING = 2, 7


class Blocked:
    """Calls that wait in their threads until they are released."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self._go_on = threading.Event()

    def call(self, name: str) -> Callable[[], str]:
        """A call that returns its name."""

        def wait() -> str:
            self.begun.append(name)
            assert self._go_on.wait(PATIENCE_SECONDS)
            return name

        return wait

    def release(self) -> None:
        """Let all of them return."""
        self._go_on.set()

    async def begin(self, count: int) -> None:
        """Return once so many have begun."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.begun) < count:
                await asyncio.sleep(0.001)


def run(scenario: Callable[[ThreadShares, Blocked], Coroutine[Any, Any, None]]) -> None:
    """Run a scenario with threads of its own."""

    async def in_threads() -> None:
        blocked = Blocked()
        with ThreadPoolExecutor(2 * MAX_RUNNING) as threads:
            try:
                await scenario(ThreadShares(threads, MAX_RUNNING, MAX_WAITING), blocked)
            finally:
                blocked.release()

    asyncio.run(in_threads())


async def result(future: "Future[str]") -> str:
    """Of a call, in good time."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        return await asyncio.wrap_future(future)


def test_an_application_with_many_calls_leaves_threads_to_others() -> None:
    async def scenario(shares: ThreadShares, blocked: Blocked) -> None:
        names = [f"{number}" for number in range(MAX_RUNNING + MAX_WAITING)]
        calls = [shares.submit(HOG, blocked.call(name)) for name in names]
        await blocked.begin(MAX_RUNNING)
        assert await result(shares.submit(OTHER, lambda: "at once")) == "at once"
        assert blocked.begun == names[:MAX_RUNNING]
        blocked.release()
        assert [await result(call) for call in calls] == names
        assert blocked.begun == names

    run(scenario)


def test_a_call_that_was_given_up_keeps_its_place_until_its_thread_is_free() -> None:
    """Otherwise the application's next calls would take the other threads, one after another."""

    async def scenario(shares: ThreadShares, blocked: Blocked) -> None:
        given_up = [shares.submit(HOG, blocked.call("given up")) for _ in range(MAX_RUNNING)]
        await blocked.begin(MAX_RUNNING)
        assert not any(call.cancel() for call in given_up)
        later = shares.submit(HOG, blocked.call("later"))
        await result(shares.submit(OTHER, lambda: ""))
        assert "later" not in blocked.begun
        blocked.release()
        assert await result(later) == "later"

    run(scenario)


def test_calls_that_are_given_up_while_they_wait_are_not_made() -> None:
    async def scenario(shares: ThreadShares, blocked: Blocked) -> None:
        calls = [shares.submit(HOG, blocked.call(f"{number}")) for number in range(MAX_RUNNING + 2)]
        await blocked.begin(MAX_RUNNING)
        assert calls[MAX_RUNNING].cancel()
        blocked.release()
        await result(calls[-1])
        assert f"{MAX_RUNNING}" not in blocked.begun

    run(scenario)


def test_the_calls_of_an_application_that_wait_are_limited() -> None:
    """One that is given up makes room for another."""

    async def scenario(shares: ThreadShares, blocked: Blocked) -> None:
        calls = [shares.submit(HOG, blocked.call("made")) for _ in range(MAX_RUNNING + MAX_WAITING)]
        await blocked.begin(MAX_RUNNING)
        with pytest.raises(ProblemException) as refused:
            shares.submit(HOG, blocked.call("too many"))
        assert refused.value.problem is problems.TOO_MANY_CALLS
        assert await result(shares.submit(OTHER, lambda: "at once")) == "at once"
        assert calls.pop().cancel()
        calls.append(shares.submit(HOG, blocked.call("made")))
        blocked.release()
        assert {await result(call) for call in calls} == {"made"}
        assert set(blocked.begun) == {"made"}

    run(scenario)


def test_a_call_that_fails_passes_its_error_and_its_place_on() -> None:
    async def scenario(shares: ThreadShares, blocked: Blocked) -> None:
        calls = [shares.submit(HOG, lambda: f"{1 / 0}") for _ in range(MAX_RUNNING + MAX_WAITING)]
        for call in calls:
            with pytest.raises(ZeroDivisionError):
                await result(call)
        blocked.release()
        assert await result(shares.submit(HOG, blocked.call("next"))) == "next"

    run(scenario)
