"""Accepting from an event loop: the same call of the same script, awaited on a connection of its own.

A thread that waits for Redis beside a busy loop has to get Python's lock back from it for every answer, and
hands it over again; docs/architecture.md has what that cost.
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
from backend.storage.redis.accept import AcceptCalls, parse_outcome
from backend.storage.redis.script_loader import SCRIPTS
from backend.storage.redis.types import Outcome, ShardBatch, StaleEpoch

T = TypeVar("T")
logger = logging.getLogger(__name__)


class AsyncAcceptClient:
    """Accepts in a single Redis, one call of `accept_each` at a time. For one event loop."""

    def __init__(self, log: AcceptCalls) -> None:
        """`log` is `is_single_server`: neither a cluster nor with replicas to wait for."""
        self._log = log
        self._connection = redis.asyncio.ConnectionPool.from_url(
            log.url,
            socket_connect_timeout=log.connect_timeout_seconds,
            socket_timeout=None,
            # Nothing but answers may come by this connection.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        ).make_connection()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)

    async def accept_each(
        self, batches: Sequence[ShardBatch]
    ) -> list[Outcome | InstaChatError | StaleEpoch]:
        """See `AcceptCalls.accept_each`."""
        try:
            replies = await self._send(batches)
        except InstaChatError as error:
            return [error] * len(batches)
        unloaded = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if unloaded:  # nothing of these ran: a new or restarted Redis does not know its scripts
            for at, reply in zip(
                unloaded, await self._load_and_resend([batches[at] for at in unloaded]), strict=True
            ):
                replies[at] = reply
        return [
            reply
            if isinstance(reply, InstaChatError)
            else parse_outcome(self._log.url, batch[0], reply)
            for batch, reply in zip(batches, replies, strict=True)
        ]

    async def _load_and_resend(self, batches: Sequence[ShardBatch]) -> list[Any]:
        """What Redis answers once it was told the script; EngineDown where it does not keep it."""
        log = self._log
        try:
            load = hiredis.pack_command(("SCRIPT", "LOAD", SCRIPTS["accept"]))  # type: ignore[arg-type]  # as below
            with log.translate_errors():
                await _with_timeout(self._exchange([load]), log.reply_timeout_seconds)
            replies = await self._send(batches)
        except InstaChatError as error:
            return [error] * len(batches)
        script_lost = EngineDown("Redis forgets the program's scripts; nothing was accepted")
        return [script_lost if isinstance(reply, NoScriptError) else reply for reply in replies]

    async def _send(self, batches: Sequence[ShardBatch]) -> list[Any]:
        """Redis's answer or error for each."""
        log = self._log
        if not log.has_fresh_memory_reading:
            await asyncio.to_thread(log.read_memory)
        log.raise_if_full()
        calls = [
            hiredis.pack_command(log.accept_command(*batch))  # type: ignore[arg-type]  # tuples of one, its stub says
            for batch in batches
        ]
        with log.translate_errors():
            await _with_timeout(self._ensure_connected(), log.reply_timeout_seconds)
        with log.unconfirmed_on_lost_reply(), log.translate_errors():
            return await _with_timeout(self._exchange(calls), log.reply_timeout_seconds)

    async def _ensure_connected(self) -> None:
        """Have a connection that was not broken meanwhile, and has nothing left to be read from it."""
        connection = self._connection
        try:
            if connection.is_connected and (
                connection._writer.is_closing()  # `can_read` does not see a reset
                or await connection.can_read()
            ):
                await connection.disconnect(nowait=True)
            if not connection.is_connected:
                await connection.connect()
        except BaseException:
            await connection.disconnect(nowait=True)  # greeted, and perhaps not answered yet
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
            await self._connection.disconnect(nowait=True)  # an answer may still be under way
            if isinstance(error, RuntimeError):  # uvloop's, of a connection that is just breaking
                raise RedisAway(str(error)) from error
            raise
        return replies


def make_async_clients(log: AcceptCalls, count: int) -> list[AsyncAcceptClient]:
    """So many, which accept at the same time; none where a thread has to do it.

    That is for a cluster, for replicas to wait for, and for options in Redis's URL that only the synchronous
    client knows.
    """
    if not log.is_single_server:
        return []
    try:
        return [AsyncAcceptClient(log) for _ in range(count)]
    except (TypeError, ValueError) as error:
        logger.warning("a thread accepts, as this client of Redis can't: %s", error)
        return []


async def _with_timeout(awaited: Awaitable[T], seconds: float) -> T:
    """What comes of it; the error that redis-py would raise if it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError:
        raise RedisTimeout("it does not answer in time") from None
