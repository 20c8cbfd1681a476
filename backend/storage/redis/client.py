"""The connection to Redis, and the call of a script: its answer, waiting for replicas, its troubles."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry

from backend.domain.errors import Failed, Unconfirmed
from backend.domain.model import Parent
from backend.settings import redact
from backend.storage.redis.errors import (
    CommandRefused,
    engine_down,
    is_wrong_type,
    translate_errors,
    unconfirmed_on_lost_reply,
)
from backend.storage.redis.script_loader import SCRIPTS, SHAS

CONNECT_TIMEOUT_SECONDS = 2.0
REPLY_TIMEOUT_SECONDS = 3.0


def connect(
    url: str,
    *,
    connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
    reply_timeout_seconds: float = REPLY_TIMEOUT_SECONDS,
) -> "redis.Redis | RedisCluster":
    """A client that never retries; a URL `redis+cluster://…` makes it a Redis Cluster's.

    Raises EngineDown if a cluster can't be reached; a plain client connects at its first call.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_timeout_seconds,
        "socket_timeout": reply_timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        if url.startswith(("redis+cluster://", "rediss+cluster://")):
            return RedisCluster.from_url(url.replace("+cluster", "", 1), **options)
        client = redis.Redis.from_url(url, **options)
        client.connection_pool.make_connection()  # connects to nobody, but knows its options
        return client
    except RedisError as error:
        raise engine_down(url, error) from None
    except (TypeError, ValueError) as error:
        raise Failed(f"the Redis URL {redact(url)} can't be used: {error}") from None


class RedisClient:
    """What all calls are built on: the connection, the names of keys, the running of scripts."""

    def __init__(
        self,
        url: str,
        *,
        replicas: int = 0,
        connect_timeout_seconds: float = CONNECT_TIMEOUT_SECONDS,
        reply_timeout_seconds: float = REPLY_TIMEOUT_SECONDS,
    ) -> None:
        self.url = url
        self.redis = connect(
            url,
            connect_timeout_seconds=connect_timeout_seconds,
            reply_timeout_seconds=reply_timeout_seconds,
        )
        self._replicas = replicas
        self.connect_timeout_seconds = connect_timeout_seconds
        self.reply_timeout_seconds = reply_timeout_seconds

    def close(self) -> None:
        """Close the connections."""
        self.redis.close()

    def ping(self) -> None:
        """Raise EngineDown unless Redis answers."""
        with self.translate_errors():
            self.redis.ping()

    def configuration(self, *names: str) -> Mapping[str, str] | None:
        """Redis's own settings; None where it does not let us read them (a managed service)."""
        options = {"target_nodes": "random"} if isinstance(self.redis, RedisCluster) else {}
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
        return f"instachat:{{{shard}}}:{name}"

    def counter_key(self, shard: int, parent: Parent) -> str:
        """The key of a parent's counter."""
        token, chat = parent
        return self.key(shard, f"app:{token}" if chat is None else f"chat:{token}:{chat}")

    def _call(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[str | int | bytes],
        *,
        durably: bool = False,
    ) -> Any:
        with self.translate_errors():
            try:
                return self._evaluate(script, keys, arguments, durably)
            except (
                NoScriptError
            ):  # nothing ran; a new or restarted server does not know its scripts
                self.redis.script_load(SCRIPTS[script])
                return self._evaluate(script, keys, arguments, durably)

    def _evaluate(
        self,
        script: str,
        keys: Sequence[str],
        arguments: Sequence[str | int | bytes],
        durably: bool,
    ) -> Any:
        sha = SHAS[script]
        if not (durably and self._replicas):
            return self.redis.evalsha(sha, len(keys), *keys, *arguments)
        # WAITAOF speaks of its own connection's writes only, hence one pipeline.
        pipe = self.redis.pipeline(transaction=False)
        pipe.evalsha(sha, len(keys), *keys, *arguments)
        pipe.execute_command("WAITAOF", 1, self._replicas, int(self.reply_timeout_seconds * 500))
        reply, waited = pipe.execute(raise_on_error=False)
        if isinstance(reply, Exception):
            raise reply
        if reply[0] == b"ok" and (
            isinstance(waited, Exception) or waited[0] < 1 or waited[1] < self._replicas
        ):
            raise Unconfirmed(
                f"fewer than {self._replicas} replicas have it on disk; it may or may not last",
                "see `instachat doctor`; with an idempotency key the same call can be repeated",
            )
        return reply

    def _each_shard(self, command: str, name: str, shards: int) -> list[int]:
        with self.translate_errors():
            pipe = self.redis.pipeline(transaction=False)
            for shard in range(shards):
                getattr(pipe, command)(self.key(shard, name))
            answers = pipe.execute(raise_on_error=False)
            for answer in answers:
                if isinstance(answer, Exception) and not is_wrong_type(answer):
                    raise answer
        return [1 if isinstance(answer, Exception) else int(answer) for answer in answers]

    def translate_errors(self) -> AbstractContextManager[None]:
        """Around calls of Redis; see `troubles.translate_errors`."""
        return translate_errors(self.url)

    def unconfirmed_on_lost_reply(self) -> AbstractContextManager[None]:
        """Around a call that accepts, and the above; see `troubles.unconfirmed_on_lost_reply`."""
        return unconfirmed_on_lost_reply(self.url)


def text(value: Any) -> str:
    """What Redis has answered, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)
