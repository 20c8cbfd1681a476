"""Publishing to a real Elasticsearch: what is stored is found, in any order and any repetition."""

from collections.abc import Iterator

import pytest

from backend import accept
from backend.bootstrap import Backend, open_backend
from tests.conftest import Engines
from tests.elastic.fixtures import Elasticsearch


@pytest.fixture
def core(engines: Engines, elasticsearch: Elasticsearch) -> Iterator[Backend]:
    """A backend on a new database whose index, new as well, is in the node that tests share."""
    with open_backend(engines.settings(elasticsearch_url=elasticsearch.url)) as core:
        yield core


@pytest.fixture
def token(core: Backend) -> str:
    """The token of an application whose chat 1 is stored."""
    token = core.catalog.create_application("test").token
    core.acceptor.accept(accept.chats(token))
    core.drainer.drain_all()
    return token


def send(core: Backend, token: str, *texts: str) -> None:
    """Have messages stored in chat 1."""
    core.acceptor.accept(accept.messages(token, 1, texts))
    core.drainer.drain_all()


def found(core: Backend, token: str, keyword: str) -> list[int]:
    """The numbers of the messages that a search finds."""
    return [hit.message.number for hit in core.catalog.search(token, 1, keyword)]


def test_what_is_stored_becomes_searchable(core: Backend, token: str) -> None:
    """The first index is there without anybody's doing, and a message in it within moments."""
    send(core, token, "Good morning", "good night", "Morning has broken")
    assert found(core, token, "morning") == []
    assert core.publisher is not None
    assert core.publisher.publish() == 3
    assert core.catalog.wait_searchable(token, 1, 1, 3, 10)
    assert found(core, token, "MORNING") == [1, 3]
