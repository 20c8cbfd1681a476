"""Accepting from an event loop: calls the same script, over a connection of its own."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, ResponseError

from backend.domain.errors import InstaChatError
from backend.storage.redis.accept import AcceptCalls
from backend.storage.redis.async_client import AsyncClient, pack_command
from backend.storage.redis.errors import scripts_missing_error
from backend.storage.redis.script_loader import SCRIPTS
from backend.storage.redis.types import AcceptResult, ShardBatch

logger = logging.getLogger(__name__)


class AsyncAcceptClient(AsyncClient):
    """Accepts in a single Redis, one call of `accept_each` at a time. For one event loop only."""

    def __init__(self, log: AcceptCalls) -> None:
        """`log` must be `is_single_server`: no cluster, and no replicas to wait for."""
        super().__init__(log)
        self._log = log

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
        call = pack_command(log.accept_command(batches))
        try:
            return await self._call(call)
        except NoScriptError:  # nothing ran: a new or restarted Redis has no scripts
            with log.translate_errors():
                load = pack_command(("SCRIPT", "LOAD", SCRIPTS["accept"]))
                await self.exchange(await self.connect(), load)
        try:
            return await self._call(call)
        except NoScriptError:
            raise scripts_missing_error() from None

    async def _call(self, call: bytes) -> Sequence[Any]:
        log = self._log
        with log.translate_errors():
            replies = await self.connect()
        with log.unconfirmed_on_lost_reply(), log.translate_errors():
            found: Sequence[Any] = await self.exchange(replies, call)
        return found


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
