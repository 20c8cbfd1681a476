"""Accepting from an event loop, awaited."""

import asyncio
from collections.abc import Sequence
from typing import Any

from backend.storage.redis.accept_async import AsyncAcceptClient
from backend.storage.redis.types import AcceptResult, ShardBatch


async def accept_each(
    client: AsyncAcceptClient, batches: Sequence[ShardBatch]
) -> list[AcceptResult]:
    """What `accept_soon` gives."""
    received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    client.accept_soon(batches, received.set_result)
    results: list[AcceptResult] | Exception = await received
    if isinstance(results, Exception):
        raise results
    return results
