"""Notifications: which chats have changed, published to every process that follows chats.

A notification carries no message and may be lost: it only says where to look in SQL. It is sent over Redis's
pub/sub, which reaches all nodes of a cluster, after the change is committed.
"""

import random
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import msgspec
import redis
from redis.cluster import RedisCluster

from backend.domain.errors import EngineDown, InstaChatError
from backend.storage.redis.client import (
    CONNECT_TIMEOUT_SECONDS,
    REPLY_TIMEOUT_SECONDS,
    RedisClient,
)
from backend.storage.redis.connection import connect
from backend.storage.redis.errors import translate_errors

CHANNEL = "instachat:changes"
PING_AFTER_SECONDS = 2.0  # without any message from Redis
LOST_AFTER_SECONDS = 5.0


class Change(NamedTuple):
    """Something that followers of a chat have to look at.

    With a `number` that message was edited, deleted or restored. Without one the chat has new numbers, or is
    removed. Without a `chat` the application is removed.
    """

    token: str
    chat: int | None = None
    number: int | None = None


_decoder = msgspec.json.Decoder(list[Change])


class NotificationCalls(RedisClient):
    """Publishes notifications."""

    def notify_changes(self, changes: Collection[Change]) -> None:
        """Publish that these have changed. Never raises: followers look again at intervals, too."""
        if changes:
            with suppress(InstaChatError, redis.RedisError):
                self._on_any_server("PUBLISH", CHANNEL, msgspec.json.encode(list(changes)))


class Subscription:
    """A connection of its own that receives notifications. For one thread.

    What is published after the constructor returns is received, until `read` raises EngineDown.
    """

    def __init__(self, url: str) -> None:
        """Raises EngineDown if Redis does not answer in time."""
        self._url = url
        self._client = connect(
            url,
            connect_timeout_seconds=CONNECT_TIMEOUT_SECONDS,
            reply_timeout_seconds=REPLY_TIMEOUT_SECONDS,
        )
        self._pubsub: Any = None
        self._heard_at = time.monotonic()
        self._pinged = False
        try:
            with translate_errors(url):
                *others, last = _servers(self._client)
                if not any(map(self._try_subscribe, others)):
                    self._subscribe(last)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connection."""
        with suppress(redis.RedisError, OSError):
            if self._pubsub is not None:
                self._pubsub.close()
            self._client.close()

    def read(self, seconds: float) -> Sequence[Change]:
        """The changes that arrive next; none after so many seconds. Raises EngineDown if any may be lost."""
        with translate_errors(self._url):
            message = self._receive(seconds)
            if message is None:
                self._check_alive()
                return ()
        if message["type"] != "message":
            return ()
        try:
            return _decoder.decode(message["data"])
        except msgspec.DecodeError:  # another program's, or a later release's
            return ()

    def _try_subscribe(self, server: "redis.Redis") -> bool:
        try:
            self._subscribe(server)
        except (EngineDown, redis.RedisError):
            self._pubsub.close()
            return False
        return True

    def _subscribe(self, server: "redis.Redis") -> None:
        self._pubsub = server.pubsub()
        self._heard_at, self._pinged = time.monotonic(), False
        self._pubsub.subscribe(CHANNEL)
        while self._receive(LOST_AFTER_SECONDS) is None:
            self._check_alive()

    def _receive(self, seconds: float) -> Any:
        message = self._pubsub.get_message(timeout=seconds)
        if message is not None:
            self._heard_at, self._pinged = time.monotonic(), False
        return message

    def _check_alive(self) -> None:
        """Ping an idle connection. Raises EngineDown if nothing has arrived for too long."""
        idle = time.monotonic() - self._heard_at
        if idle > LOST_AFTER_SECONDS:
            raise EngineDown("Redis does not answer on the connection that receives notifications")
        if idle > PING_AFTER_SECONDS and not self._pinged:
            self._pubsub.ping()
            self._pinged = True


def _servers(client: "redis.Redis | RedisCluster") -> "list[redis.Redis]":
    """The server; of a cluster, the primaries in random order, each of which has all notifications."""
    if not isinstance(client, RedisCluster):
        return [client]
    nodes = client.get_primaries()
    random.shuffle(nodes)
    return [client.get_redis_connection(node) for node in nodes]
