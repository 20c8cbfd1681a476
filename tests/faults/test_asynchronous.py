"""Accepting from an event loop while Redis restarts, hangs, dies and comes back, on one connection."""

import asyncio
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from backend.errors import EngineDown, InstaChatError, Unconfirmed
from backend.events import pack_messages
from backend.log import Creation, Given, LifeLost, Log, Outcome
from backend.log.asynchronous import AsyncAccepting
from backend.model import EntryId, Parent
from tests.engines import RedisServer, valkey_binary

CHAT = Parent("t" * 32, 1)
ANSWER_SECONDS = 0.5

Accept = Callable[[], Awaitable[Outcome | InstaChatError | LifeLost]]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Valkey with one chat in it."""
    binary = valkey_binary()
    assert binary is not None
    server = RedisServer(binary)
    server.start()
    log = Log(server.url)
    try:
        log.write_life(0, 1, "here")
        for parent in (Parent(CHAT.token), CHAT):
            log.verify(0, 1, parent, 0, create=True)
        yield server
    finally:
        log.close()
        server.remove()


def run(server: RedisServer, story: Callable[[Accept], Awaitable[None]]) -> None:
    """Tell a story of acceptances, one after the other."""

    async def told() -> None:
        log = Log(server.url, connect_seconds=0.3, answer_seconds=ANSWER_SECONDS)
        accepting = AsyncAccepting(log)
        creation = Creation("messages", CHAT, pack_messages(*CHAT, ["a"]))  # type: ignore[arg-type]  # it has a chat

        async def accept() -> Outcome | InstaChatError | LifeLost:
            (outcome,) = await accepting.accept_each([(0, [creation], EntryId(0, 0))])
            return outcome

        try:
            await story(accept)
        finally:
            await accepting.close()
            log.close()

    asyncio.run(told())


def number(outcome: Outcome | InstaChatError | LifeLost) -> int:
    """The number that was given."""
    assert isinstance(outcome, tuple), outcome
    (given,) = outcome[0]
    assert isinstance(given, Given)
    return given.first


def test_a_restarted_redis_costs_no_failed_call(server: RedisServer) -> None:
    """The old connection's end is noticed before anything is sent; numbers go on."""

    async def story(accept: Accept) -> None:
        assert number(await accept()) == 1
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        assert isinstance(await accept(), LifeLost)  # the script's own word, so it was asked
        Log(server.url).write_life(0, 2, "here")

    run(server, story)


def test_a_redis_that_is_away_is_down_and_back_at_once(server: RedisServer) -> None:
    """Nothing was sent, so it is known that nothing was accepted."""

    async def story(accept: Accept) -> None:
        assert number(await accept()) == 1
        await asyncio.to_thread(server.kill)
        began = time.monotonic()
        assert type(await accept()) is EngineDown
        assert time.monotonic() - began < 1
        await asyncio.to_thread(server.start)
        assert isinstance(await accept(), LifeLost)

    run(server, story)


def test_a_hanging_redis_leaves_it_unconfirmed(server: RedisServer) -> None:
    """The call was sent; what is answered late is nobody's answer, least of all the next call's."""

    async def story(accept: Accept) -> None:
        assert number(await accept()) == 1
        server.send(signal.SIGSTOP)
        began = time.monotonic()
        outcome = await accept()
        assert type(outcome) is Unconfirmed
        assert ANSWER_SECONDS <= time.monotonic() - began < ANSWER_SECONDS + 1
        began = time.monotonic()
        assert type(await accept()) is EngineDown  # no new connection: so this one was not sent
        assert time.monotonic() - began < ANSWER_SECONDS + 1
        server.send(signal.SIGCONT)
        assert number(await accept()) == 3  # Redis has done what it was sent

    run(server, story)


def test_a_redis_killed_under_a_call_leaves_it_unconfirmed(server: RedisServer) -> None:
    """Its answer is lost, and is not asked for again."""

    async def story(accept: Accept) -> None:
        assert number(await accept()) == 1
        server.send(signal.SIGSTOP)
        killer = threading.Timer(0.1, server.kill)
        killer.start()
        assert type(await accept()) is Unconfirmed
        killer.join()

    run(server, story)
