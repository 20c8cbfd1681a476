"""The connection to Redis, and the calls of scripts, with the wait for replicas and the errors translated."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import Any

import redis
from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisError, ResponseError

from backend.domain.errors import EngineDown, Unconfirmed
from backend.domain.model import Parent
from backend.storage.redis.connection import check_url, connect, is_cluster_url
from backend.storage.redis.errors import (
    CommandRefused,
    cluster_node_error,
    engine_down,
    foreign_data_error,
    is_wrong_type,
    translate_errors,
    unconfirmed_on_lost_reply,
)
from backend.storage.redis.keys import counter_key, shard_key
from backend.storage.redis.script_loader import SCRIPTS, SHAS
from backend.storage.redis.types import StaleEpoch

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
        """Connects at the first call. Raises Failed if the URL can't be used."""
        check_url(url)
        self.url = url
        self.is_cluster = is_cluster_url(url)
        self._replicas = replicas
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

    def close(self) -> None:
        """Close the connections."""
        if "redis" in self.__dict__:
            self.redis.close()

    def ping(self) -> None:
        """Raise EngineDown unless Redis answers."""
        with self.translate_errors():
            self.redis.ping()

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

    def server_time(self) -> tuple[int, int]:
        """The time by Redis's clock: seconds since 1970, and microseconds. Raises EngineDown."""
        with self.translate_errors():
            found: Any = self.redis.time()
        seconds, micros = next(iter(found.values())) if isinstance(found, dict) else found
        return seconds, micros

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
                self.redis.script_load(SCRIPTS[script])
                return self._evaluate(script, keys, arguments, durably)

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
        sha = SHAS[script]
        if not (durably and self._replicas):
            return self.redis.evalsha(sha, len(keys), *keys, *arguments)
        # WAITAOF waits for the writes of its own connection only, so both go into one pipeline.
        pipe = self.redis.pipeline(transaction=False)
        pipe.evalsha(sha, len(keys), *keys, *arguments)
        pipe.execute_command("WAITAOF", 1, self._replicas, int(self.reply_timeout_seconds * 500))
        replies, waited = pipe.execute(raise_on_error=False)
        if isinstance(replies, Exception):
            raise replies
        if isinstance(waited, Exception) or waited[0] < 1 or waited[1] < self._replicas:
            return [self._unconfirmed_if_accepted(reply) for reply in replies]
        return replies

    def _unconfirmed_if_accepted(self, reply: Any) -> Any:
        """A shard's reply of the accept script, or Unconfirmed in its place."""
        if isinstance(reply, Exception) or reply[0] != b"ok":
            return reply
        return Unconfirmed(
            f"fewer than {self._replicas} replicas have this on disk; it may be lost with the primary",
            "see `instachat doctor`; with an idempotency key the same request can be repeated",
        )

    def _each_shard(self, command: str, name: str, shards: int, *arguments: str) -> list[Any]:
        """The replies of a read command to that key of each shard; an exception for a key of a wrong type."""
        with self.translate_errors():
            pipe = self.redis.pipeline(transaction=False)
            for shard in range(shards):
                getattr(pipe, command)(self.key(shard, name), *arguments)
            answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not is_wrong_type(answer):
                    raise answer
        return answers

    def _count_each_shard(self, command: str, name: str, shards: int) -> list[int]:
        """As `_each_shard`, for a command that counts; a key of a wrong type counts as one."""
        return [
            1 if isinstance(answer, Exception) else int(answer)
            for answer in self._each_shard(command, name, shards)
        ]

    def translate_errors(self) -> AbstractContextManager[None]:
        """For calls of Redis; see `errors.translate_errors`."""
        return translate_errors(self.url)

    def unconfirmed_on_lost_reply(self) -> AbstractContextManager[None]:
        """For calls that accept, outside of `translate_errors`; see `errors.unconfirmed_on_lost_reply`."""
        return unconfirmed_on_lost_reply(self.url)


def text(value: Any) -> str:
    """A value of a reply as text."""
    return value.decode() if isinstance(value, bytes) else str(value)
