"""Fixtures of the integration tests: a backend with an index, and parents that are stored."""

from collections.abc import Iterator

import pytest

from backend.bootstrap import Backend, open_backend
from backend.ingest.requests import AcceptRequest
from tests.conftest import Engines
from tests.support.elasticsearch.fixtures import Elasticsearch


@pytest.fixture
def core(engines: Engines, elasticsearch: Elasticsearch) -> Iterator[Backend]:
    """A backend on a new database and an empty Redis, whose index is new as well."""
    with open_backend(engines.settings(elasticsearch_url=elasticsearch.url)) as core:
        yield core


@pytest.fixture
def token(core: Backend) -> str:
    """The token of an application of that backend, whose chat 1 is stored."""
    token = core.catalog.applications.create("test").token
    core.acceptor.accept(AcceptRequest.chats(token))
    core.drainer.drain_all()
    return token


@pytest.fixture
def chat(backend: Backend, application: str) -> str:
    """The token of an application whose chat 1 is stored."""
    backend.acceptor.accept(AcceptRequest.chats(application))
    backend.drainer.drain_all()
    return application
