"""Elasticsearch as fixtures: one node for tests that follow each other, or nodes of a test's own.

A given URL comes first (INSTACHAT_TEST_ELASTICSEARCH_URL; its indices are the tests' to make and delete),
then Docker where it runs, then Maven and Java. Where none is to be had, tests are skipped; see `skip_absent`.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from typing import Protocol

import pytest

from tests.support.elasticsearch.docker import ElasticsearchContainer, docker_is_available
from tests.support.elasticsearch.node import ElasticsearchServer
from tests.support.elasticsearch.provision import NotAvailable, installation

USER, PASSWORD = "tester", "test-password"
WITH_USER = {
    "users": f"{USER}:$2a$10$VrPZ1aGTErtJ2EMEaHHzMOPKfVyb3CDAizZ73WZWMev6KrTi6Z1UG\n",
    "users_roles": f"superuser:{USER}\n",
}
"""Files of a node that has this user, who may do everything; with `xpack.security.enabled`."""


class Elasticsearch(Protocol):
    """What a test needs of an Elasticsearch that it only talks to."""

    @property
    def url(self) -> str: ...


class ExternalElasticsearch:
    """An Elasticsearch that somebody else runs."""

    def __init__(self, url: str) -> None:
        self.url = url


Node = ElasticsearchServer | ElasticsearchContainer
StartNode = Callable[..., Node]


def new_node(
    settings: Mapping[str, object] | None = None, files: Mapping[str, str] | None = None
) -> Node:
    """A node that is not started yet; raises NotAvailable where none is to be had.

    `settings` are lines of elasticsearch.yml. `files` (users, certificates) are put beside it, which a
    container does not offer.
    """
    if not files and docker_is_available():
        try:
            return ElasticsearchContainer(settings)
        except NotAvailable:
            pass  # a Docker without a way to the image
    return ElasticsearchServer(installation(), settings, files)


@pytest.fixture(scope="session")
def elasticsearch() -> Iterator[Elasticsearch]:
    """An Elasticsearch for tests that follow each other, each with indices of its own."""
    if url := os.environ.get("INSTACHAT_TEST_ELASTICSEARCH_URL"):
        yield ExternalElasticsearch(url)
        return
    node = new_node_or_skip()
    try:
        node.start()
        yield node
    finally:
        node.remove()


@pytest.fixture
def start_elasticsearch() -> Iterator[StartNode]:
    """Starts nodes of the test's own, given what `new_node` takes; they are removed at the end."""
    with ExitStack() as stack:

        def start(
            settings: Mapping[str, object] | None = None, files: Mapping[str, str] | None = None
        ) -> Node:
            node = new_node_or_skip(settings, files)
            stack.callback(node.remove)
            node.start()
            return node

        yield start


def new_node_or_skip(
    settings: Mapping[str, object] | None = None, files: Mapping[str, str] | None = None
) -> Node:
    """As `new_node`; where none is to be had, the test is skipped, or in CI fails."""
    from tests.conftest import skip_absent  # here, since that module imports this one

    try:
        return new_node(settings, files)
    except NotAvailable as reason:
        skip_absent(f"Elasticsearch ({reason})")
        raise
