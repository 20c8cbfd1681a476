"""Fixtures with Elasticsearch: a node that all tests of a session share, or nodes that one test starts.

An external Elasticsearch comes first (INSTACHAT_TEST_ELASTICSEARCH_URL; the tests create and delete indices
in it), then Docker if it is available, then Maven and Java. If there is none, tests are skipped; see
`skip_absent`.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Protocol

import pytest

from tests.support.elasticsearch.nodes import Node, StartNode, new_node
from tests.support.elasticsearch.provision import NotAvailable

USER, PASSWORD = "tester", "test-password"
WITH_USER = {
    "users": f"{USER}:$2a$10$VrPZ1aGTErtJ2EMEaHHzMOPKfVyb3CDAizZ73WZWMev6KrTi6Z1UG\n",
    "users_roles": f"superuser:{USER}\n",
}
"""Configuration files that define this user, a superuser; for a node with `xpack.security.enabled`."""


class Elasticsearch(Protocol):
    """An Elasticsearch that a test only sends requests to."""

    @property
    def url(self) -> str: ...


class ExternalElasticsearch:
    """An Elasticsearch that the tests did not start."""

    def __init__(self, url: str) -> None:
        self.url = url


@pytest.fixture(scope="session")
def elasticsearch() -> Iterator[Elasticsearch]:
    """The Elasticsearch that the tests of a session share; each test uses indices of its own."""
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
    """Starts nodes for one test, with the arguments of `new_node`; they are removed after the test."""
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
    """Like `new_node`, but if there is none, skips the test, or fails it in CI."""
    from tests.conftest import skip_absent  # imported late because that module imports this one

    try:
        return new_node(settings, files)
    except NotAvailable as reason:
        skip_absent(f"Elasticsearch ({reason})")
        raise
