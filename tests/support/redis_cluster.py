"""A real Redis Cluster on free ports: masters with replicas, which tests kill, stop, and move slots between.

`RedisCluster` starts it, `redis_cluster` in conftest.py lends a shared one to tests. A job queue does not
run on a cluster: `Engines.on_cluster` gives settings with a plain Redis for it.
"""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import redis
from redis.crc import key_slot

from tests.support.engines import RedisServer
from tests.support.reserved_ports import ReservedPorts
from tests.support.waiting import wait_until

SLOTS = 16384
NODE_TIMEOUT_MILLISECONDS = 3000
"""After so long without an answer a node is down, and its replica takes over about a second later.

Shorter times make a busy machine look like a dead node.
"""


UNUSABLE = {"fail", "fail?", "handshake", "noaddr"}


class Member(NamedTuple):
    """What a node says of itself or another node in CLUSTER NODES."""

    id: str
    port: int
    flags: frozenset[str]
    master_id: str
    slots: tuple[range, ...]


class ClusterNode(RedisServer):
    """One node. `kill`, `stop` and `start` are those of every engine; its port and its data stay the same."""

    def __init__(self, binary: Path, port: int, bus_port: int, *options: str) -> None:
        super().__init__(
            binary,
            *("--cluster-enabled", "yes", "--cluster-port", str(bus_port)),
            *("--cluster-node-timeout", str(NODE_TIMEOUT_MILLISECONDS)),
            # A replica always takes over, replicas stay with their masters, and one shard's slots without
            # a node do not stop the others: what docs/scale.md recommends.
            *("--cluster-replica-validity-factor", "0", "--cluster-allow-replica-migration", "no"),
            *("--cluster-require-full-coverage", "no"),
            *("--repl-diskless-sync-delay", "0", "--repl-backlog-size", "1mb"),
            *options,
            port=port,
        )
        self.bus_port = bus_port
        self._suspended = False

    def __repr__(self) -> str:
        return f"<node {self.port}>"

    @property
    def runs(self) -> bool:
        """Whether its process exists, and is not suspended."""
        return self.process is not None and self.process.poll() is None and not self._suspended

    def suspend(self) -> None:
        """Make it hang: it keeps its connections and answers nothing."""
        self.send(signal.SIGSTOP)
        self._suspended = True

    def resume(self) -> None:
        """End `suspend`; does nothing if it is not suspended."""
        self.send(signal.SIGCONT)
        self._suspended = False

    def kill(self) -> None:
        super().kill()
        self._suspended = False

    def ask(self, *words: object) -> Any:
        """Its reply to a command, of this node only."""
        with self.client() as client:
            return client.execute_command(*words)

    @property
    def id(self) -> str:
        """Its name in the cluster."""
        return str(self.ask("CLUSTER", "MYID"))

    def lines(self) -> list[list[str]]:
        """The words of each line of CLUSTER NODES."""
        return [line.split() for line in str(self.ask("CLUSTER", "NODES")).splitlines()]

    def members(self) -> list[Member]:
        """The nodes as this one sees them."""
        return [_member(words) for words in self.lines()]

    def is_ready(self, nodes: int) -> bool:
        """Whether it sees so many healthy nodes and all slots, and a replica has its master's data."""
        try:
            members = self.members()
            state = self.ask("CLUSTER INFO")
            replication = self.ask("INFO", "replication")
        except redis.RedisError:
            return False
        healthy = sum(not member.flags & UNUSABLE for member in members)
        return (
            healthy == nodes
            and state["cluster_state"] == "ok"
            and int(state["cluster_slots_ok"]) == SLOTS
            and replication.get("master_link_status", "up") == "up"
        )


def _member(words: list[str]) -> Member:
    ranges = [word.split("-") for word in words[8:] if not word.startswith("[")]
    return Member(
        id=words[0],
        port=int(words[1].partition("@")[0].rpartition(":")[2]),
        flags=frozenset(words[2].split(",")),
        master_id=words[3],
        slots=tuple(range(int(first[0]), int(first[-1]) + 1) for first in ranges),
    )


