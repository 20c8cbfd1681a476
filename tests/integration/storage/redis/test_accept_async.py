"""Accepting from an event loop while Redis restarts, hangs, dies and comes back, on one connection."""

import asyncio
import hashlib
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from typing import Any

import pytest
import uvloop

from backend.domain.errors import EngineDown, Failed, Unconfirmed
from backend.domain.events import pack_messages
from backend.domain.model import Accepted, EntryId, Parent
from backend.storage.redis.accept_async import AsyncAcceptClient, make_async_clients
from backend.storage.redis.log import Log
from backend.storage.redis.script_loader import SCRIPTS, SHAS
from backend.storage.redis.types import (
    AcceptOutcome,
    AcceptResult,
    Creation,
    ShardBatch,
    StaleEpoch,
)
from tests.support.accepting import accept_each, accept_messages
from tests.support.engines import RedisServer, valkey_binary
from tests.support.faults.proxy import Proxy
from tests.support.waiting import MARGIN_SECONDS, PATIENCE_SECONDS, promised

pytestmark = pytest.mark.faults

CHAT = Parent("t" * 32, 1)
ANSWER_SECONDS = 1.5  # for a Redis that hangs; other tests wait longer

Accept = Callable[[], Awaitable[AcceptResult]]
AcceptBatches = Callable[
    [AsyncAcceptClient, list[ShardBatch]], Coroutine[Any, Any, list[AcceptResult]]
]
Scenario = Callable[[Accept], Awaitable[None]]
Run = Callable[..., None]
"""Takes a scenario; optionally another URL than the server's, and the seconds to wait for a reply."""


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A Valkey with one chat in it."""
    binary = valkey_binary()
    assert binary is not None
    server = RedisServer(binary)
    server.start()
    log = Log(server.url)
    try:
        log.set_epoch(0, 1, "here")
        for parent in (Parent(CHAT.token), CHAT):
            log.verify(0, 1, parent, 0, create=True)
        yield server
    finally:
        log.close()
        server.remove()


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def run_loop(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Runs a coroutine, on each kind of event loop."""
    run_loop: Callable[..., None] = request.param
    return run_loop


@pytest.fixture(params=[accept_each, accept_messages], ids=["any", "messages"])
def run(request: pytest.FixtureRequest, server: RedisServer, run_loop: Callable[..., None]) -> Run:
    """Runs a scenario of consecutive calls, by each call of the script."""
    return lambda scenario, url=server.url, seconds=PATIENCE_SECONDS: run_loop(
        _run_scenario(url, scenario, seconds, request.param)
    )


async def _run_scenario(
    url: str, scenario: Scenario, seconds: float, accept_batches: AcceptBatches
) -> None:
    log = Log(url, connect_timeout_seconds=seconds, reply_timeout_seconds=seconds)
    accepting = AsyncAcceptClient(log)
    creation = Creation("messages", CHAT, pack_messages(*CHAT, ["a"]))  # type: ignore[arg-type]  # it has a chat

    async def accept() -> AcceptResult:
        (outcome,) = await accept_batches(accepting, [ShardBatch(0, [creation], EntryId(0, 0))])
        return outcome

    try:
        await scenario(accept)
    finally:
        await accepting.close()
        log.close()


def number(outcome: AcceptResult) -> int:
    """The number that was issued."""
    assert isinstance(outcome, AcceptOutcome), outcome
    (given,) = outcome.answers
    assert isinstance(given, Accepted)
    return given.first


def test_a_restart_of_redis_fails_no_call(run: Run, server: RedisServer) -> None:
    """The client notices the end of the old connection before it sends anything."""

    async def scenario(accept: Accept) -> None:
        assert number(await accept()) == 1
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        assert isinstance(await accept(), StaleEpoch)  # the script's own reply, so it ran
        Log(server.url).set_epoch(0, 2, "here")

    run(scenario)


def test_a_call_to_an_unreachable_redis_raises_engine_down(run: Run, server: RedisServer) -> None:
    """Nothing was sent, so nothing was accepted. The next call succeeds as soon as Redis is back."""

    async def scenario(accept: Accept) -> None:
        assert number(await accept()) == 1
        await asyncio.to_thread(server.kill)
        with promised(1):
            assert type(await accept()) is EngineDown
        await asyncio.to_thread(server.start)
        assert isinstance(await accept(), StaleEpoch)

    run(scenario)


