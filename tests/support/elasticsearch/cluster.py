"""A cluster of nodes on the loopback address, each a process with a small heap."""

import json
from typing import Any
from urllib.request import urlopen

from tests.support.elasticsearch.node import START_SECONDS, ElasticsearchServer
from tests.support.elasticsearch.provision import installation
from tests.support.reserved_ports import ReservedPorts
from tests.support.waiting import PATIENCE_SECONDS

HEAP = "200m"


class ElasticsearchCluster:
    """Nodes that form a cluster. Raises NotAvailable if this machine can't run them."""

    def __init__(self, size: int = 3) -> None:
        self._ports = ReservedPorts(size)  # each node's configuration has those of all
        ports = self._ports.numbers
        names = [f"node{number}" for number in range(1, size + 1)]
        shared = {
            "discovery.type": "multi-node",
            "cluster.name": f"instachat-test-{ports[0]}",
            "cluster.initial_master_nodes": ",".join(names),
            "discovery.seed_hosts": ",".join(f"127.0.0.1:{port}" for port in ports),
        }
        self.nodes = [
            ElasticsearchServer(
                installation(), {**shared, "node.name": name, "transport.port": port}, heap=HEAP
            )
            for name, port in zip(names, ports, strict=True)
        ]

    @property
    def url(self) -> str:
        """The URL for INSTACHAT_ELASTICSEARCH_URL, with all nodes."""
        return "http://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)

    def start(self) -> None:
        """Start all nodes, at once, and wait until they have found each other."""
        for node in self.nodes:
            node.launch()
        for node in self.nodes:
            node.wait_ready(START_SECONDS * len(self.nodes))
        self.get(f"/_cluster/health?wait_for_nodes={len(self.nodes)}&timeout=60s")

    def wait_green(self, index: str) -> None:
        """Return once every copy of an index's shards is there."""
        self.get(f"/_cluster/health/{index}?wait_for_status=green&timeout=60s")

    def get(self, path: str) -> Any:
        """The answer of the first node that runs."""
        node = next(node for node in self.nodes if node.engine())
        with urlopen(f"http://127.0.0.1:{node.port}{path}", timeout=PATIENCE_SECONDS) as answer:
            return json.load(answer)

    def remove(self) -> None:
        """End all nodes and delete their data."""
        for node in self.nodes:
            node.remove()
        self._ports.release()
