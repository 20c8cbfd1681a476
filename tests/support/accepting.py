"""Accepting from an event loop, awaited."""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Any

from backend.domain.model import Accepted
from backend.storage.redis.accept import ShardEnd, read_single_messages
from backend.storage.redis.accept_async import AsyncAcceptClient
from backend.storage.redis.types import AcceptOutcome, AcceptResult, ShardBatch, SingleMessages


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


async def accept_messages(
    client: AsyncAcceptClient, batches: Sequence[ShardBatch]
) -> list[AcceptResult]:
    """As `accept_each`, of creations of one message each: by `accept_messages_soon` if it can be called."""
    if not client.can_send_messages:
        return await accept_each(client, batches)
    received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    messages = single_messages(batches)
    answers: list[Any] = [None] * sum(map(len, messages.values()))

    def take_reply(reply: list[Any]) -> bool:
        ends = read_single_messages(messages, reply, answers)
        if ends is not None:
            received.set_result(outcomes(messages, ends, answers))
        return ends is not None

    last_seen = [batch.last_seen for batch in batches]
    client.accept_messages_soon(messages, last_seen, take_reply, received.set_result)
    results: list[AcceptResult] | Exception = await received
    if isinstance(results, Exception):
        raise results
    return results


def single_messages(batches: Sequence[ShardBatch]) -> SingleMessages:
    """The messages of creations of one message each, whose places are their order."""
    place = count()
    return {
        batch.shard: [
            (creation.parent, creation.payloads[0][1], next(place)) for creation in batch.creations
        ]
        for batch in batches
    }


def outcomes(
    messages: SingleMessages, ends: Sequence[ShardEnd], answers: Sequence[Accepted]
) -> list[AcceptOutcome]:
    """What `read_single_messages` has returned and filled in, as the outcomes of `accept_results`."""
    return [
        AcceptOutcome([answers[place] for _, _, place in messages[shard]], end, must_notify)
        for shard, end, must_notify in ends
    ]
