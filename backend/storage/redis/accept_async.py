"""Accepting from an event loop: calls the same script, over a connection of its own."""

import logging
from collections.abc import Sequence
from typing import Any

from redis.exceptions import AskError, NoScriptError, ResponseError

from backend.domain.errors import InstaChatError
from backend.storage.redis.accept import AcceptCalls
from backend.storage.redis.async_client import AsyncClient, ReplyProtocol, pack_command
from backend.storage.redis.client import text
from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.errors import scripts_missing_error
from backend.storage.redis.readiness import INFO_COMMAND
from backend.storage.redis.replicas import ReplicaWait
from backend.storage.redis.script_loader import SCRIPTS
from backend.storage.redis.types import AcceptOutcome, AcceptResult, ShardBatch, ShardMoved

logger = logging.getLogger(__name__)


class AsyncAcceptClient(AsyncClient):
    """Accepts in a single Redis, or in a node of a cluster, one call of `accept_each` at a time.

    For one event loop only.
    """

    def __init__(self, log: AcceptCalls, node: NodeAddress | None = None) -> None:
        """See AsyncClient."""
        super().__init__(log, node)
        self._log = log
        self._node = node
        self._server = f"{node.host}:{node.port}" if node else ""

    async def accept_each(self, batches: Sequence[ShardBatch]) -> list[AcceptResult]:
        """See `AcceptCalls.accept_each`; of a node, also ShardMoved for a shard that is not only there.

        Under `strict` this is one fsync. Everything is sent together.
        """
        log = self._log
        # A node of a cluster runs a script on the keys of one shard only.
        groups = [[batch] for batch in batches] if self._node else [batches]
        try:
            replies = await self._send(
                [pack_command(log.accept_command(group)) for group in groups]
            )
        except (InstaChatError, ResponseError) as error:
            replies = [error] * len(groups)
        results: list[AcceptResult] = []
        for group, reply in zip(groups, replies, strict=True):
            results += log.accept_results(
                group, [reply] * len(group) if isinstance(reply, Exception) else reply
            )
        if self._node and not all(isinstance(result, AcceptOutcome) for result in results):
            log.refresh_nodes()
        return results

    async def _send(self, calls: Sequence[bytes]) -> list[Any]:
        """The script's reply to each call, or the error that it means. Raises if no reply is known."""
        log = self._log
        if not log.has_fresh_reading(self._server):
            with log.translate_errors():
                command = pack_command(INFO_COMMAND)
                info = text(await self.exchange(await self.connect(), command))
            fields = dict(line.partition(":")[::2] for line in info.splitlines())
            log.record_info(fields, self._server)
        log.raise_unless_ready(self._server)
        replies = await self._call(calls)
        missed = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missed:  # nothing ran: a new or restarted Redis has no scripts
            with log.translate_errors():
                load = pack_command(("SCRIPT", "LOAD", SCRIPTS["accept"]))
                await self.exchange(await self.connect(), load)
            again = await self._call([calls[place] for place in missed])
            for place, reply in zip(missed, again, strict=True):
                replies[place] = _kept_script(reply)
        return replies

    async def _call(self, calls: Sequence[bytes]) -> list[Any]:
        log = self._log
        with log.translate_errors():
            connection = await self.connect()
        with log.unconfirmed_on_lost_reply(), log.translate_errors():
            replies = await self.exchange_all(connection, calls)
        if log.replica_wait and not all(isinstance(reply, Exception) for reply in replies):
            waited = await self._wait_for_replicas(connection, log.replica_wait)
            replies = [
                reply if isinstance(reply, Exception) else log.replica_wait.confirmed(reply, waited)
                for reply in replies
            ]
        return [self._meaning(reply) for reply in replies]

    async def _wait_for_replicas(
        self, connection: ReplyProtocol, wait: ReplicaWait
    ) -> Sequence[Any]:
        """The replies to `wait.commands`; none if they are lost."""
        try:
            with self._log.translate_errors():
                return await self.exchange_all(connection, list(map(pack_command, wait.commands)))
        except InstaChatError:
            return ()

    def _meaning(self, reply: Any) -> Any:
        """The reply, or the error that it means; NOSCRIPT stays as it is."""
        if not isinstance(reply, Exception) or isinstance(reply, NoScriptError):
            return reply
        if self._node and isinstance(reply, AskError):  # or MovedError
            return ShardMoved()
        try:
            with self._log.unconfirmed_on_lost_reply(), self._log.translate_errors():
                raise reply
        except (InstaChatError, ResponseError) as error:
            return error


def _kept_script(reply: Any) -> Any:
    if isinstance(reply, NoScriptError):
        return scripts_missing_error()
    return reply


def make_async_clients(
    log: AcceptCalls, count: int, node: NodeAddress | None = None
) -> list[AsyncAcceptClient]:
    """So many clients of a server or a node, which accept at the same time; none if threads must accept.

    Threads accept with options in Redis's URL that only the synchronous client supports.
    """
    try:
        return [AsyncAcceptClient(log, node) for _ in range(count)]
    except (TypeError, ValueError) as error:
        logger.warning(
            "accepting in threads, because the asynchronous Redis client can't: %s", error
        )
        return []
