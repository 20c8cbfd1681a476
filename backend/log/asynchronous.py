"""Accepting from an event loop: the same call of the same script, awaited on a connection of its own.

A thread that waits for Redis beside a busy loop has to get Python's lock back from it for every answer, and
hands it over again. Without that thread a server process accepts half as many again, and the slowest answers
come in a third of the time (`instachat bench ceilings http`).
"""

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

import hiredis
import redis.asyncio
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeout

from backend.errors import InstaChatError
from backend.log.accepting import AcceptCalls, outcome_of
from backend.log.shapes import Creation, LifeLost, Outcome

T = TypeVar("T")


class AsyncAccepting:
    """Accepts in a single Redis, one call of `accept_each` at a time. For one event loop."""

    def __init__(self, log: AcceptCalls) -> None:
        """`log` is `at_one_server`: neither a cluster nor with replicas to wait for."""
        self._log = log
        self._connection = redis.asyncio.ConnectionPool.from_url(
            log.url, socket_connect_timeout=log.connect_seconds, socket_timeout=None
        ).make_connection()

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.disconnect(nowait=True)

    async def accept_each(
        self, batches: Sequence[tuple[int, Sequence[Creation], Any]]
    ) -> list[Outcome | InstaChatError | LifeLost]:
        """See `AcceptCalls.accept_each`."""
        try:
            replies = await self._ask(batches)
        except InstaChatError as error:
            return [error] * len(batches)
        outcomes: list[Outcome | InstaChatError | LifeLost] = []
        for batch, reply in zip(batches, replies, strict=True):
            if isinstance(reply, NoScriptError):  # nothing ran; Redis has forgotten its scripts
                self._log.forget_script()
                outcomes += await self.accept_each([batch])
            else:
                outcomes.append(outcome_of(self._log.url, batch[0], reply))
        return outcomes

    async def _ask(self, batches: Sequence[tuple[int, Sequence[Creation], Any]]) -> list[Any]:
        log = self._log
        if not log.is_prepared:
            await asyncio.to_thread(log.prepare)
        log.refuse_if_full()
        calls = [
            hiredis.pack_command(log.accept_command(*batch))  # type: ignore[arg-type]  # tuples of one, its stub says
            for batch in batches
        ]
        with log.in_our_words():
            await _in_time(self._connect(), log.answer_seconds)
        with log.or_unconfirmed(), log.in_our_words():
            return await _in_time(self._exchange(calls), log.answer_seconds)

    async def _connect(self) -> None:
        """Have a connection that nothing is left to be read from, as its end would be."""
        try:
            if self._connection.is_connected and await self._connection.can_read():
                await self._connection.disconnect(nowait=True)
            if not self._connection.is_connected:
                await self._connection.connect()
        except BaseException:
            await self._connection.disconnect(nowait=True)  # greeted, and perhaps not answered yet
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
        except BaseException:
            await self._connection.disconnect(nowait=True)  # an answer may still be under way
            raise
        return replies


async def _in_time(awaited: Awaitable[T], seconds: float) -> T:
    """What comes of it; the error that redis-py would raise if it takes longer."""
    try:
        async with asyncio.timeout(seconds):
            return await awaited
    except TimeoutError:
        raise RedisTimeout("it does not answer in time") from None
