"""Redis's URL, and the client library's client for it: of one server, or of a Redis Cluster.

    redis://[USER:PASSWORD@]HOST:PORT[/DATABASE]            one server (rediss:// with TLS, unix:// a socket)
    redis+cluster://[USER:PASSWORD@]HOST:PORT[,HOST:PORT…]  a cluster (rediss+cluster:// with TLS)

A cluster tells its clients all of its nodes. The hosts of the URL are those that a new process asks; one of
them has to answer. User, password and options are the same for all nodes.
"""

from typing import Any, NamedTuple
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, RedisError
from redis.retry import Retry

from backend.domain.errors import Invalid
from backend.domain.urls import split_url
from backend.settings import redact, refuse_unquoted_password
from backend.storage.redis.errors import engine_down

DEFAULT_PORT = 6379


class NodeAddress(NamedTuple):
    """Where a node of a cluster is reached."""

    host: str
    port: int


def is_cluster_url(url: str) -> bool:
    """Whether this is the URL of a Redis Cluster."""
    return url.startswith(("redis+cluster://", "rediss+cluster://"))


def check_url(url: str) -> None:
    """Raise Invalid unless the URL can be used. Connects to nothing."""
    refuse_unquoted_password(url, "Redis")
    try:
        plain, _ = _first_and_other_hosts(url)
        redis.ConnectionPool.from_url(plain).make_connection()
    except (TypeError, ValueError, RedisError) as error:
        raise Invalid(f"the Redis URL {redact(url)} can't be used: {error}") from None


def connect(
    url: str, *, connect_timeout_seconds: float, reply_timeout_seconds: float
) -> "redis.Redis | RedisCluster":
    """A client that never retries.

    A client of one server connects at its first call. A client of a cluster asks the hosts of the URL for the
    nodes, and raises EngineDown if none answers. Raises Invalid if the URL can't be used.
    """
    options: dict[str, Any] = {
        "socket_connect_timeout": connect_timeout_seconds,
        "socket_timeout": reply_timeout_seconds,
        "retry": Retry(NoBackoff(), 0),
    }
    check_url(url)
    plain, others = _first_and_other_hosts(url)
    if not is_cluster_url(url):
        return redis.Redis.from_url(plain, **options)
    try:
        return _ClusterClient(
            url=plain,
            startup_nodes=[ClusterNode(host, port) for host, port in others],
            # The shards whose slots have a node are used while others have none.
            require_full_coverage=False,
            **options,
        )
    except (RedisClusterException, RedisError) as error:
        raise engine_down(url, error) from None


class _ClusterClient(RedisCluster):
    """Asks one node that answers for the slots when it is created, and no other node for anything.

    The client library also asks a node for all commands then, to find their keys, and fails if just that node
    hangs. Here it asks when a call needs them, which none of `cluster.ClusterCalls` does.
    """

    _is_created = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._is_created = True

    def command(self, *arguments: Any, **options: Any) -> Any:
        """See RedisCluster."""
        return super().command(*arguments, **options) if self._is_created else {}


def node_url(url: str, node: NodeAddress) -> str:
    """The URL of one node of a cluster, in a form that the client library takes."""
    plain, _ = _first_and_other_hosts(url)
    parts = urlsplit(plain)
    user, at, _ = parts.netloc.rpartition("@")
    host = f"[{node.host}]" if ":" in node.host else node.host
    return parts._replace(netloc=f"{user}{at}{host}:{node.port}").geturl()


def _first_and_other_hosts(url: str) -> tuple[str, list[tuple[str, int]]]:
    """The URL with its first host only, in a form that the client library takes; and the other hosts.

    Raises ValueError.
    """
    parts = split_url(url)
    user, at, hosts = parts.netloc.rpartition("@")
    if "," not in hosts and not is_cluster_url(url):
        return url, []
    if not is_cluster_url(url):
        raise ValueError("several servers need redis+cluster://, the URL of a Redis Cluster")
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a Redis Cluster has no databases")
    first, *others = hosts.split(",")
    scheme = parts.scheme.removesuffix("+cluster")
    plain = parts._replace(scheme=scheme, netloc=f"{user}{at}{first}", path="")
    _parse_host(first)
    return plain.geturl(), [_parse_host(host) for host in others]


def _parse_host(text: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    if not parts.hostname:
        raise ValueError(
            "a host is missing between two commas" if not text else "the host is missing"
        )
    return parts.hostname, parts.port or DEFAULT_PORT
