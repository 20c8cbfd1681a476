"""Accepting from an event loop: calls the same script, over a connection of its own.

Beside a busy event loop, a thread that waits for Redis must take Python's global lock from the loop for every
reply, and give it back; docs/architecture.md has the measured cost.
"""

import asyncio
import logging
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import hiredis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.maint_notifications import MaintNotificationsConfig

from backend.domain.errors import EngineDown, InstaChatError
from backend.storage.redis.accept import AcceptCalls, parse_accept_reply
from backend.storage.redis.script_loader import SCRIPTS
from backend.storage.redis.types import AcceptResult, ShardBatch

T = TypeVar("T")
logger = logging.getLogger(__name__)


class AsyncAcceptClient:
    """Accepts in a single Redis, one call of `accept_each` at a time. For one event loop only."""

    def __init__(self, log: AcceptCalls) -> None:
        """`log` must be `is_single_server`: no cluster, and no replicas to wait for."""
        self._log = log
        self._connection = redis.asyncio.ConnectionPool.from_url(
            log.url,
            socket_connect_timeout=log.connect_timeout_seconds,
            socket_timeout=None,
            # This connection must receive nothing but replies.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        ).make_connection()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)

    async def accept_each(self, batches: Sequence[ShardBatch]) -> list[AcceptResult]:
        """See `AcceptCalls.accept_each`."""
        try:
            replies = await self._send(batches)
        except InstaChatError as error:
            return [error] * len(batches)
        unloaded = [
            place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)
        ]
        if unloaded:  # nothing of these ran: a new or restarted Redis has no scripts
            for place, reply in zip(
                unloaded,
                await self._load_and_resend([batches[place] for place in unloaded]),
                strict=True,
            ):
                replies[place] = reply
        return [
            reply
            if isinstance(reply, InstaChatError)
            else parse_accept_reply(self._log.url, batch[0], reply)
            for batch, reply in zip(batches, replies, strict=True)
        ]

    async def _load_and_resend(self, batches: Sequence[ShardBatch]) -> list[Any]:
        """The replies after the script was loaded; EngineDown for each if Redis does not keep the script."""
        log = self._log
        try:
            load = hiredis.pack_command(("SCRIPT", "LOAD", SCRIPTS["accept"]))  # type: ignore[arg-type]  # its stub allows tuples of one only
            with log.translate_errors():
                await _with_timeout(self._exchange([load]), log.reply_timeout_seconds)
            replies = await self._send(batches)
        except InstaChatError as error:
            return [error] * len(batches)
        script_lost = EngineDown("Redis does not keep the program's scripts; nothing was accepted")
        return [script_lost if isinstance(reply, NoScriptError) else reply for reply in replies]

    async def _send(self, batches: Sequence[ShardBatch]) -> list[Any]:
        """Redis's reply or error for each."""
        log = self._log
        if not log.has_fresh_memory_reading:
            await asyncio.to_thread(log.read_memory)
        log.raise_if_full()
        calls = [
            hiredis.pack_command(log.accept_command(*batch))  # type: ignore[arg-type]  # as above
            for batch in batches
        ]
        with log.translate_errors():
            await _with_timeout(self._ensure_connected(), log.reply_timeout_seconds)
        with log.unconfirmed_on_lost_reply(), log.translate_errors():
            return await _with_timeout(self._exchange(calls), log.reply_timeout_seconds)

    async def _ensure_connected(self) -> None:
        """Connect unless the connection is open and has no unread data."""
        connection = self._connection
        try:
            if connection.is_connected and (
                connection._writer.is_closing()  # `can_read` does not notice a reset
                or await connection.can_read()
            ):
                await connection.disconnect(nowait=True)
            if not connection.is_connected:
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)  # a reply to the handshake may still come
            raise

    async def _exchange(self, calls: Sequence[bytes]) -> list[Any]:
        replies: list[Any] = []
        try:
            await self._connection.send_packed_command(calls, check_health=False)
            for _ in calls:
                try:
                    replies.append(await self._connection.read_response())
                except ResponseError as error:
                    replies.append(error)
        except BaseException as error:
            await self._connection.disconnect(nowait=True)  # a reply may still come
            if isinstance(
                error, RuntimeError
            ):  # uvloop's, for a connection that breaks during the call
                raise RedisAway(str(error)) from error
            raise
        return replies


def make_async_clients(log: AcceptCalls, count: int) -> list[AsyncAcceptClient]:
    """So many clients, which accept at the same time; none if threads must accept instead.

    Threads accept with a cluster, with replicas to wait for, and with options in Redis's URL that only the
    synchronous client supports.
    """
    if not log.is_single_server:
        return []
    try:
        return [AsyncAcceptClient(log) for _ in range(count)]
    except (TypeError, ValueError) as error:
        logger.warning(
            "accepting in threads, because the asynchronous Redis client can't: %s", error
        )
        return []


async def _with_timeout(awaited: Awaitable[T], seconds: float) -> T:
    """The result; raises redis-py's own time-out error if it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError:
        raise RedisTimeout("it did not answer in time") from None
