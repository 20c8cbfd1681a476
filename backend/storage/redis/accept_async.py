"""Accepting from an event loop: calls the same script, over a connection of its own."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from redis.exceptions import AskError, NoScriptError, ResponseError

from backend.domain.errors import InstaChatError, Unconfirmed
from backend.domain.model import EntryId
from backend.storage.redis.accept import AcceptCalls, translate_script_error
from backend.storage.redis.appended import split_reply
from backend.storage.redis.async_client import AsyncClient, ReplyProtocol, pack_command
from backend.storage.redis.client import text
from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.errors import (
    is_elsewhere,
    refuses_undeclared_keys,
    scripts_missing_error,
)
from backend.storage.redis.readiness import INFO_COMMAND
from backend.storage.redis.replicas import ReplicaWait
from backend.storage.redis.script_loader import SCRIPTS
from backend.storage.redis.types import (
    AcceptOutcome,
    AcceptResult,
    Creation,
    ShardBatch,
    ShardMoved,
    SingleMessages,
)

ReceiveResults = Callable[[list[AcceptResult] | Exception], object]
"""Takes the results of a call, or what was raised instead."""
TakeReply = Callable[[list[Any]], bool]
"""Takes the reply of a call, and returns whether it has done all that follows from it."""
logger = logging.getLogger(__name__)


class AsyncAcceptClient(AsyncClient):
    """Accepts in a single Redis, or in a node of a cluster, one call of `accept_soon` at a time.

    For one event loop only.
    """

    def __init__(self, log: AcceptCalls, node: NodeAddress | None = None) -> None:
        """See AsyncClient."""
        super().__init__(log, node)
        self._log = log
        self._node = node
        self._server = f"{node.host}:{node.port}" if node else ""
        self._tasks: set[asyncio.Task[None]] = set()

    def accept_soon(self, batches: Sequence[ShardBatch], receive: ReceiveResults) -> None:
        """As `AcceptCalls.accept_each`; of a node, also ShardMoved for a shard that is not only there.

        Everything is sent together: under `strict` this is one fsync. `receive` gets the results, or what is
        raised; it must not raise. If nothing must be awaited first, the call is sent before this returns, and
        `receive` is called when the reply arrives. With a task, both would wait until the event loop has done
        everything else that it received at that time, and Redis would be idle meanwhile.
        """
        if not self._can_send:
            self._run(self._prepare_and_accept(batches, receive))
            return
        assert self._replies
        groups = self._groups(batches)
        calls = self._pack(groups)
        take = partial(self._take_replies, groups, calls, receive)
        self._replies.send(calls, self._client.reply_timeout_seconds, take)

    def accept_messages_soon(
        self,
        messages: SingleMessages,
        last_seen: Sequence[EntryId],
        take_reply: TakeReply,
        receive: ReceiveResults,
    ) -> None:
        """As `accept_soon`, for single messages, if this `can_send_messages`.

        `take_reply` gets the script's reply. Unless it has taken it, `receive` gets a result for each shard.
        """
        assert self._replies
        calls = [pack_command(self._log.single_messages_command(messages, last_seen))]

        def take(received: list[Any] | Exception) -> None:
            reply = None if isinstance(received, Exception) else received[0]
            if not (isinstance(reply, list) and take_reply(reply)):
                groups = [_shard_batches(messages, last_seen)]
                self._take_replies(groups, calls, receive, received)

        self._replies.send(calls, self._client.reply_timeout_seconds, take)

    @property
    def can_send_messages(self) -> bool:
        """Whether `accept_messages_soon` can be called now: nothing must be awaited before its call."""
        return self._can_send and not self._log.must_declare_keys

    @property
    def _can_send(self) -> bool:
        """Whether a call can be sent at once, and then only its replies are awaited."""
        return (
            self._replies is not None
            and self._replies.is_usable
            and self._log.replica_wait is None
            and self._log.is_ready(self._server)
        )

    def _take_replies(
        self,
        groups: Sequence[Sequence[ShardBatch]],
        calls: Sequence[bytes],
        receive: ReceiveResults,
        received: list[Any] | Exception,
    ) -> None:
        if isinstance(received, Exception):
            received = [received] * len(calls)
        replies = [self._meaning(reply) for reply in received]
        if any(isinstance(reply, NoScriptError) for reply in replies):
            self._run(self._repeat_and_accept(groups, calls, replies, receive))
        else:
            receive(self._results(groups, replies))

    async def _prepare_and_accept(
        self, batches: Sequence[ShardBatch], receive: ReceiveResults
    ) -> None:
        groups = self._groups(batches)
        replies: list[Any]
        try:
            replies = await self._send(self._pack(groups))
        except (InstaChatError, ResponseError) as error:
            replies = [error] * len(groups)
        except Exception as error:  # noqa: BLE001  # every call gets results, whatever is raised
            receive(error)
            return
        receive(self._results(groups, replies))

    async def _repeat_and_accept(
        self,
        groups: Sequence[Sequence[ShardBatch]],
        calls: Sequence[bytes],
        replies: list[Any],
        receive: ReceiveResults,
    ) -> None:
        try:
            await self._repeat_without_script(calls, replies)
        except (InstaChatError, ResponseError) as error:
            replies = [error if isinstance(reply, NoScriptError) else reply for reply in replies]
        except Exception as error:  # noqa: BLE001  # as above
            receive(error)
            return
        receive(self._results(groups, replies))

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _groups(self, batches: Sequence[ShardBatch]) -> list[Sequence[ShardBatch]]:
        """The batches of each call."""
        return [[batch] for batch in batches] if self._log.must_declare_keys else [batches]

    def _pack(self, groups: Sequence[Sequence[ShardBatch]]) -> list[bytes]:
        return [pack_command(self._log.accept_command(group)) for group in groups]

    def _results(
        self, groups: Sequence[Sequence[ShardBatch]], replies: Sequence[Any]
    ) -> list[AcceptResult]:
        log = self._log
        results: list[AcceptResult] = []
        for group, reply in zip(groups, replies, strict=True):
            of_shards = (
                [reply] * len(group)
                if isinstance(reply, Exception)
                else [
                    self._meaning(part) if isinstance(part, Exception) else part
                    for part in split_reply(reply)
                ]
            )
            results += log.accept_results(group, of_shards)
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
        await self._repeat_without_script(calls, replies)
        return replies

    async def _repeat_without_script(self, calls: Sequence[bytes], replies: list[Any]) -> None:
        """Load the script if Redis did not have it, and make those calls again; replaces their replies."""
        log = self._log
        missed = [place for place, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if missed:  # nothing ran: a new or restarted Redis has no scripts
            with log.translate_errors():
                load = pack_command(("SCRIPT", "LOAD", SCRIPTS["accept"]))
                await self.exchange(await self.connect(), load)
            again = await self._call([calls[place] for place in missed])
            for place, reply in zip(missed, again, strict=True):
                replies[place] = _kept_script(reply)

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
        if self._node and refuses_undeclared_keys(reply):
            self._log.declare_keys(reply)
            return ShardMoved()
        if self._node and (isinstance(reply, AskError) or is_elsewhere(reply)):  # or MovedError
            return ShardMoved()
        try:
            with self._log.unconfirmed_on_lost_reply(), self._log.translate_errors():
                raise reply
        except InstaChatError as error:
            return error
        except ResponseError as error:
            if self._node and isinstance(translate_script_error(error), Unconfirmed):
                self._log.declare_keys(error)  # this may be what it wants
            return error


def _shard_batches(messages: SingleMessages, last_seen: Sequence[EntryId]) -> list[ShardBatch]:
    return [
        ShardBatch(
            shard,
            [Creation("messages", parent, [(1, payload)]) for parent, payload, _ in added],
            known,
        )
        for (shard, added), known in zip(messages.items(), last_seen, strict=True)
    ]


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
