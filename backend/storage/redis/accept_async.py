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
from backend.storage.redis.accept import AcceptCalls
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
        except (InstaChatError, ResponseError) as error:
            replies = [error] * len(batches)
        return self._log.accept_results(batches, replies)

    async def _send(self, batches: Sequence[ShardBatch]) -> Sequence[Any]:
        """The script's replies. Raises Redis's error if it did not run."""
        log = self._log
        if not log.has_fresh_memory_reading:
            await asyncio.to_thread(log.read_memory)
        log.raise_if_full()
        call = _pack(log.accept_command(batches))
        try:
            return await self._call(call)
        except NoScriptError:  # nothing ran: a new or restarted Redis has no scripts
            with log.translate_errors():
                await _with_timeout(
                    self._exchange(_pack(("SCRIPT", "LOAD", SCRIPTS["accept"]))),
                    log.reply_timeout_seconds,
                )
        try:
            return await self._call(call)
        except NoScriptError:
            raise EngineDown(
                "Redis does not keep the program's scripts; nothing was accepted"
            ) from None

    async def _call(self, call: bytes) -> Sequence[Any]:
        log = self._log
        with log.translate_errors():
            await _with_timeout(self._ensure_connected(), log.reply_timeout_seconds)
        with log.unconfirmed_on_lost_reply(), log.translate_errors():
            replies: Sequence[Any] = await _with_timeout(
                self._exchange(call), log.reply_timeout_seconds
            )
        return replies

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

    async def _exchange(self, call: bytes) -> Any:
        """Redis's reply; raises its error."""
        try:
            await self._connection.send_packed_command([call], check_health=False)
            return await self._connection.read_response()
        except ResponseError:  # a reply, and the only one
            raise
        except BaseException as error:
            await self._connection.disconnect(nowait=True)  # a reply may still come
            if isinstance(
                error, RuntimeError
            ):  # uvloop's, for a connection that breaks during the call
                raise RedisAway(str(error)) from error
            raise


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


def _pack(command: tuple[str | int | bytes, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub allows tuples of one only
    return packed
