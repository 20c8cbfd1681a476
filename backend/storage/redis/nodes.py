"""What each node of Redis says of itself: a single server, or all primaries and replicas of a cluster.

These are calls of reports, which have to come while nodes hang. So each node is asked by a thread of its own,
and one that does not answer in time is reported as such.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import AskError, MovedError, RedisClusterException, RedisError, TryAgainError

from backend.domain.errors import EngineDown
from backend.storage.redis.client import RedisClient, text, unix_seconds
from backend.storage.redis.errors import engine_down
from backend.storage.redis.memory import NodeMemory

SLOTS = 16_384
MAX_REPLICA_SILENCE_SECONDS = 15  # a primary pings its replicas every ten
NO_ANSWER = "does not answer"
_REDIRECTIONS = (MovedError, AskError, TryAgainError)  # a node that sends one is up
_ABSENT_FLAGS = {"noaddr", "handshake"}  # of an entry that is no node of the cluster (yet)

T = TypeVar("T")


class NodeReport(NamedTuple):
    """A node, and what it has answered: nothing if there is a `problem`."""

    name: str
    """Host and port; empty for a single server, which the URL names."""
    primary: str
    """The name of the primary whose data it copies; empty for a primary."""
    slots: Sequence[range]
    """What a primary of a cluster serves."""
    problem: str | None
    info: Mapping[str, Any] | None
    """INFO; None if the node does not permit it."""
    refusal: str
    """Redis's error, if it does not permit INFO."""
    settings: Mapping[str, str] | None
    """The settings that were asked for; None if the node does not permit reading them."""
    clock_skew: float
    """Seconds by which its clock is ahead of this machine's."""

    @property
    def memory_share(self) -> float | None:
        """Which part of its limit, or else of its machine's memory, it uses; None if that is not known."""
        return NodeMemory.of(self.info).share if self.info else None

    @property
    def is_behind(self) -> bool:
        """Whether it is a replica that has lost its primary, or has heard nothing of it for some seconds."""
        if not self.primary or self.info is None:
            return False
        silent = int(self.info.get("master_last_io_seconds_ago", 0))
        return self.info.get("master_link_status") != "up" or silent > MAX_REPLICA_SILENCE_SECONDS

    def serves(self, slot: int) -> bool:
        """Whether it is the primary of a slot."""
        return any(slot in part for part in self.slots)


class ShardHealth(NamedTuple):
    """Which shards can't be used, each with the reason, and INFO of a node that answers."""

    away: Mapping[int, str]
    info: Mapping[str, Any]


class NodeCalls(RedisClient):
    """Asks each node."""

    def node_reports(self, settings: Sequence[str] = (), seconds: float = 3.0) -> list[NodeReport]:
        """The reports of all nodes, primaries first. Raises EngineDown if none answers in that time."""
        commands = [("INFO",), ("TIME",), *([("CONFIG GET", *settings)] if settings else [])]
        if not self.is_cluster:
            with self.translate_errors():
                replies = self._pipeline("", *commands)
            return [_report(Member("", "", (), ("",), 0), replies)]
        with self.translate_errors():
            members = self._members(seconds)
        client: Any = self.redis

        def ask(member: Member) -> list[Any]:
            known = (client.get_node(host=host, port=member.port) for host in member.hosts)
            node = next(filter(None, known), None) or ClusterNode(member.hosts[-1], member.port)
            pipe = client.get_redis_connection(node).pipeline(transaction=False)
            for command in commands:
                pipe.execute_command(*command)
            return list(pipe.execute(raise_on_error=False))

        answers = _ask_each(ask, members, seconds)
        return [_report(member, answer) for member, answer in zip(members, answers, strict=True)]

    def shard_health(self, shards: Sequence[int], seconds: float) -> ShardHealth:
        """Whether the node of each shard works for it; a node that does not answer in time does not.

        Raises EngineDown if none does.
        """
        by_node: dict[str, list[int]] = {}
        for shard in shards:
            by_node.setdefault(self._node_of(shard), []).append(shard)

        def ask(shards_of_node: Sequence[int]) -> list[Any]:
            key = self.key(shards_of_node[0], "epoch")
            with self.translate_errors():
                return self._pipeline(key, ("EXISTS", key), ("INFO", "server"))

        groups = list(by_node.values())
        away: dict[int, str] = {}
        info: Mapping[str, Any] = {}
        failure: BaseException = EngineDown(NO_ANSWER)
        for group, answer in zip(groups, _ask_each(ask, groups, seconds), strict=True):
            first = answer if isinstance(answer, Exception) else answer[0]
            if isinstance(first, Exception) and not isinstance(first, _REDIRECTIONS):
                failure = first
                away |= dict.fromkeys(group, _reason(first))
            elif isinstance(answer, list) and isinstance(answer[1], Mapping):
                info = answer[1]
        if len(away) == len(shards):
            if isinstance(failure, RedisError):
                raise engine_down(self.url, failure) from None
            raise failure
        return ShardHealth(away, info)

    def _node_of(self, shard: int) -> str:
        """The name of the node that serves a shard; empty if there is one server, or no node."""
        if not self.is_cluster:
            return ""
        with self.translate_errors():
            try:
                return self._cluster.node_name(self.key(shard, "epoch"))
            except RedisClusterException:
                return ""

    def _members(self, seconds: float) -> "list[Member]":
        """All nodes, as the node knows them that has heard of the latest change. Raises Redis's error."""
        assert isinstance(self.redis, RedisCluster)
        client: Any = self.redis

        def ask(node: ClusterNode) -> Any:
            return client.get_redis_connection(node).execute_command("CLUSTER NODES")

        nodes = client.get_nodes()
        answers = _ask_each(ask, nodes, seconds / 2)
        views = [
            (max(int(entry["epoch"]) for entry in answer.values()), node.host, answer)
            for node, answer in zip(nodes, answers, strict=True)
            if not isinstance(answer, Exception)
        ]
        if not views:
            raise next(iter(answers), redis.ConnectionError("no node is known"))
        _, host, latest = max(views, key=lambda view: view[0])
        return parse_members(latest, host)


