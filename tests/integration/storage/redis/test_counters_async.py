"""Reading counters from an event loop: the same numbers as from a thread, and None where SQL is needed."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest
import uvloop

from backend.bootstrap import Backend
from backend.domain.errors import EngineDown
from backend.domain.model import Parent
from backend.ingest.requests import AcceptRequest
from backend.storage.redis.counters import Issued
from backend.storage.redis.counters_async import (
    MAX_COUNTERS,
    AsyncCounterClient,
    ThreadCounterClient,
    make_async_counter_client,
)
from backend.storage.redis.log import Log

ReadBoth = Callable[[Mapping[int, Sequence[Parent]]], Issued]


@pytest.fixture(params=[asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def read_both(request: pytest.FixtureRequest, backend: Backend) -> ReadBoth:
    """Reads counters on an event loop, and by a thread; returns what both have found."""

    async def read(parents: Mapping[int, Sequence[Parent]]) -> Issued:
        client = AsyncCounterClient(backend.log)
        try:
            return await client.read_issued(parents)
        finally:
            await client.close()

    def both(parents: Mapping[int, Sequence[Parent]]) -> Issued:
        found = backend.log.read_issued_each(parents)  # loads the script, too
        assert request.param(read(parents)) == found
        return found

    return both


def test_counters_of_several_shards_are_read(backend: Backend, read_both: ReadBoth) -> None:
    """More than one call of the script reads; None for those that are not verified."""
    parents: dict[int, list[Parent]] = {}
    for chats in range(1, 5):
        token = backend.catalog.applications.create("x").token
        backend.acceptor.accept(AcceptRequest.chats(token, chats))
        parents.setdefault(backend.counters.shard(token), []).append(Parent(token))
        backend.drainer.drain_all()
    shard, (first, *_) = next(iter(parents.items()))
    unknown = [Parent(first.token, number) for number in range(5, MAX_COUNTERS + 10)]
    parents[shard] += unknown
    found = read_both(parents)
    assert sorted(number for number in found.values() if number) == [1, 2, 3, 4]
    assert [found[parent] for parent in unknown] == [None] * len(unknown)


def test_a_shard_without_an_epoch_has_no_numbers(
    backend: Backend, application: str, read_both: ReadBoth
) -> None:
    """As after a loss of Redis's data: the ordinary route begins an epoch."""
    shard = backend.counters.shard(application)
    assert read_both({shard: [Parent(application)]}) == {Parent(application): 0}
    backend.log.redis.delete(backend.log.key(shard, "epoch"))
    assert read_both({shard: [Parent(application)]}) == {Parent(application): None}


def test_without_the_script_there_are_no_numbers(backend: Backend, application: str) -> None:
    """After a restart of Redis, until a thread has loaded it."""
    parents = {backend.counters.shard(application): [Parent(application)]}

    async def scenario() -> None:
        client = AsyncCounterClient(backend.log)
        backend.log.read_issued_each(parents)
        backend.log.redis.script_flush()
        assert await client.read_issued(parents) == {Parent(application): None}
        backend.log.read_issued_each(parents)
        assert await client.read_issued(parents) == {Parent(application): 0}
        await client.close()

    asyncio.run(scenario())


def test_without_redis_reading_fails(
    backend: Backend, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every call of Redis does."""
    monkeypatch.setattr(backend.log, "url", "redis://127.0.0.1:1")

    async def scenario() -> None:
        client = AsyncCounterClient(backend.log)
        with pytest.raises(EngineDown):
            await client.read_issued({0: [Parent(application)]})
        await client.close()

    asyncio.run(scenario())


def test_options_that_only_the_synchronous_client_has_are_read_by_a_thread() -> None:
    """A URL that accept can use must not make reads fail."""

    async def made(url: str) -> type:
        client = make_async_counter_client(Log(url))
        await client.close()
        return type(client)

    assert asyncio.run(made("redis://127.0.0.1:1")) is AsyncCounterClient
    with_ocsp = "rediss://127.0.0.1:1?ssl_validate_ocsp=true"
    assert asyncio.run(made(with_ocsp)) is ThreadCounterClient
