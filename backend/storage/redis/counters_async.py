"""Reading counters from an event loop: those of many requests in one round trip."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from redis.exceptions import AskError

from backend.domain.errors import NodeDown
from backend.domain.model import Parent
from backend.storage.redis.async_client import AsyncClient, pack_command
from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.counters import CounterCalls, Issued, applications_of
from backend.storage.redis.keys import counter_key, shard_key
from backend.storage.redis.script_loader import SHAS

MAX_COUNTERS = 500  # of one call of the script, during which Redis does nothing else
logger = logging.getLogger(__name__)


class CounterClient(Protocol):
    """Reads counters for an event loop, one call at a time."""

    async def read_issued(self, parents: Mapping[int, Sequence[Parent]]) -> Issued:
        """As `CounterCalls.read_issued_each`."""

    async def close(self) -> None:
        """Close the connection."""


class AsyncCounterClient(AsyncClient):
    """Reads counters of a single Redis, or of a node of a cluster. For one event loop only."""

    def __init__(self, log: CounterCalls, node: NodeAddress | None = None) -> None:
        """See AsyncClient."""
        super().__init__(log, node)
        self._log = log

    async def read_issued(self, parents: Mapping[int, Sequence[Parent]]) -> Issued:
        """See CounterClient. Also None where Redis does not have the script yet, or redirects the call."""
        chunks = list(_chunks(parents))
        calls = [pack_command(_command(shard, chunk)) for shard, chunk in chunks]
        try:
            with self._log.translate_errors():
                replies = await self.exchange_all(await self.connect(), calls)
        except NodeDown:
            self._log.refresh_nodes()  # a replica may have taken over
            raise
        if any(isinstance(reply, AskError) for reply in replies):  # or MovedError
            self._log.refresh_nodes()
        issued: Issued = {}
        for (_, chunk), reply in zip(chunks, replies, strict=True):
            issued.update(zip(chunk, _numbers(reply, len(chunk)), strict=True))
        return issued


class ThreadCounterClient:
    """Reads counters by a thread: for what an AsyncCounterClient can't do."""

    def __init__(self, log: CounterCalls) -> None:
        self._log = log
        self._thread = ThreadPoolExecutor(1, "count")

    async def read_issued(self, parents: Mapping[int, Sequence[Parent]]) -> Issued:
        """See CounterClient."""
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._log.read_issued_each, parents
        )

    async def close(self) -> None:
        """End the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def make_async_counter_client(log: CounterCalls, node: NodeAddress | None = None) -> CounterClient:
    """A client of a server or a node; one with a thread for options that the asynchronous one lacks."""
    try:
        return AsyncCounterClient(log, node)
    except (TypeError, ValueError) as error:
        logger.warning(
            "reading counters in a thread, because the asynchronous Redis client can't: %s", error
        )
        return ThreadCounterClient(log)


def _chunks(parents: Mapping[int, Sequence[Parent]]) -> Iterator[tuple[int, Sequence[Parent]]]:
    for shard, of_shard in parents.items():
        for start in range(0, len(of_shard), MAX_COUNTERS):
            yield shard, of_shard[start : start + MAX_COUNTERS]


def _command(shard: int, parents: Sequence[Parent]) -> tuple[str | int, ...]:
    keys = [counter_key(shard, parent) for parent in [*parents, *applications_of(parents)]]
    count = len(keys) + 1
    return (
        *("EVALSHA", SHAS["read_issued"], count, shard_key(shard, "epoch")),
        *keys,
        len(parents),
    )


def _numbers(reply: Any, count: int) -> list[int | None]:
    """The numbers in a reply of the script; None for each if it has none."""
    if isinstance(reply, Exception) or reply[0] != b"ok":
        return [None] * count
    return [None if value is None else int(value) for value in reply[3]]
