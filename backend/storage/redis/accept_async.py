"""Accepting from an event loop: calls the same script, over a connection of its own.

Beside a busy event loop, a thread that waits for Redis must take Python's global lock from the loop for every
reply, and give it back; docs/architecture.md has the measured cost.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

import hiredis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout
from redis.maint_notifications import MaintNotificationsConfig

from backend.domain.errors import EngineDown, InstaChatError
from backend.storage.redis.accept import AcceptCalls
from backend.storage.redis.script_loader import SCRIPTS
from backend.storage.redis.types import AcceptResult, ShardBatch

_INCOMPLETE: Final = object()
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
        self._replies: _ReplyProtocol | None = None

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
                load = _pack(("SCRIPT", "LOAD", SCRIPTS["accept"]))
                await self._exchange(await self._connect(), load)
        try:
            return await self._call(call)
        except NoScriptError:
            raise EngineDown(
                "Redis does not keep the program's scripts; nothing was accepted"
            ) from None

    async def _call(self, call: bytes) -> Sequence[Any]:
        log = self._log
        with log.translate_errors():
            replies = await self._connect()
        with log.unconfirmed_on_lost_reply(), log.translate_errors():
            found: Sequence[Any] = await self._exchange(replies, call)
        return found

    async def _connect(self) -> "_ReplyProtocol":
        """Connect unless the connection is open and has received nothing but replies."""
        if self._replies and self._replies.is_usable:
            return self._replies
        connection = self._connection
        await connection.disconnect(nowait=True)
        try:
            async with asyncio.timeout(self._log.reply_timeout_seconds):
                await connection.connect()
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise RedisTimeout("it did not answer in time") from None
        except BaseException:
            await connection.disconnect(nowait=True)  # a reply to the handshake may still come
            raise
        self._replies = _ReplyProtocol(connection._writer.transport, connection._parser.parse_error)
        return self._replies

    async def _exchange(self, replies: "_ReplyProtocol", call: bytes) -> Any:
        """Redis's reply; raises its error."""
        try:
            reply = await replies.call(call, self._log.reply_timeout_seconds)
        except BaseException as error:
            await self._connection.disconnect(nowait=True)  # a reply may still come
            if isinstance(
                error, RuntimeError
            ):  # uvloop's, for a connection that breaks during the call
                raise RedisAway(str(error)) from error
            raise
        if isinstance(reply, Exception):
            raise reply
        return reply


class _ReplyProtocol(asyncio.Protocol):
    """Receives the replies of a connection that is open, one at a time.

    It takes the place of the client library's stream, which takes three times as long for a call.
    """

    def __init__(
        self, transport: asyncio.Transport, parse_error: Callable[[str], Exception]
    ) -> None:
        self.is_usable = True
        """Whether the connection is open, and everything received was the reply to a call that waited."""
        self._transport = transport
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=parse_error, notEnoughData=_INCOMPLETE
        )
        self._loop = asyncio.get_running_loop()
        self._awaited: asyncio.Future[Any] | None = None
        transport.set_protocol(self)

    async def call(self, call: bytes, timeout_seconds: float) -> Any:
        """Send a command; returns its reply, also if that is an error. Not usable after an exception."""
        self._awaited = self._loop.create_future()
        timer = self._loop.call_later(
            timeout_seconds, self._fail, RedisTimeout("it did not answer in time")
        )
        try:
            self._transport.write(call)
            return await self._awaited
        except BaseException:
            self.is_usable = False
            raise
        finally:
            timer.cancel()
            self._awaited = None

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if self._awaited is None or self._awaited.done():
                    self.is_usable = False
                else:
                    self._awaited.set_result(reply)
        except InvalidResponse as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._fail(RedisAway(str(exc) if exc else "Redis closed the connection"))

    def _fail(self, error: Exception) -> None:
        self.is_usable = False
        if self._awaited and not self._awaited.done():
            self._awaited.set_exception(error)


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


def _pack(command: tuple[str | int | bytes, ...]) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub allows tuples of one only
    return packed
