"""Deletions of applications and chats whose decision is not known."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace

import pytest

from backend.bootstrap import Backend, open_backend
from backend.domain.errors import NotFound, Unconfirmed
from backend.domain.model import Accepted
from backend.ingest.accept import Acceptor
from backend.ingest.requests import AcceptRequest
from tests.conftest import Engines, database_name
from tests.support.faults.proxy import Proxy

pytestmark = pytest.mark.faults


@pytest.fixture
def proxy(engines: Engines) -> Iterator[Proxy]:
    """A proxy in front of PostgreSQL."""
    with closing(Proxy(engines.postgres.folder / ".s.PGSQL.5432")) as proxy:
        yield proxy


@dataclass
class CuttingAcceptor:
    """Accepts, and then cuts PostgreSQL off."""

    acceptor: Acceptor
    proxy: Proxy

    def accept(self, request: AcceptRequest) -> Accepted:
        """See Acceptor."""
        accepted = self.acceptor.accept(request)
        self.proxy.close()
        return accepted


def test_a_deletion_that_nobody_decides_is_unconfirmed(backend: Backend, chat: str) -> None:
    """The queue is paused; the deletion is in the log."""
    backend.workers.pause()
    with pytest.raises(Unconfirmed, match="not decided yet"):
        backend.catalog.chats.delete(chat, 1)
    backend.workers.resume()
    backend.drainer.drain_all()
    with pytest.raises(NotFound):
        backend.catalog.chats.get(chat, 1)


def test_a_deletion_whose_decision_cannot_be_read_is_unconfirmed(
    backend: Backend, chat: str, proxy: Proxy
) -> None:
    """PostgreSQL goes away after the deletion was accepted."""
    url = f"postgresql://postgres@127.0.0.1:{proxy.port}/{database_name(backend.settings)}"
    with open_backend(backend.settings.model_copy(update={"database_url": url})) as cut_off:
        chats = cut_off.catalog.chats
        acceptor: object = CuttingAcceptor(cut_off.acceptor, proxy)
        deletion = replace(chats.deletion, acceptor=acceptor)  # type: ignore[arg-type]
        with pytest.raises(Unconfirmed, match="can't be read"):
            replace(chats, deletion=deletion).delete(chat, 1)
    backend.drainer.drain_all()
    with pytest.raises(NotFound):
        backend.catalog.chats.get(chat, 1)


def test_what_a_cascade_has_removed_is_not_pending(backend: Backend, chat: str) -> None:
    """Its message is answered as missing also while something else in the shard's log is not stored yet."""
    backend.acceptor.accept(AcceptRequest.messages(chat, 1, ["removed"]))
    backend.acceptor.accept(AcceptRequest.chats(chat))
    backend.drainer.drain_all()
    backend.catalog.chats.delete(chat, 1, cascade=True)
    backend.workers.pause()
    backend.acceptor.accept(AcceptRequest.messages(chat, 2, ["not stored yet"]))
    for read in (backend.catalog.messages.get, backend.catalog.messages.delete):
        with pytest.raises(NotFound):
            read(chat, 1, 1)