def test_a_call_to_a_hanging_redis_is_unconfirmed(run: Run, server: RedisServer) -> None:
    """A reply that comes late must not be taken for the next call's."""

    async def scenario(accept: Accept) -> None:
        assert number(await accept()) == 1
        server.send(signal.SIGSTOP)
        began = time.monotonic()
        outcome = await accept()
        assert type(outcome) is Unconfirmed
        assert 0.9 * ANSWER_SECONDS < time.monotonic() - began < ANSWER_SECONDS + MARGIN_SECONDS
        with promised(ANSWER_SECONDS):
            assert (
                type(await accept()) is EngineDown
            )  # Redis takes no new connection, so this was not sent
        server.send(signal.SIGCONT)
        assert number(await accept()) == 3  # Redis has done what it was sent

    run(scenario, seconds=ANSWER_SECONDS)


def test_a_call_during_which_redis_is_killed_is_unconfirmed(run: Run, server: RedisServer) -> None:
    """Its reply is lost, and the call is not repeated."""

    async def scenario(accept: Accept) -> None:
        assert number(await accept()) == 1
        server.send(signal.SIGSTOP)
        killer = threading.Timer(0.1, server.kill)
        killer.start()
        assert type(await accept()) is Unconfirmed
        killer.join()

    run(scenario)


def test_a_reset_of_an_idle_connection_fails_no_call(run: Run, server: RedisServer) -> None:
    """The client notices it before it sends anything. Load balancers reset connections like this."""
    proxy = Proxy(("127.0.0.1", server.port))

    async def scenario(accept: Accept) -> None:
        assert number(await accept()) == 1
        await asyncio.to_thread(proxy.reset)
        await asyncio.sleep(0.1)
        assert number(await accept()) == 2

    try:
        run(scenario, f"redis://127.0.0.1:{proxy.port}")
    finally:
        proxy.close()


def test_flushed_scripts_are_loaded_again(run: Run, server: RedisServer) -> None:
    """The request succeeds."""

    async def scenario(accept: Accept) -> None:
        for expected in (1, 2, 3):
            server.client().script_flush()
            assert number(await accept()) == expected

    run(scenario)


@pytest.mark.parametrize(
    ("fault", "failure"),
    [('error("at once")', Unconfirmed), ('redis.call("INCR", keys[k])', Failed)],
    ids=["of Lua", "of Redis"],
)
@pytest.mark.parametrize("shards", [(0, 1), (1, 0)])
def test_an_error_in_a_script_affects_only_its_own_shard(
    server: RedisServer,
    fault: str,
    failure: type[Exception],
    shards: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The numbers of the other shard are answered. For the failing one, the result is unknown, or the reason.

    A foreign value is found before the first write.
    """
    server.client().hset("instachat:{1}:epoch", "a", 1)  # so that INCR fails
    begin = "local function issue(batch, k, a)\n"
    assert begin in SCRIPTS["accept"]
    broken = SCRIPTS["accept"].replace(
        begin, begin + f'if keys[k] == "instachat:{{1}}:epoch" then {fault} end\n'
    )
    monkeypatch.setitem(SCRIPTS, "accept", broken)
    monkeypatch.setitem(SHAS, "accept", hashlib.sha1(broken.encode()).hexdigest())
    creation = Creation("messages", CHAT, pack_messages(CHAT.token, 1, ["a"]))
    batches = [ShardBatch(shard, [creation], EntryId(0, 0)) for shard in shards]

    async def both() -> list[AcceptResult]:
        log = Log(server.url)
        accepting = AsyncAcceptClient(log)
        try:
            return await accept_each(accepting, batches)
        finally:
            await accepting.close()
            log.close()

    outcomes = dict(zip(shards, asyncio.run(both()), strict=True))
    assert number(outcomes[0]) == 1
    assert type(outcomes[1]) is failure
    outcomes = dict(zip(shards, Log(server.url).accept_each(batches), strict=True))
    assert number(outcomes[0]) == 2
    assert type(outcomes[1]) is failure


def test_no_async_client_is_made_for_options_that_it_does_not_support(server: RedisServer) -> None:
    """For a TLS option that only the synchronous client supports, threads accept with that client."""

    async def made(url: str) -> int:
        log = Log(url)
        try:
            return len(make_async_clients(log, 2))
        finally:
            log.close()

    assert asyncio.run(made(server.url)) == 2
    assert asyncio.run(made("rediss://127.0.0.1:1?ssl_validate_ocsp=true")) == 0