class Member(NamedTuple):
    """A node, as another one names it."""

    name: str
    primary: str
    slots: Sequence[range]
    hosts: Sequence[str]
    """Its address and its host name, if it has one."""
    port: int


def parse_members(found: Mapping[str, Mapping[str, Any]], asked: str) -> list[Member]:
    """The nodes in an answer to CLUSTER NODES, as the client library parses it; primaries first.

    A node that no other one has met does not know its own address: that is the host that was `asked`.
    """
    names = {
        str(node["node_id"]): address if address[0] != ":" else f"{asked}{address}"
        for address, node in found.items()
    }

    def member(node: Mapping[str, Any]) -> Member:
        name = names[str(node["node_id"])]
        host, _, port = name.rpartition(":")
        return Member(
            name,
            primary=names.get(str(node["master_id"]), ""),
            slots=[range(int(part[0]), int(part[-1]) + 1) for part in node["slots"]],
            hosts=tuple(filter(None, (host, node["hostname"]))),
            port=int(port),
        )

    present = [
        node for node in found.values() if not _ABSENT_FLAGS & set(str(node["flags"]).split(","))
    ]
    return sorted(map(member, present), key=lambda member: (bool(member.primary), member.name))


def _report(member: Member, answer: list[Any] | Exception) -> NodeReport:
    identity = member.name, member.primary, member.slots
    if isinstance(answer, Exception):
        return NodeReport(*identity, _reason(answer), None, "", None, 0.0)
    info, now, *configuration = answer
    skew = 0.0
    if not isinstance(now, Exception):
        skew = unix_seconds(now) - time.time()
    settings: Any = next(iter(configuration), {})
    return NodeReport(
        *identity,
        problem=None,
        info=None if isinstance(info, Exception) else info,
        refusal=str(info) if isinstance(info, Exception) else "",
        settings=None
        if isinstance(settings, Exception)
        else {text(name): text(value) for name, value in settings.items()},
        clock_skew=skew,
    )


def _reason(error: BaseException) -> str:
    """Why a node can't be used, without its address."""
    if isinstance(error, redis.BusyLoadingError):
        return "is loading its data"
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | EngineDown):
        return NO_ANSWER
    return f"says {str(error).partition(chr(10))[0]}"


def _ask_each(
    ask: Callable[[Any], T], subjects: Sequence[Any], seconds: float
) -> list[T | Exception]:
    """The answers, or the errors that were raised; TimeoutError for those that did not come in time.

    In daemon threads: a process does not wait at its end for a node that hangs.
    """
    answers: list[T | Exception] = [redis.TimeoutError(NO_ANSWER)] * len(subjects)

    def run(place: int) -> None:
        try:
            answers[place] = ask(subjects[place])
        except Exception as error:  # noqa: BLE001  # it is the answer
            answers[place] = error

    threads = [
        threading.Thread(target=run, args=[place], name="node", daemon=True)
        for place in range(len(subjects))
    ]
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0.0))
    return list(answers)
