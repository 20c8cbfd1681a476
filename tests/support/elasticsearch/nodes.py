"""Nodes of Elasticsearch for tests and benchmarks: in a container, or as a process."""

from collections.abc import Callable, Mapping

from tests.support.elasticsearch.docker import ElasticsearchContainer, docker_is_available
from tests.support.elasticsearch.node import ElasticsearchServer
from tests.support.elasticsearch.provision import NotAvailable, installation

Node = ElasticsearchServer | ElasticsearchContainer
StartNode = Callable[..., Node]


def new_node(
    settings: Mapping[str, object] | None = None,
    files: Mapping[str, str] | None = None,
    *,
    heap: str = "512m",
    fast_start: bool = True,
) -> Node:
    """A node that is not started yet. Raises NotAvailable if this machine cannot have one.

    `settings` are lines of elasticsearch.yml. `files` (users, certificates) go into its configuration
    folder, which needs a node outside Docker. A node without `fast_start` starts slowly and runs at full
    speed, for measurements.
    """
    if not files and docker_is_available():
        try:
            return ElasticsearchContainer(settings, heap=heap)
        except NotAvailable:
            pass  # this Docker cannot get the image
    return ElasticsearchServer(installation(), settings, files, heap=heap, fast_start=fast_start)
