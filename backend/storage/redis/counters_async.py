"""Reading counters from an event loop: those of many requests in one round trip."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from backend.domain.model import Parent
from backend.storage.redis.async_client import AsyncClient, pack_command
from backend.storage.redis.counters import CounterCalls, Issued
from backend.storage.redis.keys import counter_key, shard_key
from backend.storage.redis.script_loader import SHAS

MAX_COUNTERS = 500  # of one call of the script, during which Redis does nothing else
logger = logging.getLogger(__name__)


class AsyncCounterClient(AsyncClient):
    """Reads counters of a single Redis, one call of `read_issued` at a time. For one event loop only."""

    async def read_issued(self, parents: Mapping[int, Sequence[Parent]]) -> Issued:
        """As `CounterCalls.read_issued_each`; also None where Redis does not have the script yet."""
        chunks = list(_chunks(parents))
        calls = [pack_command(_command(shard, chunk)) for shard, chunk in chunks]
        with self._client.translate_errors():
            replies = await self.exchange_all(await self.connect(), calls)
        issued: Issued = {}
        for (_, chunk), reply in zip(chunks, replies, strict=True):
            issued.update(zip(chunk, _numbers(reply, len(chunk)), strict=True))
        return issued


def make_async_counter_client(log: CounterCalls) -> AsyncCounterClient | None:
    """A client; None if threads must read instead: with a cluster, and with options that it lacks."""
    if log.is_cluster:
        return None
    try:
        return AsyncCounterClient(log)
    except (TypeError, ValueError) as error:
        logger.warning(
            "reading counters in a thread, because the asynchronous Redis client can't: %s", error
        )
        return None


def _chunks(parents: Mapping[int, Sequence[Parent]]) -> Iterator[tuple[int, Sequence[Parent]]]:
    for shard, of_shard in parents.items():
        for start in range(0, len(of_shard), MAX_COUNTERS):
            yield shard, of_shard[start : start + MAX_COUNTERS]


def _command(shard: int, parents: Sequence[Parent]) -> tuple[str | int, ...]:
    keys = [counter_key(shard, parent) for parent in parents]
    return ("EVALSHA", SHAS["read_issued"], len(keys) + 1, shard_key(shard, "epoch"), *keys)


def _numbers(reply: Any, count: int) -> list[int | None]:
    """The numbers in a reply of the script; None for each if it has none."""
    if isinstance(reply, Exception) or reply[0] != b"ok":
        return [None] * count
    return [None if value is None else int(value) for value in reply[3]]
