"""Calls of a Redis Cluster: each goes to the node that serves its key, and waits for no other node.

The client library's cluster client knows the nodes and their slots, and holds their connections. Its own
calls are not used for keys: in a pipeline it repeats each failed call with a full time-out, one after
another, and it permits no scripts there; a call that fails asks other nodes for the slots before it raises.

A node that did not answer is left alone for a moment. Calls for its keys fail at once meanwhile, with nothing
sent, and one short probe at a time tries it again. So a node that hangs costs its own shards little more than
a dead one, and the others nothing.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NamedTuple

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.exceptions import (
    AskError,
    ClusterDownError,
    MovedError,
    NoScriptError,
    RedisClusterException,
    RedisError,
    TryAgainError,
)

from backend.storage.redis.connection import NodeAddress
from backend.storage.redis.errors import NodeAway
from backend.storage.redis.pipeline import Command, execute

MAX_REDIRECTIONS = 5
TRY_AGAIN_DELAY_SECONDS = (
    0.05  # while the keys of a call are on two nodes, because their slot moves
)
PROBE_TIMEOUT_SECONDS = 0.5
PROBE_INTERVAL_SECONDS = 0.5  # between two probes of a node that does not answer
REFRESH_INTERVAL_SECONDS = 0.2  # between two readings of the slots
MAX_PARALLEL_NODES = 16
_REDIRECTIONS = (AskError, MovedError, NoScriptError, TryAgainError)
Key = str | bytes
logger = logging.getLogger(__name__)


class KeyedCall(NamedTuple):
    """Commands for one connection of the node that serves `key`. Only the first may have keys."""

    key: Key
    commands: Sequence[Command]


class ClusterCalls:
    """Calls nodes of a cluster. Thread-safe.

    Raises Redis's errors and the client library's; `errors.translate_errors` translates them.
    """

    def __init__(self, client: RedisCluster, scripts: Mapping[str, str]) -> None:
        """`scripts` are the sources of the scripts that are called by EVALSHA, by their SHA1."""
        self._client = client
        self._scripts = scripts
        self._seeds = [(node.host, node.port) for node in client.startup_nodes]
        self._threads = ThreadPoolExecutor(MAX_PARALLEL_NODES, "cluster")
        self._lock = threading.Lock()
        self._probe_at: dict[str, float] = {}  # of the nodes that did not answer, by name
        self._others: dict[str, ClusterNode] = {}  # that redirections have named, by name
        self._refreshing = False
        self._refresh_at = 0.0

    def close(self) -> None:
        """End the threads. The connections are the client's."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def node_name(self, key: Key) -> str:
        """The name of the node that serves a key: its host and port."""
        return str(self._node(key).name)

    @property
    def slots(self) -> object:
        """See `RedisClient.slots`."""
        return self._client.nodes_manager.slots_cache

    def node_of_slot(self, slot: int) -> NodeAddress | None:
        """The node that serves a slot, or None."""
        nodes = self._client.nodes_manager.slots_cache.get(slot)
        if not nodes:
            self.refresh_soon()
            return None
        return NodeAddress(nodes[0].host, nodes[0].port)

    def masters(self) -> set[NodeAddress]:
        """The nodes that serve slots."""
        return {NodeAddress(node.host, node.port) for node in self._client.get_primaries()}

    def call(self, key: Key, *commands: Command, then: Sequence[Command] = ()) -> list[Any]:
        """The replies of a KeyedCall; Redis's error takes the place of a reply.

        `then` are commands that are sent on the same connection after these replies, unless they are errors.
        Follows redirections. Raises the last one after some, and ConnectionError or TimeoutError without a
        reply, of which NodeAway says that nothing was sent.
        """
        node = self._node(key)
        return self._follow(key, commands, node, self._exchange(node, commands, then), then)

    def call_each(self, calls: Sequence[KeyedCall]) -> list[list[Any] | Exception]:
        """As `call`, for many keys: one pipeline a node, all nodes at once.

        Returns the replies of each call, or the exception that `call` would raise. A node that does not
        answer fails its own calls only.
        """
        results: list[list[Any] | Exception] = [NodeAway("the slot has no node")] * len(calls)

        def call_node(places: Sequence[int]) -> None:
            try:
                node = self._node(calls[places[0]].key)
                commands = [command for place in places for command in calls[place].commands]
                replies = iter(self._exchange(node, commands))
            except (RedisError, RedisClusterException) as error:
                for place in places:
                    results[place] = error
                return
            for place in places:
                key, of_key = calls[place]
                try:
                    found = [next(replies) for _ in of_key]
                    results[place] = self._follow(key, of_key, node, found)
                except (RedisError, RedisClusterException) as error:
                    results[place] = error

        self.run_by_node([call.key for call in calls], call_node)
        return results

    def call_primaries(self, command: Command) -> list[Any]:
        """The reply of each primary that serves slots, or its error; all at once."""

        def call_node(node: ClusterNode) -> Any:
            try:
                return self._exchange(node, [command])[0]
            except (RedisError, RedisClusterException) as error:
                return error

        return list(self._threads.map(call_node, self._client.get_primaries()))

    def scan(self, key: Key, pattern: str, count: int) -> Iterator[bytes]:
        """The keys that match a pattern, of the node that serves `key`; some may come twice.

        SCAN inspects `count` keys at a time. Raises Redis's error.
        """
        node = self._node(key)
        cursor = 0
        while True:
            command = ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            (reply,) = self._exchange(node, [command])
            if isinstance(reply, Exception):
                raise reply
            cursor, keys = reply
            yield from keys
            if not cursor:
                return

    def call_any(self, command: Command) -> Any:
        """The reply of any primary: of the first one that answers."""
        nodes = self._client.get_primaries()
        random.shuffle(nodes)
        for node in nodes[:-1]:
            with suppress(RedisError, RedisClusterException):
                return self._exchange(node, [command])[0]
        return self._exchange(nodes[-1], [command])[0]

    def run_by_node(self, keys: Sequence[Key], task: Callable[[Sequence[int]], None]) -> None:
        """Call `task` with the places of the keys of each node, all nodes at once; it must not raise.

        Keys of slots that have no node count as those of one node.
        """
        by_node: dict[str, list[int]] = {}
        for place, key in enumerate(keys):
            try:
                name = self.node_name(key)
            except RedisClusterException:
                name = ""
            by_node.setdefault(name, []).append(place)
        *others, last = by_node.values() or [()]
        running = [self._threads.submit(task, places) for places in others]
        if last:
            task(last)
        for future in running:
            future.result()

    # -- one node ----------------------------------------------------------------------------------

    def _node(self, key: Key) -> ClusterNode:
        """Raises SlotNotCoveredError."""
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        try:
            return self._client.nodes_manager.get_node_from_slot(slot)
        except RedisClusterException:
            self.refresh_soon()
            raise

    def _node_at(self, host: str, port: int) -> ClusterNode:
        """A node that a redirection names; the client may not know it yet."""
        known: ClusterNode | None = self._client.get_node(host=host, port=port)
        if known:
            return known
        with self._lock:
            node = ClusterNode(host, port)
            return self._others.setdefault(node.name, node)

    def _exchange(
        self,
        node: ClusterNode,
        commands: Sequence[Command],
        then: Sequence[Command] = (),
        *,
        asking: bool = False,
    ) -> list[Any]:
        """The node's replies, or its errors in their places."""
        self._probe_if_away(node)
        server = self._client.get_redis_connection(node)
        try:
            replies = execute(server, [("ASKING",), *commands] if asking else commands, then)
        except (redis.ConnectionError, redis.TimeoutError):
            with self._lock:
                self._probe_at[node.name] = 0.0  # by the next call
            self.refresh_soon()
            raise
        return replies[1:] if asking else replies

    def _follow(
        self,
        key: Key,
        commands: Sequence[Command],
        node: ClusterNode,
        replies: list[Any],
        then: Sequence[Command] = (),
    ) -> list[Any]:
        """The replies, from another node if the first reply of `node` is a redirection."""
        asking = False
        for _ in range(MAX_REDIRECTIONS):
            first = replies[0]
            if isinstance(first, MovedError):
                self.refresh_soon()
                node, asking = self._node_at(first.host, first.port), False
            elif isinstance(first, AskError):
                node, asking = self._node_at(first.host, first.port), True
            elif isinstance(first, TryAgainError):
                time.sleep(TRY_AGAIN_DELAY_SECONDS)
                node, asking = self._node(key), False
            elif isinstance(first, NoScriptError):  # a new or restarted node has no scripts
                self._exchange(node, [("SCRIPT LOAD", self._scripts[str(commands[0][1])])])
            else:
                if isinstance(first, ClusterDownError):
                    self.refresh_soon()
                return replies
            replies = self._exchange(node, commands, then, asking=asking)
        if isinstance(replies[0], _REDIRECTIONS):
            raise replies[0]
        return replies

    # -- nodes that do not answer ------------------------------------------------------------------

    def _probe_if_away(self, node: ClusterNode) -> None:
        """Raise NodeAway if the node did not answer the last time, and a probe does not reach it either."""
        if node.name not in self._probe_at:
            return
        self.refresh_soon()  # a replica may have taken over
        now = time.monotonic()
        with self._lock:
            if now < self._probe_at.get(node.name, now):
                raise NodeAway(f"{node.name} did not answer")
            self._probe_at[node.name] = now + PROBE_TIMEOUT_SECONDS + PROBE_INTERVAL_SECONDS
        pool = self._client.get_redis_connection(node).connection_pool
        options = pool.connection_kwargs | {
            "socket_connect_timeout": PROBE_TIMEOUT_SECONDS,
            "socket_timeout": PROBE_TIMEOUT_SECONDS,
        }
        connection = pool.connection_class(**options)
        try:
            connection.connect()
            connection.send_command("PING")
            connection.read_response()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise NodeAway(f"{node.name} did not answer: {error}") from None
        finally:
            connection.disconnect()
        with self._lock:
            self._probe_at.pop(node.name, None)

    def refresh_soon(self) -> None:
        """Have a thread read the slots of the nodes, unless that was done just now."""
        with self._lock:
            if self._refreshing or time.monotonic() < self._refresh_at:
                return
            self._refreshing = True
        threading.Thread(target=self._refresh, name="slots", daemon=True).start()

    def _refresh(self) -> None:
        away = next(iter(self._probe_at), None)
        try:
            self._client.nodes_manager.initialize(
                additional_startup_nodes_info=self._seeds,
                disconnect_startup_nodes_pools=False,
                last_failed_node_name=away,
            )
        except (RedisError, RedisClusterException) as error:
            logger.debug("the slots of the cluster can't be read: %s", error)
        finally:
            with self._lock:
                self._refreshing = False
                self._refresh_at = time.monotonic() + REFRESH_INTERVAL_SECONDS
