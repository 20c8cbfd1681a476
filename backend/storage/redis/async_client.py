"""One connection to a Redis, or to a node of a cluster, on an event loop.

Beside a busy event loop, a thread that waits for Redis must take Python's global lock from the loop for every
reply, and give it back; docs/architecture.md has the measured cost.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import hiredis
import redis.asyncio
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import InvalidResponse
from redis.exceptions import TimeoutError as RedisTimeout
from redis.maint_notifications import MaintNotificationsConfig

from backend.storage.redis.client import RedisClient
from backend.storage.redis.connection import NodeAddress, node_url

ReceiveReplies = Callable[[list[Any] | Exception], object]
"""Takes the replies to all commands that were sent together, or the error that ended the waiting for them."""
_INCOMPLETE: Final = object()


def pack_command(command: tuple[str | int | bytes, ...]) -> bytes:
    """A command as it is sent."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub allows tuples of one only
    return packed


class AsyncClient:
    """The base of the calls from an event loop: one exchange at a time. For one event loop only."""

    def __init__(self, client: RedisClient, node: NodeAddress | None = None) -> None:
        """On the server of a client, or on this node of its cluster.

        Raises TypeError or ValueError for options that only that client has.
        """
        self._client = client
        self._connection = redis.asyncio.ConnectionPool.from_url(
            node_url(client.url, node) if node else client.url,
            socket_connect_timeout=client.connect_timeout_seconds,
            socket_timeout=None,
            # This connection must receive nothing but replies.
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        ).make_connection()
        self._replies: ReplyProtocol | None = None

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)

    async def connect(self) -> "ReplyProtocol":
        """Connect unless the connection is open and has received nothing but replies."""
        if self._replies and self._replies.is_usable:
            return self._replies
        connection = self._connection
        await connection.disconnect(nowait=True)
        try:
            async with asyncio.timeout(self._client.reply_timeout_seconds):
                await connection.connect()
        except TimeoutError:
            await connection.disconnect(nowait=True)
            raise RedisTimeout("it did not answer in time") from None
        except BaseException:
            await connection.disconnect(nowait=True)  # a reply to the handshake may still come
            raise
        self._replies = ReplyProtocol(connection._writer.transport, connection._parser.parse_error)
        return self._replies

    async def exchange(self, replies: "ReplyProtocol", call: bytes) -> Any:
        """Redis's reply; raises its error."""
        (reply,) = await self.exchange_all(replies, [call])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def exchange_all(self, replies: "ReplyProtocol", calls: Sequence[bytes]) -> list[Any]:
        """Redis's reply, or its error, to each call; all calls are sent together."""
        try:
            return await replies.call(calls, self._client.reply_timeout_seconds)
        except BaseException:
            await self._connection.disconnect(nowait=True)  # a reply may still come
            raise


class ReplyProtocol(asyncio.Protocol):
    """Receives the replies of a connection that is open, those of one exchange at a time.

    It takes the place of the client library's stream, which takes three times as long for a call.
    """

    def __init__(
        self, transport: asyncio.Transport, parse_error: Callable[[str], Exception]
    ) -> None:
        self._transport = transport
        self._failed = False
        self._reader = hiredis.Reader(
            protocolError=InvalidResponse, replyError=parse_error, notEnoughData=_INCOMPLETE
        )
        self._loop = asyncio.get_running_loop()
        self._receive: ReceiveReplies | None = None  # takes the replies that are awaited
        self._timer: asyncio.TimerHandle
        self._calls = 0  # whose replies are awaited together
        self._received: list[Any] = []
        transport.set_protocol(self)

    @property
    def is_usable(self) -> bool:
        """Whether the connection is open, and everything received was the reply to a call that waited."""
        # A connection that was reset is closing at once; `connection_lost` follows later.
        return not (self._failed or self._transport.is_closing())

    async def call(self, calls: Sequence[bytes], timeout_seconds: float) -> list[Any]:
        """Send commands; returns their replies, also if those are errors. Not usable after an exception."""
        received: asyncio.Future[list[Any]] = self._loop.create_future()
        self.send(calls, timeout_seconds, partial(_resolve, received))
        try:
            return await received
        except BaseException:
            self._failed = True
            raise

    def send(self, calls: Sequence[bytes], timeout_seconds: float, receive: ReceiveReplies) -> None:
        """Send commands; `receive` gets their replies as soon as the last one is here, and must not raise.

        If the connection or the time ends before, it gets that error, and this is not usable any more.
        """
        self._receive, self._calls, self._received = receive, len(calls), []
        self._timer = self._loop.call_later(
            timeout_seconds, self._fail, RedisTimeout("it did not answer in time")
        )
        try:
            self._transport.write(b"".join(calls))
        except RuntimeError as error:  # uvloop's, for a connection that breaks at this moment
            self._loop.call_soon(self._fail, RedisAway(str(error)))

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        try:
            self._reader.feed(data)
            while (reply := self._reader.gets()) is not _INCOMPLETE:
                if self._receive is None or len(self._received) == self._calls:
                    self._failed = True
                else:
                    self._received.append(reply)
        except InvalidResponse as error:
            self._fail(error)
        if self._receive and len(self._received) == self._calls:
            self._finish(self._received)

    def eof_received(self) -> None:
        """See asyncio.Protocol. `connection_lost` would follow later, after the next call was sent."""
        self._fail(RedisAway("Redis closed the connection"))

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._fail(RedisAway(str(exc) if exc else "Redis closed the connection"))

    def _fail(self, error: Exception) -> None:
        self._failed = True
        if self._receive:
            self._transport.abort()  # a reply may still come
            self._finish(error)

    def _finish(self, received: list[Any] | Exception) -> None:
        receive, self._receive = self._receive, None
        self._timer.cancel()
        assert receive
        receive(received)


def _resolve(future: asyncio.Future[list[Any]], received: list[Any] | Exception) -> None:
    if future.done():  # the task was cancelled
        return
    if isinstance(received, Exception):
        future.set_exception(received)
    else:
        future.set_result(received)