class RedisCluster:
    """So many masters, each with its replicas, with the slots in equal parts in the order of `nodes`.

    `options` are further options of every node, for example `"--appendonly", "no"`.
    """

    def __init__(self, binary: Path, *options: str, masters: int = 3, replicas: int = 1) -> None:
        self._binary = binary
        self._options = options
        self._ports: list[ReservedPorts] = []
        self.nodes: list[ClusterNode] = []
        self._amount = masters
        self._replicas = replicas

    def start(self) -> None:
        """Start the nodes, join them, and wait until every node is ready."""
        for _ in range(self._amount * (1 + self._replicas)):
            self._start_node()
        masters = self.nodes[: self._amount]
        for number, node in enumerate(masters):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, end = (SLOTS * n // self._amount for n in (number, number + 1))
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for node in self.nodes[1:]:
            self._introduce(node)
        wait_until(self._all_met)
        for number, node in enumerate(self.nodes[self._amount :]):
            self._follow(node, masters[number % self._amount])
        self.wait_ready()

    def remove(self) -> None:
        """Stop all nodes and delete their data."""
        for node in self.nodes:
            node.stop(signal.SIGKILL)  # a suspended one, too; the data are deleted next
            node.remove()
        for ports in self._ports:
            ports.release()

    def add_node(self, master: ClusterNode | None = None) -> ClusterNode:
        """A further node: a replica of that master, or else a master without slots."""
        node = self._start_node()
        self._introduce(node)
        wait_until(self._all_met)
        if master:
            self._follow(node, master)
        self.wait_ready()
        return node

    def _start_node(self) -> ClusterNode:
        ports = ReservedPorts(2)
        self._ports.append(ports)
        port, bus_port = ports.numbers
        node = ClusterNode(self._binary, port, bus_port, *self._options)
        self.nodes.append(node)
        node.start()
        return node

    def _introduce(self, node: ClusterNode) -> None:
        for other in self.nodes:
            if other is not node:
                node.ask("CLUSTER", "MEET", "127.0.0.1", other.port, other.bus_port)

    def _all_met(self) -> bool:
        return all(
            sum("handshake" not in member.flags for member in node.members()) == len(self.nodes)
            for node in self.nodes
        )

    def _follow(self, node: ClusterNode, master: ClusterNode) -> None:
        def followed() -> bool:
            with suppress(redis.ResponseError):  # until it has heard of the master
                node.ask("CLUSTER", "REPLICATE", master.id)
                return True
            return False

        wait_until(followed)

    def wait_ready(self) -> None:
        """Wait until every node sees all nodes and slots, and every replica is in touch with its master."""
        wait_until(self._is_ready)

    def _is_ready(self) -> bool:
        if not all(node.is_ready(len(self.nodes)) for node in self.nodes):
            return False
        owners = {  # a master that was replaced while it hung has to learn it first
            frozenset((member.id, member.slots) for member in node.members() if member.slots)
            for node in self.nodes
        }
        return len(owners) == 1

    def heal(self) -> None:
        """Undo the faults: start the dead nodes, continue the suspended ones, end moves of slots."""
        for node in self.nodes:
            node.resume()
            if not node.runs:
                node.start()
        self.wait_ready()
        for node in self.nodes:
            for slot in _open_slots(node):
                node.ask("CLUSTER", "SETSLOT", slot, "STABLE")

    def flush(self) -> None:
        """Delete all keys."""
        for node in self.masters:
            node.ask("FLUSHALL")

    @property
    def url(self) -> str:
        """The URL for the settings, with all nodes."""
        return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    @contextmanager
    def client(self) -> Iterator["redis.RedisCluster"]:
        """A plain client of the cluster."""
        node = next(node for node in self.nodes if node.runs)
        client = redis.RedisCluster(host="127.0.0.1", port=node.port, decode_responses=True)
        try:
            yield client
        finally:
            client.close()

    @property
    def masters(self) -> list[ClusterNode]:
        """The nodes that run and serve slots, in the order of the slots."""
        served = [(member.slots[0].start, node) for node, member in self._selves() if member.slots]
        return [node for _, node in sorted(served, key=lambda pair: pair[0])]

    def master_of(self, place: int | str) -> ClusterNode:
        """The node that runs and serves a slot, or the slot of a key."""
        slot = self.slot(place) if isinstance(place, str) else place
        return next(
            node for node, member in self._selves() if any(slot in part for part in member.slots)
        )

    def serves(self, slots: Iterable[int]) -> bool:
        """Whether nodes that run serve all these slots."""
        served = [part for _, member in self._selves() for part in member.slots]
        return all(any(slot in part for part in served) for slot in slots)

    def replicas_of(self, master: ClusterNode) -> list[ClusterNode]:
        """The replicas that run, of a master that runs."""
        name = master.id
        return [node for node, member in self._selves() if member.master_id == name]

    def _selves(self) -> Iterator[tuple[ClusterNode, Member]]:
        for node in self.nodes:
            if node.runs:
                yield node, next(item for item in node.members() if "myself" in item.flags)

    def slot(self, key: str) -> int:
        """The slot of a key."""
        return int(key_slot(key.encode()))

    def begin_move(self, slot: int, target: ClusterNode) -> None:
        """Mark a slot as moving to another master: new keys are then created there."""
        source = self.master_of(slot)
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)

    def move_keys(self, slot: int, target: ClusterNode, amount: int = 1_000_000) -> int:
        """Move up to so many keys of a moving slot; their number."""
        source = self.master_of(slot)
        keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, amount)
        for key in keys:
            source.ask("MIGRATE", "127.0.0.1", target.port, key, 0, 60_000)
        return len(keys)

    def end_move(self, slot: int, target: ClusterNode) -> None:
        """Make the target of a move the owner of the slot. All its keys must have been moved."""
        name = target.id
        for node in (target, *(node for node in self.masters if node is not target)):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", name)

    def move(self, slot: int, target: ClusterNode, step: Callable[[], None] | None = None) -> None:
        """Move a slot as `redis-cli --cluster reshard` does. `step` is called before each key is moved."""
        self.begin_move(slot, target)
        while True:
            if step:
                step()
            if not self.move_keys(slot, target, 1):
                break
        self.end_move(slot, target)

    def migrate(self, slots: Iterable[int], target: ClusterNode) -> None:
        """Move slots, all of one master, by CLUSTER MIGRATESLOTS (Valkey 9); returns once they have moved."""
        moving = set(slots)
        ranges = [word for slot in sorted(moving) for word in (slot, slot)]
        source = self.master_of(min(moving))
        source.ask("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", *ranges, "NODE", target.id)
        # For a moment no node serves them.
        wait_until(lambda: moving <= self._served_by(target))

    def _served_by(self, node: ClusterNode) -> set[int]:
        return {
            slot
            for one, member in self._selves()
            if one is node
            for part in member.slots
            for slot in part
        }


def _open_slots(node: ClusterNode) -> list[int]:
    """The slots that a node is moving to or from another one."""
    myself = next(words for words in node.lines() if "myself" in words[2])
    return [int(word[1:].partition("-")[0]) for word in myself[8:] if word.startswith("[")]
