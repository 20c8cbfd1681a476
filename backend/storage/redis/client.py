"""The connection to Redis, and the calls of scripts, with the wait for replicas and the errors translated."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import Any, TypeVar

import redis
from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisError, ResponseError

from backend.domain.errors import EngineDown, NodeDown
from backend.domain.model import Parent
from backend.storage.redis.cluster import ClusterCalls, KeyedCall
from backend.storage.redis.connection import NodeAddress, check_url, connect, is_cluster_url
from backend.storage.redis.errors import (
    CommandRefused,
    cluster_node_error,
    engine_down,
    foreign_data_error,
    is_wrong_type,
    scripts_missing_error,
    translate_errors,
    unconfirmed_on_lost_reply,
)
from backend.storage.redis.keys import counter_key, shard_key, shard_slot
from backend.storage.redis.pipeline import Command, execute
from backend.storage.redis.replicas import ReplicaWait
from backend.storage.redis.script_loader import SCRIPTS, SHAS
from backend.storage.redis.types import StaleEpoch

T = TypeVar("T")
CONNECT_TIMEOUT_SECONDS = 2.0
REPLY_TIMEOUT_SECONDS = 3.0


class RedisClient:
    """The base of all calls: the connection, the names of keys, the execution of scripts."""

    def __init__(
        self,
        url: str,
        *,
        replicas: int = 0,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        reply_timeout_seconds: float = REPLY_TIMEOUT_SECONDS,
    ) -> None:
        """Connects at the first call. Raises Invalid if the URL can't be used."""
        check_url(url)
        self.url = url
        self.is_cluster = is_cluster_url(url)
        # Half of the time for a reply, so that the reply says what happened.
        self.replica_wait = ReplicaWait(replicas, reply_timeout_seconds / 2) if replicas else None
        self.connect_timeout_seconds = connect_timeout_seconds
        self.reply_timeout_seconds = reply_timeout_seconds

    @cached_property
    def redis(self) -> "redis.Redis | RedisCluster":
        """The client library's client. The first use of a cluster's raises EngineDown if no node answers."""
        return connect(
            self.url,
            connect_timeout_seconds=self.connect_timeout_seconds,
            reply_timeout_seconds=self.reply_timeout_seconds,
        )

    @cached_property
    def _cluster(self) -> ClusterCalls:
        """The calls of the cluster; only if this `is_cluster`. Raises EngineDown as `redis` does."""
        assert isinstance(self.redis, RedisCluster)
        return ClusterCalls(self.redis, {SHAS[name]: SCRIPTS[name] for name in SCRIPTS})

    def close(self) -> None:
        """Close the connections."""
        if "_cluster" in self.__dict__:
            self._cluster.close()
        if "redis" in self.__dict__:
            self.redis.close()

    @property
    def database_number(self) -> int:
        """The number of the database in the server; a cluster has only 0."""
        if isinstance(self.redis, RedisCluster):
            return 0
        return int(self.redis.get_connection_kwargs().get("db") or 0)

    def ping(self) -> None:
        """Raise EngineDown unless Redis, or a primary of a cluster, answers."""
        with self.translate_errors():
            answers = self._on_each_server(("PING",))
            if all(isinstance(answer, Exception) for answer in answers):
                raise answers[0]

    def refuse_cluster_node(self) -> None:
        """Raise Failed if the URL names one node of a cluster: calls for several shards would fail there.

        Checks nothing if Redis does not answer, or does not permit INFO.
        """
        if not self.is_cluster:
            with suppress(EngineDown, CommandRefused):
                for node in self.server_info("cluster"):
                    if node.get("cluster_enabled"):
                        raise cluster_node_error(self.url)

    def configuration(self, *names: str) -> Mapping[str, str] | None:
        """Redis's own settings; None if it does not permit reading them (a managed service)."""
        options = {"target_nodes": "random"} if self.is_cluster else {}
        with self.translate_errors():
            try:
                found: Any = self.redis.config_get(*names, **options)
            except ResponseError:
                return None
        return {text(k): text(v) for k, v in found.items()}

    def server_info(self, section: str) -> list[dict[str, Any]]:
        """A section of INFO, of each node. Raises EngineDown, or CommandRefused if INFO is not permitted."""
        try:
            return self._info(section)
        except ResponseError as error:
            raise CommandRefused(f"Redis refuses INFO: {error}") from error
        except RedisError as error:
            raise engine_down(self.url, error) from error

    def _info(self, section: str) -> list[dict[str, Any]]:
        found: Any = self.redis.info(section)
        nodes = list(found.values())
        return nodes if nodes and isinstance(nodes[0], dict) else [found]

    # -- the nodes of a cluster, for the clients of an event loop --------------------------------

    @property
    def knows_nodes(self) -> bool:
        """Whether the nodes of the cluster have been read, by the first call."""
        return "_cluster" in self.__dict__

    @property
    def slots(self) -> object:
        """What is known of the nodes of all slots: another object whenever they have been read again."""
        return self._cluster.slots if "_cluster" in self.__dict__ else None

    def node_of(self, shard: int) -> NodeAddress | None:
        """The node that serves a shard, or None; as it `knows_nodes`, without waiting."""
        return self._cluster.node_of_slot(shard_slot(shard))

    def masters(self) -> set[NodeAddress]:
        """The nodes that serve slots."""
        return self._cluster.masters()

    def refresh_nodes(self) -> None:
        """Have a thread read the nodes again, unless that was done just now."""
        self._cluster.refresh_soon()

    # -- calls -----------------------------------------------------------------------------------

    def key(self, shard: int, name: str) -> str:
        """The full name of a shard's key."""
        return shard_key(shard, name)

    def counter_key(self, shard: int, parent: Parent) -> str:
        """The key of a parent's counter."""
        return counter_key(shard, parent)

    def _counters(self, shard: int, parents: Iterable[Parent]) -> list[str]:
        return [counter_key(shard, parent) for parent in parents]

    def _call(
        self,
        script: str,
        keys: Sequence[str | bytes],
        arguments: Sequence[str | int | bytes],
        *,
        durably: bool = False,
    ) -> Any:
        """The script's reply. `durably`, which is for the accept script, also waits for the replicas."""
        with self.translate_errors():
            try:
                return self._evaluate(script, keys, arguments, durably)
            except NoScriptError:  # nothing ran: a new or restarted server has no scripts
                if self.is_cluster:  # ClusterCalls has loaded them already
                    raise scripts_missing_error() from None
            self.redis.script_load(SCRIPTS[script])
            try:
                return self._evaluate(script, keys, arguments, durably)
            except NoScriptError:
                raise scripts_missing_error() from None

    def _execute(self, key: str | bytes, *command: str | int | bytes) -> Any:
        """The reply to a command, of the server that has the key."""
        with self.translate_errors():
            return self._execute_untranslated(key, command)

    def _execute_untranslated(self, key: str | bytes, command: Command) -> Any:
        if not self.is_cluster:
            client: Any = self.redis  # `execute_command` has no types
            return client.execute_command(*command)
        (reply,) = self._cluster.call(key, command)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _pipeline(
        self, key: str | bytes, *commands: Command, then: Sequence[Command] = ()
    ) -> list[Any]:
        """The replies to commands on one connection of the key's server; errors in their places.

        For `then` see `pipeline.execute`.
        """
        if self.is_cluster:
            return self._cluster.call(key, *commands, then=then)
        assert isinstance(self.redis, redis.Redis)
        return execute(self.redis, commands, then)

    def _call_fenced(
        self, script: str, shard: int, keys: Sequence[str], arguments: Sequence[str | int | bytes]
    ) -> Any:
        """The reply of a script that checks the epoch. Raises StaleEpoch, and Failed for foreign values."""
        reply = self._call(script, keys, arguments)
        if reply[0] == b"stale":
            raise StaleEpoch(text(reply[1]))
        if reply[0] == b"broken":
            raise foreign_data_error(text(reply[1]), shard)
        return reply

    def _evaluate(
        self,
        script: str,
        keys: Sequence[str | bytes],
        arguments: Sequence[str | int | bytes],
        durably: bool,
    ) -> Any:
        call: Command = ("EVALSHA", SHAS[script], len(keys), *keys, *arguments)
        key = keys[0] if keys else ""  # it names the server of a cluster
        if not (durably and self.replica_wait):
            return self._execute_untranslated(key, call)
        replies, *waited = self._pipeline(key, call, then=self.replica_wait.commands)
        if isinstance(replies, Exception):
            raise replies
        return self.replica_wait.confirmed(replies, waited)

    def _on_any_server(self, *command: str | int | bytes) -> Any:
        """The reply to a command for no key, of the server or of a primary that answers."""
        with self.translate_errors():
            if self.is_cluster:
                reply = self._cluster.call_any(command)
            else:
                (reply,) = self._pipeline("", command)
            if isinstance(reply, Exception):
                raise reply
            return reply

    def _on_each_server(self, command: Command) -> list[Any]:
        """The replies to a command, of the server or of each primary of a cluster; errors in their places."""
        if self.is_cluster:
            return self._cluster.call_primaries(command)
        return self._pipeline("", command)

    def _each_shard(
        self, command: str, name: str, shards: Iterable[int], *arguments: str
    ) -> list[Any]:
        """The replies of a read command to that key of each shard.

        In the place of a reply is Redis's error for a key of a wrong type, and, of a cluster, NodeDown if
        the shard's node did not answer. Raises EngineDown if no reply came.
        """
        calls = [
            KeyedCall(key, [(command, key, *arguments)])
            for key in (self.key(shard, name) for shard in shards)
        ]
        if self.is_cluster:
            found = self._cluster.call_each(calls)
            answers = [f if isinstance(f, Exception) else f[0] for f in found]
        else:
            with self.translate_errors():
                answers = self._pipeline("", *(call.commands[0] for call in calls))
        return [self._translated(answer) for answer in answers]

    def _translated(self, answer: Any) -> Any:
        """The answer, or the NodeDown that it means; raises any other error but that of a wrong type."""
        if not isinstance(answer, Exception) or is_wrong_type(answer):
            return answer
        try:
            with self.translate_errors():
                raise answer
        except NodeDown as error:
            return error

    def _count_each_shard(
        self, command: str, name: str, shards: Iterable[int]
    ) -> list[int | NodeDown]:
        """As `_each_shard`, for a command that counts; a key of a wrong type counts as one."""
        return [
            answer if isinstance(answer, NodeDown) else _count(answer)
            for answer in self._each_shard(command, name, shards)
        ]

    def translate_errors(self) -> AbstractContextManager[None]:
        """For calls of Redis; see `errors.translate_errors`."""
        return translate_errors(self.url)

    def unconfirmed_on_lost_reply(self) -> AbstractContextManager[None]:
        """For calls that accept, outside of `translate_errors`; see `errors.unconfirmed_on_lost_reply`."""
        return unconfirmed_on_lost_reply(self.url)


def raise_first_error(answers: Iterable[T | NodeDown]) -> list[T]:
    """The answers of all shards. Raises the first NodeDown among them."""
    found = []
    for answer in answers:
        if isinstance(answer, NodeDown):
            raise answer
        found.append(answer)
    return found


def _count(answer: Any) -> int:
    return 1 if isinstance(answer, Exception) else int(answer)


def text(value: Any) -> str:
    """A value of a reply as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def unix_seconds(time_: Sequence[Any]) -> float:
    """The reply to TIME, in seconds since 1970."""
    seconds, microseconds = map(int, time_)
    return seconds + microseconds / 1_000_000


def scores(members: Sequence[Any]) -> list[float]:
    """The scores in a reply WITHSCORES: pairs in RESP3, by turns with the members in RESP2."""
    if members and isinstance(members[0], list):
        return [float(score) for _, score in members]
    return list(map(float, members[1::2]))
